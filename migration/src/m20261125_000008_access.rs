//! Who calls: apps, their keys, and what makes the access tokens of orders.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const UP: &str = r#"
-- API clients. Each app_id in orders is one of these.
CREATE TABLE apps (
    id                uuid PRIMARY KEY,
    name              text NOT NULL,       -- what people call it
    points_per_second integer,             -- what flows back into its budget; null for the server's setting, 0 for no limit
    issuer            text,                -- the identity provider whose tokens name it; null for an app with keys
    client            text,                -- its name there
    created_at        timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT apps_one_per_client UNIQUE (issuer, client),
    CONSTRAINT apps_points_not_negative CHECK (points_per_second >= 0)
);
-- The shop itself: its command line, and whatever was placed before there were apps.
INSERT INTO apps (id, name) VALUES ('00000000-0000-0000-0000-000000000000', 'shop');

-- Credentials of apps. A secret has 256 random bits, so a plain SHA-256 of it tells nobody anything.
CREATE TABLE api_keys (
    id           uuid PRIMARY KEY,
    app_id       uuid NOT NULL REFERENCES apps (id),
    name         text NOT NULL,            -- what people call it
    prefix       text NOT NULL,            -- the beginning of the secret: what lists show, and by which it is found
    secret_hash  bytea NOT NULL,           -- SHA-256 of the whole secret
    scopes       text[] NOT NULL,          -- what it may do
    granted_apps uuid[] NOT NULL,          -- its row filter: apps whose orders it sees besides its own
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,              -- null for never
    revoked_at   timestamptz,              -- null while it is good
    last_used_at timestamptz,              -- to within a minute
    CONSTRAINT api_keys_one_per_prefix UNIQUE (prefix)
);
CREATE INDEX api_keys_by_app ON api_keys (app_id, id);

-- What signs the access tokens of orders. One row; it never leaves the database but into a serving process.
CREATE TABLE signing_keys (
    id         integer PRIMARY KEY,
    secret     bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
-- Two UUIDs of version 4 from the server's strong source of randomness: 244 bits.
INSERT INTO signing_keys (id, secret)
VALUES (1, decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'));

-- Orders whose access tokens were taken back.
CREATE TABLE order_token_revocations (
    order_id   uuid PRIMARY KEY,
    revoked_at timestamptz NOT NULL DEFAULT now()  -- since when none opens it
);
"#;

const DOWN: &str =
    "DROP TABLE order_token_revocations; DROP TABLE signing_keys; DROP TABLE api_keys; DROP TABLE apps";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared(UP).await.map(drop)
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared(DOWN).await.map(drop)
    }
}
