//! Anything that has an id, by its id alone.

use async_graphql::{Context, ID, Interface, Object, Result};
use domain::app::Scope;
use domain::order::list::Name;

use super::ids;
use super::order::Order;
use super::order::list::find_order;
use crate::access::Needs;

/// Reads by id, whatever it names.
#[derive(Debug, Default)]
pub(crate) struct NodeQuery;

#[Object]
impl NodeQuery {
    /// Returns what this id names; null when it names nothing that the caller sees.
    #[graphql(guard = "Needs([Scope::OrdersRead])")]
    async fn node(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The id of an order. Example: `order_01jx2v3q8kf0v8c9m5w6r7t2ab`")] id: ID,
    ) -> Option<Result<Node>> {
        let name = Name::Id(ids::parse_order_id(&id)?);
        find_order(ctx, &name).await.map(|order| order.map(Node::from)).transpose()
    }
}

/// Something with an id that names it everywhere.
#[derive(Debug, Interface)]
#[graphql(field(
    name = "id",
    ty = "ID",
    desc = "Names it everywhere. Example: `order_01jx2v3q8kf0v8c9m5w6r7t2ab`"
))]
pub(super) enum Node {
    /// An order.
    Order(Order),
}
