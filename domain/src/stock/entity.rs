//! The `stock` table.

use sea_orm::entity::prelude::*;

/// A row of `stock`; the migration explains the columns.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "stock")]
#[expect(missing_docs, reason = "the migration explains the columns")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub sku: String,
    pub on_hand: i64,
    pub reserved: i64,
    pub updated_at: DateTimeUtc,
}

impl Model {
    /// Returns the units that can still be promised.
    pub fn available(&self) -> i64 {
        self.on_hand - self.reserved
    }
}

impl ActiveModelBehavior for ActiveModel {}
