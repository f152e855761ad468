//! Stock: how many there are, how many are promised, and every change to either.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const UP: &str = r#"
-- One row per SKU, updated once per batch. The low fill factor leaves room on the page, so that an update stays on
-- it and touches no index (a heap-only tuple update).
CREATE TABLE stock (
    sku        text PRIMARY KEY REFERENCES products (sku),
    on_hand    bigint NOT NULL DEFAULT 0,   -- units in the building; the sum of stock_movements
    reserved   bigint NOT NULL DEFAULT 0,   -- units promised to orders; the sum of open reservations
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT stock_on_hand_not_negative CHECK (on_hand >= 0),
    CONSTRAINT stock_reserved_not_negative CHECK (reserved >= 0),
    CONSTRAINT stock_never_oversold CHECK (reserved <= on_hand)
) WITH (fillfactor = 50);

-- The ledger of on_hand: append-only, one row per adjustment or import.
CREATE TABLE stock_movements (
    id                uuid PRIMARY KEY,         -- UUIDv7
    sku               text NOT NULL,            -- which stock row moved
    delta             bigint NOT NULL,          -- units added (positive) or taken (negative)
    on_hand_after     bigint NOT NULL,          -- on_hand as the adjustment left it: what a replay answers
    reason            text NOT NULL,            -- why, in the words of whoever moved it
    app_id            uuid NOT NULL,            -- which app asked
    idempotency_key   text,                     -- the app's key; null where the caller is the shop's own command line
    input_fingerprint bytea,                    -- SHA-256 of the input, to tell a replay from a reused key
    created_at        timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT stock_movements_one_per_key UNIQUE (app_id, idempotency_key)
);

-- The ledger of reserved: what each order holds. Open (HELD or CONFIRMED) rows add up to stock.reserved; a confirmed
-- reservation stays open until the goods leave the building.
CREATE TABLE reservations (
    order_id   uuid NOT NULL,
    sku        text NOT NULL,
    quantity   bigint NOT NULL,             -- units, summed over the order's lines of this SKU
    status     text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT reservations_pkey PRIMARY KEY (order_id, sku),
    CONSTRAINT reservations_quantity_positive CHECK (quantity > 0),
    CONSTRAINT reservations_status CHECK (status IN ('HELD', 'CONFIRMED', 'RELEASED', 'EXPIRED'))
) WITH (fillfactor = 45);  -- every row is updated once, a page of them in one transaction
"#;

const DOWN: &str = "DROP TABLE reservations; DROP TABLE stock_movements; DROP TABLE stock";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared(UP).await.map(drop)
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared(DOWN).await.map(drop)
    }
}
