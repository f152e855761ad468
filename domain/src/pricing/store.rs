//! Queries on the rate tables.

use std::collections::HashSet;

use sea_orm::{ConnectionTrait, DbErr, EntityTrait};

use super::{Rates, entity};

/// Reads both rate tables. They are small: a few rows for each country and method.
///
/// # Errors
/// Any error of the database.
pub async fn load_rates(db: &impl ConnectionTrait) -> Result<Rates, DbErr> {
    Ok(Rates {
        shipping: entity::shipping::Entity::find().all(db).await?,
        tax: entity::tax::Entity::find().all(db).await?,
    })
}

/// Returns the tax categories that have a rate somewhere; a product of another one could not be sold.
///
/// # Errors
/// Any error of the database.
pub async fn find_tax_categories(db: &impl ConnectionTrait) -> Result<HashSet<String>, DbErr> {
    let rates = entity::tax::Entity::find().all(db).await?;
    Ok(rates.into_iter().map(|rate| rate.tax_category).collect())
}
