//! Cursors that tell nothing.
//!
//! Where an app has got to in a feed that all apps share is between how much the others do: a cursor that could be read, or
//! that stayed the same while nobody did anything, would tell. So each is encrypted anew (ChaCha20-Poly1305, RFC 8439), under
//! a key that is derived from the secret which signs the access tokens of orders. It is good for the app that got it.
//!
//! Nonces are random. Should two ever be the same, whoever has both learns about two places in a feed, and could make a
//! cursor: that opens a place in a feed of its own.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use sha2::Sha256;
use uuid::Uuid;

/// What the key is for, so that the secret makes another for each purpose.
const PURPOSE: &[u8] = b"oms cursors of changes";

/// Bytes of a place: a transaction, an order, and a number of an event.
pub(crate) const PLACE_BYTES: usize = 8 + 16 + 4;

/// Seals and opens cursors. `Debug` shows no secret.
#[derive(Clone)]
pub(crate) struct SealedCursors(LessSafeKey);

impl SealedCursors {
    /// Seals with a key that is derived from this secret.
    pub(crate) fn new(secret: &[u8]) -> Self {
        // The error stands for a length that does not fit; an HMAC takes every length.
        let mac = Hmac::<Sha256>::new_from_slice(secret).expect("an HMAC takes a key of any length");
        let key = mac.chain_update(PURPOSE).finalize().into_bytes();
        // Both are 32 bytes.
        let key = UnboundKey::new(&CHACHA20_POLY1305, &key).expect("a SHA-256 is as long as the key");
        Self(LessSafeKey::new(key))
    }

    /// Makes the cursor of a place for an app.
    pub(crate) fn seal(&self, app_id: Uuid, place: [u8; PLACE_BYTES]) -> String {
        let nonce: [u8; NONCE_LEN] = rand::random();
        let mut sealed = place.to_vec();
        let aad = Aad::from(app_id.as_bytes());
        let sealing = self.0.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed);
        // The error stands for 256 GiB.
        sealing.expect("a place is short");
        URL_SAFE_NO_PAD.encode([&nonce[..], &sealed].concat())
    }

    /// Returns the place that a cursor of this app stands for; `None` if it is none.
    pub(crate) fn open(&self, app_id: Uuid, cursor: &str) -> Option<[u8; PLACE_BYTES]> {
        let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN)?;
        let (nonce, mut sealed) = (Nonce::try_assume_unique_for_key(nonce).ok()?, sealed.to_vec());
        let place = self.0.open_in_place(nonce, Aad::from(app_id.as_bytes()), &mut sealed).ok()?;
        (&*place).try_into().ok()
    }
}

impl fmt::Debug for SealedCursors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedCursors").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const APP: Uuid = Uuid::from_u128(1);

    #[test]
    fn no_two_cursors_of_a_place_are_alike_but_in_length() {
        let cursors = SealedCursors::new(b"a secret");
        let [one, other] = [(); 2].map(|()| cursors.seal(APP, [7; PLACE_BYTES]));
        assert_ne!(one, other);
        assert_eq!(one.len(), other.len());
        assert_eq!(cursors.open(APP, &other), Some([7; PLACE_BYTES]));
    }

    #[test]
    fn a_cursor_is_good_for_its_app_under_its_secret() {
        let cursor = SealedCursors::new(b"a secret").seal(APP, [7; PLACE_BYTES]);
        assert_eq!(SealedCursors::new(b"a secret").open(Uuid::from_u128(2), &cursor), None);
        assert_eq!(SealedCursors::new(b"another").open(APP, &cursor), None);
    }

    proptest! {
        #[test]
        fn a_cursor_with_one_other_byte_is_none(place in 0..NONCE_LEN + PLACE_BYTES + 16, flip in 1..=255_u8) {
            let cursors = SealedCursors::new(b"a secret");
            let mut bytes = URL_SAFE_NO_PAD.decode(cursors.seal(APP, [7; PLACE_BYTES])).expect("our own");
            bytes[place] ^= flip;
            prop_assert_eq!(cursors.open(APP, &URL_SAFE_NO_PAD.encode(bytes)), None);
        }

        #[test]
        fn no_text_makes_opening_panic(text in ".{0,120}") {
            prop_assert_eq!(SealedCursors::new(b"a secret").open(APP, &text), None);
        }
    }
}
