//! Reading stock.

use async_graphql::{Context, Object, Result};
use domain::app::Scope;
use futures_util::future::try_join_all;

use super::StockLevel;
use crate::access::Needs;
use crate::graphql::error::OrReport;
use crate::graphql::loaders::Loaders;
use crate::graphql::page;

/// The most SKUs of one call.
const MAX_SKUS: usize = 250;

/// Reads stock.
#[derive(Debug, Default)]
pub(crate) struct StockQuery;

#[Object]
impl StockQuery {
    /// Returns how many there are of these SKUs, in the order in which they were asked for; unknown ones are missing.
    #[graphql(guard = "Needs([Scope::OrdersWrite, Scope::CatalogWrite])")]
    async fn stock(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Article codes, at most 250. Example: `SKU-1`, `SKU-2`")] skus: Vec<String>,
    ) -> Result<Vec<StockLevel>> {
        if skus.len() > MAX_SKUS {
            return Err(page::invalid_argument(format!("skus must not hold more than {MAX_SKUS}")));
        }
        let loader = &ctx.data_unchecked::<Loaders>().stock;
        let rows = try_join_all(skus.into_iter().map(|sku| loader.load((), sku)))
            .await
            .or_report(ctx, "read stock")?;
        Ok(rows.into_iter().flatten().map(StockLevel::from).collect())
    }
}
