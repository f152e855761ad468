//! The catalog as clients see it.

use async_graphql::{ComplexObject, Context, Guard, Result, SimpleObject};
use chrono::{DateTime, Utc};
use domain::app::Scope;
use domain::catalog::entity;
use sea_orm::DbErr;

use super::error::OrReport;
use super::loaders::Loaders;
use super::money::Money;
use super::page::PageInfo;
use super::stock::StockLevel;
use crate::access::Needs;

pub(super) mod mutation;
pub(super) mod query;

/// Something that can be bought.
#[derive(Debug, Clone, SimpleObject)]
#[graphql(complex)]
pub(super) struct Product {
    /// The shop's own article code. Example: `SKU-1`
    sku: String,
    /// What the shopper reads. Example: `Coffee mug`
    name: String,
    /// Price of one unit, before shipping and tax.
    price: Money,
    /// Weight of one unit, in grams. Example: `350`
    weight_grams: i32,
    /// Which tax rates apply. Example: `standard`
    tax_category: String,
    /// When it was first written (RFC 3339, UTC). Example: `2026-11-25T10:00:00.123456+00:00`
    created_at: DateTime<Utc>,
    /// When it was last written (RFC 3339, UTC). Example: `2026-11-25T10:00:00.123456+00:00`
    updated_at: DateTime<Utc>,
}

#[ComplexObject]
impl Product {
    /// How many there are; needs the scope orders:write or catalog:write.
    async fn stock(&self, ctx: &Context<'_>) -> Option<Result<StockLevel>> {
        if let Err(error) = Needs([Scope::OrdersWrite, Scope::CatalogWrite]).check(ctx).await {
            return Some(Err(error));
        }
        let row = ctx.data_unchecked::<Loaders>().stock.load((), self.sku.clone()).await;
        row.map(|row| row.map(StockLevel::from)).or_report(ctx, "read the stock of a product").transpose()
    }
}

impl TryFrom<entity::Model> for Product {
    type Error = DbErr;

    fn try_from(row: entity::Model) -> Result<Self, DbErr> {
        let price = row.price().map_err(|error| DbErr::Type(error.to_string()))?;
        Ok(Self {
            sku: row.sku,
            name: row.name,
            price: price.into(),
            weight_grams: row.weight_grams,
            tax_category: row.tax_category,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

/// A page of products, in SKU order.
#[derive(Debug, Clone, SimpleObject)]
pub(super) struct ProductConnection {
    /// The products with their cursors.
    edges: Vec<ProductEdge>,
    /// The products alone.
    nodes: Vec<Product>,
    /// Where the page lies in the catalog.
    page_info: PageInfo,
}

/// A product and its place in the catalog.
#[derive(Debug, Clone, SimpleObject)]
pub(super) struct ProductEdge {
    /// Give it as `after` to see the products that follow. Example: `534b552d31`
    cursor: String,
    /// The product.
    node: Product,
}
