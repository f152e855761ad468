//! What an order is.

use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};

pub mod changes;
pub mod entity;
pub mod event;
pub mod list;
pub mod place;
pub mod read;
pub mod store;

/// The most lines of an order.
pub const MAX_LINES: usize = 250;

/// The most units of one line.
pub const MAX_QUANTITY: i64 = 1_000_000;

/// Where an order stands as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OrderStatus {
    /// Accepted; its saga is carrying it on.
    Pending,
    /// Stock is reserved and the payment is captured.
    Confirmed,
    /// Everything has been delivered.
    Completed,
    /// Called off after it was confirmed.
    Canceled,
    /// It could not be carried out; whatever had been done for it was undone.
    Failed,
}

impl OrderStatus {
    /// Returns whether the place_order saga has nothing more to say about an order in this status.
    pub fn is_settled(self) -> bool {
        self != Self::Pending
    }
}

/// Where the money of an order is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PaymentStatus {
    /// Nothing has been promised or taken.
    Unpaid,
    /// The card's bank has promised the total.
    Authorized,
    /// The total has been taken.
    Paid,
    /// The promise was given back.
    Voided,
    /// The money was given back.
    Refunded,
}

/// Where the goods of an order are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FulfillmentStatus {
    /// In the building.
    Unfulfilled,
    /// On their way or there.
    Fulfilled,
}

/// Where an order goes. Personal data: never logged, never part of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Address {
    /// Whose name is on the door.
    pub name: String,
    /// Street and number.
    pub line1: String,
    /// Anything that needs a second line.
    pub line2: Option<String>,
    /// City.
    pub city: String,
    /// Postal code, where the country has them.
    pub postal_code: Option<String>,
    /// State, province or region, where the country has them.
    pub region: Option<String>,
    /// ISO 3166-1 alpha-2 code, such as `DE`.
    pub country: String,
}
