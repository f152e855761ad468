//! Changes of orders. [`read`](super::read) holds the queries.

use sea_orm::{ActiveEnum, ConnectionTrait, DbErr, Value};
use uuid::Uuid;

use super::OrderStatus;
use super::event::OrderEvent;
use crate::sql::{column, statement};

/// Appends these events to their orders and sets the columns that they decide. An order's events come in the order in
/// which they are given.
///
/// The sequence is counted on under the order's row lock, in the commit that makes the events true, so the numbers
/// have no gap. Every event but the first moves a pending order. Whoever appends holds the order's saga, so that two never
/// wait for each other's rows.
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
    events.sort_by_key(|(order_id, _)| *order_id);
    let changes = events
        .chunk_by(|(left, _), (right, _)| left == right)
        .map(Change::try_new)
        .collect::<Result<Vec<_>, _>>()?;
    let left = tx.query_all_raw(statement(APPEND, columns(&changes))).await?;
    if left.is_empty() {
        return Ok(());
    }
    let left = left.iter().map(|row| row.try_get("", "order_id")).collect::<Result<Vec<Uuid>, _>>()?;
    let repeated: Vec<&Change<'_>> =
        changes.iter().filter(|change| left.contains(&change.order_id) && change.may_be_repeated()).collect();
    match repeated.len() == left.len() && count_true(tx, &repeated).await? == left.len() as i64 {
        true => Ok(()),
        false => Err(DbErr::RecordNotUpdated),
    }
}

/// Counts the changes that have happened already.
async fn count_true(tx: &impl ConnectionTrait, changes: &[&Change<'_>]) -> Result<i64, DbErr> {
    let values = [
        column(changes, |change| change.order_id),
        column(changes, |change| change.status()),
        column(changes, |change| change.quote.0),
        column(changes, |change| change.quote.1),
        column(changes, |change| change.failure.0.to_owned()),
    ];
    let row = tx.query_one_raw(statement(COUNT_TRUE, values)).await?;
    row.map_or(Ok(0), |row| row.try_get("", "count"))
}

/// What the events of one order amount to. Empty strings and -1 stand for "they do not decide this": arrays of nullable
/// values do not exist here.
struct Change<'a> {
    order_id: Uuid,
    events: Vec<&'a OrderEvent>,
    ended: Option<OrderStatus>,
    payment_status: String,
    /// Shipping and tax.
    quote: (i64, i64),
    /// Code and message.
    failure: (&'a str, &'a str),
}

/// Neither shipping nor tax.
const NO_QUOTE: (i64, i64) = (-1, -1);

impl<'a> Change<'a> {
    /// Adds up the events of one order. A decision that is given twice counts once.
    ///
    /// # Errors
    /// [`DbErr::RecordNotUpdated`]: an event comes after one that has ended the order, or quotes it differently.
    fn try_new(events: &'a [(Uuid, OrderEvent)]) -> Result<Self, DbErr> {
        let mut change = Self {
            order_id: events.first().map(|(order_id, _)| *order_id).unwrap_or_default(),
            events: Vec::with_capacity(events.len()),
            ended: None,
            payment_status: String::new(),
            quote: NO_QUOTE,
            failure: ("", ""),
        };
        for (_, event) in events {
            let is_repeated = is_decision(event) && change.events.contains(&event);
            if !is_repeated {
                change.add(event)?;
            }
        }
        Ok(change)
    }

    fn add(&mut self, event: &'a OrderEvent) -> Result<(), DbErr> {
        if self.ended.is_some() {
            return Err(DbErr::RecordNotUpdated);
        }
        self.events.push(event);
        self.ended = event.status();
        if let Some(status) = event.payment_status() {
            self.payment_status = status.to_value();
        }
        match event {
            OrderEvent::OrderQuoted { .. } if self.quote != NO_QUOTE => return Err(DbErr::RecordNotUpdated),
            OrderEvent::OrderQuoted { shipping_minor, tax_minor, .. } => {
                self.quote = (*shipping_minor, *tax_minor);
            }
            OrderEvent::OrderFailed { code, message } => self.failure = (code, message),
            _ => {}
        }
        Ok(())
    }

    /// Whether it can be told that it has happened already.
    fn may_be_repeated(&self) -> bool {
        self.events.iter().all(|event| is_decision(event))
    }

    fn status(&self) -> String {
        self.ended.as_ref().map(ActiveEnum::to_value).unwrap_or_default()
    }
}

/// Whether the event says something of an order that can be true only once.
fn is_decision(event: &OrderEvent) -> bool {
    event.status().is_some() || matches!(event, OrderEvent::OrderQuoted { .. })
}

const COUNT_TRUE: &str = "
SELECT count(*) AS count
FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[], $5::text[])
    AS input (order_id, status, shipping_minor, tax_minor, failure_code)
JOIN orders ON orders.id = input.order_id
WHERE (input.status = '' OR orders.status = input.status)
  AND (input.failure_code = '' OR orders.failure_code = input.failure_code)
  AND (input.shipping_minor = -1
       OR (orders.shipping_minor, orders.tax_minor) = (input.shipping_minor, input.tax_minor))";

/// Returns the orders that are not as they would have to be.
///
/// What an order has to be stands in a CASE, where the planner does not look into it: from statistics of a time at which no
/// order was pending it concludes that hardly any row is meant, and joins every order that is pending with every one that
/// is asked for.
const APPEND: &str = "
WITH input AS MATERIALIZED (
    SELECT *
    FROM unnest($1::uuid[], $2::integer[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::text[], $8::text[])
        AS input (order_id, events, status, payment_status, shipping_minor, tax_minor, failure_code, failure_message)
), moved AS (
    UPDATE orders
    SET sequence = orders.sequence + input.events,
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
    WHERE orders.id = input.order_id
      AND CASE WHEN orders.status = 'PENDING' AND (input.shipping_minor = -1 OR orders.shipping_minor IS NULL)
               THEN true ELSE false END
    RETURNING orders.id, orders.sequence - input.events AS sequence
), written AS (
    INSERT INTO order_events (order_id, sequence, type, status, data)
    SELECT moved.id, moved.sequence + event.place, event.type, event.status, event.data::jsonb
    FROM unnest($9::uuid[], $10::integer[], $11::text[], $12::text[], $13::text[])
        AS event (order_id, place, type, status, data)
    JOIN moved ON moved.id = event.order_id
)
SELECT order_id FROM input WHERE order_id NOT IN (SELECT id FROM moved)";

/// The parameters of [`APPEND`].
fn columns(changes: &[Change<'_>]) -> [Value; 13] {
    let count = changes.iter().map(|change| change.events.len()).sum();
    let mut events = EventColumns::with_capacity(count);
    for change in changes {
        for (event, place) in change.events.iter().zip(1..) {
            events.push(change.order_id, place, event);
        }
    }
    [
        column(changes, |change| change.order_id),
        column(changes, |change| i32::try_from(change.events.len()).unwrap_or(i32::MAX)),
        column(changes, |change| change.status()),
        column(changes, |change| change.payment_status.clone()),
        column(changes, |change| change.quote.0),
        column(changes, |change| change.quote.1),
        column(changes, |change| change.failure.0.to_owned()),
        column(changes, |change| change.failure.1.to_owned()),
        events.order_ids.into(),
        events.places.into(),
        events.kinds.into(),
        events.statuses.into(),
        events.data.into(),
    ]
}

#[derive(Default)]
struct EventColumns {
    order_ids: Vec<Uuid>,
    places: Vec<i32>,
    kinds: Vec<String>,
    statuses: Vec<String>,
    data: Vec<String>,
}

impl EventColumns {
    fn with_capacity(count: usize) -> Self {
        Self {
            order_ids: Vec::with_capacity(count),
            places: Vec::with_capacity(count),
            kinds: Vec::with_capacity(count),
            statuses: Vec::with_capacity(count),
            data: Vec::with_capacity(count),
        }
    }

    fn push(&mut self, order_id: Uuid, place: i32, event: &OrderEvent) {
        let (kind, data) = event.to_parts();
        self.order_ids.push(order_id);
        self.places.push(place);
        self.kinds.push(kind);
        // Only a pending order is moved.
        self.statuses.push(event.status().unwrap_or(OrderStatus::Pending).to_value());
        self.data.push(data.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTE: OrderEvent =
        OrderEvent::OrderQuoted { shipping_minor: 500, tax_minor: 20, total_minor: 1_520 };

    fn of_one_order(events: &[OrderEvent]) -> Vec<(Uuid, OrderEvent)> {
        events.iter().map(|event| (Uuid::nil(), event.clone())).collect()
    }

    #[test]
    fn events_of_an_order_add_up_in_their_order() {
        let events = of_one_order(&[
            OrderEvent::PaymentCaptured { amount_minor: 1_520 },
            OrderEvent::OrderConfirmed {},
        ]);
        let change = Change::try_new(&events).expect("a change");
        assert_eq!((change.status().as_str(), change.payment_status.as_str()), ("CONFIRMED", "PAID"));
        let mut columns = EventColumns::default();
        change.events.iter().zip(1..).for_each(|(event, place)| columns.push(change.order_id, place, event));
        assert_eq!(columns.kinds, ["PaymentCaptured", "OrderConfirmed"]);
        assert_eq!(
            columns.statuses,
            ["PENDING", "CONFIRMED"],
            "each event has the status that it leaves behind"
        );
        assert!(!change.may_be_repeated(), "a capture does not say whether it is a repetition");
    }

    #[test]
    fn a_decision_given_twice_counts_once() {
        let failed = OrderEvent::OrderFailed { code: "A".to_owned(), message: "a".to_owned() };
        for decision in [QUOTE, OrderEvent::OrderConfirmed {}, failed] {
            let events = of_one_order(&[decision.clone(), decision]);
            let change = Change::try_new(&events).expect("a change");
            assert_eq!(change.events.len(), 1);
            assert!(change.may_be_repeated());
        }
    }

    #[test]
    fn nothing_happens_after_the_end_and_no_order_has_two_prices() {
        let confirmed = OrderEvent::OrderConfirmed {};
        let other = OrderEvent::OrderQuoted { shipping_minor: 0, tax_minor: 0, total_minor: 1_000 };
        for events in [[confirmed, OrderEvent::StockReleased {}], [QUOTE, other]] {
            let events = of_one_order(&events);
            assert!(matches!(Change::try_new(&events), Err(DbErr::RecordNotUpdated)));
        }
    }
}
