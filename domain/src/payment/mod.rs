//! What was authorized, captured and made void, as our own books have it.

use uuid::Uuid;

pub mod entity;
pub mod read;
pub mod store;

/// An authorization that the gateway granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorization {
    /// The order it pays for.
    pub order_id: Uuid,
    /// Which gateway.
    pub gateway: String,
    /// ISO 4217 code of the amount.
    pub currency: String,
    /// The amount, in minor units.
    pub amount_minor: i64,
    /// The gateway's name for it.
    pub authorization_id: String,
}

/// A capture that the gateway carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture {
    /// The order it pays for.
    pub order_id: Uuid,
    /// The amount, in minor units.
    pub amount_minor: i64,
    /// The gateway's name for it.
    pub capture_id: String,
}
