//! API keys: how a secret looks, what a fresh key may be, and what is kept of it.

use chrono::{DateTime, Utc};
use rand::RngExt;
use rand::distr::Alphanumeric;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{Scope, Scopes};
use crate::input::{Violation, check_text};

/// What every secret begins with, so that a leaked one is found by those who look for such things.
const MARK: &str = "oms_live_";

/// Characters behind the mark by which a key is found; of 62 kinds, enough to tell 10^12 keys apart.
const PUBLIC_CHARS: usize = 8;

/// Characters that nobody can guess: 43 of 62 kinds are 256 bits.
const SECRET_CHARS: usize = 43;

/// The longest name of an app or a key, in characters.
pub const MAX_NAME_CHARS: usize = 100;

/// The most apps whose orders a row filter grants.
pub const MAX_GRANTED_APPS: usize = 100;

/// A secret as its holder knows it. `Debug` shows only what lists show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Makes a fresh one.
    pub fn generate() -> Self {
        let mut random = rand::rng();
        let mut chars = |count: usize| -> String {
            (0..count).map(|_| char::from(random.sample(Alphanumeric))).collect()
        };
        let (public, secret) = (chars(PUBLIC_CHARS), chars(SECRET_CHARS));
        Self(format!("{MARK}{public}_{secret}"))
    }

    /// Reads one; `None` if it cannot be one of ours.
    pub fn parse(text: &str) -> Option<Self> {
        let (public, secret) = text.strip_prefix(MARK)?.split_once('_')?;
        let fits = |part: &str, chars: usize| {
            part.len() == chars && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
        };
        (fits(public, PUBLIC_CHARS) && fits(secret, SECRET_CHARS)).then(|| Self(text.to_owned()))
    }

    /// What lists show, and by which it is found.
    pub fn prefix(&self) -> &str {
        &self.0[..MARK.len() + PUBLIC_CHARS]
    }

    /// What the database keeps.
    pub fn hash(&self) -> Vec<u8> {
        Sha256::digest(&self.0).to_vec()
    }

    /// The whole of it: to be shown once, to whoever made the key.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Secret").field(&self.prefix()).finish()
    }
}

/// A key about to be made.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// Whose it is.
    pub app_id: Uuid,
    /// What people call it.
    pub name: String,
    /// What it may do.
    pub scopes: Scopes,
    /// Until when it is good; `None` for ever.
    pub expires_at: Option<DateTime<Utc>>,
    /// Apps whose orders it sees besides its own.
    pub granted_apps: Vec<Uuid>,
}

/// Checks the name of an app or a key.
///
/// # Errors
/// It says nothing, or too much.
pub fn check_name(name: &str) -> Result<(), Violation> {
    check_text(&["name"], name, MAX_NAME_CHARS)
}

/// Reads the scopes of a key to be made.
///
/// # Errors
/// There is none, or one that does not exist.
pub fn check_scopes(names: &[String]) -> Result<Scopes, Violation> {
    if names.is_empty() {
        return Err(Violation::new(&["scopes"], "must hold at least one scope, such as orders:read"));
    }
    let scopes: Result<Scopes, _> = names.iter().map(|name| name.parse::<Scope>()).collect();
    scopes.map_err(|error| Violation::new(&["scopes"], error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_back_and_shows_little_of_itself() {
        let secret = Secret::generate();
        assert_eq!(Secret::parse(secret.reveal()), Some(secret.clone()));
        assert_eq!(secret.prefix().len(), "oms_live_".len() + 8);
        assert!(!format!("{secret:?}").contains(&secret.reveal()[20..]));
        assert_ne!(secret, Secret::generate());
    }

    #[test]
    fn what_is_no_secret_is_none() {
        let good = Secret::generate();
        let longer = format!("{}x", good.reveal());
        for text in ["", "oms_live_", "oms_live_abc_def", &longer, &good.reveal().replace("live", "test")] {
            assert_eq!(Secret::parse(text), None, "{text}");
        }
        assert_eq!(Secret::parse(&format!("oms_live_äöüabcd_{}", "x".repeat(43))), None);
    }

    #[test]
    fn a_key_has_scopes_that_exist() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        assert!(check_scopes(&names(&["orders:read", "sagas:operate"])).is_ok());
        assert!(check_scopes(&[]).is_err());
        assert!(check_scopes(&names(&["orders:everything"])).is_err());
    }
}
