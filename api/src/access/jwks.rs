//! The identity provider's public keys: read from its key set, kept, and fetched again when they may have changed.
//!
//! Keys are fetched at the start, every 10 minutes, and when a token names a key that is not known, though then at most
//! once in 30 s, whoever asks: tokens cannot make this process knock on the provider's door. All who wait for a fetch
//! wait for the same one, which goes on when they leave. While the provider cannot be reached, the last keys are good for
//! 24 hours.
//!
//! A key is known by its id and by nothing that comes with a token. What algorithms fit it follows from the key.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use serde::Deserialize;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, warn};

use super::jwt::TokenRefused;
use super::provider::Provider;

/// A provider publishes a handful: the keys of today, of tomorrow and of yesterday.
const MAX_KEYS: usize = 50;

/// How long a key that the provider has withdrawn may still be used here, in normal times.
const REFRESH_AFTER: Duration = Duration::from_secs(10 * 60);

/// Between two fetches that tokens with unknown keys cause, and between two tries of the background.
const REFETCH_PAUSE: Duration = Duration::from_secs(30);

/// Between two fetches while there are no keys at all, so that requests are answered again soon after the provider is.
const FIRST_FETCH_PAUSE: Duration = Duration::from_secs(2);

/// How long keys outlive an outage of the provider. Its tokens outlive it no longer than that either.
const KEEP_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// RSA: shorter keys can be broken, longer ones are not computed with.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=512;

/// The keys of a provider, kept fresh. Cheap to clone; the background ends with the last clone.
#[derive(Debug, Clone)]
pub(super) struct Keys(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    provider: Provider,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    known: Option<Known>,
    attempted_at: Option<Instant>,
    fetching: Option<Fetching>,
}

#[derive(Debug, Clone)]
struct Known {
    keys: Arc<KeySet>,
    fetched_at: Instant,
}

/// A fetch on its way.
type Fetching = Shared<BoxFuture<'static, ()>>;

impl Keys {
    /// Starts to fetch the keys; does not wait for them.
    pub(super) fn start(provider: Provider) -> Self {
        let keys = Arc::new(Inner { provider, state: Mutex::default() });
        tokio::spawn(keep_fresh(Arc::downgrade(&keys)));
        Self(keys)
    }

    /// Finds the key of a token.
    pub(super) async fn find(
        &self,
        key_id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Arc<DecodingKey>, TokenRefused> {
        let pause = match self.0.known() {
            Some(known) => match known.keys.find(key_id, algorithm) {
                Lookup::Found(key) => return Ok(key),
                Lookup::Refused(reason) => return Err(TokenRefused::Bad(reason)),
                Lookup::Unknown => REFETCH_PAUSE,
            },
            None => FIRST_FETCH_PAUSE,
        };
        if let Some(fetching) = self.0.fetch(pause) {
            fetching.await;
        }
        match self.0.known().ok_or(TokenRefused::Unavailable)?.keys.find(key_id, algorithm) {
            Lookup::Found(key) => Ok(key),
            Lookup::Refused(reason) => Err(TokenRefused::Bad(reason)),
            Lookup::Unknown => Err(TokenRefused::Bad("the provider has no such key")),
        }
    }
}

/// Fetches the keys whenever they are old, until nobody uses them.
async fn keep_fresh(keys: Weak<Inner>) {
    let mut ticks = tokio::time::interval(REFETCH_PAUSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(keys) = keys.upgrade() else { return };
        if keys.known().is_none_or(|known| known.fetched_at.elapsed() >= REFRESH_AFTER) {
            keys.fetch(Duration::ZERO);
        }
    }
}

impl Inner {
    /// The keys, if they are not too old.
    fn known(&self) -> Option<Known> {
        self.state().known.clone().filter(|known| known.fetched_at.elapsed() < KEEP_FOR)
    }

    /// Joins the fetch on its way, or begins one unless the last began less than `pause` ago.
    fn fetch(self: &Arc<Self>, pause: Duration) -> Option<Fetching> {
        let mut state = self.state();
        // One that has ended and is still here has panicked.
        if let Some(fetching) = state.fetching.as_ref().filter(|fetching| fetching.peek().is_none()) {
            return Some(fetching.clone());
        }
        if state.attempted_at.is_some_and(|attempted_at| attempted_at.elapsed() < pause) {
            return None;
        }
        state.attempted_at = Some(Instant::now());
        let inner = self.clone();
        // A task of its own: a client that hangs up must not end what others wait for.
        let task = tokio::spawn(async move {
            let fetched = inner.provider.fetch().await;
            let mut state = inner.state();
            state.fetching = None;
            match fetched {
                Ok(keys) => {
                    debug!(keys = keys.0.len(), "fetched the identity provider's keys");
                    state.known = Some(Known { keys: Arc::new(keys), fetched_at: Instant::now() });
                }
                Err(error) => {
                    let error = format!("{:#}", anyhow::Error::new(error));
                    warn!(error, "cannot fetch the identity provider's keys; the last ones stay in use");
                }
            }
        });
        let fetching = task.map(|_| ()).boxed().shared();
        state.fetching = Some(fetching.clone());
        Some(fetching)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change of the state is one assignment: a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The keys of one answer of the provider, as far as they can verify a token.
#[derive(Debug)]
pub(super) struct KeySet(Vec<Key>);

#[derive(Debug)]
struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: Arc<DecodingKey>,
}

/// What a key set says to a token's header.
enum Lookup {
    Found(Arc<DecodingKey>),
    /// There is no such key; a later answer of the provider may have it.
    Unknown,
    Refused(&'static str),
}

/// An answer that is no set of keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotKeys {
    #[error("it is not a JSON Web Key Set")]
    Json(#[source] serde_json::Error),
    #[error("it has {0} keys, more than {MAX_KEYS}")]
    TooMany(usize),
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<serde_json::Value>,
}

impl KeySet {
    /// Reads a JSON Web Key Set. Keys for other purposes and of unknown kinds are left out, as RFC 7517 asks for.
    pub(super) fn parse(body: &[u8]) -> Result<Self, NotKeys> {
        let document: Document = serde_json::from_slice(body).map_err(NotKeys::Json)?;
        if document.keys.len() > MAX_KEYS {
            return Err(NotKeys::TooMany(document.keys.len()));
        }
        Ok(Self(document.keys.into_iter().filter_map(Key::read).collect()))
    }

    fn find(&self, key_id: Option<&str>, algorithm: Algorithm) -> Lookup {
        let mut named: Vec<&Key> = match key_id {
            Some(_) => self.0.iter().filter(|key| key.id.as_deref() == key_id).collect(),
            None => self.0.iter().collect(),
        };
        if named.is_empty() {
            return Lookup::Unknown;
        }
        if key_id.is_none() && named.len() > 1 {
            return Lookup::Refused("it names no key, and the provider has several");
        }
        named.retain(|key| key.algorithms.contains(&algorithm));
        match named[..] {
            [only] => Lookup::Found(only.key.clone()),
            [] => Lookup::Refused("its algorithm does not fit its key"),
            _ => Lookup::Refused("the provider has several keys of that id"),
        }
    }
}

impl Key {
    fn read(key: serde_json::Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(key).ok()?;
        if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
            return None;
        }
        if jwk
            .common
            .key_operations
            .as_ref()
            .is_some_and(|operations| !operations.contains(&KeyOperations::Verify))
        {
            return None;
        }
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        let mut algorithms = fitting_algorithms(&jwk.algorithm, &key);
        if let Some(only) = jwk.common.key_algorithm {
            algorithms.retain(|algorithm| KeyAlgorithm::from(*algorithm) == only);
        }
        let id = jwk.common.key_id;
        (!algorithms.is_empty()).then(|| Self { id, algorithms, key: Arc::new(key) })
    }
}

/// Tells which algorithms a key is made for: no symmetric one, ever.
fn fitting_algorithms(parameters: &AlgorithmParameters, key: &DecodingKey) -> Vec<Algorithm> {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    match parameters {
        AlgorithmParameters::RSA(_) if has_good_length(key) => vec![RS256, RS384, RS512, PS256, PS384, PS512],
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => vec![ES256],
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P384 => vec![ES384],
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => vec![EdDSA],
        _ => Vec::new(),
    }
}

fn has_good_length(key: &DecodingKey) -> bool {
    let DecodingKeyKind::RsaModulusExponent { n, .. } = key.kind() else { return false };
    RSA_BYTES.contains(&n.iter().skip_while(|byte| **byte == 0).count())
}
