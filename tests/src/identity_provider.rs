//! An identity provider on this machine, which signs access tokens and publishes its key, or says nothing at all.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use oms::config::ServeArgs;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

const AUDIENCE: &str = "https://api.shop.example";

const KEY_ID: &str = "today";

/// A provider; gone when it is dropped.
#[derive(Debug)]
pub struct IdentityProvider {
    issuer: String,
    _server: AbortOnDropHandle<()>,
}

impl IdentityProvider {
    /// Starts one that answers.
    pub async fn start() -> Self {
        Self::start_as(true).await
    }

    /// Starts one that takes connections, and says nothing.
    pub async fn start_silent() -> Self {
        Self::start_as(false).await
    }

    async fn start_as(answers: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let issuer = format!("http://{}", listener.local_addr().expect("a bound port"));
        let of_server = issuer.clone();
        let server = tokio::spawn(async move {
            let mut silent = Vec::new();
            loop {
                let (connection, _) = listener.accept().await.expect("a connection");
                match answers {
                    true => drop(tokio::spawn(answer(connection, of_server.clone()))),
                    false => silent.push(connection),
                }
            }
        });
        Self { issuer, _server: AbortOnDropHandle::new(server) }
    }

    /// Lets a server take the tokens of this provider.
    pub fn set(&self, args: &mut ServeArgs) {
        args.oidc.issuer = Some(self.issuer.clone());
        args.oidc.audience = Some(AUDIENCE.to_owned());
    }

    /// Makes a token that is good for five minutes, with claims that differ; null leaves one out.
    pub fn token(&self, claims: Value) -> String {
        self.token_of_key(KEY_ID, claims)
    }

    /// Makes a token that names another key than it is signed with.
    pub fn token_of_key(&self, key_id: &str, other: Value) -> String {
        let now = seconds_since_1970();
        let mut claims = json!({
            "iss": self.issuer, "aud": AUDIENCE, "sub": "user-7", "azp": "warehouse", "iat": now - 60,
            "exp": now + 300, "scope": "orders:read",
        });
        for (name, value) in other.as_object().expect("claims") {
            claims[name] = value.clone();
        }
        claims.as_object_mut().expect("claims").retain(|_, value| !value.is_null());
        let header = Header { kid: Some(key_id.to_owned()), ..Header::new(Algorithm::ES256) };
        encode(&header, &claims, &key()).expect("a token")
    }
}

/// What `exp` is compared with.
pub fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_secs()
}

fn key() -> EncodingKey {
    EncodingKey::from_ec_der(include_bytes!("../../api/src/access/test_keys/p256_a.der"))
}

/// Answers one request with what its path names.
async fn answer(mut connection: TcpStream, issuer: String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = connection.read_u8().await else { return };
        head.push(byte);
    }
    let document = match head.starts_with(b"GET /keys ") {
        true => {
            let jwk = Jwk::from_encoding_key(&key(), Algorithm::ES256).expect("a key that can be published");
            let mut public = serde_json::to_value(jwk).expect("JSON");
            public["kid"] = KEY_ID.into();
            json!({ "keys": [public] })
        }
        false => json!({ "issuer": issuer, "jwks_uri": format!("{issuer}/keys") }),
    };
    let body = document.to_string();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close";
    let answer = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    // A server that stops meanwhile does not read it.
    let _ = connection.write_all(answer.as_bytes()).await;
}
