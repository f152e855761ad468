//! Products: what can be bought, at which price.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const UP: &str = r#"
CREATE TABLE products (
    sku          text PRIMARY KEY,      -- the shop's own article code, e.g. SKU-1
    name         text NOT NULL,         -- what the shopper reads
    price_minor  bigint NOT NULL,       -- price of one, in minor units of the currency (cents)
    currency     text NOT NULL,         -- ISO 4217 code
    weight_grams integer NOT NULL,      -- weight of one, for the shipping rate
    tax_category text NOT NULL,         -- key into tax_rates, e.g. standard
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT products_price_not_negative CHECK (price_minor >= 0),
    CONSTRAINT products_weight_not_negative CHECK (weight_grams >= 0),
    CONSTRAINT products_currency_code CHECK (currency ~ '^[A-Z]{3}$')
);
"#;

const DOWN: &str = "DROP TABLE products";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared(UP).await.map(drop)
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared(DOWN).await.map(drop)
    }
}
