//! The feed of changes.

use async_graphql::{ComplexObject, Context, Object, Result, SimpleObject};
use domain::app::Scope;
use domain::order::changes::{self, Cursor};
use sea_orm::DbErr;
use uuid::Uuid;

use super::{Order, OrderEvent, load_order};
use crate::access::{Needs, caller};
use crate::app::Services;
use crate::graphql::error::OrReport;
use crate::graphql::page;
use crate::reader::Source;

/// Reads the feed of changes.
#[derive(Debug, Default)]
pub(crate) struct ChangesQuery;

#[Object]
impl ChangesQuery {
    /// Returns what has happened to the orders that the caller sees, in the order in which it was committed: each event
    /// once, whatever is committed meanwhile.
    ///
    /// Ask again with `endCursor` as `after`, at once while `hasNextPage` is true and now and then when it is not. A page
    /// may be short, or empty, and yet be followed by others: one call looks at 5,000 events of all apps. A transaction
    /// that runs holds the feed back until it ends. After the database was restored from a dump, cursors mean nothing: begin
    /// without one.
    #[graphql(guard = "Needs([Scope::OrdersRead])")]
    async fn changes(
        &self,
        ctx: &Context<'_>,
        #[graphql(
            desc = "Return what comes after this cursor; from the beginning unless said. Example: `31323a...`"
        )]
        after: Option<String>,
        #[graphql(desc = "How many to return at most, 1 to 100. Example: `100`", default = 50)] first: i32,
    ) -> Result<OrderChanges> {
        let first = page::check_first(first)?;
        let after = after.map_or(Ok(Cursor::START), |cursor| decode(&cursor))?;
        let (services, caller) = (ctx.data_unchecked::<Services>(), caller(ctx)?);
        let visibility = caller.visibility();
        let found = async {
            let complete = changes::find_complete(&services.db, after).await?;
            let reader = &services.reader;
            let found = reader.read(reader.source(), visibility, |view| async move {
                let complete = match view.source() {
                    Source::Primary => complete,
                    // What is complete on the primary may not have arrived.
                    Source::Replica => complete.as_far_as(changes::find_horizon(&view).await?),
                };
                // One more than asked for tells whether there is another page.
                let found =
                    changes::find_changes(&view, visibility, after, complete.last_xid, first + 1).await?;
                view.commit().await?;
                Ok((complete, found))
            });
            found.await
        };
        let found: Result<_, DbErr> = found.await;
        let ((complete, mut found), source) = found.or_report(ctx, "read the changes")?;
        let is_full = found.len() as u64 > first;
        found.truncate(first as usize);
        let end = match found.last() {
            Some((cursor, _)) if is_full => *cursor,
            // All that there is so far was looked at: the next call begins behind it.
            _ => Cursor::behind(complete.last_xid).max(after),
        };
        let nodes = found.into_iter().map(|(cursor, event)| OrderChange {
            order_id: event.order_id,
            cursor: encode(cursor),
            event: OrderEvent::new(event, caller),
            source,
        });
        let nodes = nodes.collect();
        Ok(OrderChanges { nodes, end_cursor: encode(end), has_next_page: is_full || complete.has_more })
    }
}

/// A page of the feed.
#[derive(Debug, SimpleObject)]
pub(super) struct OrderChanges {
    /// What has happened, in the order of commits.
    nodes: Vec<OrderChange>,
    /// Where to go on, to be given as `after`. Example: `31323a...`
    end_cursor: String,
    /// Whether there is more already. Example: `false`
    has_next_page: bool,
}

/// One event of an order.
#[derive(Debug, SimpleObject)]
#[graphql(complex)]
pub(super) struct OrderChange {
    #[graphql(skip)]
    order_id: Uuid,
    /// Where it was read.
    #[graphql(skip)]
    source: Source,
    /// Where it stands in the feed. Example: `31323a...`
    cursor: String,
    /// What has happened.
    event: OrderEvent,
}

#[ComplexObject]
impl OrderChange {
    /// The order as it is now.
    async fn order(&self, ctx: &Context<'_>) -> Result<Option<Order>> {
        load_order(ctx, self.source, self.order_id).await
    }
}

fn encode(cursor: Cursor) -> String {
    page::encode_cursor(&format!("{}:{}:{}", cursor.xid, cursor.order_id.simple(), cursor.sequence))
}

fn decode(text: &str) -> Result<Cursor> {
    let cursor = page::decode_cursor(text).ok().and_then(|key| {
        let mut parts = key.splitn(3, ':');
        let xid = parts.next()?.parse().ok()?;
        let order_id = parts.next()?.parse().ok()?;
        let sequence = parts.next()?.parse().ok()?;
        let cursor = Cursor { xid, order_id, sequence };
        (encode(cursor) == text).then_some(cursor)
    });
    cursor.ok_or_else(|| {
        page::invalid_argument(
            "after is not a cursor of this feed; give one that it had, or none to begin anew",
        )
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_cursor_is_read_back(xid: u64, id: u128, sequence: i32) {
            let cursor = Cursor { xid, order_id: Uuid::from_u128(id), sequence };
            prop_assert_eq!(decode(&encode(cursor)).ok(), Some(cursor));
        }

        #[test]
        fn no_text_makes_reading_a_cursor_panic(text in ".{0,80}") {
            let _ = decode(&text);
        }
    }
}
