//! The simulated payment gateway's own books, kept apart from ours as a real gateway's would be.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const UP: &str = r#"
-- One row per payment reference: what the gateway itself believes about the money.
CREATE TABLE simulated_gateway_payments (
    reference        text PRIMARY KEY,      -- the caller's name for the payment
    authorized_minor bigint NOT NULL DEFAULT 0,
    captured_minor   bigint NOT NULL DEFAULT 0,
    captures         integer NOT NULL DEFAULT 0,  -- how often money was taken; more than one is the bug to look for
    token            text NOT NULL DEFAULT '',        -- the card: says how the gateway behaves
    voided           boolean NOT NULL DEFAULT false   -- also set where nothing was authorized yet: a late one is refused
) WITH (fillfactor = 70);

-- One row per idempotency key: the answer that each repetition gets, and how often it was asked for.
CREATE TABLE simulated_gateway_calls (
    idempotency_key text PRIMARY KEY,
    operation       text NOT NULL,          -- authorize, capture, void
    reference       text NOT NULL,
    request         text NOT NULL,          -- the first request's bytes; other bytes under the same key are refused
    attempts        integer NOT NULL DEFAULT 0,
    answer          jsonb,                  -- null until the call took effect or was refused
    created_at      timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70);
"#;

const DOWN: &str = "DROP TABLE simulated_gateway_calls; DROP TABLE simulated_gateway_payments";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared(UP).await.map(drop)
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared(DOWN).await.map(drop)
    }
}
