//! Says which sagas wait for another system that gives no answers, so that nobody has to look at them meanwhile.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const UP: &str = "
-- The system whose answers the saga is parked for; null for one that waits for a time. A parked saga is taken out when
-- the system answers, and looks for itself when the timer is due.
ALTER TABLE saga_timer ADD COLUMN parked_for text;

-- Finds those that are parked for a system, the longest parked first. It holds no other timer.
CREATE INDEX saga_timer_parked ON saga_timer (parked_for, due_at) WHERE parked_for IS NOT NULL";

const DOWN: &str = "DROP INDEX saga_timer_parked; ALTER TABLE saga_timer DROP COLUMN parked_for";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared(UP).await.map(drop)
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared(DOWN).await.map(drop)
    }
}
