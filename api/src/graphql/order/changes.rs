//! The feed of changes.

use async_graphql::{ComplexObject, Context, Object, Result, SimpleObject};
use domain::app::Scope;
use domain::order::changes::{self, Cursor};
use sea_orm::DbErr;
use uuid::Uuid;

use super::{Order, OrderEvent, load_order};
use crate::access::sealed_cursor::{PLACE_BYTES, SealedCursors};
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
    /// that runs holds the feed back until it ends. A cursor is another text each time, and good for the app that got it.
    /// After the database was restored from a dump, cursors mean nothing: begin without one.
    #[graphql(guard = "Needs([Scope::OrdersRead])")]
    async fn changes(
        &self,
        ctx: &Context<'_>,
        #[graphql(
            desc = "Return what comes after this cursor; from the beginning unless said. Example: `b3BhcXVl...`"
        )]
        after: Option<String>,
        #[graphql(desc = "How many to return at most, 1 to 100. Example: `100`", default = 50)] first: i32,
    ) -> Result<OrderChanges> {
        let first = page::check_first(first)?;
        let (services, caller) = (ctx.data_unchecked::<Services>(), caller(ctx)?);
        let (cursors, app_id) = (services.door.cursors(), caller.app_id().uuid());
        let after = after.map_or(Ok(Cursor::START), |cursor| decode(cursors, app_id, &cursor))?;
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
            place: cursor,
            event: OrderEvent::new(event, caller),
            source,
        });
        let nodes = nodes.collect();
        let end_cursor = encode(cursors, app_id, end);
        Ok(OrderChanges { nodes, end_cursor, has_next_page: is_full || complete.has_more })
    }
}

/// A page of the feed.
#[derive(Debug, SimpleObject)]
pub(super) struct OrderChanges {
    /// What has happened, in the order of commits.
    nodes: Vec<OrderChange>,
    /// Where to go on, to be given as `after`. Example: `b3BhcXVl...`
    end_cursor: String,
    /// Whether there may be more already. Example: `false`
    has_next_page: bool,
}

/// One event of an order.
#[derive(Debug, SimpleObject)]
#[graphql(complex)]
pub(super) struct OrderChange {
    /// Where it stands in the feed.
    #[graphql(skip)]
    place: Cursor,
    /// Where it was read.
    #[graphql(skip)]
    source: Source,
    /// What has happened.
    event: OrderEvent,
}

#[ComplexObject]
impl OrderChange {
    /// Where it stands in the feed. Example: `b3BhcXVl...`
    async fn cursor(&self, ctx: &Context<'_>) -> Result<String> {
        let app_id = caller(ctx)?.app_id().uuid();
        Ok(encode(ctx.data_unchecked::<Services>().door.cursors(), app_id, self.place))
    }

    /// The order as it is now.
    async fn order(&self, ctx: &Context<'_>) -> Result<Option<Order>> {
        load_order(ctx, self.source, self.place.order_id).await
    }
}

fn encode(cursors: &SealedCursors, app_id: Uuid, cursor: Cursor) -> String {
    let mut place = [0; PLACE_BYTES];
    place[..8].copy_from_slice(&cursor.xid.to_be_bytes());
    place[8..24].copy_from_slice(cursor.order_id.as_bytes());
    place[24..].copy_from_slice(&cursor.sequence.to_be_bytes());
    cursors.seal(app_id, place)
}

fn decode(cursors: &SealedCursors, app_id: Uuid, text: &str) -> Result<Cursor> {
    let place = cursors.open(app_id, text).ok_or_else(|| {
        page::invalid_argument(
            "after is not a cursor that this feed has given you; give one that it has, or none to begin anew",
        )
    })?;
    let mut xid = [0; 8];
    xid.copy_from_slice(&place[..8]);
    let mut order_id = [0; 16];
    order_id.copy_from_slice(&place[8..24]);
    let mut sequence = [0; 4];
    sequence.copy_from_slice(&place[24..]);
    Ok(Cursor {
        xid: u64::from_be_bytes(xid),
        order_id: Uuid::from_bytes(order_id),
        sequence: i32::from_be_bytes(sequence),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_cursor_is_read_back(xid: u64, id: u128, sequence: i32) {
            let (cursors, app_id) = (SealedCursors::new(b"a secret"), Uuid::from_u128(1));
            let cursor = Cursor { xid, order_id: Uuid::from_u128(id), sequence };
            prop_assert_eq!(decode(&cursors, app_id, &encode(&cursors, app_id, cursor)).ok(), Some(cursor));
        }
    }
}
