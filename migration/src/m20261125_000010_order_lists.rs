//! What lists of orders and the feed of changes are read from.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const UP: &str = r#"
-- A line carries what a list by SKU is found and sorted by, so that one index serves it for a SKU in every order as for
-- one in three. Both are copies of the order's and never change.
ALTER TABLE order_lines
    ADD COLUMN IF NOT EXISTS app_id uuid,            -- the app that placed the order
    ADD COLUMN created_at timestamptz NOT NULL DEFAULT now();  -- the order's: both are the time of one transaction
UPDATE order_lines
SET app_id = orders.app_id, created_at = orders.created_at
FROM orders
WHERE orders.id = order_lines.order_id;
ALTER TABLE order_lines ALTER COLUMN app_id SET NOT NULL;

-- Lists by status. It is the only index on a status, because an update that changes an indexed column writes into every
-- index of the table. A list reads it once for each combination of app and statuses.
CREATE INDEX orders_list ON orders (app_id, status, payment_status, fulfillment_status, created_at, id);

-- Orders by the client's own name for them.
CREATE INDEX orders_by_external_reference ON orders (app_id, external_reference, created_at, id)
    WHERE external_reference IS NOT NULL;

-- Orders by the number that people say.
CREATE UNIQUE INDEX orders_by_number ON orders (number);

-- Orders by what was bought.
CREATE INDEX order_lines_by_sku ON order_lines (app_id, sku, created_at, order_id);

-- The feed of changes: commits in the order of their transactions.
CREATE INDEX order_events_feed ON order_events (xid, order_id, sequence);
"#;

const DOWN: &str = "
DROP INDEX order_events_feed;
DROP INDEX order_lines_by_sku;
DROP INDEX orders_by_number;
DROP INDEX orders_by_external_reference;
DROP INDEX orders_list;
ALTER TABLE order_lines DROP COLUMN created_at, DROP COLUMN app_id;
";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared(UP).await.map(drop)
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared(DOWN).await.map(drop)
    }
}
