//! Stock as clients see it.

use async_graphql::SimpleObject;
use chrono::{DateTime, Utc};
use domain::stock::entity;

use super::long::Long;

pub(super) mod mutation;
pub(super) mod query;

/// How many there are of one SKU.
#[derive(Debug, Clone, SimpleObject)]
pub(super) struct StockLevel {
    /// The shop's own article code. Example: `SKU-1`
    sku: String,
    /// Units in the building. Example: `12`
    on_hand: Long,
    /// Units promised to orders; they stay on hand until they leave the building. Example: `2`
    reserved: Long,
    /// Units that can still be promised: on hand less reserved. Example: `10`
    available: Long,
    /// When it last changed (RFC 3339, UTC). Example: `2026-11-25T10:00:00.123456+00:00`
    updated_at: DateTime<Utc>,
}

impl From<entity::Model> for StockLevel {
    fn from(row: entity::Model) -> Self {
        Self {
            on_hand: row.on_hand.into(),
            reserved: row.reserved.into(),
            available: row.available().into(),
            updated_at: row.updated_at,
            sku: row.sku,
        }
    }
}
