//! What has happened to the money of an order, as clients see it.

use async_graphql::{Result, SimpleObject};
use chrono::{DateTime, Utc};
use domain::payment::read;
use sea_orm::DbErr;

use super::{PaymentStatus, parse_currency};
use crate::graphql::money::Money;

/// Money that was promised, taken or given back for an order, each a fact of its own.
#[derive(Debug, Clone, SimpleObject)]
pub(super) struct Payment {
    /// Which gateway holds the money. Example: `simulated`
    gateway: String,
    /// Where the money is. What was given back in part is still `PAID`. Example: `PAID`
    status: PaymentStatus,
    /// What the card's bank has promised.
    authorized: Money,
    /// What was taken of it.
    captured: Money,
    /// What was given back of that.
    refunded: Money,
    /// When it was promised (RFC 3339, UTC). Example: `2026-11-25T10:00:00.223456+00:00`
    authorized_at: Option<DateTime<Utc>>,
    /// When it was taken (RFC 3339, UTC); null if it was not. Example: `2026-11-25T10:00:00.323456+00:00`
    captured_at: Option<DateTime<Utc>>,
    /// When the promise was given back (RFC 3339, UTC); null if it was not. Example: `2026-11-25T10:00:00.423456+00:00`
    voided_at: Option<DateTime<Utc>>,
}

impl Payment {
    /// Shows a payment.
    ///
    /// # Errors
    /// The stored currency is not one of ISO 4217, which the checks on the way in make impossible.
    pub(super) fn try_new(row: read::Payment) -> Result<Self, DbErr> {
        let currency = parse_currency(&row.currency)?;
        let money = |minor| domain::money::Money::new(minor, currency).into();
        Ok(Self {
            status: row.status().into(),
            gateway: row.gateway,
            authorized: money(row.authorized_minor),
            captured: money(row.captured_minor),
            refunded: money(row.refunded_minor),
            authorized_at: row.authorized_at,
            captured_at: row.captured_at,
            voided_at: row.voided_at,
        })
    }
}
