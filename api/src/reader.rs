//! Reading orders on a caller's behalf, with the database's own row-level security behind every query.
//!
//! Each query on orders already says which rows its caller sees. Here the database is told as well: the connections act as
//! the role `oms_reader`, which may only read, and which sees no order until its transaction has named who looks. A query
//! that forgets its condition then finds nothing that it should not.
//!
//! Where there is a [replica], reads come from it, and from the primary when it is away or fails: once, and for the
//! whole look. Each read tells its [`Source`], and what is read further for the same answer begins there: an answer never
//! goes back from the primary to a replica that may not have got as far.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::app::Visibility;
use moka::sync::Cache;
use saga::engine::Presence;
use saga::engine::presence::no_answer;
use sea_orm::{
    ConnAcquireErr, ConnectionTrait, DatabaseConnection, DbBackend, DbErr, ExecResult, QueryResult,
    RuntimeErr, SqlxError, Statement, Values,
};
use sea_query_sqlx::SqlxValues;
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Postgres, Transaction};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use self::replica::Replica;
use crate::run_to_end::run_to_end;

pub mod replica;

/// Callers whose shares are kept.
const MAX_SHARES: u64 = 10_000;

/// A share that nobody has used for that long is forgotten; no look lasts as long.
const SHARE_IDLE: Duration = Duration::from_secs(120);

/// Where something is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The replica, which may be behind; the primary when it does not answer.
    Replica,
    /// The primary.
    Primary,
}

/// Reads orders on callers' behalf. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reader {
    primary: Pool,
    presence: Arc<Presence>,
    replica: Option<Arc<Replica>>,
}

/// A pool of connections for reading.
#[derive(Debug, Clone)]
struct Pool {
    connections: DatabaseConnection,
    source: Source,
    /// By who looks: half of the connections for each, so that nobody's slow queries take them all.
    shares: Cache<Visibility, Arc<Semaphore>>,
}

/// A part of somebody's share, held for as long as it is looked.
#[derive(Debug)]
pub struct Share {
    _permit: Option<OwnedSemaphorePermit>,
}

/// What a caller sees, for as long as it is looked at. Dropping it is as good as a commit.
#[derive(Debug)]
pub struct View {
    transaction: Mutex<Transaction<'static, Postgres>>,
    source: Source,
    _share: Share,
}

impl Reader {
    /// Reads over a pool that [`connect_reader`](crate::postgres::Database::connect_reader) has opened.
    pub fn new(primary: DatabaseConnection) -> Self {
        Self { primary: Pool::new(primary, Source::Primary), presence: Arc::default(), replica: None }
    }

    /// Reads from a replica of the same database where it can.
    #[must_use]
    pub fn with_replica(self, replica: Replica) -> Self {
        Self { replica: Some(Arc::new(replica)), ..self }
    }

    /// Gives up what waits for the primary while that is silent, as the presence tells.
    #[must_use]
    pub fn with_presence(self, presence: Arc<Presence>) -> Self {
        Self { presence, ..self }
    }

    /// Whether the primary answers.
    pub(crate) fn presence(&self) -> &Arc<Presence> {
        &self.presence
    }

    /// Does what needs the primary, unless that is silent.
    ///
    /// # Errors
    /// What the work fails with, or that nobody answers.
    pub(crate) async fn unless_silent<T>(
        &self,
        work: impl Future<Output = Result<T, DbErr>>,
    ) -> Result<T, DbErr> {
        self.presence.unless_silent(work).await.unwrap_or_else(|| Err(no_answer()))
    }

    /// Where to look first.
    pub fn source(&self) -> Source {
        match self.replica {
            Some(_) => Source::Replica,
            None => Source::Primary,
        }
    }

    /// Looks at what a caller sees, and returns what was found and where. A look at the replica that fails is repeated on
    /// the primary, unless it has taken too long or the caller has too many others on their way.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn read<T, Looking>(
        &self,
        source: Source,
        visibility: &Visibility,
        look: impl Fn(View) -> Looking,
    ) -> Result<(T, Source), DbErr>
    where
        Looking: Future<Output = Result<T, DbErr>>,
    {
        if let (Source::Replica, Some(replica)) = (source, &self.replica)
            && let Some(found) = replica.read(visibility, &look).await?
        {
            return Ok((found, Source::Replica));
        }
        let looking = async { look(self.begin(visibility).await?).await };
        let found = self.unless_silent(looking).await?;
        Ok((found, Source::Primary))
    }

    /// Begins to look at what a caller sees on the primary.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn begin(&self, visibility: &Visibility) -> Result<View, DbErr> {
        let share = self.share(visibility).await?;
        self.begin_with(share, visibility).await
    }

    /// Waits for a part of a caller's share of the primary's connections, for as long as for a connection.
    ///
    /// # Errors
    /// The caller has too many looks on their way.
    pub async fn share(&self, visibility: &Visibility) -> Result<Share, DbErr> {
        self.primary.share(visibility).await
    }

    /// Begins to look at what a caller sees on the primary, with a part of its share.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn begin_with(&self, share: Share, visibility: &Visibility) -> Result<View, DbErr> {
        self.primary.begin(share, visibility).await
    }

    /// Every pool in use, to be closed when reading is over.
    pub fn pools(&self) -> Vec<DatabaseConnection> {
        let replica = self.replica.as_ref().and_then(|replica| replica.connections());
        std::iter::once(self.primary.connections.clone()).chain(replica).collect()
    }

    /// Counts a look at the replica that found it behind what the caller has seen already.
    pub(crate) fn note_behind(&self) {
        replica::count_fallback(replica::BEHIND);
    }

    /// Finds out whether the replica is there whenever there is a doubt; never ends.
    pub fn watch_replica(&self) -> impl Future<Output = ()> + Send + use<> {
        let replica = self.replica.clone();
        async move {
            match replica {
                Some(replica) => replica.watch().await,
                None => std::future::pending().await,
            }
        }
    }
}

impl Pool {
    fn new(connections: DatabaseConnection, source: Source) -> Self {
        let shares = Cache::builder().max_capacity(MAX_SHARES).time_to_idle(SHARE_IDLE).build();
        Self { connections, source, shares }
    }

    /// Waits for a part of a caller's share, for as long as for a connection.
    async fn share(&self, visibility: &Visibility) -> Result<Share, DbErr> {
        let options = self.connections.get_postgres_connection_pool().options();
        let size = options.get_max_connections().div_ceil(2) as usize;
        let share = self.shares.get_with_by_ref(visibility, || Arc::new(Semaphore::new(size)));
        // The semaphore is never closed; were it, reading without a permit would still be right.
        let share = tokio::time::timeout(options.get_acquire_timeout(), share.acquire_owned()).await;
        let share = share.map_err(|_| DbErr::ConnectionAcquire(ConnAcquireErr::Timeout))?;
        Ok(Share { _permit: share.ok() })
    }

    /// Begins a transaction that sees what a caller sees, in one round trip: with the library's own transactions it
    /// would be two.
    async fn begin(&self, share: Share, visibility: &Visibility) -> Result<View, DbErr> {
        let begin = format!("BEGIN READ ONLY; SET LOCAL oms.visibility = '{}'", setting(visibility));
        let pool = self.connections.get_postgres_connection_pool().clone();
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
        Ok(View { transaction: Mutex::new(transaction), source: self.source, _share: share })
    }
}

impl View {
    /// Where it looks.
    pub fn source(&self) -> Source {
        self.source
    }

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
