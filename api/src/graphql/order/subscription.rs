//! Watching orders.

use async_graphql::{Context, Error, ErrorExtensions, ID, Result, Subscription};
use futures_util::{Stream, StreamExt};

use super::{OrderStatusUpdate, sees_order};
use crate::access::{MayFollow, caller};
use crate::app::Services;
use crate::graphql::ResumeAfter;
use crate::graphql::error::OrReport;
use crate::graphql::ids;

/// `extensions.code` of a subscription to an order that the caller does not see.
const NOT_FOUND: &str = "NOT_FOUND";

/// What can be watched. A subscription shows what is there and then what happens, and misses nothing in between.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OrderSubscription;

/// What can be watched. A subscription shows what is there and then what happens, and misses nothing in between.
#[Subscription(name = "Subscription")]
impl OrderSubscription {
    /// Shows what happens to an order: first the events that are there, then each as it happens, each once and in
    /// sequence. Ends after the event that settles the order.
    ///
    /// When the connection breaks, subscribe again with the last sequence you have seen as `after`.
    #[graphql(guard = "MayFollow")]
    async fn order_status<'ctx>(
        &self,
        ctx: &'ctx Context<'ctx>,
        #[graphql(desc = "The order's id. Example: `order_01jx2v3q8kf0v8c9m5w6r7t2ab`")] id: ID,
        #[graphql(desc = "Show only events with a greater sequence; all unless said. Example: `3`")]
        after: Option<i32>,
    ) -> Result<impl Stream<Item = Result<OrderStatusUpdate>> + 'ctx> {
        let (services, caller) = (ctx.data_unchecked::<Services>(), caller(ctx)?);
        // One error for an id that is none, that names nothing, and that names what the caller does not see.
        let order_id = ids::parse_order_id(&id).ok_or_else(not_found)?;
        sees_order(ctx, order_id).await?.then_some(()).ok_or_else(not_found)?;
        let after = ctx.data_opt::<ResumeAfter>().map_or(after, |resume| Some(resume.0));
        let events = services.event_feed.events(order_id, after.unwrap_or(0), caller.visibility().clone());
        Ok(events.map(move |event| {
            event.map(|event| OrderStatusUpdate::new(event, caller)).or_report(ctx, "watch an order")
        }))
    }
}

fn not_found() -> Error {
    Error::new("there is no order of this id").extend_with(|_, extensions| extensions.set("code", NOT_FOUND))
}
