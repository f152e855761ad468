//! One test's own database, and what the tests look up in it behind the API's back.

use std::collections::BTreeMap;

use domain::books;
use domain::id::OrderId;
use sea_orm::{DatabaseConnection, SqlxPostgresConnector};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, PgPool};
use uuid::Uuid;

use crate::cluster::{TEMPLATE, cluster, fill};
use crate::own_postgres::OwnPostgres;
use crate::runner_under_test::APPLICATION_NAME;
use crate::wait::{PATIENCE, eventually};

/// A database with the schema and the demo catalog.
#[derive(Debug)]
pub struct TestDatabase {
    name: String,
    url: String,
    pool: PgPool,
    /// Whether it lives in the cluster that all tests of the process share.
    is_shared: bool,
}

/// What the simulated gateway believes about one payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayPayment {
    /// Promised, in minor units.
    pub authorized_minor: i64,
    /// Taken, in minor units.
    pub captured_minor: i64,
    /// How often money was taken.
    pub captures: i32,
    /// Whether it was made void.
    pub voided: bool,
}

impl TestDatabase {
    /// Makes a fresh one.
    pub async fn create() -> Self {
        Self::connect(cluster().create_database(TEMPLATE).await).await
    }

    /// Makes one that holds what another one holds now. The other one loses its connections for a moment.
    pub async fn copy_of(other: &Self) -> Self {
        // A template must have no visitors.
        other.go_away().await;
        let name = cluster().create_database(&other.name).await;
        other.come_back().await;
        Self::connect(name).await
    }

    async fn connect(name: String) -> Self {
        let pool =
            PgPoolOptions::new().max_connections(3).connect_with(cluster().connect_options(&name)).await;
        let url = cluster().url(&name);
        Self { name, url, pool: pool.expect("a fresh database answers"), is_shared: true }
    }

    /// Makes a fresh one in a Postgres of the test's own.
    pub async fn create_in(postgres: &OwnPostgres) -> Self {
        let name = "oms".to_owned();
        let connect =
            |name: &str| PgPoolOptions::new().max_connections(3).connect_with(postgres.connect_options(name));
        let server = connect("postgres").await.expect("a fresh server answers");
        sqlx::raw_sql("CREATE DATABASE oms").execute(&server).await.expect("the database is made");
        server.close().await;
        let pool = connect(&name).await.expect("a fresh database answers");
        fill(&SqlxPostgresConnector::from_sqlx_postgres_pool(pool.clone())).await;
        Self { url: postgres.url(&name), name, pool, is_shared: false }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// Connections to it.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Waits until no order is pending, re-derives the books, and removes the database.
    ///
    /// # Panics
    /// An order stays pending, or something does not add up.
    pub async fn close(self) {
        self.wait_until_settled().await;
        self.close_with_pending_orders().await;
    }

    /// Re-derives the books and removes the database; for tests that leave an order pending on purpose.
    ///
    /// # Panics
    /// Something does not add up.
    pub async fn close_with_pending_orders(self) {
        self.assert_books_balance().await;
        self.discard().await;
    }

    /// Removes the database, whatever its books say.
    pub async fn discard(self) {
        self.pool.close().await;
        if self.is_shared {
            cluster().drop_database(&self.name).await;
        }
    }

    /// Waits until no order is pending and no saga is on its way.
    pub async fn wait_until_settled(&self) {
        eventually("every order is settled", async || {
            let pending = "SELECT (SELECT count(*) FROM orders WHERE status = 'PENDING')
                                + (SELECT count(*) FROM saga WHERE finished_at IS NULL)";
            (self.number(pending).await == 0).then_some(())
        })
        .await;
    }

    /// Waits until the feed of changes shows everything: it shows nothing that is younger than the oldest transaction of
    /// the server, and other tests have theirs.
    pub async fn wait_until_feed_is_complete(&self) {
        eventually("the feed is complete", async || {
            let hidden =
                "SELECT count(*) FROM order_events WHERE xid >= pg_snapshot_xmin(pg_current_snapshot())";
            (self.number(hidden).await == 0).then_some(())
        })
        .await;
    }

    /// Asserts that `oms verify` would find nothing.
    pub async fn assert_books_balance(&self) {
        assert_eq!(self.violations().await, [] as [String; 0], "the books balance");
    }

    /// Returns what `oms verify` would find.
    pub async fn violations(&self) -> Vec<String> {
        let mut report = books::verify(&self.connection()).await.expect("the books can be read");
        report.merge(saga::verify::verify(&self.connection()).await.expect("the sagas can be read"));
        report.violations.into_iter().map(|found| format!("{}: {}", found.rule, found.detail)).collect()
    }

    /// Opens a pool of its own, for a runner in this process.
    pub async fn connect_runner(&self) -> DatabaseConnection {
        let options: PgConnectOptions = self.url.parse().expect("our own URL");
        let pool = PgPoolOptions::new().max_connections(8).acquire_timeout(PATIENCE);
        let pool = pool.connect_with(options.application_name(APPLICATION_NAME)).await;
        SqlxPostgresConnector::from_sqlx_postgres_pool(pool.expect("the database answers"))
    }

    /// Returns the single number that a query gives.
    pub async fn number(&self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&self.pool).await.expect("the query gives a bigint")
    }

    /// Returns the texts that a query gives.
    pub async fn texts(&self, sql: &str) -> Vec<String> {
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&self.pool).await.expect("the query gives texts")
    }

    /// Executes statements.
    pub async fn execute(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&self.pool).await.expect("the statements run");
    }

    /// Counts the rows of every table but `worker`, whose rows come and go with the runners.
    pub async fn census(&self) -> BTreeMap<String, i64> {
        let tables = self
            .texts(
                "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'worker'",
            )
            .await;
        let mut census = BTreeMap::new();
        for table in tables {
            let count = self.number(&format!("SELECT count(*) FROM {table}")).await;
            census.insert(table, count);
        }
        census
    }

    /// Returns what the gateway believes about an order's payment.
    pub async fn gateway_payment(&self, order_id: &str) -> Option<GatewayPayment> {
        let row: Option<(i64, i64, i32, bool)> = sqlx::query_as(
            "SELECT authorized_minor, captured_minor, captures, voided FROM simulated_gateway_payments
             WHERE reference = $1",
        )
        .bind(uuid_of(order_id).to_string())
        .fetch_optional(&self.pool)
        .await
        .expect("the gateway's ledger can be read");
        row.map(|(authorized_minor, captured_minor, captures, voided)| GatewayPayment {
            authorized_minor,
            captured_minor,
            captures,
            voided,
        })
    }

    /// Returns the idempotency keys under which the gateway was asked about an order, and how often each.
    pub async fn gateway_attempts(&self, order_id: &str) -> BTreeMap<String, i32> {
        let rows: Vec<(String, i32)> = sqlx::query_as(
            "SELECT idempotency_key, attempts FROM simulated_gateway_calls WHERE reference = $1",
        )
        .bind(uuid_of(order_id).to_string())
        .fetch_all(&self.pool)
        .await
        .expect("the gateway's ledger can be read");
        rows.into_iter().collect()
    }

    /// Makes every saga that waits for a time go on now.
    pub async fn fire_timers(&self) {
        self.execute("UPDATE saga_timer SET due_at = now()").await;
    }

    /// Cuts every connection to it and lets nobody in any more: what a lost Postgres looks like to a server. The test
    /// itself gets in by another door.
    ///
    /// # Panics
    /// It lives in a Postgres of the test's own, which can be crashed instead.
    pub async fn go_away(&self) {
        assert!(self.is_shared, "this Postgres can be crashed instead");
        cluster().close_door(&self.name);
        // The second argument: wait until each has ended, up to so many milliseconds.
        let name = &self.name;
        let cut =
            format!("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}'");
        cluster().execute(cut).await;
    }

    /// Lets everybody in again.
    pub async fn come_back(&self) {
        cluster().open_door(&self.name);
    }

    /// The same pool, for code that speaks SeaORM.
    pub fn connection(&self) -> DatabaseConnection {
        SqlxPostgresConnector::from_sqlx_postgres_pool(self.pool.clone())
    }
}

/// Returns the UUID that a public order id stands for.
pub fn uuid_of(order_id: &str) -> Uuid {
    order_id.parse::<OrderId>().expect("an order id").uuid()
}
