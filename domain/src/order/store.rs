//! Changes of orders. [`read`](super::read) holds the queries.

use sea_orm::{ConnectionTrait, DbErr, Value};
use uuid::Uuid;

use super::event::OrderEvent;
use crate::sql::statement;

/// Appends one event to each of these orders and sets the columns that the event decides.
///
/// The sequence is counted on under the order's row lock, in the commit that makes the event true, so the numbers
/// have no gap. Every event but the first moves a pending order. Rows are locked in the order of their ids.
///
/// Repeating an event that ends an order, or quotes it, changes nothing. Other events say nothing by which a repetition
/// could be told: their callers append them for what they have changed.
///
/// # Errors
/// Any error of the database, and [`DbErr::RecordNotUpdated`] if one of the orders is not pending any more, unless all
/// that was asked for is so already: then the caller's transaction must not commit.
pub async fn append(tx: &impl ConnectionTrait, mut events: Vec<(Uuid, OrderEvent)>) -> Result<(), DbErr> {
    if events.is_empty() {
        return Ok(());
    }
    let count = events.len() as u64;
    events.sort_unstable_by_key(|(order_id, _)| *order_id);
    let changes: Changes = events.into_iter().collect();
    let decided = changes.decided();
    let result = tx.execute_raw(statement(APPEND, changes.into_values())).await?;
    if result.rows_affected() == count || count_true(tx, decided).await? == Some(count.cast_signed()) {
        Ok(())
    } else {
        Err(DbErr::RecordNotUpdated)
    }
}

/// Counts the events that end an order or quote it, and are so already.
async fn count_true(tx: &impl ConnectionTrait, decided: Decided) -> Result<Option<i64>, DbErr> {
    let (order_ids, statuses, shipping_minor, tax_minor) = decided;
    let values = [order_ids.into(), statuses.into(), shipping_minor.into(), tax_minor.into()];
    let row = tx.query_one_raw(statement(COUNT_TRUE, values)).await?;
    row.map(|row| row.try_get("", "count")).transpose()
}

const COUNT_TRUE: &str = "
SELECT count(*) AS count
FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[]) AS input (order_id, status, shipping_minor, tax_minor)
JOIN orders ON orders.id = input.order_id
WHERE orders.status = input.status
   OR (orders.shipping_minor, orders.tax_minor) = (input.shipping_minor, input.tax_minor)";

/// Empty strings and -1 stand for "the event does not decide this"; arrays of nullable values do not exist here.
const APPEND: &str = "
WITH input AS MATERIALIZED (
    SELECT *
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::text[], $9::text[])
        AS input (order_id, type, data, status, payment_status, shipping_minor, tax_minor, failure_code, failure_message)
), moved AS (
    UPDATE orders
    SET sequence = orders.sequence + 1,
        status = coalesce(nullif(input.status, ''), orders.status),
        payment_status = coalesce(nullif(input.payment_status, ''), orders.payment_status),
        shipping_minor = coalesce(nullif(input.shipping_minor, -1), orders.shipping_minor),
        tax_minor = coalesce(nullif(input.tax_minor, -1), orders.tax_minor),
        total_minor = coalesce(orders.items_minor + nullif(input.shipping_minor, -1) + nullif(input.tax_minor, -1),
                               orders.total_minor),
        failure_code = coalesce(nullif(input.failure_code, ''), orders.failure_code),
        failure_message = coalesce(nullif(input.failure_message, ''), orders.failure_message),
        confirmed_at = CASE WHEN input.status = 'CONFIRMED' THEN now() ELSE orders.confirmed_at END,
        failed_at = CASE WHEN input.status = 'FAILED' THEN now() ELSE orders.failed_at END,
        updated_at = now()
    FROM input
    WHERE orders.id = input.order_id AND orders.status = 'PENDING'
      AND (input.shipping_minor = -1 OR orders.shipping_minor IS NULL)
    RETURNING orders.id, orders.sequence, orders.status, input.type, input.data
)
INSERT INTO order_events (order_id, sequence, type, status, data)
SELECT id, sequence, type, status, data::jsonb FROM moved";

/// The columns of [`APPEND`]'s input.
#[derive(Default)]
struct Changes {
    order_ids: Vec<Uuid>,
    kinds: Vec<String>,
    data: Vec<String>,
    statuses: Vec<String>,
    payment_statuses: Vec<String>,
    shipping_minor: Vec<i64>,
    tax_minor: Vec<i64>,
    failure_codes: Vec<String>,
    failure_messages: Vec<String>,
}

impl FromIterator<(Uuid, OrderEvent)> for Changes {
    fn from_iter<I: IntoIterator<Item = (Uuid, OrderEvent)>>(events: I) -> Self {
        let mut changes = Self::default();
        for (order_id, event) in events {
            changes.push(order_id, event);
        }
        changes
    }
}

/// Orders, and what their events decide: status, shipping, tax.
type Decided = (Vec<Uuid>, Vec<String>, Vec<i64>, Vec<i64>);

impl Changes {
    fn decided(&self) -> Decided {
        (self.order_ids.clone(), self.statuses.clone(), self.shipping_minor.clone(), self.tax_minor.clone())
    }

    fn push(&mut self, order_id: Uuid, event: OrderEvent) {
        use sea_orm::ActiveEnum;
        self.order_ids.push(order_id);
        self.statuses.push(event.status().map(|status| status.to_value()).unwrap_or_default());
        self.payment_statuses
            .push(event.payment_status().map(|status| status.to_value()).unwrap_or_default());
        let (shipping, tax) = match event {
            OrderEvent::OrderQuoted { shipping_minor, tax_minor, .. } => (shipping_minor, tax_minor),
            _ => (-1, -1),
        };
        self.shipping_minor.push(shipping);
        self.tax_minor.push(tax);
        let (code, message) = match &event {
            OrderEvent::OrderFailed { code, message } => (code.clone(), message.clone()),
            _ => Default::default(),
        };
        self.failure_codes.push(code);
        self.failure_messages.push(message);
        let (kind, data) = event.into_parts();
        self.kinds.push(kind);
        self.data.push(data.to_string());
    }

    fn into_values(self) -> [Value; 9] {
        [
            self.order_ids.into(),
            self.kinds.into(),
            self.data.into(),
            self.statuses.into(),
            self.payment_statuses.into(),
            self.shipping_minor.into(),
            self.tax_minor.into(),
            self.failure_codes.into(),
            self.failure_messages.into(),
        ]
    }
}
