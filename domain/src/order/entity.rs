//! The order's tables.

use sea_orm::entity::prelude::*;

use super::{FulfillmentStatus, OrderStatus, PaymentStatus};

/// A row of `orders`; the migration explains the columns.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "orders")]
#[expect(missing_docs, reason = "the migration explains the columns")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub number: i64,
    pub app_id: Uuid,
    pub idempotency_key: String,
    pub input_fingerprint: Vec<u8>,
    pub status: OrderStatus,
    pub payment_status: PaymentStatus,
    pub fulfillment_status: FulfillmentStatus,
    pub sequence: i32,
    pub currency: String,
    pub items_minor: i64,
    pub shipping_minor: Option<i64>,
    pub tax_minor: Option<i64>,
    pub total_minor: Option<i64>,
    pub expected_total_minor: Option<i64>,
    pub email: Option<String>,
    #[sea_orm(column_type = "JsonBinary", nullable)]
    pub shipping_address: Option<Json>,
    pub shipping_method: String,
    pub shipping_country: Option<String>,
    pub payment_token: String,
    pub external_reference: Option<String>,
    pub failure_code: Option<String>,
    pub failure_message: Option<String>,
    pub created_at: DateTimeUtc,
    pub updated_at: DateTimeUtc,
    pub confirmed_at: Option<DateTimeUtc>,
    pub failed_at: Option<DateTimeUtc>,
}

impl ActiveModelBehavior for ActiveModel {}

/// The `order_lines` table.
pub mod line {
    use sea_orm::entity::prelude::*;

    /// A row of `order_lines`; the migration explains the columns.
    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "order_lines")]
    #[expect(missing_docs, reason = "the migration explains the columns")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub order_id: Uuid,
        #[sea_orm(primary_key, auto_increment = false)]
        pub line_no: i32,
        pub sku: String,
        pub name: String,
        pub quantity: i64,
        pub unit_price_minor: i64,
        pub weight_grams: i32,
        pub tax_category: String,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

/// The `order_events` table.
pub mod event {
    use sea_orm::entity::prelude::*;

    use crate::order::OrderStatus;

    /// A row of `order_events` without its transaction id; the migration explains the columns.
    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "order_events")]
    #[expect(missing_docs, reason = "the migration explains the columns")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub order_id: Uuid,
        #[sea_orm(primary_key, auto_increment = false)]
        pub sequence: i32,
        #[sea_orm(column_name = "type")]
        pub kind: String,
        pub status: OrderStatus,
        #[sea_orm(column_type = "JsonBinary")]
        pub data: Json,
        pub occurred_at: DateTimeUtc,
    }

    impl ActiveModelBehavior for ActiveModel {}
}
