//! The feed of changes: the events of all orders, in the order of their transactions.
//!
//! A number that counts up is not commit order: a transaction that took a lower one may commit later, and whoever has read
//! past it never sees it. So events are ordered by the id of the transaction that wrote them, and only those below the
//! oldest transaction that still runs are read: nothing can appear among them any more. A transaction that is left open
//! holds the feed back; it loses nothing.

use sea_orm::{ConnectionTrait, DbBackend, DbErr, FromQueryResult, QueryResult, Statement, Value};
use uuid::Uuid;

use super::entity::event;
use crate::app::Visibility;
use crate::sql::statement;

/// Events that one call looks at, whether or not the caller sees them: a caller that sees few of many gets a short page
/// and a cursor that has moved on. A little more where a transaction has written more.
pub const WINDOW: i64 = 5_000;

/// A place in the feed: behind an event, or behind all events of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// The transaction.
    pub xid: u64,
    /// The order.
    pub order_id: Uuid,
    /// The event's number.
    pub sequence: i32,
}

impl Cursor {
    /// The beginning of the feed.
    pub const START: Self = Self { xid: 0, order_id: Uuid::nil(), sequence: 0 };

    /// Behind everything that the transaction has written.
    pub fn behind(xid: u64) -> Self {
        Self { xid, order_id: Uuid::max(), sequence: i32::MAX }
    }

    fn values(self) -> [Value; 3] {
        [self.xid.to_string().into(), self.order_id.into(), self.sequence.into()]
    }
}

/// A stretch of the feed that is complete: nothing will appear in it any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Complete {
    /// The last transaction in it.
    pub last_xid: u64,
    /// Whether there is more behind it already.
    pub has_more: bool,
}

impl Complete {
    /// What of it lies before the oldest running transaction of a replica.
    #[must_use]
    pub fn as_far_as(self, horizon: u64) -> Self {
        match horizon.saturating_sub(1) {
            last_xid if last_xid < self.last_xid => Self { last_xid, has_more: false },
            _ => self,
        }
    }
}

/// Returns how far the feed can be read from here in one go. It says nothing about any event, so that no visibility is
/// needed.
///
/// # Errors
/// Any error of the database.
pub async fn find_complete(db: &impl ConnectionTrait, after: Cursor) -> Result<Complete, DbErr> {
    let [xid, order_id, sequence] = after.values();
    let row = db.query_one_raw(statement(COMPLETE, [xid, order_id, sequence, (WINDOW - 1).into()])).await?;
    let row = row.ok_or_else(|| DbErr::RecordNotFound("the oldest running transaction".to_owned()))?;
    let end = parse_xid(&row, "window_end")?;
    let horizon = parse_xid(&row, "horizon")?.unwrap_or_default();
    Ok(Complete { last_xid: end.unwrap_or(horizon.saturating_sub(1)), has_more: end.is_some() })
}

/// Returns the oldest transaction that still runs, or that has not arrived at the replica which is asked.
///
/// # Errors
/// Any error of the database.
pub async fn find_horizon(db: &impl ConnectionTrait) -> Result<u64, DbErr> {
    let row = db.query_one_raw(statement(HORIZON, [])).await?;
    let row = row.ok_or_else(|| DbErr::RecordNotFound("the oldest running transaction".to_owned()))?;
    Ok(parse_xid(&row, "horizon")?.unwrap_or_default())
}

const HORIZON: &str = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text AS horizon";

/// The index `order_events_feed` serves it.
const COMPLETE: &str = "
SELECT (
    SELECT xid FROM order_events
    WHERE (xid, order_id, sequence) > ($1::text::xid8, $2, $3) AND xid < pg_snapshot_xmin(pg_current_snapshot())
    ORDER BY xid, order_id, sequence
    OFFSET $4 LIMIT 1
)::text AS window_end, pg_snapshot_xmin(pg_current_snapshot())::text AS horizon";

/// Returns up to `limit` visible events with their places, from the first behind `after` to the end of transaction
/// `last_xid`.
///
/// # Errors
/// Any error of the database.
pub async fn find_changes(
    db: &impl ConnectionTrait,
    visibility: &Visibility,
    after: Cursor,
    last_xid: u64,
    limit: u64,
) -> Result<Vec<(Cursor, event::Model)>, DbErr> {
    let rows = db.query_all_raw(changes_statement(visibility, after, last_xid, limit)).await?;
    rows.iter()
        .map(|row| {
            let event = event::Model::from_query_result(row, "")?;
            let xid = parse_xid(row, "xid")?.unwrap_or_default();
            Ok((Cursor { xid, order_id: event.order_id, sequence: event.sequence }, event))
        })
        .collect()
}

/// Returns the statement of [`find_changes`].
pub fn changes_statement(visibility: &Visibility, after: Cursor, last_xid: u64, limit: u64) -> Statement {
    let mut values = after.values().to_vec();
    values.extend([last_xid.to_string().into(), i64::try_from(limit).unwrap_or(i64::MAX).into()]);
    let is_visible = match visibility {
        Visibility::All => "true",
        Visibility::Apps(apps) => {
            values.push(apps.to_vec().into());
            "EXISTS (SELECT FROM orders WHERE orders.id = order_id AND orders.app_id = ANY ($6))"
        }
        Visibility::Order(id) => {
            values.push((*id).into());
            "order_id = $6"
        }
    };
    let text = CHANGES.replace("{is_visible}", is_visible);
    Statement::from_sql_and_values(DbBackend::Postgres, text, values)
}

/// The index `order_events_feed` serves it, and the primary key of orders.
const CHANGES: &str = "
SELECT order_id, sequence, type, status, data, occurred_at, xid::text AS xid
FROM order_events
WHERE (order_events.xid, order_id, sequence) > ($1::text::xid8, $2, $3) AND order_events.xid <= $4::text::xid8
  AND {is_visible}
ORDER BY order_events.xid, order_id, sequence
LIMIT $5";

fn parse_xid(row: &QueryResult, column: &str) -> Result<Option<u64>, DbErr> {
    let text: Option<String> = row.try_get("", column)?;
    text.map(|text| text.parse().map_err(|_| DbErr::Type(format!("{text:?} is no transaction id"))))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_shows_what_has_arrived_and_promises_no_more() {
        let complete = Complete { last_xid: 9, has_more: true };
        assert_eq!(complete.as_far_as(5), Complete { last_xid: 4, has_more: false });
        for horizon in [10, 11] {
            assert_eq!(complete.as_far_as(horizon), complete, "{horizon}");
        }
    }
}
