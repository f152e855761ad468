//! The rate tables.

/// The `shipping_rates` table.
pub mod shipping {
    use sea_orm::entity::prelude::*;

    /// A row of `shipping_rates`; the migration explains the columns.
    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "shipping_rates")]
    #[expect(missing_docs, reason = "the migration explains the columns")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub country: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub method: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub currency: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub max_weight_grams: i32,
        pub price_minor: i64,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

/// The `tax_rates` table.
pub mod tax {
    use sea_orm::entity::prelude::*;

    /// A row of `tax_rates`; the migration explains the columns.
    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "tax_rates")]
    #[expect(missing_docs, reason = "the migration explains the columns")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub country: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub tax_category: String,
        pub rate_basis_points: i32,
    }

    impl ActiveModelBehavior for ActiveModel {}
}
