//! Verifies the access tokens of an identity provider: signed JWTs, as OAuth 2.0 and OpenID Connect issue them.
//!
//! A token is good when one of the provider's [keys](super::jwks) has signed it with an algorithm that fits the key, it
//! names our issuer and our audience, its time is now, and it is meant as an access token. The header is believed in two
//! points only, the algorithm and the key's id, and each must be one that the provider's keys allow; a key or a URL that
//! a token brings along makes it bad.
//!
//! An ID token tells an app who its user is; it is no permission. It is told apart by the claims that only it has
//! (`at_hash`, `c_hash`, and `nonce` unless the header says `at+jwt`), by a `typ` in the header other than `JWT` and
//! `at+jwt`, and by the claims with which some providers say what a token is (`typ`, `token_use`). Logout tokens are told
//! apart by their `events`.
//!
//! Time is this process's clock, since there is no row to compare with: 30 s are forgiven in either direction.
//!
//! Absent on purpose: sessions, introspection of opaque tokens, encrypted tokens, and any say about why a token is bad
//! beyond a line in the log, which has no part of the token in it.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::app::{Scope, Scopes};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use moka::sync::Cache;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::jwks::Keys;
use super::provider::Provider;

/// Tokens of the large providers have 1 to 3 kB.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Longer ids of keys are nobody's.
const MAX_KEY_ID_BYTES: usize = 256;

/// The length of an app's external name.
const MAX_CLIENT_BYTES: usize = 255;

/// For clocks that are not quite together.
const LEEWAY: TimeDelta = TimeDelta::seconds(30);

/// How long a verified token is taken for good without looking at it again, and so how long one stays good whose key the
/// provider has withdrawn.
const REMEMBER_FOR: Duration = Duration::from_secs(60);

/// Verified tokens that are remembered, at about 300 bytes each.
const MAX_REMEMBERED: u64 = 10_000;

/// Which tokens are good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OidcSettings {
    /// The provider: the exact `iss` of its tokens.
    pub issuer: String,
    /// Us: what `aud` has to contain.
    pub audience: String,
    /// Where its keys are; what its discovery document says, where this is none.
    pub jwks_url: Option<String>,
    /// The claim with the scopes.
    pub scope_claim: String,
}

/// Settings that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OidcSettingsError {
    /// The issuer is no URL that may be asked.
    #[error(
        "OMS_OIDC_ISSUER must be an https URL without a query, or an http URL of this machine, and is {0:?}"
    )]
    Issuer(String),
    /// The same of the keys.
    #[error("OMS_OIDC_JWKS_URL must be an https URL, or an http URL of this machine, and is {0:?}")]
    JwksUrl(String),
    /// Every token would be good, or none.
    #[error("OMS_OIDC_AUDIENCE must name this API as the identity provider does, and is empty")]
    NoAudience,
    /// No claim could be read.
    #[error("OMS_OIDC_SCOPE_CLAIM must name a claim, and is empty")]
    NoScopeClaim,
    /// Nobody's certificate could be verified.
    #[error(
        "this machine has no root certificates to verify the identity provider with; install ca-certificates, or name \
         a file with SSL_CERT_FILE"
    )]
    NoRootCertificates,
}

/// Verifies tokens of one provider. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TokenVerifier(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: OidcSettings,
    keys: Keys,
    /// By SHA-256, so that no token stays in memory.
    remembered: Cache<[u8; 32], VerifiedToken>,
}

/// What a good token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedToken {
    /// Who has issued it.
    pub issuer: String,
    /// To whom: its `azp` or `client_id`; `sub` where it has neither.
    pub client: String,
    /// What its holder may do.
    pub scopes: Scopes,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
}

/// Why a token does not open anything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefused {
    /// It is not good. The reason is for the log alone: callers are told no more than that.
    #[error("the token is not good: {0}")]
    Bad(&'static str),
    /// Nobody can tell: the provider's keys cannot be fetched, and none are kept.
    #[error("the keys of the identity provider cannot be fetched")]
    Unavailable,
}

impl TokenVerifier {
    /// Checks the settings, and starts to fetch the provider's keys without waiting for them. Belongs into a runtime.
    ///
    /// # Errors
    /// Settings that cannot work. A provider that is down is no error.
    pub fn start(settings: OidcSettings) -> Result<Self, OidcSettingsError> {
        if settings.audience.is_empty() {
            return Err(OidcSettingsError::NoAudience);
        }
        if settings.scope_claim.is_empty() {
            return Err(OidcSettingsError::NoScopeClaim);
        }
        let keys = Keys::start(Provider::try_new(&settings)?);
        let remembered = Cache::builder().max_capacity(MAX_REMEMBERED).time_to_live(REMEMBER_FOR).build();
        Ok(Self(Arc::new(Inner { settings, keys, remembered })))
    }

    /// Tells what a token says, if it is good.
    ///
    /// # Errors
    /// A token that is not good, and one that cannot be verified for want of keys.
    pub async fn verify(&self, token: &str) -> Result<VerifiedToken, TokenRefused> {
        self.0.verify(token).await
    }
}

impl Inner {
    async fn verify(&self, token: &str) -> Result<VerifiedToken, TokenRefused> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenRefused::Bad("it is too long"));
        }
        let digest: [u8; 32] = Sha256::digest(token).into();
        if let Some(verified) = self.remembered.get(&digest)
            && Utc::now() < verified.expires_at + LEEWAY
        {
            return Ok(verified);
        }
        let header =
            jsonwebtoken::decode_header(token).map_err(|_| TokenRefused::Bad("it is no signed JWT"))?;
        check_header(&header).map_err(TokenRefused::Bad)?;
        let key = self.keys.find(header.kid.as_deref(), header.alg).await?;
        let claims = signed_claims(token, &key, header.alg).map_err(TokenRefused::Bad)?;
        let is_typed = header.typ.is_some_and(|typ| is_access_token_type(&typ));
        let verified =
            check_claims(&claims, is_typed, &self.settings, Utc::now()).map_err(TokenRefused::Bad)?;
        self.remembered.insert(digest, verified.clone());
        Ok(verified)
    }
}

/// Refuses what no access token says, before anything is computed or fetched.
fn check_header(header: &Header) -> Result<(), &'static str> {
    if matches!(header.alg, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512) {
        return Err("its algorithm is symmetric");
    }
    if header.typ.as_ref().is_some_and(|typ| !is_jwt_type(typ) && !is_access_token_type(typ)) {
        return Err("its type is not that of an access token");
    }
    if header.crit.is_some() {
        return Err("it says that something must be understood which is not");
    }
    if header.jwk.is_some() || header.jku.is_some() || header.x5u.is_some() || header.x5c.is_some() {
        return Err("it brings its own key along");
    }
    if header.enc.is_some() || header.zip.is_some() || header.cty.is_some() {
        return Err("it is encrypted, compressed or nested");
    }
    if header.kid.as_ref().is_some_and(|kid| kid.len() > MAX_KEY_ID_BYTES) {
        return Err("the id of its key is too long");
    }
    Ok(())
}

/// Media types: case does not matter, and `application/` may be left out (RFC 7515, section 4.1.9).
fn is_jwt_type(typ: &str) -> bool {
    ["JWT", "application/jwt"].iter().any(|known| known.eq_ignore_ascii_case(typ))
}

/// The type of RFC 9068, which only an access token has.
fn is_access_token_type(typ: &str) -> bool {
    ["at+jwt", "application/at+jwt"].iter().any(|known| known.eq_ignore_ascii_case(typ))
}

/// Returns the claims, if the signature is right.
fn signed_claims(
    token: &str,
    key: &DecodingKey,
    algorithm: Algorithm,
) -> Result<Map<String, Value>, &'static str> {
    // The library verifies the signature. The claims are checked below, all in one place, and more strictly: it would
    // take an issuer out of a list, and does not look at `iat`.
    let mut signature_only = Validation::new(algorithm);
    signature_only.required_spec_claims.clear();
    signature_only.validate_exp = false;
    signature_only.validate_nbf = false;
    signature_only.validate_aud = false;
    match jsonwebtoken::decode(token, key, &signature_only) {
        Ok(data) => Ok(data.claims),
        Err(_) => Err("its signature is wrong, or its claims are no object"),
    }
}

/// Reads what the claims say, if they say it to us, now, and with an access token.
fn check_claims(
    claims: &Map<String, Value>,
    is_typed: bool,
    settings: &OidcSettings,
    now: DateTime<Utc>,
) -> Result<VerifiedToken, &'static str> {
    if claims.get("iss").and_then(Value::as_str) != Some(&settings.issuer) {
        return Err("it is of another issuer");
    }
    if !texts(claims.get("aud")).contains(&settings.audience.as_str()) {
        return Err("it is for another audience");
    }
    let expires_at = time(claims, "exp")?.ok_or("it never ends")?;
    if now >= expires_at + LEEWAY {
        return Err("it has ended");
    }
    if time(claims, "nbf")?.is_some_and(|not_before| now < not_before - LEEWAY) {
        return Err("it has not begun");
    }
    if time(claims, "iat")?.is_some_and(|issued_at| now < issued_at - LEEWAY) {
        return Err("it was issued in the future");
    }
    check_purpose(claims, is_typed)?;
    let scopes = texts(claims.get(&settings.scope_claim))
        .into_iter()
        .flat_map(str::split_ascii_whitespace)
        .filter_map(|name| name.parse::<Scope>().ok())
        .collect();
    let client = client(claims)?.to_owned();
    Ok(VerifiedToken { issuer: settings.issuer.clone(), client, scopes, expires_at })
}

/// Refuses ID tokens, refresh tokens and logout tokens.
fn check_purpose(claims: &Map<String, Value>, is_typed: bool) -> Result<(), &'static str> {
    if ["at_hash", "c_hash", "s_hash"].iter().any(|claim| claims.contains_key(*claim)) {
        return Err("it is an ID token");
    }
    if claims.contains_key("nonce") && !is_typed {
        return Err("it has a nonce, as ID tokens do");
    }
    if claims.contains_key("events") {
        return Err("it is a logout token");
    }
    let says = |claim, expected: &str| match claims.get(claim) {
        None => true,
        Some(value) => value.as_str().is_some_and(|value| value.eq_ignore_ascii_case(expected)),
    };
    if !says("typ", "Bearer") || !says("token_use", "access") {
        return Err("it says that it is no access token");
    }
    Ok(())
}

fn client(claims: &Map<String, Value>) -> Result<&str, &'static str> {
    let client = match (claims.get("azp"), claims.get("client_id")) {
        (Some(azp), Some(client_id)) if azp != client_id => return Err("it names two clients"),
        (Some(client), _) | (None, Some(client)) => Some(client),
        (None, None) => claims.get("sub"),
    };
    let client = client.and_then(Value::as_str).ok_or("it names no client")?;
    let is_fit = (1..=MAX_CLIENT_BYTES).contains(&client.len()) && !client.chars().any(char::is_control);
    if is_fit { Ok(client) } else { Err("the name of its client is not fit") }
}

/// A claim that is one string or a list of strings.
fn texts(claim: Option<&Value>) -> Vec<&str> {
    match claim {
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(texts)) => texts.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// A claim that is a number of seconds since 1970, possibly with a fraction. A day near the ends of what can be told is
/// refused, so that the leeway can be added.
fn time(claims: &Map<String, Value>, claim: &str) -> Result<Option<DateTime<Utc>>, &'static str> {
    const NO_TIME: &str = "one of its times is no time";
    let Some(value) = claims.get(claim) else { return Ok(None) };
    let seconds = value.as_i64().or_else(|| value.as_f64().map(|seconds| seconds.floor() as i64));
    let time = seconds
        .filter(|seconds| seconds.unsigned_abs() < 1 << 40)
        .and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    time.map(Some).ok_or(NO_TIME)
}

#[cfg(test)]
mod tests;
