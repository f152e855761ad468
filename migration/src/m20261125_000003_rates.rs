//! Shipping and tax rates, with defaults that let a first order complete.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const UP: &str = r#"
-- The cheapest row whose weight limit holds the order applies; a row for the country goes before one for '*'.
CREATE TABLE shipping_rates (
    country          text NOT NULL,     -- ISO 3166-1 alpha-2, or '*' for anywhere else
    method           text NOT NULL,     -- what the shopper picks: standard, express
    currency         text NOT NULL,     -- ISO 4217 code
    max_weight_grams integer NOT NULL,  -- the heaviest order this row prices
    price_minor      bigint NOT NULL,   -- minor units of the currency
    CONSTRAINT shipping_rates_pkey PRIMARY KEY (country, method, currency, max_weight_grams),
    CONSTRAINT shipping_rates_price_not_negative CHECK (price_minor >= 0)
);

CREATE TABLE tax_rates (
    country           text NOT NULL,    -- ISO 3166-1 alpha-2, or '*' for anywhere else
    tax_category      text NOT NULL,    -- as on the product
    rate_basis_points integer NOT NULL, -- hundredths of a percent: 1900 is 19 %
    CONSTRAINT tax_rates_pkey PRIMARY KEY (country, tax_category),
    CONSTRAINT tax_rates_range CHECK (rate_basis_points BETWEEN 0 AND 10000)
);

-- Placeholders for a shop to replace, the same figures in each currency with two decimals.
INSERT INTO shipping_rates (country, method, currency, max_weight_grams, price_minor)
SELECT '*', method, currency, max_weight_grams, price_minor
FROM (VALUES ('USD'), ('EUR'), ('GBP')) AS currencies (currency),
     (VALUES ('standard', 1000, 490), ('standard', 5000, 790), ('standard', 2147483647, 1490),
             ('express', 1000, 990), ('express', 5000, 1490), ('express', 2147483647, 2990))
         AS rates (method, max_weight_grams, price_minor);
-- The standard and reduced German rates (UStG section 12) as an example of a country row; elsewhere nothing is added.
INSERT INTO tax_rates (country, tax_category, rate_basis_points)
VALUES ('*', 'standard', 0), ('*', 'reduced', 0), ('*', 'exempt', 0),
       ('DE', 'standard', 1900), ('DE', 'reduced', 700), ('DE', 'exempt', 0);
"#;

const DOWN: &str = "DROP TABLE tax_rates; DROP TABLE shipping_rates";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared(UP).await.map(drop)
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared(DOWN).await.map(drop)
    }
}
