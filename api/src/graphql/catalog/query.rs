//! Reading the catalog.

use async_graphql::{Context, Object, Result};
use domain::app::Scope;
use domain::catalog::store;

use super::{Product, ProductConnection, ProductEdge};
use crate::access::Needs;
use crate::app::Services;
use crate::graphql::error::OrReport;
use crate::graphql::page::{self, PageInfo};

/// Reads the catalog.
#[derive(Debug, Default)]
pub(crate) struct CatalogQuery;

#[Object]
impl CatalogQuery {
    /// Returns a page of the catalog, in SKU order.
    #[graphql(guard = "Needs([Scope::OrdersRead, Scope::CatalogWrite])")]
    async fn products(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How many to return, 1 to 100. Example: `20`", default = 20)] first: i32,
        #[graphql(
            desc = "Return those after this cursor; from the start unless said. Example: `534b552d31`"
        )]
        after: Option<String>,
    ) -> Result<ProductConnection> {
        let first = page::check_first(first)?;
        let after = after.as_deref().map(page::decode_cursor).transpose()?;
        let db = &ctx.data_unchecked::<Services>().db;
        // One more than asked for tells whether there is a next page.
        let rows = store::list_products(db, after.as_deref(), first + 1)
            .await
            .or_report(ctx, "list the products")?;
        let has_next_page = rows.len() as u64 > first;
        let nodes: Result<Vec<Product>, _> =
            rows.into_iter().take(first as usize).map(Product::try_from).collect();
        let nodes = nodes.or_report(ctx, "list the products")?;
        Ok(connect(nodes, after.is_some(), has_next_page))
    }
}

fn connect(nodes: Vec<Product>, has_previous_page: bool, has_next_page: bool) -> ProductConnection {
    let edge = |node: &Product| ProductEdge { cursor: page::encode_cursor(&node.sku), node: node.clone() };
    let edges: Vec<ProductEdge> = nodes.iter().map(edge).collect();
    let page_info = PageInfo {
        has_next_page,
        has_previous_page,
        start_cursor: edges.first().map(|edge| edge.cursor.clone()),
        end_cursor: edges.last().map(|edge| edge.cursor.clone()),
    };
    ProductConnection { edges, nodes, page_info }
}
