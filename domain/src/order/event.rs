//! What can happen to an order, and what each event makes true.
//!
//! An event is the only way in which an order changes: [`store::append`](super::store::append) writes the event and
//! the columns it decides in one statement, under the order's row lock.

use serde::Serialize;

use super::{OrderStatus, PaymentStatus};

/// Something that happened to an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", content = "data", rename_all_fields = "camelCase")]
pub enum OrderEvent {
    /// The order was accepted.
    OrderPlaced {
        /// How many lines it has.
        lines: usize,
        /// Sum of the lines, in minor units.
        items_minor: i64,
        /// ISO 4217 code.
        currency: String,
    },
    /// Every unit it asks for is held for it.
    StockReserved {},
    /// Its price is known.
    OrderQuoted {
        /// In minor units, as are the two below.
        shipping_minor: i64,
        /// Tax.
        tax_minor: i64,
        /// Items, shipping and tax.
        total_minor: i64,
    },
    /// The card's bank promised the total.
    PaymentAuthorized {
        /// In minor units.
        amount_minor: i64,
    },
    /// The card's bank, or the gateway, refused.
    PaymentDeclined {
        /// Why, for programs.
        code: String,
        /// Why, for people.
        message: String,
    },
    /// The total was taken.
    PaymentCaptured {
        /// In minor units.
        amount_minor: i64,
    },
    /// Nothing can go wrong any more: the goods are promised and paid.
    OrderConfirmed {},
    /// The authorization was given back.
    PaymentVoided {},
    /// The units were given back.
    StockReleased {},
    /// A person intervened in how the order is carried out. Whoever watches the order sees it.
    OperatorActed {
        /// What the person did: `retry`, `resume`, `abandon` or `resolve`.
        act: String,
        /// Who it was, as they said.
        by: String,
        /// What they came in with: an app and its key, or the command line.
        via: String,
        /// Why, or on what evidence.
        reason: String,
    },
    /// The order will not be carried out.
    OrderFailed {
        /// Why, for programs.
        code: String,
        /// Why, for people.
        message: String,
    },
}

impl OrderEvent {
    /// Returns the status the order has once this has happened, if the event decides it.
    pub fn status(&self) -> Option<OrderStatus> {
        match self {
            Self::OrderConfirmed {} => Some(OrderStatus::Confirmed),
            Self::OrderFailed { .. } => Some(OrderStatus::Failed),
            _ => None,
        }
    }

    /// Returns the payment status the order has once this has happened, if the event decides it.
    pub fn payment_status(&self) -> Option<PaymentStatus> {
        match self {
            Self::PaymentAuthorized { .. } => Some(PaymentStatus::Authorized),
            Self::PaymentCaptured { .. } => Some(PaymentStatus::Paid),
            Self::PaymentVoided {} => Some(PaymentStatus::Voided),
            _ => None,
        }
    }

    /// Returns the event's name and its facts.
    pub fn to_parts(&self) -> (String, serde_json::Value) {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        let kind = value["type"].as_str().unwrap_or_default().to_owned();
        (kind, value["data"].take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_its_name_and_its_facts() {
        let (kind, data) = OrderEvent::PaymentCaptured { amount_minor: 250 }.to_parts();
        assert_eq!(kind, "PaymentCaptured");
        assert_eq!(data, serde_json::json!({"amountMinor": 250}));
        let (kind, data) = OrderEvent::StockReserved {}.to_parts();
        assert_eq!((kind.as_str(), data), ("StockReserved", serde_json::json!({})));
    }

    #[test]
    fn only_the_last_event_of_a_saga_settles_the_order() {
        let failed =
            OrderEvent::OrderFailed { code: "OUT_OF_STOCK".to_owned(), message: "none left".to_owned() };
        assert_eq!(failed.status(), Some(OrderStatus::Failed));
        assert_eq!(OrderEvent::OrderConfirmed {}.status(), Some(OrderStatus::Confirmed));
        assert_eq!(OrderEvent::PaymentCaptured { amount_minor: 1 }.status(), None);
    }
}
