//! The door: from a credential to a [`Caller`].
//!
//! A credential is an API key, an access token of an identity provider, or the access token of an order. Whatever is
//! wrong with one, the answer is the same, so that nobody learns which part to try next.
//!
//! Whatever tells a credential from noise without the database is asked first: the signature of an order's token, and the
//! keys of the identity provider, which may be waited for by those alone who bring its tokens. Then the database is asked, a
//! few credentials at a time, in three queues: credentials that were good [before](KNOWN_FOR), those whose signature is, and
//! keys that nobody has seen yet. Anybody can make up any number of the last; so [each address](super::address) that they come
//! from waits in a queue of its own first.
//!
//! Who a credential stands for is remembered for [half a minute](REMEMBER_FOR): a key that is taken away may open the
//! door that much longer on other processes, and open subscriptions [look again](Door::identify) as often.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use chrono::{DateTime, TimeDelta, Utc};
use domain::app::key::Secret;
use domain::app::{Scope, store};
use moka::sync::Cache;
use sea_orm::{DatabaseConnection, DbErr};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use uuid::Uuid;

use super::Caller;
use super::address::Address;
use super::documents::RegisteredDocuments;
use super::jwt::{TokenRefused, TokenVerifier, VerifiedToken};
use super::order_token::{OrderToken, OrderTokens, is_order_token};
use super::remembered::Remembered;
use super::sealed_cursor::SealedCursors;
use crate::config::AccessArgs;

/// How long the door remembers who a credential stands for. With the interval at which open subscriptions look again it
/// stays below the minute within which a revoked key is shut out everywhere.
pub(super) const REMEMBER_FOR: Duration = Duration::from_secs(25);

/// How often the holder of an open connection has to be looked at again.
pub(crate) const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(20);

/// Credentials that are remembered, bad ones included.
const MAX_REMEMBERED: u64 = 10_000;

/// How often the last use of keys is written down.
const NOTE_USE_INTERVAL: Duration = Duration::from_secs(30);

/// The longest credential that is looked at, in bytes.
const MAX_CREDENTIAL_BYTES: usize = 8 * 1024;

/// How long a credential counts as known after it was good.
const KNOWN_FOR: Duration = Duration::from_secs(60 * 60);

/// Known credentials that are looked up at a time.
const TURNS_OF_KNOWN: usize = 4;

/// Credentials with a good signature that were not seen before and are looked up at a time.
const TURNS_OF_SIGNED: usize = 4;

/// Keys that were not seen before and are looked up at a time.
const TURNS_OF_STRANGERS: usize = 2;

/// How many of those an address may have among those who wait or are looked up.
const TURNS_OF_ADDRESS: usize = 1;

/// Addresses whose queues are kept; an empty one is forgotten after [a while](FORGET_ADDRESS_AFTER).
const MAX_ADDRESSES: u64 = 100_000;

/// Longer than anybody waits in a queue.
const FORGET_ADDRESS_AFTER: Duration = Duration::from_secs(60);

/// How long a look-up waits for its turn, in each queue.
const TURN_TIMEOUT: Duration = Duration::from_secs(2);

/// The header for keys beside `Authorization`.
const KEY_HEADER: &str = "x-api-key";

/// What a client shows. `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credential(String);

/// Why the door stays shut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    /// There is no credential, or it is not good.
    Unauthenticated,
    /// Nobody can tell now: the database or the identity provider does not answer.
    Unavailable,
}

impl Credential {
    /// Reads `Authorization: Bearer` or `x-api-key`; `None` where there is neither.
    ///
    /// # Errors
    /// A header that is not readable, another scheme, or two credentials that differ.
    pub(crate) fn of_headers(headers: &HeaderMap) -> Result<Option<Self>, Denied> {
        let mut found: Option<Self> = None;
        let named = |name: &str| -> Result<Vec<String>, Denied> {
            let values = headers.get_all(name).iter();
            values
                .map(|value| value.to_str().map(str::to_owned).map_err(|_| Denied::Unauthenticated))
                .collect()
        };
        for value in named(AUTHORIZATION.as_str())? {
            found = Self::one_of(found, bearer(&value).ok_or(Denied::Unauthenticated)?)?;
        }
        for value in named(KEY_HEADER)? {
            found = Self::one_of(found, value.trim())?;
        }
        Ok(found)
    }

    /// Reads the payload of a `connection_init`, whose fields are named as the headers are, in any case; `None` where
    /// there is neither.
    ///
    /// # Errors
    /// The same as of headers.
    pub(crate) fn of_payload(
        payload: Option<&serde_json::Map<String, serde_json::Value>>,
    ) -> Result<Option<Self>, Denied> {
        let Some(fields) = payload else { return Ok(None) };
        let mut found = None;
        for (name, value) in fields {
            let is_authorization = name.eq_ignore_ascii_case(AUTHORIZATION.as_str());
            if !is_authorization && !name.eq_ignore_ascii_case(KEY_HEADER) {
                continue;
            }
            let value = value.as_str().ok_or(Denied::Unauthenticated)?;
            let text = if is_authorization { bearer(value).ok_or(Denied::Unauthenticated)? } else { value };
            found = Self::one_of(found, text)?;
        }
        Ok(found)
    }

    fn one_of(found: Option<Self>, text: &str) -> Result<Option<Self>, Denied> {
        if text.is_empty() || text.len() > MAX_CREDENTIAL_BYTES {
            return Err(Denied::Unauthenticated);
        }
        match found {
            Some(other) if other.0 != text => Err(Denied::Unauthenticated),
            _ => Ok(Some(Self(text.to_owned()))),
        }
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credential")
    }
}

/// Returns what follows `Bearer`, a word that is the same in any case (RFC 9110, section 11.1).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, rest) = value.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| rest.trim())
}

/// Tells who calls. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Door(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    db: DatabaseConnection,
    settings: AccessArgs,
    order_tokens: OrderTokens,
    cursors: SealedCursors,
    documents: RegisteredDocuments,
    provider: Option<TokenVerifier>,
    /// By SHA-256 of the credential, so that no secret lies about in memory.
    remembered: Remembered<[u8; 32], Answer>,
    used: Mutex<HashSet<Uuid>>,
    /// Credentials that were good within the last hour, so that whoever tries keys at random stands in nobody's way.
    known: Cache<[u8; 32], ()>,
    turns_of_known: Semaphore,
    turns_of_signed: Semaphore,
    turns_of_strangers: Semaphore,
    turns_of_addresses: Cache<Address, Arc<Semaphore>>,
}

/// A credential, as far as it can be told without the database.
enum Shown {
    Key(Secret),
    /// Signed by us.
    OrderToken(OrderToken),
    /// Signed by the identity provider.
    Token(VerifiedToken),
}

/// What the door has found out about a credential.
#[derive(Debug, Clone)]
struct Answer {
    caller: Result<Caller, Denied>,
    /// When a token ends by itself. Keys end by the database's clock.
    ends_at: Option<DateTime<Utc>>,
}

impl From<Denied> for Answer {
    fn from(denied: Denied) -> Self {
        Self { caller: Err(denied), ends_at: None }
    }
}

impl Door {
    /// Makes the door, and starts to write down which keys are used until `shutdown` fires.
    ///
    /// # Errors
    /// The database does not tell what signs the access tokens of orders.
    pub async fn open(
        db: DatabaseConnection,
        settings: AccessArgs,
        provider: Option<TokenVerifier>,
        shutdown: CancellationToken,
    ) -> Result<Self, DbErr> {
        let secret = store::signing_secret(&db).await?;
        let order_tokens = OrderTokens::new(&secret, TimeDelta::days(i64::from(settings.order_token_days)));
        let remembered = Cache::builder().max_capacity(MAX_REMEMBERED).time_to_live(REMEMBER_FOR).build();
        let parts = Parts {
            documents: RegisteredDocuments::of(db.clone()),
            db,
            settings,
            order_tokens,
            cursors: SealedCursors::new(&secret),
            provider,
            remembered: Remembered::new(remembered),
            used: Mutex::default(),
            known: Cache::builder().max_capacity(MAX_REMEMBERED).time_to_live(KNOWN_FOR).build(),
            turns_of_known: Semaphore::new(TURNS_OF_KNOWN),
            turns_of_signed: Semaphore::new(TURNS_OF_SIGNED),
            turns_of_strangers: Semaphore::new(TURNS_OF_STRANGERS),
            turns_of_addresses: Cache::builder()
                .max_capacity(MAX_ADDRESSES)
                .time_to_idle(FORGET_ADDRESS_AFTER)
                .build(),
        };
        let door = Self(Arc::new(parts));
        let notes = door.clone().note_use_forever();
        tokio::spawn(shutdown.run_until_cancelled_owned(notes));
        Ok(door)
    }

    /// Tells who shows this credential, from this address.
    ///
    /// # Errors
    /// [`Denied`].
    pub(crate) async fn identify(
        &self,
        credential: Option<&Credential>,
        peer: IpAddr,
    ) -> Result<Caller, Denied> {
        let Some(Credential(text)) = credential else {
            return match self.0.settings.dev_anonymous {
                true => Ok(Caller::anonymous()),
                false => Err(Denied::Unauthenticated),
            };
        };
        let digest: [u8; 32] = Sha256::digest(text).into();
        let is_over = |answer: &Answer| answer.ends_at.is_some_and(|ends_at| ends_at <= Utc::now());
        let answer = match self.0.remembered.get(digest).filter(|answer| !is_over(answer)) {
            Some(answer) => answer,
            None => self.find_out(text, digest, peer).await?,
        };
        if let Ok(caller) = &answer.caller
            && let super::Kind::App { key_id: Some(key_id) } = caller.kind()
        {
            self.used().insert(key_id);
        }
        answer.caller
    }

    /// Looks a credential up, and remembers what came of it.
    async fn find_out(&self, text: &str, digest: [u8; 32], peer: IpAddr) -> Result<Answer, Denied> {
        let Parts { remembered, known, .. } = &*self.0;
        let shown = self.read(text).await?;
        let (_turn_of_address, _turn) = match &shown {
            _ if known.contains_key(&digest) => (None, turn(&self.0.turns_of_known).await?),
            Shown::OrderToken(_) | Shown::Token(_) => (None, turn(&self.0.turns_of_signed).await?),
            Shown::Key(_) => {
                let of_address = self
                    .0
                    .turns_of_addresses
                    .get_with(Address::of(peer), || Arc::new(Semaphore::new(TURNS_OF_ADDRESS)));
                let acquired = tokio::time::timeout(TURN_TIMEOUT, of_address.acquire_owned()).await;
                let acquired = acquired.ok().and_then(Result::ok).ok_or(Denied::Unavailable)?;
                (Some(acquired), turn(&self.0.turns_of_strangers).await?)
            }
        };
        // Somebody with the same credential may have found out meanwhile.
        let is_over = |answer: &Answer| answer.ends_at.is_some_and(|ends_at| ends_at <= Utc::now());
        if let Some(answer) = remembered.get(digest).filter(|answer| !is_over(answer)) {
            return Ok(answer);
        }
        let generation = remembered.generation();
        let answer = self.look_up(shown).await.unwrap_or_else(Answer::from);
        // That nobody could tell is not worth remembering.
        if answer.caller.as_ref().err() != Some(&Denied::Unavailable) {
            remembered.insert(generation, digest, answer.clone());
        }
        if answer.caller.is_ok() {
            known.insert(digest, ());
        }
        Ok(answer)
    }

    /// Whether it lets everybody in.
    pub(crate) fn is_open(&self) -> bool {
        self.0.settings.dev_anonymous
    }

    /// Seals and opens the cursors of the feed of changes.
    pub(crate) fn cursors(&self) -> &SealedCursors {
        &self.0.cursors
    }

    /// Makes the access token of an order.
    pub(crate) fn issue_order_token(&self, order_id: Uuid) -> String {
        self.0.order_tokens.issue(order_id, Utc::now())
    }

    /// The documents that are registered for apps.
    pub(crate) fn documents(&self) -> &RegisteredDocuments {
        &self.0.documents
    }

    /// Forgets whom it remembers, and which documents: something about an app has changed, or was taken away.
    pub(crate) fn forget(&self) {
        self.0.remembered.forget();
        self.0.documents.forget();
    }

    /// Tells what a credential is as far as that can be told without the database. May wait for the identity provider, as
    /// long as one fetch of its keys takes, and holds nothing meanwhile that somebody else waits for.
    ///
    /// # Errors
    /// It is noise, or it is a token and nobody can tell.
    async fn read(&self, text: &str) -> Result<Shown, Denied> {
        if let Some(secret) = Secret::parse(text) {
            return Ok(Shown::Key(secret));
        }
        if is_order_token(text) {
            let token = self.0.order_tokens.read(text, Utc::now());
            return token.map(Shown::OrderToken).ok_or(Denied::Unauthenticated);
        }
        let Some(provider) = &self.0.provider else { return Err(Denied::Unauthenticated) };
        let verified = provider.verify(text).await.map_err(|refused| match refused {
            TokenRefused::Bad(reason) => {
                debug!(reason, "refused a token of the identity provider");
                Denied::Unauthenticated
            }
            TokenRefused::Unavailable => Denied::Unavailable,
        });
        verified.map(Shown::Token)
    }

    async fn look_up(&self, shown: Shown) -> Result<Answer, Denied> {
        match shown {
            Shown::Key(secret) => self.look_up_key(&secret).await,
            Shown::OrderToken(token) => self.look_up_order_token(token).await,
            Shown::Token(token) => self.look_up_token(token).await,
        }
    }

    async fn look_up_key(&self, secret: &Secret) -> Result<Answer, Denied> {
        let found = store::find_credential(&self.0.db, secret.prefix()).await.map_err(unavailable)?;
        let credential = found.ok_or(Denied::Unauthenticated)?;
        if !bool::from(credential.secret_hash.ct_eq(&secret.hash())) {
            return Err(Denied::Unauthenticated);
        }
        let store::Credential { key_id, app, scopes, granted_apps, .. } = credential;
        // Whoever may change the limits is not held by them.
        let points = if scopes.contain(Scope::AppsManage) { None } else { self.points_of(&app) };
        let caller = Caller::app(&app, scopes, &granted_apps, points, Some(key_id));
        Ok(Answer { caller: Ok(caller), ends_at: None })
    }

    async fn look_up_token(&self, token: VerifiedToken) -> Result<Answer, Denied> {
        let app =
            store::app_of_client(&self.0.db, &token.issuer, &token.client).await.map_err(unavailable)?;
        let points = if token.scopes.contain(Scope::AppsManage) { None } else { self.points_of(&app) };
        let caller = Caller::app(&app, token.scopes, &[], points, None);
        Ok(Answer { caller: Ok(caller), ends_at: Some(token.expires_at) })
    }

    async fn look_up_order_token(&self, token: OrderToken) -> Result<Answer, Denied> {
        let app = store::app_of_order_token(&self.0.db, token.order_id).await;
        let app = app.map_err(unavailable)?.ok_or(Denied::Unauthenticated)?;
        // Not the app's own number: an app without a limit is trusted, whoever has a link to its orders is not.
        let points = Some(self.0.settings.points_per_second).filter(|points| *points > 0);
        let caller = Caller::shopper(&app, token.order_id, points);
        Ok(Answer { caller: Ok(caller), ends_at: Some(token.expires_at) })
    }

    /// What flows back into the app's budget in a second; `None` for no limit.
    fn points_of(&self, app: &store::App) -> Option<u32> {
        let own = app.points_per_second.and_then(|points| u32::try_from(points).ok());
        Some(own.unwrap_or(self.0.settings.points_per_second)).filter(|points| *points > 0)
    }

    fn used(&self) -> std::sync::MutexGuard<'_, HashSet<Uuid>> {
        // Held for an insertion or a swap.
        self.0.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn note_use_forever(self) {
        loop {
            tokio::time::sleep(NOTE_USE_INTERVAL).await;
            let used: Vec<Uuid> = self.used().drain().collect();
            if !used.is_empty()
                && let Err(error) = store::note_use(&self.0.db, used).await
            {
                let error = format!("{:#}", anyhow::Error::new(error));
                warn!(error, "cannot write down which keys were used");
            }
        }
    }
}

/// Waits for a turn; whoever waits too long is sent away.
async fn turn(turns: &Semaphore) -> Result<SemaphorePermit<'_>, Denied> {
    let turn = tokio::time::timeout(TURN_TIMEOUT, turns.acquire()).await;
    // The queues are never closed.
    turn.ok().and_then(Result::ok).ok_or(Denied::Unavailable)
}

fn unavailable(error: DbErr) -> Denied {
    let error = format!("{:#}", anyhow::Error::new(error));
    warn!(error, "cannot look up a credential");
    Denied::Unavailable
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};
    use serde_json::json;

    use super::*;

    fn of_headers(headers: &[(&'static str, &'static str)]) -> Result<Option<String>, Denied> {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        Credential::of_headers(&headers).map(|found| found.map(|credential| credential.0))
    }

    #[test]
    fn a_credential_is_a_bearer_token_or_a_key() {
        assert_eq!(of_headers(&[]), Ok(None));
        assert_eq!(of_headers(&[("authorization", "bearer  k")]), Ok(Some("k".to_owned())));
        assert_eq!(of_headers(&[("x-api-key", "k")]), Ok(Some("k".to_owned())));
        assert_eq!(
            of_headers(&[("authorization", "Bearer k"), ("x-api-key", "k")]),
            Ok(Some("k".to_owned()))
        );
        for bad in [
            &[("authorization", "Basic azo=")][..],
            &[("authorization", "Bearer ")],
            &[("authorization", "k")],
            &[("x-api-key", "")],
            &[("authorization", "Bearer a"), ("x-api-key", "b")],
        ] {
            assert_eq!(of_headers(bad), Err(Denied::Unauthenticated), "{bad:?}");
        }
    }

    #[test]
    fn a_payload_is_read_as_headers_are() {
        let read = |payload: serde_json::Value| {
            Credential::of_payload(payload.as_object()).map(|found| found.map(|one| one.0))
        };
        assert_eq!(read(json!({ "Authorization": "Bearer k" })), Ok(Some("k".to_owned())));
        assert_eq!(read(json!({ "X-Api-Key": "k", "other": 1 })), Ok(Some("k".to_owned())));
        assert_eq!(read(json!({})), Ok(None));
        assert_eq!(read(json!({ "x-api-key": 1 })), Err(Denied::Unauthenticated));
        assert_eq!(Credential::of_payload(None), Ok(None));
    }
}
