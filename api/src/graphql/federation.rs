//! What other subgraphs of an Apollo federation refer to: orders and products, by their keys.
//!
//! The gateway asks on behalf of a caller as anybody else does, and sees what that caller sees. The library does not look
//! at the guards of these fields, so that each checks its scope itself.

use std::collections::HashSet;

use async_graphql::{Context, Guard, ID, Object, Result};
use domain::app::Scope;
use domain::catalog;

use super::catalog::Product;
use super::error::OrReport;
use super::ids;
use super::order::{Order, load_order};
use crate::access::Needs;
use crate::app::Services;

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
            Some(id) => load_order(ctx, id).await,
            None => Ok(None),
        }
    }

    /// The product of this SKU.
    #[graphql(entity)]
    async fn find_product_by_sku(&self, ctx: &Context<'_>, sku: String) -> Result<Option<Product>> {
        Needs([Scope::OrdersRead, Scope::CatalogWrite]).check(ctx).await?;
        // Postgres cannot hold a NUL, so that no SKU has one.
        if sku.contains('\0') {
            return Ok(None);
        }
        let skus: HashSet<&str> = [sku.as_str()].into();
        let found = catalog::store::find_products(&ctx.data_unchecked::<Services>().db, &skus).await;
        let found = found.and_then(|mut rows| rows.remove(&sku).map(Product::try_from).transpose());
        found.or_report(ctx, "read a product")
    }
}
