//! Watching orders.

use async_graphql::{Context, ID, Result, Subscription};
use domain::app::Scope;
use futures_util::{Stream, StreamExt};

use super::OrderStatusUpdate;
use crate::access::Needs;
use crate::app::Services;
use crate::graphql::ResumeAfter;
use crate::graphql::error::OrReport;
use crate::graphql::{ids, page};

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
    #[graphql(guard = "Needs([Scope::OrdersRead])")]
    async fn order_status<'ctx>(
        &self,
        ctx: &'ctx Context<'ctx>,
        #[graphql(desc = "The order's id. Example: `order_01jx2v3q8kf0v8c9m5w6r7t2ab`")] id: ID,
        #[graphql(desc = "Show only events with a greater sequence; all unless said. Example: `3`")]
        after: Option<i32>,
    ) -> Result<impl Stream<Item = Result<OrderStatusUpdate>> + 'ctx> {
        let services = ctx.data_unchecked::<Services>();
        let unknown = || page::invalid_argument(format!("there is no order {:?}", id.as_str()));
        let order_id = ids::parse_order_id(&id).ok_or_else(unknown)?;
        let order = domain::order::store::find_order(&services.db, order_id)
            .await
            .or_report(ctx, "watch an order")?;
        order.ok_or_else(unknown)?;
        let after = ctx.data_opt::<ResumeAfter>().map_or(after, |resume| Some(resume.0));
        let events = services.event_feed.events(order_id, after.unwrap_or(0));
        Ok(events.map(move |event| event.map(OrderStatusUpdate::from).or_report(ctx, "watch an order")))
    }
}
