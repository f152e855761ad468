//! The database behind the server: its counters, and what became of the orders of a run.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, DbErr, FromQueryResult, Statement, Value};
use serde::Serialize;
use uuid::{Builder, Uuid};

use super::report::{Percentiles, Progress};
use crate::config::DatabaseArgs;
use crate::postgres::{self, Database, PoolSettings};
use crate::telemetry::chain;

/// How often to look whether orders are settled.
const SETTLE_POLL: Duration = Duration::from_millis(200);

/// A worker that gave a heartbeat in this time is at work; the default lease and some room.
const WORKER_SILENCE_SECONDS: i32 = 10;

/// A bench's own connections.
#[derive(Debug)]
pub(super) struct BenchDatabase {
    pub(super) db: DatabaseConnection,
    database: Database,
}

/// What a rate depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, FromQueryResult)]
pub(super) struct Environment {
    pub(super) postgres: String,
    pub(super) fsync: String,
    pub(super) synchronous_commit: String,
    /// Orders in the table when the run began, as the planner knows it.
    pub(super) orders_before: i64,
}

/// What an order costs in Postgres.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Usage {
    /// Transactions that wrote something.
    pub(super) commits_per_order: f64,
    /// Bytes of the write-ahead log.
    pub(super) wal_bytes_per_order: f64,
}

/// The counters of the whole server at one moment.
#[derive(Debug, Clone, Copy, FromQueryResult)]
pub(super) struct Counters {
    /// Transaction ids given out: one for each transaction that writes. `pg_stat_database` counts the same, but idle
    /// connections report to it up to ten seconds late.
    transactions: i64,
    wal_bytes: i64,
}

#[derive(FromQueryResult)]
struct Count {
    count: i64,
}

#[derive(FromQueryResult)]
struct StateCount {
    state: String,
    count: i64,
}

#[derive(FromQueryResult)]
struct Confirmed {
    at_ms: Option<Vec<f64>>,
}

#[derive(FromQueryResult)]
struct LiveWorker {
    name: String,
    silent_ms: i64,
}

pub(super) fn statement<const N: usize>(text: &str, values: [Value; N]) -> Statement {
    Statement::from_sql_and_values(DbBackend::Postgres, text, values)
}

impl BenchDatabase {
    /// Joins the database; an embedded one that does not run is started for as long as the bench lasts.
    pub(super) async fn join(args: &DatabaseArgs) -> anyhow::Result<Self> {
        let database = postgres::join(args).await?;
        let db = database.connect(&PoolSettings::for_command("oms bench")).await?;
        Ok(Self { db, database })
    }

    /// Opens another pool.
    pub(super) async fn connect(&self, settings: &PoolSettings) -> anyhow::Result<DatabaseConnection> {
        Ok(self.database.connect(settings).await?)
    }

    /// Closes the connections and leaves the database.
    pub(super) async fn leave(self) -> anyhow::Result<()> {
        self.db.close().await.context("cannot close the connections")?;
        Ok(self.database.close().await?)
    }

    /// Reads what the result has to name.
    pub(super) async fn environment(&self) -> anyhow::Result<Environment> {
        let query = "SELECT current_setting('server_version') AS postgres, current_setting('fsync') AS fsync,
                            current_setting('synchronous_commit') AS synchronous_commit,
                            greatest(reltuples, 0)::bigint AS orders_before
                     FROM pg_class WHERE oid = 'orders'::regclass";
        let found = Environment::find_by_statement(statement(query, [])).one(&self.db).await;
        found.context("cannot read the server's settings")?.context("there is no table of orders")
    }

    /// Reads the counters.
    pub(super) async fn counters(&self) -> anyhow::Result<Counters> {
        let query = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS transactions,
                            pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint AS wal_bytes";
        let found = Counters::find_by_statement(statement(query, [])).one(&self.db).await;
        found.context("cannot read the server's counters")?.context("the server has no counters")
    }

    /// Returns the workers that are alive, for people.
    pub(super) async fn live_workers(&self) -> Result<Vec<String>, DbErr> {
        let query =
            "SELECT name, (extract(epoch FROM now() - heartbeat_at) * 1000)::bigint AS silent_ms FROM worker
                     WHERE heartbeat_at > now() - make_interval(secs => $1)";
        let found =
            LiveWorker::find_by_statement(statement(query, [f64::from(WORKER_SILENCE_SECONDS).into()]));
        let workers = found.all(&self.db).await?;
        Ok(workers.iter().map(|worker| format!("{} ({} ms ago)", worker.name, worker.silent_ms)).collect())
    }

    /// Whether any saga waits for anything.
    pub(super) async fn is_any_saga_open(&self) -> Result<bool, DbErr> {
        let query = "SELECT (EXISTS (SELECT FROM saga_ready) OR EXISTS (SELECT FROM saga_call)
                             OR EXISTS (SELECT FROM saga_timer))::int::bigint AS count";
        let found = Count::find_by_statement(statement(query, [])).one(&self.db).await?;
        Ok(found.is_some_and(|row| row.count > 0))
    }

    /// Writes all dirty pages, as far as this account may, so that each run begins with an empty checkpoint.
    pub(super) async fn checkpoint(&self) {
        if let Err(error) = self.db.execute_unprepared("CHECKPOINT").await {
            tracing::debug!(error = chain(&error), "cannot write a checkpoint; going on without");
        }
    }
}

impl Counters {
    /// What was used per order since `earlier`.
    pub(super) fn since(self, earlier: Self, orders: u64) -> Option<Usage> {
        let per_order = |now: i64, then: i64| (now - then) as f64 / orders as f64;
        (orders > 0).then(|| Usage {
            commits_per_order: per_order(self.transactions, earlier.transactions),
            wal_bytes_per_order: per_order(self.wal_bytes, earlier.wal_bytes),
        })
    }
}

/// The orders of one run, found by the time of their ids and the mark of their keys.
#[derive(Debug, Clone)]
pub(super) struct RunOrders {
    first_id: Uuid,
    mark: String,
}

impl RunOrders {
    /// The orders whose keys begin with `mark`, placed from now on.
    pub(super) fn from_now(mark: &str) -> Self {
        // Ids carry milliseconds; the server's clock is ours.
        let now = chrono::Utc::now().timestamp_millis() - 1_000;
        let first_id =
            Builder::from_unix_timestamp_millis(u64::try_from(now).unwrap_or_default(), &[0; 10]).into_uuid();
        Self { first_id, mark: mark.to_owned() }
    }

    fn values(&self) -> [Value; 2] {
        [self.first_id.into(), self.mark.clone().into()]
    }

    /// Counts the orders by status; failed ones by their reason too.
    pub(super) async fn count_by_state(&self, db: &DatabaseConnection) -> Result<Vec<(String, i64)>, DbErr> {
        // Served by orders_pkey, from the run's first id on.
        let query =
            "SELECT status || coalesce(' ' || failure_code, '') AS state, count(*) AS count FROM orders
                     WHERE id >= $1 AND starts_with(idempotency_key, $2) GROUP BY 1 ORDER BY 1";
        let states = StateCount::find_by_statement(statement(query, self.values())).all(db).await?;
        Ok(states.into_iter().map(|row| (row.state, row.count)).collect())
    }

    /// Waits until none of the orders is pending.
    ///
    /// # Errors
    /// Some still are when the time is up.
    pub(super) async fn settled(
        &self,
        db: &DatabaseConnection,
        time: Duration,
        progress: &Progress,
    ) -> anyhow::Result<()> {
        let end = tokio::time::Instant::now() + time;
        loop {
            let states = self.count_by_state(db).await?;
            let pending = count_of(&states, "PENDING");
            progress.set(
                u64::try_from(states.iter().map(|(_, count)| count).sum::<i64>() - pending).unwrap_or(0),
            );
            if pending == 0 {
                return Ok(());
            }
            if tokio::time::Instant::now() >= end {
                bail!("{pending} orders are still pending after {} s", time.as_secs());
            }
            tokio::time::sleep(SETTLE_POLL).await;
        }
    }

    /// Returns where the times from acceptance to confirmation lie; `None` if no order is confirmed.
    pub(super) async fn accept_to_confirmed(
        &self,
        db: &DatabaseConnection,
    ) -> Result<Option<Percentiles>, DbErr> {
        let query = "SELECT percentile_disc(ARRAY[0.5, 0.99, 0.999, 1]) WITHIN GROUP
                            (ORDER BY extract(epoch FROM confirmed_at - created_at)::double precision * 1000) AS at_ms
                     FROM orders WHERE id >= $1 AND starts_with(idempotency_key, $2) AND confirmed_at IS NOT NULL";
        let found = Confirmed::find_by_statement(statement(query, self.values())).one(db).await?;
        Ok(found.and_then(|row| match row.at_ms?.as_slice() {
            &[p50_ms, p99_ms, p99_9_ms, max_ms] => Some(Percentiles { p50_ms, p99_ms, p99_9_ms, max_ms }),
            _ => None,
        }))
    }

    /// Checks that the orders that a server accepted are in this database.
    ///
    /// # Errors
    /// They are not all there: it is another server's database, or orders were lost.
    pub(super) async fn are_here(&self, db: &DatabaseConnection, accepted: u64) -> anyhow::Result<()> {
        let count: i64 = self.count_by_state(db).await?.iter().map(|(_, count)| count).sum();
        ensure!(
            accepted == 0 || count > 0,
            "the orders are in another database; name the server's own with --database-url or --data-dir"
        );
        ensure!(
            u64::try_from(count).is_ok_and(|count| count >= accepted),
            "{accepted} orders were accepted and only {count} are in the database"
        );
        Ok(())
    }
}

/// The count of one state.
pub(super) fn count_of(states: &[(String, i64)], state: &str) -> i64 {
    states.iter().find(|(name, _)| name == state).map_or(0, |(_, count)| *count)
}
