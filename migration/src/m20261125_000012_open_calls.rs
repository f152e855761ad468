//! Fewer indexes on open calls, which are written and removed again with every step of every order.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

// Whoever looks for abandoned calls looks at all open ones: there are never more than processes may have.
const UP: &str = "DROP INDEX saga_call_lease; DROP INDEX saga_call_worker";

const DOWN: &str = "
CREATE INDEX saga_call_lease ON saga_call (lease_expires_at);
CREATE INDEX saga_call_worker ON saga_call (worker_id)";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared(UP).await.map(drop)
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared(DOWN).await.map(drop)
    }
}
