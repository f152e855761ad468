//! Documents that are registered for an app, and whether it may execute others.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const UP: &str = r#"
ALTER TABLE apps
    -- whether its credentials, and the access tokens of its orders, execute nothing but registered documents
    ADD COLUMN only_registered_documents boolean NOT NULL DEFAULT false;

-- GraphQL documents that an app may name instead of sending. Each was checked against the schema when it was added.
CREATE TABLE app_documents (
    app_id     uuid NOT NULL REFERENCES apps (id),     -- for which it is registered; no other app sees it
    hash       bytea NOT NULL,                         -- SHA-256 of the text; clients say sha256: and its digits
    text       text NOT NULL,                          -- the document, as it is executed
    created_at timestamptz NOT NULL DEFAULT now(),     -- since when it is registered
    PRIMARY KEY (app_id, hash),
    CONSTRAINT app_documents_hash_of_text CHECK (hash = sha256(convert_to(text, 'UTF8'))),
    CONSTRAINT app_documents_text_bounded CHECK (octet_length(text) BETWEEN 1 AND 100000)
);
"#;

const DOWN: &str = "DROP TABLE app_documents; ALTER TABLE apps DROP COLUMN only_registered_documents";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared(UP).await.map(drop)
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared(DOWN).await.map(drop)
    }
}
