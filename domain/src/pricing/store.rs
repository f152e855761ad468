//! Queries on the rate tables.

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
