//! Row-level security behind the queries on orders, and the record of who was shown personal data.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

/// Roles belong to the whole cluster: other databases may be making this one at the same moment. Each error of that race
/// means that somebody else was faster, and is tried again.
const MAKE_ROLE: &str = r#"
DO $$
DECLARE
    tries integer := 0;
BEGIN
    LOOP
        BEGIN
            IF to_regrole('oms_reader') IS NULL THEN
                CREATE ROLE oms_reader NOLOGIN;
            END IF;
            EXECUTE format('GRANT oms_reader TO %I', current_user);
            EXIT;
        EXCEPTION
            -- 'tuple concurrently updated' is an internal error.
            WHEN duplicate_object OR unique_violation OR internal_error OR undefined_object THEN
                tries := tries + 1;
                IF tries > 100 THEN
                    RAISE;
                END IF;
                PERFORM pg_sleep(0.01 + 0.05 * random());
            WHEN insufficient_privilege THEN
                -- Somebody with more rights may have made it for us.
                IF to_regrole('oms_reader') IS NOT NULL AND pg_has_role(current_user, 'oms_reader', 'MEMBER') THEN
                    EXIT;
                END IF;
                RAISE EXCEPTION 'the role oms_reader, as which orders are read, cannot be made'
                    USING HINT = format('As a superuser: CREATE ROLE oms_reader NOLOGIN; GRANT oms_reader TO %I',
                                        current_user);
        END;
    END LOOP;
END
$$;
"#;

const UP: &str = r#"
-- Who reads on a caller's behalf does so as oms_reader, and says first which orders the caller sees, in the setting
-- oms.visibility: 'all', 'apps:{uuid,...}' or 'order:uuid'. Without it, there are no rows. Policies ask these functions
-- in a subselect, so that they are asked once for each statement and not for each row.
CREATE FUNCTION oms_sees_all() RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE AS
    $$ SELECT coalesce(current_setting('oms.visibility', true) = 'all', false) $$;
CREATE FUNCTION oms_seen_apps() RETURNS uuid[] LANGUAGE sql STABLE PARALLEL SAFE AS
    $$ SELECT CASE WHEN current_setting('oms.visibility', true) LIKE 'apps:%'
                   THEN substr(current_setting('oms.visibility', true), 6)::uuid[] END $$;
CREATE FUNCTION oms_seen_order() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE AS
    $$ SELECT CASE WHEN current_setting('oms.visibility', true) LIKE 'order:%'
                   THEN substr(current_setting('oms.visibility', true), 7)::uuid END $$;

-- Owners are not held by policies, so that placing orders and carrying them out stay as they are.
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
CREATE POLICY orders_seen ON orders FOR SELECT TO oms_reader USING (
    (SELECT oms_sees_all()) OR app_id = ANY ((SELECT oms_seen_apps())::uuid[]) OR id = (SELECT oms_seen_order())
);

ALTER TABLE order_lines ENABLE ROW LEVEL SECURITY;
CREATE POLICY order_lines_seen ON order_lines FOR SELECT TO oms_reader USING (
    (SELECT oms_sees_all()) OR app_id = ANY ((SELECT oms_seen_apps())::uuid[]) OR order_id = (SELECT oms_seen_order())
);

-- What has no app of its own is seen with its order, which the policy above answers. A scalar subselect and not EXISTS:
-- that one may be hashed, which reads every order for each statement.
ALTER TABLE order_events ENABLE ROW LEVEL SECURITY;
CREATE POLICY order_events_seen ON order_events FOR SELECT TO oms_reader USING (
    (SELECT oms_sees_all()) OR (SELECT true FROM orders WHERE orders.id = order_events.order_id)
);

ALTER TABLE payments ENABLE ROW LEVEL SECURITY;
CREATE POLICY payments_seen ON payments FOR SELECT TO oms_reader USING (
    (SELECT oms_sees_all()) OR (SELECT true FROM orders WHERE orders.id = payments.order_id)
);

ALTER TABLE reservations ENABLE ROW LEVEL SECURITY;
CREATE POLICY reservations_seen ON reservations FOR SELECT TO oms_reader USING (
    (SELECT oms_sees_all()) OR (SELECT true FROM orders WHERE orders.id = reservations.order_id)
);

-- Column by column, so that the card and the fingerprint of the input stay out of reach.
GRANT SELECT (
    id, number, app_id, idempotency_key, status, payment_status, fulfillment_status, sequence, currency, items_minor,
    shipping_minor, tax_minor, total_minor, email, shipping_address, shipping_method, shipping_country,
    external_reference, failure_code, failure_message, created_at, updated_at, confirmed_at, failed_at
) ON orders TO oms_reader;
GRANT SELECT ON order_lines, order_events, payments, reservations TO oms_reader;

-- Who was shown personal data of which order: one row for each order of each answer. Append-only.
CREATE TABLE personal_data_reads (
    id         uuid PRIMARY KEY,            -- UUIDv7
    app_id     uuid NOT NULL,               -- which app asked
    key_id     uuid,                        -- with which of its keys; null where it had none
    order_id   uuid NOT NULL,               -- whose data it was
    fields     text[] NOT NULL,             -- what was shown: email, shippingAddress
    request_id text NOT NULL,               -- as in the log and in the answer
    read_at    timestamptz NOT NULL DEFAULT now()
);

-- Who has seen this order?
CREATE INDEX personal_data_reads_by_order ON personal_data_reads (order_id, read_at);
"#;

const DOWN: &str = "
DROP TABLE personal_data_reads;
REVOKE ALL ON orders, order_lines, order_events, payments, reservations FROM oms_reader;
DROP POLICY reservations_seen ON reservations;
DROP POLICY payments_seen ON payments;
DROP POLICY order_events_seen ON order_events;
DROP POLICY order_lines_seen ON order_lines;
DROP POLICY orders_seen ON orders;
ALTER TABLE reservations DISABLE ROW LEVEL SECURITY;
ALTER TABLE payments DISABLE ROW LEVEL SECURITY;
ALTER TABLE order_events DISABLE ROW LEVEL SECURITY;
ALTER TABLE order_lines DISABLE ROW LEVEL SECURITY;
ALTER TABLE orders DISABLE ROW LEVEL SECURITY;
DROP FUNCTION oms_seen_order();
DROP FUNCTION oms_seen_apps();
DROP FUNCTION oms_sees_all();
";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let db = manager.get_connection();
        db.execute_unprepared(MAKE_ROLE).await?;
        db.execute_unprepared(UP).await.map(drop)
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // The role stays: other databases of the cluster use it.
        manager.get_connection().execute_unprepared(DOWN).await.map(drop)
    }
}
