//! The port to whoever holds the money, and its adapters.
//!
//! A gateway is asked with an idempotency key and a body of frozen bytes, and answers with an
//! [`Outcome`]: succeeded, refused for good, or unknown. An adapter maps only answers that it is certain of to the
//! first two; everything else is unknown. So is an answer that proves another effect than the one that was asked for: the
//! key was used with another request, or the payment is authorized under another key, as when the database was failed
//! over to a replica that had not heard of it. A refusal would say that there is nothing to undo.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::engine::{Lookup, Outcome};

pub mod instant;
pub mod simulated;

/// What a gateway can be asked for. It is written into the saga's history as JSON, byte for byte as it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "snake_case")]
pub enum Request {
    /// Promise an amount.
    Authorize {
        /// Our name for the payment: one authorization for each.
        reference: String,
        /// In minor units.
        amount_minor: i64,
        /// ISO 4217 code.
        currency: String,
        /// The gateway's name for the card.
        token: String,
    },
    /// Take an amount that was promised.
    Capture {
        /// Our name for the payment.
        reference: String,
        /// The gateway's name for the promise.
        authorization_id: String,
        /// In minor units.
        amount_minor: i64,
        /// ISO 4217 code.
        currency: String,
    },
    /// Give the promise back, and refuse any that may still be on its way under this reference. Naming the payment
    /// by our own reference is what makes this possible when the authorization's answer never came.
    Void {
        /// Our name for the payment.
        reference: String,
    },
}

impl Request {
    /// Returns our name for the payment.
    pub fn reference(&self) -> &str {
        match self {
            Self::Authorize { reference, .. }
            | Self::Capture { reference, .. }
            | Self::Void { reference } => reference,
        }
    }
}

/// What a gateway answers when the effect is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The gateway's name for what it did.
    pub id: String,
}

/// Whoever holds the money.
#[async_trait]
pub trait PaymentGateway: Send + Sync + 'static {
    /// Returns the name under which payments are recorded.
    fn name(&self) -> &'static str;

    /// Sends a request, a [`Request`] as JSON. Repeating it with the same key and body has no second effect.
    async fn send(&self, idempotency_key: &str, body: &str) -> Outcome;

    /// Asks what became of a request that was sent with a key. What became of another one under the same key does not
    /// answer that: it is unknown.
    async fn look_up(&self, idempotency_key: &str, body: &str) -> Lookup;
}
