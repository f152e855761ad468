//! Reading orders.

use async_graphql::{Context, ID, Object, Result};

use super::{Order, load_order};
use crate::access::MayFollow;
use crate::graphql::ids;

/// Reads orders.
#[derive(Debug, Default)]
pub(crate) struct OrderQuery;

#[Object]
impl OrderQuery {
    /// Returns the order with this id; null when there is none that the caller may see.
    #[graphql(guard = "MayFollow")]
    async fn get_order(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The order's id. Example: `order_01jx2v3q8kf0v8c9m5w6r7t2ab`")] id: ID,
    ) -> Option<Result<Order>> {
        let id = ids::parse_order_id(&id)?;
        load_order(ctx, id).await.transpose()
    }
}
