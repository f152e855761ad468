//! Queries on products.

use std::collections::{HashMap, HashSet};

use sea_orm::{
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect,
};

use super::{Product, entity};
use crate::sql::{column, statement};

/// Inserts the products, or replaces those whose SKU exists, and makes sure that each has a stock row.
///
/// Rows are taken in SKU order, so that two callers with overlapping products wait for each other instead of
/// deadlocking. The caller has seen to it that no SKU comes twice.
///
/// # Errors
/// Any error of the database.
pub async fn upsert_products(tx: &impl ConnectionTrait, products: &[Product]) -> Result<(), DbErr> {
    tx.execute_raw(statement(
        "INSERT INTO products (sku, name, price_minor, currency, weight_grams, tax_category)
         SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::integer[], $6::text[]) AS input (sku)
         ORDER BY input.sku
         ON CONFLICT (sku) DO UPDATE
         SET name = excluded.name, price_minor = excluded.price_minor, currency = excluded.currency,
             weight_grams = excluded.weight_grams, tax_category = excluded.tax_category, updated_at = now()",
        [
            column(products, |product| product.sku.clone()),
            column(products, |product| product.name.clone()),
            column(products, |product| product.price.minor),
            column(products, |product| product.price.currency.code().to_owned()),
            column(products, |product| product.weight_grams),
            column(products, |product| product.tax_category.clone()),
        ],
    ))
    .await?;
    tx.execute_raw(statement(
        "INSERT INTO stock (sku) SELECT sku FROM unnest($1::text[]) AS input (sku) ORDER BY sku ON CONFLICT DO NOTHING",
        [column(products, |product| product.sku.clone())],
    ))
    .await?;
    Ok(())
}

/// Returns the products with these SKUs; unknown ones are missing from the map.
///
/// # Errors
/// Any error of the database.
pub async fn find_products(
    db: &impl ConnectionTrait,
    skus: &HashSet<&str>,
) -> Result<HashMap<String, entity::Model>, DbErr> {
    let skus: Vec<String> = skus.iter().map(|&sku| sku.to_owned()).collect();
    // A join and not `sku = ANY(...)`: over a small table that would be a scan which compares each row with each SKU.
    let rows = entity::Model::find_by_statement(statement(
        "SELECT products.* FROM unnest($1::text[]) AS input (sku) JOIN products USING (sku)",
        [skus.into()],
    ))
    .all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (row.sku.clone(), row)).collect())
}

/// Returns up to `limit` products in SKU order, from the first after `after`.
///
/// # Errors
/// Any error of the database.
pub async fn list_products(
    db: &impl ConnectionTrait,
    after: Option<&str>,
    limit: u64,
) -> Result<Vec<entity::Model>, DbErr> {
    let mut query = entity::Entity::find().order_by_asc(entity::Column::Sku).limit(limit);
    if let Some(after) = after {
        query = query.filter(entity::Column::Sku.gt(after));
    }
    query.all(db).await
}
