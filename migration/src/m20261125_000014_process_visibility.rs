//! Row-level security behind the query that reads how far orders have been carried out.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

/// Takes the locks that the rest needs. Runners of another version may be at work, and take these tables in one order when
/// they claim and in another when they settle: whoever waits lets go and tries again, so that nobody is chosen as the victim
/// of a deadlock. What is given up in a block with a handler is unlocked.
const LOCK: &str = "
DO $$
DECLARE
    tries integer := 0;
BEGIN
    SET LOCAL lock_timeout = '200ms';  -- less than deadlock_timeout, 1 s
    LOOP
        BEGIN
            LOCK TABLE saga, saga_call, saga_log IN ACCESS EXCLUSIVE MODE;
            EXIT;
        EXCEPTION WHEN lock_not_available THEN
            tries := tries + 1;
            IF tries > 100 THEN
                RAISE;
            END IF;
            PERFORM pg_sleep(0.01 + 0.05 * random());
        END;
    END LOOP;
    SET LOCAL lock_timeout TO DEFAULT;
END
$$";

const UP: &str = "
-- The saga of an order has its id, and is seen with it. Whatever else a saga may work on is seen by those alone who see
-- everything. Scalar subselects, as for what else belongs to an order. Owners, the runner among them, are not held.
ALTER TABLE saga ENABLE ROW LEVEL SECURITY;
CREATE POLICY saga_seen ON saga FOR SELECT TO oms_reader USING (
    (SELECT oms_sees_all()) OR (SELECT true FROM orders WHERE orders.id = saga.id)
);

ALTER TABLE saga_call ENABLE ROW LEVEL SECURITY;
CREATE POLICY saga_call_seen ON saga_call FOR SELECT TO oms_reader USING (
    (SELECT oms_sees_all()) OR (SELECT true FROM orders WHERE orders.id = saga_call.saga_id)
);

ALTER TABLE saga_log ENABLE ROW LEVEL SECURITY;
CREATE POLICY saga_log_seen ON saga_log FOR SELECT TO oms_reader USING (
    (SELECT oms_sees_all()) OR (SELECT true FROM orders WHERE orders.id = saga_log.saga_id)
);

-- Column by column, so that states, keys and requests, which name the card, stay out of reach.
GRANT SELECT (id, definition, version, status, step, direction, attempt, stuck_since) ON saga TO oms_reader;
GRANT SELECT (saga_id, started_at) ON saga_call TO oms_reader;
GRANT SELECT (saga_id, epoch, kind, step, direction, outcome, detail, started_at, finished_at) ON saga_log TO oms_reader;
";

const DOWN: &str = "
REVOKE ALL ON saga, saga_call, saga_log FROM oms_reader;
DROP POLICY saga_log_seen ON saga_log;
DROP POLICY saga_call_seen ON saga_call;
DROP POLICY saga_seen ON saga;
ALTER TABLE saga_log DISABLE ROW LEVEL SECURITY;
ALTER TABLE saga_call DISABLE ROW LEVEL SECURITY;
ALTER TABLE saga DISABLE ROW LEVEL SECURITY;
";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let db = manager.get_connection();
        db.execute_unprepared(LOCK).await?;
        db.execute_unprepared(UP).await.map(drop)
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let db = manager.get_connection();
        db.execute_unprepared(LOCK).await?;
        db.execute_unprepared(DOWN).await.map(drop)
    }
}
