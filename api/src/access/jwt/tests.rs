//! A provider on this machine, tokens of every kind, and a clock that can be moved forward.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, RwLock};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use futures_util::FutureExt;
use futures_util::future::join_all;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{EncodingKey, encode};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

use super::*;

const AUDIENCE: &str = "https://api.shop.example";

/// One of the keys that are kept for the tests.
#[derive(Clone)]
struct TestKey {
    id: &'static str,
    algorithm: Algorithm,
    key: EncodingKey,
}

impl TestKey {
    fn ec(id: &'static str) -> Self {
        let der = include_bytes!("../test_keys/p256_a.der");
        Self { id, algorithm: Algorithm::ES256, key: EncodingKey::from_ec_der(der) }
    }

    fn other_ec(id: &'static str) -> Self {
        let der = include_bytes!("../test_keys/p256_b.der");
        Self { id, algorithm: Algorithm::ES256, key: EncodingKey::from_ec_der(der) }
    }

    fn p384(id: &'static str) -> Self {
        let der = include_bytes!("../test_keys/p384.der");
        Self { id, algorithm: Algorithm::ES384, key: EncodingKey::from_ec_der(der) }
    }

    fn ed(id: &'static str) -> Self {
        let der = include_bytes!("../test_keys/ed25519.der");
        Self { id, algorithm: Algorithm::EdDSA, key: EncodingKey::from_ed_der(der) }
    }

    fn rsa(id: &'static str, algorithm: Algorithm) -> Self {
        let der = include_bytes!("../test_keys/rsa.der");
        Self { id, algorithm, key: EncodingKey::from_rsa_der(der) }
    }

    fn short_rsa(id: &'static str) -> Self {
        let der = include_bytes!("../test_keys/rsa_1024.der");
        Self { id, algorithm: Algorithm::RS256, key: EncodingKey::from_rsa_der(der) }
    }

    /// As the provider publishes it.
    fn public(&self) -> Value {
        let jwk = Jwk::from_encoding_key(&self.key, self.algorithm).expect("a key that can be published");
        let mut public = serde_json::to_value(jwk).expect("JSON");
        public["kid"] = self.id.into();
        public["use"] = "sig".into();
        public
    }

    /// As many providers publish it: without saying for which algorithm.
    fn public_for_any_algorithm(&self) -> Value {
        let mut public = self.public();
        public.as_object_mut().expect("an object").remove("alg");
        public
    }

    fn header(&self) -> Header {
        Header { kid: Some(self.id.to_owned()), ..Header::new(self.algorithm) }
    }

    fn sign(&self, claims: &Value) -> String {
        encode(&self.header(), claims, &self.key).expect("a token")
    }
}

/// How the provider answers.
#[derive(Clone)]
enum Answer {
    Keys(Vec<Value>),
    Raw(String),
    Status(StatusCode),
    RedirectTo(String),
    /// Waits for a permit that does not come.
    Silence,
}

/// A provider of identities with a discovery document and a set of keys.
struct TestProvider {
    issuer: String,
    shared: Arc<Shared>,
    _server: AbortOnDropHandle<()>,
}

struct Shared {
    answer: RwLock<Answer>,
    discovery: Mutex<Value>,
    fetches: AtomicUsize,
    silence: Semaphore,
}

impl TestProvider {
    async fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Self::start_at(listener, answer)
    }

    fn start_at(listener: TcpListener, answer: Answer) -> Self {
        let issuer = format!("http://{}", listener.local_addr().expect("a bound port"));
        let shared = Arc::new(Shared {
            answer: RwLock::new(answer),
            discovery: Mutex::new(json!({ "issuer": issuer, "jwks_uri": format!("{issuer}/keys") })),
            fetches: AtomicUsize::new(0),
            silence: Semaphore::new(0),
        });
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/keys", get(keys))
            .with_state(shared.clone());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        Self { issuer, shared, _server: AbortOnDropHandle::new(server) }
    }

    async fn with_keys(keys: &[&TestKey]) -> Self {
        Self::start(Answer::Keys(keys.iter().map(|key| key.public()).collect())).await
    }

    fn answer(&self, answer: Answer) {
        *self.shared.answer.write().expect("no panic") = answer;
    }

    fn fetches(&self) -> usize {
        self.shared.fetches.load(Ordering::SeqCst)
    }

    fn settings(&self) -> OidcSettings {
        OidcSettings {
            issuer: self.issuer.clone(),
            audience: AUDIENCE.to_owned(),
            jwks_url: None,
            scope_claim: "scope".to_owned(),
        }
    }

    fn verifier(&self) -> TokenVerifier {
        TokenVerifier::start(self.settings()).expect("good settings")
    }

    fn claims(&self) -> Value {
        claims(&self.issuer)
    }
}

fn claims(issuer: &str) -> Value {
    let now = Utc::now().timestamp();
    json!({
        "iss": issuer, "aud": AUDIENCE, "sub": "user-7", "azp": "warehouse",
        "iat": now, "nbf": now, "exp": now + 300, "scope": "orders:read openid catalog:write",
    })
}

async fn discovery(State(shared): State<Arc<Shared>>) -> String {
    shared.discovery.lock().expect("no panic").to_string()
}

async fn keys(State(shared): State<Arc<Shared>>) -> Response {
    shared.fetches.fetch_add(1, Ordering::SeqCst);
    let answer = shared.answer.read().expect("no panic").clone();
    match answer {
        Answer::Keys(keys) => json!({ "keys": keys }).to_string().into_response(),
        Answer::Raw(body) => body.into_response(),
        Answer::Status(status) => status.into_response(),
        Answer::RedirectTo(url) => Redirect::temporary(&url).into_response(),
        Answer::Silence => {
            let _ = shared.silence.acquire().await;
            StatusCode::OK.into_response()
        }
    }
}

/// Moves the clock of the runtime, which then goes on as before.
async fn pass(duration: Duration) {
    tokio::time::pause();
    tokio::time::advance(duration).await;
    tokio::time::resume();
}

fn bad(refused: &Result<VerifiedToken, TokenRefused>) -> bool {
    matches!(refused, Err(TokenRefused::Bad(_)))
}

#[tokio::test]
async fn a_good_token_says_who_may_do_what() {
    let all = [
        TestKey::rsa("rs256", Algorithm::RS256),
        TestKey::rsa("ps256", Algorithm::PS256),
        TestKey::ec("es256"),
        TestKey::p384("es384"),
        TestKey::ed("eddsa"),
    ];
    let provider = TestProvider::with_keys(&all.iter().collect::<Vec<_>>()).await;
    let verifier = provider.verifier();
    for key in &all {
        let claims = provider.claims();
        let verified = verifier.verify(&key.sign(&claims)).await.expect(key.id);
        assert_eq!(verified.issuer, provider.issuer);
        assert_eq!(verified.client, "warehouse");
        assert_eq!(verified.scopes.names(), ["orders:read", "catalog:write"]);
        assert_eq!(Some(verified.expires_at.timestamp()), claims["exp"].as_i64());
    }
}

#[tokio::test]
async fn what_providers_say_differently_is_understood() {
    let key = TestKey::ec("es256");
    let provider = TestProvider::with_keys(&[&key]).await;
    let settings = OidcSettings {
        scope_claim: "permissions".to_owned(),
        jwks_url: Some(format!("{}/keys", provider.issuer)),
        ..provider.settings()
    };
    let verifier = TokenVerifier::start(settings).expect("good settings");

    let mut claims = provider.claims();
    claims["aud"] = json!(["account", AUDIENCE]);
    claims["permissions"] = json!(["orders:write", "orders:fly", 7]);
    claims["exp"] = json!(claims["exp"].as_f64().expect("a number") + 0.5);
    claims["typ"] = "Bearer".into();
    claims.as_object_mut().expect("an object").remove("azp");
    let verified = verifier.verify(&key.sign(&claims)).await.expect("a good token");
    assert_eq!(verified.scopes.names(), ["orders:write"]);
    assert_eq!(verified.client, "user-7");

    claims["client_id"] = "till".into();
    claims["nonce"] = "n".into();
    let header = Header { typ: Some("at+JWT".to_owned()), ..key.header() };
    let token = encode(&header, &claims, &key.key).expect("a token");
    assert_eq!(verifier.verify(&token).await.expect("a good token").client, "till");

    // The only key there is needs no name.
    let token = encode(&Header { kid: None, ..header }, &claims, &key.key).expect("a token");
    assert!(verifier.verify(&token).await.is_ok());
}

#[tokio::test]
async fn a_token_with_a_bad_claim_is_refused() {
    let key = TestKey::ec("es256");
    let provider = TestProvider::with_keys(&[&key]).await;
    let verifier = provider.verifier();
    assert!(verifier.verify(&key.sign(&provider.claims())).await.is_ok());

    let now = Utc::now().timestamp();
    let too_old = now - LEEWAY.num_seconds() - 1;
    // Far enough that the token does not become good while the test runs.
    let too_new = now + LEEWAY.num_seconds() + 60;
    let changes = [
        ("expired", json!({ "exp": too_old })),
        ("without an end", json!({ "exp": null })),
        ("an end in words", json!({ "exp": "tomorrow" })),
        ("an end beyond all times", json!({ "exp": 1e300 })),
        ("an end that is the largest number", json!({ "exp": i64::MAX })),
        ("not yet valid", json!({ "nbf": too_new })),
        ("a beginning in words", json!({ "nbf": "now" })),
        ("issued in the future", json!({ "iat": too_new })),
        ("another audience", json!({ "aud": "https://other.example" })),
        ("a part of our audience", json!({ "aud": "https://api.shop" })),
        ("other audiences", json!({ "aud": ["a", "b"] })),
        ("no audience", json!({ "aud": null })),
        ("an empty list of audiences", json!({ "aud": [] })),
        ("another issuer", json!({ "iss": "https://other.example" })),
        ("an issuer with a slash more", json!({ "iss": format!("{}/", provider.issuer) })),
        ("a list of issuers", json!({ "iss": [provider.issuer] })),
        ("no issuer", json!({ "iss": null })),
        ("an ID token by its access token's hash", json!({ "at_hash": "x" })),
        ("an ID token by its code's hash", json!({ "c_hash": "x" })),
        ("an ID token by its nonce", json!({ "nonce": "x" })),
        ("an ID token by its word", json!({ "token_use": "id" })),
        ("a refresh token by its word", json!({ "typ": "Refresh" })),
        ("a logout token", json!({ "events": {} })),
        ("two clients", json!({ "client_id": "other" })),
        ("a client that is no text", json!({ "azp": 7 })),
        ("a client without a name", json!({ "azp": "" })),
        ("a client with a line break", json!({ "azp": "a\nb" })),
        ("a client with a long name", json!({ "azp": "a".repeat(256) })),
        ("no client at all", json!({ "azp": null, "sub": null })),
    ];
    for (what, change) in changes {
        let mut claims = provider.claims();
        let object = claims.as_object_mut().expect("an object");
        for (claim, value) in change.as_object().expect("an object") {
            match value {
                Value::Null => object.remove(claim),
                value => object.insert(claim.clone(), value.clone()),
            };
        }
        let refused = verifier.verify(&key.sign(&claims)).await;
        assert!(bad(&refused), "{what}: {refused:?}");
    }
    assert!(bad(&verifier.verify(&key.sign(&json!(["no", "object"]))).await));
}

#[tokio::test]
async fn clocks_may_be_a_little_apart() {
    let key = TestKey::ec("es256");
    let provider = TestProvider::with_keys(&[&key]).await;
    let verifier = provider.verifier();
    let now = Utc::now().timestamp();
    for (claim, time) in [("exp", now - 10), ("nbf", now + 10), ("iat", now + 10)] {
        let mut claims = provider.claims();
        claims[claim] = time.into();
        assert!(verifier.verify(&key.sign(&claims)).await.is_ok(), "{claim}");
    }
}

#[tokio::test]
async fn a_token_with_a_bad_header_or_signature_is_refused() {
    let ec = TestKey::ec("ec");
    let (rsa, ed) = (TestKey::rsa("rsa", Algorithm::RS256), TestKey::ed("ed"));
    let mut for_encryption = TestKey::other_ec("for-encryption").public();
    for_encryption["use"] = "enc".into();
    let mut not_for_verifying = TestKey::other_ec("not-for-verifying").public();
    not_for_verifying["key_ops"] = json!(["encrypt"]);
    let symmetric = json!({ "kty": "oct", "kid": "symmetric", "alg": "HS256", "k": "c2VjcmV0" });
    let keys = vec![
        ec.public(),
        rsa.public_for_any_algorithm(),
        ed.public_for_any_algorithm(),
        TestKey::short_rsa("short").public(),
        TestKey::rsa("rs256-only", Algorithm::RS256).public(),
        for_encryption,
        not_for_verifying,
        symmetric,
        json!({ "kty": "never heard of", "kid": "unknown" }),
    ];
    let provider = TestProvider::start(Answer::Keys(keys)).await;
    let verifier = provider.verifier();
    let claims = provider.claims();
    let good = ec.sign(&claims);
    assert!(verifier.verify(&good).await.is_ok());
    let fetches = provider.fetches();

    let sign = |header: &Header, key: &EncodingKey| encode(header, &claims, key).expect("a token");
    let with = |change: &dyn Fn(&mut Header)| {
        let mut header = ec.header();
        change(&mut header);
        sign(&header, &ec.key)
    };
    let unsigned = |header: Value| format!("{}.{}.", base64url(&header), base64url(&claims));
    let parts: Vec<&str> = good.split('.').collect();
    // The public key as text is the secret that a careless verifier would take.
    let public_key = rsa.public()["n"].as_str().expect("a modulus").to_owned();
    let hmac = |kid: &str, secret: &[u8]| {
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::HS256) };
        sign(&header, &EncodingKey::from_secret(secret))
    };
    let forged_by =
        |kid: &str, key: TestKey| sign(&Header { kid: Some(kid.to_owned()), ..key.header() }, &key.key);
    let mut tampered = claims.clone();
    tampered["scope"] = "apps:manage".into();

    let tokens = [
        ("nothing", String::new()),
        ("no JWT", "oms_live_0123456789".to_owned()),
        ("dots", "..".to_owned()),
        ("four parts", format!("{good}.x")),
        ("two parts", format!("{}.{}", parts[0], parts[1])),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("a signature in other letters", format!("{}.{}.+/", parts[0], parts[1])),
        ("other claims under a signature", format!("{}.{}.{}", parts[0], base64url(&tampered), parts[2])),
        ("a line break", format!("{good}\n")),
        ("alg none", unsigned(json!({ "alg": "none", "kid": "ec" }))),
        ("alg None", unsigned(json!({ "alg": "None", "kid": "ec" }))),
        ("no alg", unsigned(json!({ "kid": "ec" }))),
        (
            "alg twice",
            format!("{}.{}.", base64url_text(r#"{"alg":"ES256","alg":"none","kid":"ec"}"#), parts[1]),
        ),
        ("a public key as secret", hmac("rsa", public_key.as_bytes())),
        ("an empty secret", hmac("rsa", b"")),
        ("a symmetric key of the provider", hmac("symmetric", b"secret")),
        ("the key of another", forged_by("ec", TestKey::other_ec("x"))),
        ("an algorithm that is not the key's", forged_by("ec", TestKey::p384("x"))),
        ("an algorithm of another kind of key", forged_by("rsa", TestKey::ec("x"))),
        (
            "an algorithm that the key is not for",
            forged_by("rs256-only", TestKey::rsa("x", Algorithm::PS256)),
        ),
        ("a key that is not for verifying", forged_by("not-for-verifying", TestKey::other_ec("x"))),
        ("a key that is too short", forged_by("short", TestKey::short_rsa("x"))),
        ("a key for encryption", forged_by("for-encryption", TestKey::other_ec("x"))),
        ("an unknown kind of key", forged_by("unknown", TestKey::ec("x"))),
        ("no key named, of several", with(&|header| header.kid = None)),
        ("an empty kid", with(&|header| header.kid = Some(String::new()))),
        ("a kid that is a path", with(&|header| header.kid = Some("../../../../dev/null".to_owned()))),
        ("a kid that is SQL", with(&|header| header.kid = Some("x' UNION SELECT 'ec' --".to_owned()))),
        ("a kid that is a URL", with(&|header| header.kid = Some(format!("{}/keys", provider.issuer)))),
        ("a long kid", with(&|header| header.kid = Some("k".repeat(MAX_KEY_ID_BYTES + 1)))),
        ("a known kid in other case", with(&|header| header.kid = Some("EC".to_owned()))),
        ("an unknown crit", with(&|header| header.crit = Some(vec!["exp".to_owned()]))),
        ("an empty crit", with(&|header| header.crit = Some(Vec::new()))),
        (
            "an embedded key",
            with(&|header| {
                header.jwk = Some(Jwk::from_encoding_key(&ec.key, Algorithm::ES256).expect("a key"));
            }),
        ),
        ("a URL of keys", with(&|header| header.jku = Some(format!("{}/keys", provider.issuer)))),
        ("a URL of certificates", with(&|header| header.x5u = Some(format!("{}/keys", provider.issuer)))),
        ("certificates", with(&|header| header.x5c = Some(vec!["MA==".to_owned()]))),
        ("a nested token", with(&|header| header.cty = Some("JWT".to_owned()))),
        ("another type", with(&|header| header.typ = Some("logout+jwt".to_owned()))),
        ("an empty type", with(&|header| header.typ = Some(String::new()))),
        ("a long token", {
            let mut claims = claims.clone();
            claims["padding"] = "x".repeat(MAX_TOKEN_BYTES).into();
            ec.sign(&claims)
        }),
        ("a deep token", format!("{}.{}.{}", parts[0], base64url_text(&"[".repeat(3_000)), parts[2])),
    ];
    for (what, token) in &tokens {
        let refused = verifier.verify(token).await;
        assert!(bad(&refused), "{what}: {refused:?}");
    }
    // Some name unknown keys, but the last fetch is not long enough ago for another.
    assert_eq!(provider.fetches(), fetches, "tokens made the verifier ask the provider");
    assert!(verifier.verify(&good).await.is_ok());
}

#[tokio::test]
async fn a_key_that_is_new_is_found_and_one_that_has_vanished_is_no_longer_good() {
    let (old, new) = (TestKey::ec("old"), TestKey::other_ec("new"));
    let provider = TestProvider::with_keys(&[&old]).await;
    let verifier = provider.verifier();
    let mut claims = provider.claims();
    assert!(verifier.verify(&old.sign(&claims)).await.is_ok());

    provider.answer(Answer::Keys(vec![new.public()]));
    assert!(bad(&verifier.verify(&new.sign(&claims)).await), "within the pause nothing is fetched");
    assert_eq!(provider.fetches(), 1);
    pass(Duration::from_secs(31)).await;
    assert!(verifier.verify(&new.sign(&claims)).await.is_ok());
    assert_eq!(provider.fetches(), 2);
    // Another token than the one that is remembered.
    claims["jti"] = "2".into();
    assert!(bad(&verifier.verify(&old.sign(&claims)).await));
}

#[tokio::test]
async fn keys_are_refreshed_without_being_asked_for() {
    let (old, new) = (TestKey::ec("old"), TestKey::other_ec("new"));
    let provider = TestProvider::with_keys(&[&old]).await;
    let verifier = provider.verifier();
    assert!(verifier.verify(&old.sign(&provider.claims())).await.is_ok());
    provider.answer(Answer::Keys(vec![new.public()]));
    pass(Duration::from_secs(9 * 60)).await;
    nothing_happens().await;
    assert_eq!(provider.fetches(), 1);
    pass(Duration::from_secs(2 * 60)).await;
    until(|| provider.fetches() == 2).await;
}

#[tokio::test]
async fn without_keys_nobody_can_tell_and_with_the_last_ones_a_day_long() {
    let key = TestKey::ec("es256");
    let provider = TestProvider::start(Answer::Status(StatusCode::SERVICE_UNAVAILABLE)).await;
    let verifier = provider.verifier();
    let (mut claims, mut id) = (provider.claims(), 0);
    let mut token = || {
        id += 1;
        claims["jti"] = id.into();
        key.sign(&claims)
    };
    assert_eq!(verifier.verify(&token()).await, Err(TokenRefused::Unavailable));

    provider.answer(Answer::Keys(vec![key.public()]));
    pass(Duration::from_secs(3)).await;
    assert!(verifier.verify(&token()).await.is_ok());

    provider.answer(Answer::Status(StatusCode::SERVICE_UNAVAILABLE));
    let asked = provider.fetches();
    pass(Duration::from_secs(23 * 60 * 60)).await;
    until(|| provider.fetches() > asked).await;
    assert!(verifier.verify(&token()).await.is_ok());
    let forged = TestKey::other_ec("unknown").sign(&provider.claims());
    assert!(bad(&verifier.verify(&forged).await), "there are keys, and this is none of them");
    let asked = provider.fetches();
    pass(Duration::from_secs(2 * 60 * 60)).await;
    until(|| provider.fetches() > asked).await;
    assert_eq!(verifier.verify(&token()).await, Err(TokenRefused::Unavailable));
}

#[tokio::test]
async fn a_provider_that_is_not_there_makes_tokens_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let settings = OidcSettings {
        issuer: format!("http://{}", listener.local_addr().expect("a bound port")),
        audience: AUDIENCE.to_owned(),
        jwks_url: None,
        scope_claim: "scope".to_owned(),
    };
    drop(listener);
    let token = TestKey::ec("es256").sign(&claims(&settings.issuer));
    let verifier = TokenVerifier::start(settings).expect("it starts without the network");
    assert_eq!(verifier.verify(&token).await, Err(TokenRefused::Unavailable));
}

#[tokio::test]
async fn a_provider_that_does_not_answer_is_waited_for_5_seconds() {
    let provider = TestProvider::start(Answer::Silence).await;
    let verifier = provider.verifier();
    let token = TestKey::ec("es256").sign(&provider.claims());
    let started = std::time::Instant::now();
    assert_eq!(verifier.verify(&token).await, Err(TokenRefused::Unavailable));
    let elapsed = started.elapsed();
    assert!((4..7).contains(&elapsed.as_secs()), "{elapsed:?}");
}

#[tokio::test]
async fn an_answer_that_is_not_good_changes_nothing() {
    let key = TestKey::ec("es256");
    let other = TestProvider::with_keys(&[&key]).await;
    let public = key.public();
    let answers = [
        ("no JSON", Answer::Raw("<html>".to_owned())),
        ("no set", Answer::Raw("[]".to_owned())),
        ("too many keys", Answer::Keys(vec![public.clone(); 51])),
        (
            "a huge set",
            Answer::Raw(json!({ "keys": [public], "padding": "x".repeat(300 * 1024) }).to_string()),
        ),
        ("a redirect", Answer::RedirectTo(format!("{}/keys", other.issuer))),
        ("an error", Answer::Status(StatusCode::INTERNAL_SERVER_ERROR)),
    ];
    for (what, answer) in answers {
        let provider = TestProvider::start(answer.clone()).await;
        let verifier = provider.verifier();
        let token = key.sign(&provider.claims());
        assert_eq!(verifier.verify(&token).await, Err(TokenRefused::Unavailable), "{what}");
        assert_eq!(provider.fetches(), 1, "{what}");

        provider.answer(Answer::Keys(vec![key.public()]));
        pass(Duration::from_secs(3)).await;
        assert!(verifier.verify(&token).await.is_ok(), "{what}");
        provider.answer(answer);
        pass(Duration::from_secs(31)).await;
        assert!(bad(&verifier.verify(&TestKey::ed("unknown").sign(&provider.claims())).await), "{what}");
        assert_eq!(provider.fetches(), 3, "{what}");
        let mut claims = provider.claims();
        claims["jti"] = "another".into();
        assert!(verifier.verify(&key.sign(&claims)).await.is_ok(), "{what}: the last keys stay in use");
    }
    assert_eq!(other.fetches(), 0, "a redirect was followed");
}

#[tokio::test]
async fn a_discovery_document_speaks_for_its_own_issuer() {
    let key = TestKey::ec("es256");
    let provider = TestProvider::with_keys(&[&key]).await;
    for document in [
        json!({ "issuer": "https://other.example", "jwks_uri": format!("{}/keys", provider.issuer) }),
        json!({ "issuer": provider.issuer, "jwks_uri": "http://other.example/keys" }),
        json!({ "issuer": provider.issuer, "jwks_uri": "file:///etc/passwd" }),
        json!({ "issuer": provider.issuer }),
    ] {
        *provider.shared.discovery.lock().expect("no panic") = document.clone();
        let token = key.sign(&provider.claims());
        assert_eq!(provider.verifier().verify(&token).await, Err(TokenRefused::Unavailable), "{document}");
    }
    assert_eq!(provider.fetches(), 0);
}

#[tokio::test]
async fn many_unknown_keys_cause_one_fetch() {
    let key = TestKey::ec("es256");
    let provider = TestProvider::with_keys(&[&key]).await;
    let verifier = provider.verifier();
    assert!(verifier.verify(&key.sign(&provider.claims())).await.is_ok());
    pass(Duration::from_secs(31)).await;
    let forged = (0..100).map(|number| {
        let header = Header { kid: Some(format!("unknown-{number}")), ..key.header() };
        encode(&header, &provider.claims(), &key.key).expect("a token")
    });
    let forged: Vec<String> = forged.collect();
    let refused = join_all(forged.iter().map(|token| verifier.verify(token))).await;
    assert!(refused.iter().all(bad));
    assert_eq!(provider.fetches(), 2);
}

#[tokio::test]
async fn a_client_that_hangs_up_does_not_end_the_fetch() {
    let (old, new) = (TestKey::ec("old"), TestKey::other_ec("new"));
    let provider = TestProvider::with_keys(&[&old]).await;
    let verifier = provider.verifier();
    assert!(verifier.verify(&old.sign(&provider.claims())).await.is_ok());
    provider.answer(Answer::Keys(vec![new.public()]));
    pass(Duration::from_secs(31)).await;
    let token = new.sign(&provider.claims());
    // Polled once: the fetch is on its way, and nobody waits for it.
    assert!(verifier.verify(&token).now_or_never().is_none());
    until(|| provider.fetches() == 2).await;
    assert!(verifier.verify(&token).await.is_ok());
    assert_eq!(provider.fetches(), 2);
}

#[tokio::test]
async fn a_remembered_token_ends_when_it_says() {
    let key = TestKey::ec("es256");
    let provider = TestProvider::with_keys(&[&key]).await;
    let verifier = provider.verifier();
    let token = key.sign(&provider.claims());
    let verified = verifier.verify(&token).await.expect("a good token");
    let digest: [u8; 32] = Sha256::digest(&token).into();
    assert_eq!(verifier.0.remembered.get(&digest), Some(verified.clone()));

    let ended = VerifiedToken { expires_at: Utc::now() - LEEWAY, ..verified };
    let expired = key.sign(&json!({ "iss": provider.issuer, "aud": AUDIENCE, "exp": 1, "azp": "warehouse" }));
    verifier.0.remembered.insert(Sha256::digest(&expired).into(), ended);
    assert!(bad(&verifier.verify(&expired).await));
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused() {
    let good = OidcSettings {
        issuer: "https://login.example/realms/shop".to_owned(),
        audience: AUDIENCE.to_owned(),
        jwks_url: None,
        scope_claim: "scope".to_owned(),
    };
    assert!(TokenVerifier::start(good.clone()).is_ok());
    for issuer in
        ["", "login.example", "http://login.example", "https://login.example?a=b", "https://login.example/#a"]
    {
        let settings = OidcSettings { issuer: issuer.to_owned(), ..good.clone() };
        let error = TokenVerifier::start(settings).expect_err(issuer);
        assert_eq!(error, OidcSettingsError::Issuer(issuer.to_owned()));
    }
    let jwks_url = "http://login.example/keys".to_owned();
    let settings = OidcSettings { jwks_url: Some(jwks_url.clone()), ..good.clone() };
    assert_eq!(TokenVerifier::start(settings).expect_err("no TLS"), OidcSettingsError::JwksUrl(jwks_url));
    let settings = OidcSettings { audience: String::new(), ..good.clone() };
    assert_eq!(TokenVerifier::start(settings).expect_err("no audience"), OidcSettingsError::NoAudience);
    let settings = OidcSettings { scope_claim: String::new(), ..good };
    assert_eq!(TokenVerifier::start(settings).expect_err("no claim"), OidcSettingsError::NoScopeClaim);
}

/// Lets what would be on its way on this machine arrive: that nothing comes is no condition to wait for.
async fn nothing_happens() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}

async fn until(mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("it never came true");
}

fn base64url(json: &Value) -> String {
    base64url_text(&json.to_string())
}

fn base64url_text(text: &str) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let letters = text.as_bytes().chunks(3).flat_map(|chunk| {
        let bits =
            (0..3).fold(0_u32, |bits, index| bits << 8 | u32::from(chunk.get(index).copied().unwrap_or(0)));
        (0..=chunk.len()).map(move |index| LETTERS[(bits >> (18 - 6 * index) & 63) as usize] as char)
    });
    letters.collect()
}
