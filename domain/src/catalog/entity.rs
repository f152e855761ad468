//! The `products` table.

use sea_orm::entity::prelude::*;

/// A row of `products`; the migration explains the columns.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "products")]
#[expect(missing_docs, reason = "the migration explains the columns")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub sku: String,
    pub name: String,
    pub price_minor: i64,
    pub currency: String,
    pub weight_grams: i32,
    pub tax_category: String,
    pub created_at: DateTimeUtc,
    pub updated_at: DateTimeUtc,
}

impl ActiveModelBehavior for ActiveModel {}
