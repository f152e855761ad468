//! What other subgraphs of an Apollo federation refer to: orders and products, by their keys.
//!
//! The gateway asks on behalf of a caller as anybody else does, and sees what that caller sees. The library does not look
//! at the guards of these fields, so that each checks its scope itself.

use async_graphql::{Context, Guard, ID, Object, Result};
use domain::app::Scope;

use super::catalog::Product;
use super::error::OrReport;
use super::ids;
use super::loaders::Loaders;
use super::order::{Order, load_order, reader};
use crate::access::Needs;

/// Finds what other subgraphs refer to.
#[derive(Debug, Default)]
pub(crate) struct EntityQuery;

#[Object]
impl EntityQuery {
    /// The order of this id, if the caller sees it.
    #[graphql(entity)]
    async fn find_order_by_id(&self, ctx: &Context<'_>, id: ID) -> Result<Option<Order>> {
        Needs([Scope::OrdersRead]).check(ctx).await?;
        match ids::parse_order_id(&id) {
            Some(id) => load_order(ctx, reader(ctx).source(), id).await,
            None => Ok(None),
        }
    }

    /// The product of this SKU.
    #[graphql(entity)]
    async fn find_product_by_sku(&self, ctx: &Context<'_>, sku: String) -> Result<Option<Product>> {
        Needs([Scope::OrdersRead, Scope::CatalogWrite]).check(ctx).await?;
        let row = ctx.data_unchecked::<Loaders>().products.load((), sku).await;
        let found = row.and_then(|row| row.map(Product::try_from).transpose());
        found.or_report(ctx, "read a product")
    }
}
