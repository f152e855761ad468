//! Payments: what was authorized, captured and given back, as separate facts.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const UP: &str = r#"
CREATE TABLE payments (
    order_id         uuid PRIMARY KEY,      -- one payment per order
    gateway          text NOT NULL,         -- which gateway holds the money
    currency         text NOT NULL,         -- ISO 4217 code of the amounts
    authorized_minor bigint NOT NULL DEFAULT 0,   -- promised by the card's bank
    captured_minor   bigint NOT NULL DEFAULT 0,   -- taken
    refunded_minor   bigint NOT NULL DEFAULT 0,   -- given back
    authorization_id text,                  -- the gateway's name for the authorization
    capture_id       text,                  -- the gateway's name for the capture
    authorized_at    timestamptz,
    captured_at      timestamptz,
    voided_at        timestamptz,           -- when the authorization was made void: nothing can be captured any more
    CONSTRAINT payments_captured_within_authorized CHECK (captured_minor BETWEEN 0 AND authorized_minor),
    CONSTRAINT payments_refunded_within_captured CHECK (refunded_minor BETWEEN 0 AND captured_minor),
    CONSTRAINT payments_void_or_captured CHECK (voided_at IS NULL OR captured_minor = 0)
) WITH (fillfactor = 45);  -- as reservations: written, then updated once, a page at a time
"#;

const DOWN: &str = "DROP TABLE payments";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared(UP).await.map(drop)
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared(DOWN).await.map(drop)
    }
}
