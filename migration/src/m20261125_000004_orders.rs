//! Orders, their lines, and the events that tell their story.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const UP: &str = r#"
CREATE TABLE orders (
    id                      uuid PRIMARY KEY,       -- UUIDv7, so that the index grows at its right edge
    number                  bigint GENERATED ALWAYS AS IDENTITY,  -- for people on the telephone; may have gaps
    app_id                  uuid NOT NULL,          -- the app that placed it and may read it
    idempotency_key         text NOT NULL,          -- the app's own key: one order per (app_id, idempotency_key)
    input_fingerprint       bytea NOT NULL,         -- SHA-256 of the input, to tell a replay from a reused key
    status                  text NOT NULL DEFAULT 'PENDING',
    payment_status          text NOT NULL DEFAULT 'UNPAID',
    fulfillment_status      text NOT NULL DEFAULT 'UNFULFILLED',
    sequence                integer NOT NULL DEFAULT 1,  -- number of the newest event; only its row lock's holder counts on
    currency                text NOT NULL,          -- ISO 4217 code of every amount of the order
    items_minor             bigint NOT NULL,        -- sum of the lines, minor units
    shipping_minor          bigint,                 -- null until quoted
    tax_minor               bigint,                 -- null until quoted
    total_minor             bigint,                 -- null until quoted; items + shipping + tax
    expected_total_minor    bigint,                 -- what the shopper was shown, if the client said so
    email                   text,                   -- personal
    shipping_address        jsonb,                  -- personal
    shipping_method         text NOT NULL,          -- key into shipping_rates
    shipping_country        text,                   -- ISO 3166-1 alpha-2, copied from the address; decides the rates
    payment_token           text NOT NULL,          -- the gateway's name for the card; never a card number
    external_reference      text,                   -- the client's own name for the order
    failure_code            text,                   -- why it failed, for programs
    failure_message         text,                   -- why it failed, for people
    created_at              timestamptz NOT NULL DEFAULT now(),
    updated_at              timestamptz NOT NULL DEFAULT now(),
    confirmed_at            timestamptz,
    failed_at               timestamptz,
    CONSTRAINT orders_one_per_key UNIQUE (app_id, idempotency_key),
    CONSTRAINT orders_status CHECK (status IN ('PENDING', 'CONFIRMED', 'COMPLETED', 'CANCELED', 'FAILED')),
    CONSTRAINT orders_payment_status CHECK (payment_status IN ('UNPAID', 'AUTHORIZED', 'PAID', 'VOIDED', 'REFUNDED')),
    CONSTRAINT orders_fulfillment_status CHECK (fulfillment_status IN ('UNFULFILLED', 'FULFILLED')),
    CONSTRAINT orders_amounts_not_negative
        CHECK (items_minor >= 0 AND shipping_minor >= 0 AND tax_minor >= 0 AND total_minor >= 0),
    CONSTRAINT orders_total_adds_up CHECK (total_minor = items_minor + shipping_minor + tax_minor)
) WITH (fillfactor = 35);  -- a batch updates every row of a page at once, and again before the last is pruned

CREATE TABLE order_lines (
    order_id         uuid NOT NULL,
    line_no          integer NOT NULL,      -- 1..n in the order of the input
    sku              text NOT NULL,
    name             text NOT NULL,         -- frozen when placed, as are the four below
    quantity         bigint NOT NULL,
    unit_price_minor bigint NOT NULL,
    weight_grams     integer NOT NULL,      -- of one unit
    tax_category     text NOT NULL,
    CONSTRAINT order_lines_pkey PRIMARY KEY (order_id, line_no),
    CONSTRAINT order_lines_quantity_positive CHECK (quantity > 0),
    CONSTRAINT order_lines_price_not_negative CHECK (unit_price_minor >= 0)
);

-- Append-only. It is the outbox and what a viewer is shown; the pair (order_id, sequence) names an event everywhere.
CREATE TABLE order_events (
    order_id    uuid NOT NULL,
    sequence    integer NOT NULL,           -- 1..n without a gap
    type        text NOT NULL,              -- past tense: OrderPlaced, PaymentCaptured
    status      text NOT NULL,              -- of the order, once this had happened
    data        jsonb NOT NULL,             -- facts of the event; never personal data
    occurred_at timestamptz NOT NULL DEFAULT now(),
    xid         xid8 NOT NULL DEFAULT pg_current_xact_id(),  -- the writing transaction: a feed across orders reads
                                                             -- only below the oldest one that still runs
    CONSTRAINT order_events_pkey PRIMARY KEY (order_id, sequence),
    CONSTRAINT order_events_sequence_positive CHECK (sequence > 0)
);
"#;

const DOWN: &str = "DROP TABLE order_events; DROP TABLE order_lines; DROP TABLE orders";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared(UP).await.map(drop)
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared(DOWN).await.map(drop)
    }
}
