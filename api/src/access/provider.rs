//! Asks the identity provider for its public keys, within bounds.
//!
//! The URL of the keys is the one that was set, or the one in the provider's discovery document. Everything travels over
//! HTTPS, or over plain HTTP within this machine: who can change the keys on their way can sign tokens. Connecting takes
//! at most 2 s, everything together at most 5 s, and a body is read up to 256 kB.
//!
//! Absent on purpose: redirects, which nobody needs where a URL can be set; proxies; and every URL that a token names.

use std::error::Error;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::header::{ACCEPT, USER_AGENT};
use axum::http::uri::Scheme;
use axum::http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;

use super::jwks::{KeySet, NotKeys};
use super::jwt::{OidcSettings, OidcSettingsError};

/// A provider that is up accepts within a fraction of this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// For both documents together: a request whose token needs the keys waits this long at most.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// The largest providers publish less than 20 kB.
const MAX_BODY_BYTES: usize = 256 * 1024;

/// Where the keys come from.
#[derive(Debug)]
pub(super) struct Provider {
    issuer: String,
    location: Location,
    http: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
}

#[derive(Debug)]
enum Location {
    Keys(Uri),
    Discovery(Uri),
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("the identity provider does not answer within {} s", FETCH_TIMEOUT.as_secs())]
    Slow,
    #[error("cannot ask the identity provider at {url}")]
    Unreachable {
        url: Uri,
        #[source]
        source: hyper_util::client::legacy::Error,
    },
    #[error("the identity provider answers {status} at {url}")]
    Status { url: Uri, status: StatusCode },
    #[error(
        "cannot read what the identity provider answers at {url}, of which {MAX_BODY_BYTES} bytes are read"
    )]
    Body {
        url: Uri,
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    #[error("the identity provider's discovery document cannot be understood")]
    Discovery(#[source] serde_json::Error),
    #[error("the identity provider's discovery document is that of another issuer")]
    OtherIssuer,
    #[error("the identity provider's discovery document names no URL of keys that may be asked")]
    KeysUrl,
    #[error("the identity provider's keys cannot be understood")]
    Keys(#[source] NotKeys),
}

#[derive(Deserialize)]
struct DiscoveryDocument {
    issuer: String,
    jwks_uri: String,
}

impl Provider {
    /// Checks the URLs; asks nothing yet.
    pub(super) fn try_new(settings: &OidcSettings) -> Result<Self, OidcSettingsError> {
        let issuer = settings.issuer.clone();
        if issuer.contains(['?', '#']) || safe_url(&issuer).is_none() {
            return Err(OidcSettingsError::Issuer(issuer));
        }
        let location = match &settings.jwks_url {
            Some(url) => {
                Location::Keys(safe_url(url).ok_or_else(|| OidcSettingsError::JwksUrl(url.clone()))?)
            }
            None => {
                let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
                Location::Discovery(safe_url(&url).ok_or(OidcSettingsError::Issuer(url))?)
            }
        };
        let http = client(location.url().scheme() == Some(&Scheme::HTTPS))?;
        Ok(Self { issuer, location, http })
    }

    /// Asks for the keys, once.
    pub(super) async fn fetch(&self) -> Result<KeySet, FetchError> {
        tokio::time::timeout(FETCH_TIMEOUT, self.fetch_without_limit()).await.map_err(|_| FetchError::Slow)?
    }

    async fn fetch_without_limit(&self) -> Result<KeySet, FetchError> {
        let body = match &self.location {
            Location::Keys(url) => self.get(url).await?,
            Location::Discovery(url) => {
                let document: DiscoveryDocument =
                    serde_json::from_slice(&self.get(url).await?).map_err(FetchError::Discovery)?;
                if document.issuer != self.issuer {
                    return Err(FetchError::OtherIssuer);
                }
                let keys_url = safe_url(&document.jwks_uri)
                    .filter(|keys_url| {
                        url.scheme() == Some(&Scheme::HTTP) || keys_url.scheme() == url.scheme()
                    })
                    .ok_or(FetchError::KeysUrl)?;
                self.get(&keys_url).await?
            }
        };
        KeySet::parse(&body).map_err(FetchError::Keys)
    }

    async fn get(&self, url: &Uri) -> Result<Bytes, FetchError> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = url.clone();
        request.headers_mut().insert(ACCEPT, "application/json".parse().expect("a header value"));
        request.headers_mut().insert(USER_AGENT, "oms".parse().expect("a header value"));
        let response = self
            .http
            .request(request)
            .await
            .map_err(|source| FetchError::Unreachable { url: url.clone(), source })?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status { url: url.clone(), status: response.status() });
        }
        let body = Limited::new(response.into_body(), MAX_BODY_BYTES).collect().await;
        Ok(body.map_err(|source| FetchError::Body { url: url.clone(), source })?.to_bytes())
    }
}

impl Location {
    fn url(&self) -> &Uri {
        match self {
            Self::Keys(url) | Self::Discovery(url) => url,
        }
    }
}

fn client(
    needs_certificates: bool,
) -> Result<Client<HttpsConnector<HttpConnector>, Empty<Bytes>>, OidcSettingsError> {
    // The machine's certificates rather than a compiled-in list: many providers are internal to a company.
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if needs_certificates && roots.is_empty() {
        return Err(OidcSettingsError::NoRootCertificates);
    }
    let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has every protocol version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
    // Minutes pass between two requests: a kept connection would mostly be one that the other side has closed.
    Ok(Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector))
}

/// Takes an https URL without a user in it, or an http URL within this machine.
fn safe_url(url: &str) -> Option<Uri> {
    let url: Uri = url.parse().ok()?;
    let authority = url.authority()?;
    if authority.as_str().contains('@') {
        return None;
    }
    let is_safe = match url.scheme_str()? {
        "https" => true,
        "http" => is_loopback(authority.host()),
        _ => false,
    };
    is_safe.then_some(url)
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_others_could_listen_to_is_refused() {
        for good in [
            "https://login.example",
            "https://a.example:8443/keys?v=2",
            "http://127.0.0.1:9/",
            "http://[::1]:9/x",
            "http://localhost:8080",
        ] {
            assert!(safe_url(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "login.example",
            "/keys",
            "http://login.example",
            "http://10.0.0.1/",
            "http://127.0.0.1.example/",
            "http://localhost.example/",
            "http://localhost@login.example/",
            "https://user:password@login.example/",
            "ftp://127.0.0.1/",
            "file:///etc/passwd",
        ] {
            assert!(safe_url(bad).is_none(), "{bad}");
        }
    }
}
