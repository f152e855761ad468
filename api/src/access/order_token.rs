//! Access tokens of orders: for a shopper without an account, who may follow one order and nothing else.
//!
//! A token names an order and its own end, and is signed with a secret that only the database and the serving processes
//! have (HMAC with SHA-256, RFC 2104). It is made without writing a row, so that placing costs nothing more. It ends by
//! itself, or when it is taken back: an order has no other.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use uuid::Uuid;

/// What every token begins with.
const MARK: &str = "oms_order_";

/// Bytes that are signed: the order, when the token was made and when it ends, both in milliseconds since 1970.
const SIGNED_BYTES: usize = 16 + 8 + 8;

/// Bytes of the signature.
const SIGNATURE_BYTES: usize = 32;

/// Makes and reads tokens. `Debug` shows no secret.
#[derive(Clone)]
pub(crate) struct OrderTokens {
    mac: Hmac<Sha256>,
    lifetime: TimeDelta,
}

/// What a token with a good signature says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OrderToken {
    /// The order it opens.
    pub(crate) order_id: Uuid,
    /// When it ends.
    pub(crate) expires_at: DateTime<Utc>,
}

impl OrderTokens {
    /// Signs with this secret; tokens live this long.
    pub(crate) fn new(secret: &[u8], lifetime: TimeDelta) -> Self {
        let mac = Hmac::<Sha256>::new_from_slice(secret);
        // The error stands for a length that does not fit; an HMAC takes every length.
        Self { mac: mac.expect("an HMAC takes a key of any length"), lifetime }
    }

    /// Makes the token of an order.
    pub(crate) fn issue(&self, order_id: Uuid, now: DateTime<Utc>) -> String {
        let expires_at = now + self.lifetime;
        let mut bytes = Vec::with_capacity(SIGNED_BYTES + SIGNATURE_BYTES);
        bytes.extend_from_slice(order_id.as_bytes());
        bytes.extend_from_slice(&now.timestamp_millis().to_be_bytes());
        bytes.extend_from_slice(&expires_at.timestamp_millis().to_be_bytes());
        let signature = self.mac.clone().chain_update(&bytes).finalize().into_bytes();
        bytes.extend_from_slice(&signature);
        format!("{MARK}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Reads a token; `None` if its signature is not ours or its time is over.
    pub(crate) fn read(&self, token: &str, now: DateTime<Utc>) -> Option<OrderToken> {
        let bytes = URL_SAFE_NO_PAD.decode(token.strip_prefix(MARK)?).ok()?;
        let (signed, signature) = bytes.split_at_checked(SIGNED_BYTES)?;
        // Compared in constant time.
        self.mac.clone().chain_update(signed).verify_slice(signature).ok()?;
        let (order_id, times) = signed.split_at_checked(16)?;
        // When it was made is for whoever looks into one: it is by the clock of the process that made it.
        let (_made_at, expires_at) = times.split_at_checked(8)?;
        let expires_at = i64::from_be_bytes(expires_at.try_into().ok()?);
        let token = OrderToken {
            order_id: Uuid::from_slice(order_id).ok()?,
            expires_at: DateTime::from_timestamp_millis(expires_at)?,
        };
        (token.expires_at > now).then_some(token)
    }
}

/// Whether the text claims to be a token of an order.
pub(crate) fn is_order_token(text: &str) -> bool {
    text.starts_with(MARK)
}

impl fmt::Debug for OrderTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OrderTokens").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tokens() -> OrderTokens {
        OrderTokens::new(b"a secret", TimeDelta::days(30))
    }

    #[test]
    fn a_token_opens_its_order_until_it_ends() {
        let (order_id, now) = (Uuid::now_v7(), Utc::now());
        let token = tokens().issue(order_id, now);
        assert_eq!(tokens().read(&token, now).map(|token| token.order_id), Some(order_id));
        assert!(tokens().read(&token, now + TimeDelta::days(29)).is_some());
        assert_eq!(tokens().read(&token, now + TimeDelta::days(31)), None);
    }

    #[test]
    fn a_token_of_another_secret_is_none() {
        let now = Utc::now();
        let token = OrderTokens::new(b"another", TimeDelta::days(30)).issue(Uuid::now_v7(), now);
        assert_eq!(tokens().read(&token, now), None);
    }

    proptest! {
        #[test]
        fn a_token_with_one_other_byte_is_none(place in 0..SIGNED_BYTES + SIGNATURE_BYTES, flip in 1..=255_u8) {
            let now = Utc::now();
            let token = tokens().issue(Uuid::now_v7(), now);
            let mut bytes = URL_SAFE_NO_PAD.decode(&token[MARK.len()..]).expect("our own");
            bytes[place] ^= flip;
            let other = format!("{MARK}{}", URL_SAFE_NO_PAD.encode(bytes));
            prop_assert_eq!(tokens().read(&other, now), None);
        }

        #[test]
        fn no_text_makes_reading_panic(text in "(oms_order_)?.{0,200}") {
            prop_assert_eq!(tokens().read(&text, Utc::now()), None);
        }
    }
}
