//! Reading payments on somebody's behalf.
//!
//! As in [`order::read`](crate::order::read), the [`Visibility`] of whoever asks is in the `WHERE` clause. The gateway's own
//! names of authorizations and captures are not read: whoever holds one could speak to the gateway about it.

use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, FromQueryResult, Statement, Value};
use uuid::Uuid;

use crate::app::Visibility;
use crate::order::PaymentStatus;

/// A payment as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, FromQueryResult)]
pub struct Payment {
    /// The order it pays for.
    pub order_id: Uuid,
    /// Which gateway holds the money.
    pub gateway: String,
    /// ISO 4217 code of the amounts.
    pub currency: String,
    /// Promised by the card's bank, in minor units.
    pub authorized_minor: i64,
    /// Taken, in minor units.
    pub captured_minor: i64,
    /// Given back, in minor units.
    pub refunded_minor: i64,
    /// When it was promised.
    pub authorized_at: Option<DateTime<Utc>>,
    /// When it was taken.
    pub captured_at: Option<DateTime<Utc>>,
    /// When the promise was given back.
    pub voided_at: Option<DateTime<Utc>>,
}

impl Payment {
    /// Where its money is. What was given back in part is still paid.
    pub fn status(&self) -> PaymentStatus {
        match () {
            () if self.voided_at.is_some() => PaymentStatus::Voided,
            () if self.captured_minor > 0 && self.refunded_minor == self.captured_minor => {
                PaymentStatus::Refunded
            }
            () if self.captured_at.is_some() => PaymentStatus::Paid,
            () if self.authorized_at.is_some() => PaymentStatus::Authorized,
            () => PaymentStatus::Unpaid,
        }
    }
}

/// Returns the visible payments of these orders; an order that was never authorized has none.
///
/// # Errors
/// Any error of the database.
pub async fn find_payments(
    db: &impl ConnectionTrait,
    visibility: &Visibility,
    order_ids: Vec<Uuid>,
) -> Result<Vec<Payment>, DbErr> {
    let mut values: Vec<Value> = vec![order_ids.into()];
    let is_visible = match visibility {
        Visibility::All => "true",
        Visibility::Apps(apps) => {
            values.push(apps.to_vec().into());
            "orders.app_id = ANY($2)"
        }
        Visibility::Order(id) => {
            values.push((*id).into());
            "orders.id = $2"
        }
    };
    let text = FIND_PAYMENTS.replace("{is_visible}", is_visible);
    let statement = Statement::from_sql_and_values(DbBackend::Postgres, text, values);
    Payment::find_by_statement(statement).all(db).await
}

/// The primary keys of both tables serve it.
const FIND_PAYMENTS: &str = "
SELECT payments.order_id, gateway, payments.currency, authorized_minor, captured_minor, refunded_minor, authorized_at,
       captured_at, voided_at
FROM orders JOIN payments ON payments.order_id = orders.id
WHERE orders.id = ANY($1) AND {is_visible}
ORDER BY payments.order_id";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payment_stands_where_its_money_is() {
        let at = DateTime::from_timestamp(1_790_000_000, 0);
        let none = Payment {
            order_id: Uuid::nil(),
            gateway: "simulated".to_owned(),
            currency: "USD".to_owned(),
            authorized_minor: 0,
            captured_minor: 0,
            refunded_minor: 0,
            authorized_at: None,
            captured_at: None,
            voided_at: None,
        };
        let authorized = Payment { authorized_minor: 100, authorized_at: at, ..none.clone() };
        let paid = Payment { captured_minor: 100, captured_at: at, ..authorized.clone() };
        assert_eq!(none.status(), PaymentStatus::Unpaid);
        assert_eq!(authorized.status(), PaymentStatus::Authorized);
        assert_eq!(Payment { voided_at: at, ..authorized }.status(), PaymentStatus::Voided);
        assert_eq!(paid.status(), PaymentStatus::Paid);
        assert_eq!(Payment { refunded_minor: 40, ..paid.clone() }.status(), PaymentStatus::Paid);
        assert_eq!(Payment { refunded_minor: 100, ..paid }.status(), PaymentStatus::Refunded);
    }
}
