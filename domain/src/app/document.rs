//! Documents that are registered for an app: what names one, and how many and how long they may be.
//!
//! Whether a document is GraphQL, and fits the schema, is for whoever speaks GraphQL to say.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::input::Violation;

/// What stands in front of the hash.
const PREFIX: &str = "sha256:";

/// The most documents of one app. A large front end has some hundreds.
pub const MAX_DOCUMENTS: usize = 1_000;

/// The most documents that are added or removed at a time.
pub const MAX_DOCUMENTS_AT_A_TIME: usize = 100;

/// The longest document, in bytes: what a request's body holds unless the settings say otherwise.
pub const MAX_DOCUMENT_BYTES: usize = 100_000;

/// Names a document by the SHA-256 of its text, byte by byte as it is: `sha256:` and 64 lower-case hexadecimal digits, as
/// the GraphQL-over-HTTP specification has it (appendix on persisted documents).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DocumentId([u8; 32]);

impl DocumentId {
    /// The name of a text.
    pub fn of(text: &str) -> Self {
        Self(Sha256::digest(text).into())
    }

    /// The bare hash.
    pub fn hash(&self) -> &[u8; 32] {
        &self.0
    }

    /// Takes a bare hash for what it is; `None` if it has another length.
    pub fn from_hash(hash: &[u8]) -> Option<Self> {
        hash.try_into().ok().map(Self)
    }

    /// Reads the 64 digits without what stands in front of them.
    ///
    /// # Errors
    /// They are not lower-case hexadecimal, or not 64.
    pub fn from_digits(digits: &str) -> Result<Self, NoDocumentId> {
        let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let mut hash = [0; 32];
        if digits.len() != 2 * hash.len() || !digits.as_bytes().iter().all(is_digit) {
            return Err(NoDocumentId);
        }
        for (byte, pair) in hash.iter_mut().zip(digits.as_bytes().chunks(2)) {
            let pair = str::from_utf8(pair).map_err(|_| NoDocumentId)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| NoDocumentId)?;
        }
        Ok(Self(hash))
    }
}

/// The text names no document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the name of a document is sha256: and the 64 lower-case hexadecimal digits of the SHA-256 of its text"
)]
pub struct NoDocumentId;

impl FromStr for DocumentId {
    type Err = NoDocumentId;

    fn from_str(text: &str) -> Result<Self, NoDocumentId> {
        Self::from_digits(text.strip_prefix(PREFIX).ok_or(NoDocumentId)?)
    }
}

impl fmt::Display for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Checks the text of a document about to be registered; `path` is its place in the input.
///
/// # Errors
/// It is empty, too long, or has a NUL, which Postgres cannot store.
pub fn check_document(path: &[&str], text: &str) -> Result<(), Violation> {
    let message = if text.trim().is_empty() {
        "must not be empty".to_owned()
    } else if text.len() > MAX_DOCUMENT_BYTES {
        format!("must not be longer than {MAX_DOCUMENT_BYTES} bytes")
    } else if text.contains('\0') {
        "must not contain a NUL character (U+0000)".to_owned()
    } else {
        return Ok(());
    };
    Err(Violation::new(path, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "sha256:71f7dc5758652baac68e4a10c50be732b741c892ade2883a99358f52b555286b";

    #[test]
    fn a_document_has_the_name_that_the_specification_gives_it() {
        let id = DocumentId::of("query($id:ID!){user(id:$id){name}}");
        assert_eq!(id.to_string(), EXAMPLE);
        assert_eq!(EXAMPLE.parse(), Ok(id));
        assert_eq!(DocumentId::from_hash(id.hash()), Some(id));
        assert_eq!(DocumentId::from_hash(&[0; 31]), None);
    }

    #[test]
    fn whatever_is_written_differently_names_nothing() {
        let (upper, digits) = (EXAMPLE.to_uppercase(), &EXAMPLE[PREFIX.len()..]);
        let padded = format!("{EXAMPLE} ");
        let umlauts = format!("{PREFIX}{}", "ä".repeat(32));
        for bad in ["", "sha256:", &EXAMPLE[..70], &upper, digits, &padded, &umlauts, "sha256:+1"] {
            assert_eq!(bad.parse::<DocumentId>(), Err(NoDocumentId), "{bad}");
        }
    }

    #[test]
    fn a_document_says_something_within_bounds() {
        assert_eq!(check_document(&[], "{a}"), Ok(()));
        let long = " a".repeat(MAX_DOCUMENT_BYTES);
        for bad in ["", " \n", "{a}\0", &long] {
            assert!(check_document(&["documents", "0"], bad).is_err(), "{bad:.10}");
        }
    }
}
