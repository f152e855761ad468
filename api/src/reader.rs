//! Reading orders on a caller's behalf, with the database's own row-level security behind every query.
//!
//! Each query on orders already says which rows its caller sees. Here the database is told as well: the connections act as
//! the role `oms_reader`, which may only read, and which sees no order until its transaction has named who looks. A query
//! that forgets its condition then finds nothing that it should not.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::app::Visibility;
use moka::sync::Cache;
use sea_orm::{
    ConnAcquireErr, ConnectionTrait, DatabaseConnection, DbBackend, DbErr, ExecResult, QueryResult,
    RuntimeErr, SqlxError, Statement, Values,
};
use sea_query_sqlx::SqlxValues;
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Postgres, Transaction};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use crate::run_to_end::run_to_end;

/// Callers whose shares are kept.
const MAX_SHARES: u64 = 10_000;

/// A share that nobody has used for that long is forgotten; no look lasts as long.
const SHARE_IDLE: Duration = Duration::from_secs(120);

/// A pool of connections for reading. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reader {
    pool: DatabaseConnection,
    /// By who looks: half of the connections for each, so that nobody's slow queries take them all.
    shares: Cache<Visibility, Arc<Semaphore>>,
}

/// What a caller sees, for as long as it is looked at. Dropping it is as good as a commit.
#[derive(Debug)]
pub struct View {
    transaction: Mutex<Transaction<'static, Postgres>>,
    _share: Option<OwnedSemaphorePermit>,
}

impl Reader {
    /// Reads over a pool that [`connect_reader`](crate::postgres::Database::connect_reader) has opened.
    pub fn new(pool: DatabaseConnection) -> Self {
        Self { pool, shares: Cache::builder().max_capacity(MAX_SHARES).time_to_idle(SHARE_IDLE).build() }
    }

    /// Begins a transaction that sees what a caller sees, in one round trip: with the library's own transactions it
    /// would be two.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn begin(&self, visibility: &Visibility) -> Result<View, DbErr> {
        let begin = format!("BEGIN READ ONLY; SET LOCAL oms.visibility = '{}'", setting(visibility));
        let pool = self.pool.get_postgres_connection_pool().clone();
        let size = pool.options().get_max_connections().div_ceil(2) as usize;
        let share = self.shares.get_with_by_ref(visibility, || Arc::new(Semaphore::new(size)));
        // The semaphore is never closed; were it, reading without a permit would still be right.
        let share = tokio::time::timeout(pool.options().get_acquire_timeout(), share.acquire_owned()).await;
        let share = share.map_err(|_| DbErr::ConnectionAcquire(ConnAcquireErr::Timeout))?.ok();
        let begun = run_to_end(async move {
            // A server that has restarted leaves dead connections in the pool: at most all of them.
            for _ in 0..pool.options().get_max_connections() {
                match pool.begin_with(AssertSqlSafe(begin.as_str())).await {
                    Err(error) if is_dead(&error) => {}
                    result => return result,
                }
            }
            pool.begin_with(AssertSqlSafe(begin)).await
        });
        let transaction = begun.await.map_err(|error| match error {
            SqlxError::PoolTimedOut => DbErr::ConnectionAcquire(ConnAcquireErr::Timeout),
            SqlxError::PoolClosed => DbErr::ConnectionAcquire(ConnAcquireErr::ConnectionClosed),
            error => exec_error(error),
        })?;
        Ok(View { transaction: Mutex::new(transaction), _share: share })
    }
}

impl View {
    /// Ends it, and gives the connection back.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn commit(self) -> Result<(), DbErr> {
        self.transaction.into_inner().commit().await.map_err(exec_error)
    }
}

#[async_trait]
impl ConnectionTrait for View {
    fn get_database_backend(&self) -> DbBackend {
        DbBackend::Postgres
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        let mut transaction = self.transaction.lock().await;
        let done = query(&statement).execute(&mut **transaction).await;
        done.map(Into::into).map_err(exec_error)
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        let mut transaction = self.transaction.lock().await;
        let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut **transaction).await;
        done.map(Into::into).map_err(exec_error)
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        let mut transaction = self.transaction.lock().await;
        let row = query(&statement).fetch_optional(&mut **transaction).await;
        row.map(|row| row.map(Into::into)).map_err(query_error)
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        let mut transaction = self.transaction.lock().await;
        let rows = query(&statement).fetch_all(&mut **transaction).await;
        rows.map(|rows| rows.into_iter().map(Into::into).collect()).map_err(query_error)
    }
}

/// Turns a statement of one library into one of the other, as the former does it.
fn query(statement: &Statement) -> Query<'_, Postgres, SqlxValues> {
    let values = statement.values.clone().unwrap_or_else(|| Values(Vec::new()));
    sqlx::query_with(AssertSqlSafe(statement.sql.as_str()), SqlxValues(values))
}

/// Whether the connection was no good any more before anything was done with it: broken, or told by the server that it
/// shuts down (`admin_shutdown`, `crash_shutdown`, `idle_in_transaction_session_timeout`).
fn is_dead(error: &SqlxError) -> bool {
    match error {
        SqlxError::Io(_) => true,
        SqlxError::Database(error) => {
            error.code().is_some_and(|code| ["57P01", "57P02", "25P03"].contains(&&*code))
        }
        _ => false,
    }
}

fn query_error(error: SqlxError) -> DbErr {
    DbErr::Query(RuntimeErr::SqlxError(error.into()))
}

fn exec_error(error: SqlxError) -> DbErr {
    DbErr::Exec(RuntimeErr::SqlxError(error.into()))
}

/// Returns the value of the setting `oms.visibility`, whose form the policies' migration explains. Nothing in it needs
/// quotes: it is made of ids.
fn setting(visibility: &Visibility) -> String {
    match visibility {
        Visibility::All => "all".to_owned(),
        Visibility::Apps(apps) => {
            let apps: Vec<String> = apps.iter().map(ToString::to_string).collect();
            format!("apps:{{{}}}", apps.join(","))
        }
        Visibility::Order(id) => format!("order:{id}"),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn each_visibility_has_a_setting_of_its_own() {
        let (left, right) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(setting(&Visibility::All), "all");
        assert_eq!(setting(&Visibility::Apps([left, right].into())), format!("apps:{{{left},{right}}}"));
        assert_eq!(setting(&Visibility::Apps([].into())), "apps:{}");
        assert_eq!(setting(&Visibility::Order(left)), format!("order:{left}"));
    }
}
