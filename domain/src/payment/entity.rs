//! The `payments` table.

use sea_orm::entity::prelude::*;

/// A row of `payments`; the migration explains the columns.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "payments")]
#[expect(missing_docs, reason = "the migration explains the columns")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub order_id: Uuid,
    pub gateway: String,
    pub currency: String,
    pub authorized_minor: i64,
    pub captured_minor: i64,
    pub refunded_minor: i64,
    pub authorization_id: Option<String>,
    pub capture_id: Option<String>,
    pub authorized_at: Option<DateTimeUtc>,
    pub captured_at: Option<DateTimeUtc>,
    pub voided_at: Option<DateTimeUtc>,
}

impl ActiveModelBehavior for ActiveModel {}
