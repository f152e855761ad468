//! Which Postgres this process uses, and the pools of connections to it.
//!
//! `DATABASE_URL` settles it; without one, an [embedded server](embedded) runs from the data folder. `oms serve`
//! [claims](claim) the folder, since one serves from it at a time; every other subcommand [joins](join) it and so
//! works beside a running `oms serve` as well as without one.
//!
//! Absent on purpose: migrations (`migration`), and any query on our own tables.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use saga::engine::Presence;
use sea_orm::{DatabaseConnection, SqlxPostgresConnector};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection};
use tracing::error;

use self::data_dir::DataDir;
use self::embedded::{Claim, EmbeddedError, EmbeddedOptions, EmbeddedServer};
use crate::config::DatabaseArgs;

mod account;
mod binaries;
mod data_dir;
#[expect(clippy::disallowed_methods, reason = "it runs on a thread that may block")]
pub mod embedded;
mod embedded_error;
#[expect(clippy::disallowed_methods, reason = "it runs on a thread that may block")]
mod folder;
#[expect(clippy::disallowed_methods, reason = "it runs on a thread that may block")]
mod launch;
#[expect(clippy::disallowed_methods, reason = "it runs on a thread that may block")]
mod postmaster;
pub mod replica;

/// Name of our database in an embedded cluster.
const DATABASE_NAME: &str = "oms";

/// Who reads on a caller's behalf; a migration makes it.
const READER_ROLE: &str = "oms_reader";

/// How long a database that was given by URL may take to answer at all.
const FIRST_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a serving process looks whether its embedded server lives.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_millis(500);

/// How long a connection may take to show that it leads somewhere, before it is used again. Half of what a caller waits for a
/// connection, so that it gets another one.
const PING_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection that sat unused this long is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// A transaction that a subcommand forgot is ended by the server after this long; none of ours waits for anything.
const COMMAND_IDLE_IN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);

/// Why there is no database to work with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatabaseError {
    /// `DATABASE_URL` cannot be read.
    #[error("DATABASE_URL is not a Postgres URL such as postgresql://user:password@host:5432/oms")]
    BadUrl(#[source] sqlx::Error),
    /// `OMS_READ_DATABASE_URL` cannot be read.
    #[error("OMS_READ_DATABASE_URL is not a Postgres URL such as postgresql://user:password@host:5432/oms")]
    BadReadUrl(#[source] sqlx::Error),
    /// The embedded server cannot be used.
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    /// The database does not answer.
    #[error("cannot connect to the database at {at}")]
    Connect {
        /// Host and port, or the socket; never the password.
        at: String,
        /// The reason.
        #[source]
        source: sqlx::Error,
    },
    /// The database could not be made in the fresh cluster.
    #[error("cannot create the database `{DATABASE_NAME}`")]
    Create(#[source] sqlx::Error),
    /// The working folder is gone.
    #[error("cannot tell the working folder")]
    WorkingDir(#[source] std::io::Error),
}

/// Size and limits of one pool of connections.
#[derive(Debug, Clone)]
pub struct PoolSettings {
    /// Name that `pg_stat_activity` shows, such as `oms api`.
    pub name: &'static str,
    /// Most connections.
    pub max_connections: u32,
    /// How long a caller waits for a free connection.
    pub acquire_timeout: Duration,
    /// How long one statement may run; `None` for no limit, as for migrations and reports.
    pub statement_timeout: Option<Duration>,
    /// How long a process may stand still in a transaction before the server ends that and gives its locks to others.
    pub idle_in_transaction_timeout: Duration,
}

impl PoolSettings {
    /// A small pool for a subcommand: a statement may take as long as it needs.
    pub fn for_command(name: &'static str) -> Self {
        Self {
            name,
            max_connections: 4,
            acquire_timeout: Duration::from_secs(30),
            statement_timeout: None,
            idle_in_transaction_timeout: COMMAND_IDLE_IN_TRANSACTION_TIMEOUT,
        }
    }

    fn pool_options(&self) -> PgPoolOptions {
        PgPoolOptions::new()
            .max_connections(self.max_connections)
            .acquire_timeout(self.acquire_timeout)
            .idle_timeout(IDLE_TIMEOUT)
            .test_before_acquire(false)
    }

    fn apply(&self, options: PgConnectOptions) -> PgConnectOptions {
        let mut limits = vec![("idle_in_transaction_session_timeout", self.idle_in_transaction_timeout)];
        limits.extend(self.statement_timeout.map(|limit| ("statement_timeout", limit)));
        let limits = limits.into_iter().map(|(name, limit)| (name, limit.as_millis().to_string()));
        options.application_name(self.name).options(limits)
    }
}

/// The database that this process works with, and the embedded server if it runs on one.
#[derive(Debug)]
pub struct Database {
    options: PgConnectOptions,
    url: String,
    presence: Arc<Presence>,
    /// Shared with whoever keeps it alive.
    embedded: Option<Arc<Mutex<EmbeddedServer>>>,
}

/// A database that `oms serve` has reserved for itself and not yet touched.
#[derive(Debug)]
pub struct ClaimedDatabase(Source);

#[derive(Debug)]
enum Source {
    Url(String),
    Embedded(Claim),
}

/// Reserves the database for one `oms serve`. Quick: nothing is started.
///
/// # Errors
/// [`EmbeddedError::InUse`] when another `oms serve` has the data folder; a bad URL or folder.
pub fn claim(args: &DatabaseArgs) -> Result<ClaimedDatabase, DatabaseError> {
    let source = match args.url() {
        Some(url) => Source::Url(url.to_owned()),
        None => {
            let data_dir = DataDir::choose(args)?;
            let claim = Claim::take(EmbeddedOptions::new(&data_dir.path))?;
            data_dir.tell();
            Source::Embedded(claim)
        }
    };
    Ok(ClaimedDatabase(source))
}

impl ClaimedDatabase {
    /// Starts or adopts the embedded server, if it is one, and makes the database when missing.
    ///
    /// # Errors
    /// Each of [`DatabaseError`].
    pub async fn open(self) -> Result<Database, DatabaseError> {
        match self.0 {
            Source::Url(url) => Database::at(url).await,
            Source::Embedded(claim) => Database::embedded(blocking(move || claim.start()).await?).await,
        }
    }
}

/// Uses the database next to whoever else does; an embedded server that does not run is started for as long as
/// this process, or another one that joined, needs it.
///
/// # Errors
/// Each of [`DatabaseError`].
pub async fn join(args: &DatabaseArgs) -> Result<Database, DatabaseError> {
    match args.url() {
        Some(url) => Database::at(url.to_owned()).await,
        None => {
            let data_dir = DataDir::choose(args)?;
            if !data_dir.path.exists() {
                data_dir.tell();
            }
            join_embedded(EmbeddedOptions::new(data_dir.path)).await
        }
    }
}

/// Uses the embedded server that `options` describe, starting it when it does not run.
///
/// # Errors
/// Each of [`DatabaseError`].
pub async fn join_embedded(options: EmbeddedOptions) -> Result<Database, DatabaseError> {
    Database::embedded(blocking(move || EmbeddedServer::join(&options)).await?).await
}

/// The URL for `psql` and the like, and whether that database is known to run now (a given URL is not looked at).
///
/// # Errors
/// A bad data folder.
pub fn url(args: &DatabaseArgs) -> Result<(String, bool), DatabaseError> {
    match args.url() {
        Some(url) => Ok((url.to_owned(), true)),
        None => {
            let dir = DataDir::choose(args)?.path;
            Ok((embedded_url(&dir, DATABASE_NAME), EmbeddedServer::is_running(&dir)))
        }
    }
}

impl Database {
    async fn at(url: String) -> Result<Self, DatabaseError> {
        let options = url.parse::<PgConnectOptions>().map_err(DatabaseError::BadUrl)?;
        let database = Self { options, url, presence: Arc::default(), embedded: None };
        // A pool repeats a refused connection until its time is up, and then tells the time instead of the reason.
        let refused = |source| DatabaseError::Connect { at: database.place(), source };
        let first = tokio::time::timeout(FIRST_CONNECT_TIMEOUT, database.options.connect()).await;
        let connection = first.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map_err(refused)?;
        connection.close().await.map_err(refused)?;
        Ok(database)
    }

    async fn embedded(server: EmbeddedServer) -> Result<Self, DatabaseError> {
        let options = embedded_connect_options(server.socket_dir());
        create_database(&options, DATABASE_NAME).await?;
        let url = embedded_url(server.socket_dir(), DATABASE_NAME);
        let embedded = Some(Arc::new(Mutex::new(server)));
        let options = options.database(DATABASE_NAME);
        Ok(Self { options, url, presence: Arc::default(), embedded })
    }

    /// Starts the embedded server again, whenever it dies without us; never ends. A given server is not ours to keep.
    pub fn keep_alive(&self) -> impl Future<Output = ()> + Send + use<> {
        let embedded = self.embedded.clone();
        async move {
            let Some(server) = embedded else { return std::future::pending().await };
            loop {
                tokio::time::sleep(KEEP_ALIVE_INTERVAL).await;
                let server = server.clone();
                if let Err(error) = blocking(move || lock(&server).revive()).await {
                    let error: &dyn std::error::Error = &error;
                    error!(error, "the embedded Postgres cannot be started again; trying again");
                }
            }
        }
    }

    /// Whether it answers: known for as long as somebody [watches](Self::watch_presence).
    pub fn presence(&self) -> Arc<Presence> {
        self.presence.clone()
    }

    /// Finds out whether it answers whenever somebody doubts it, over a connection of its own; never ends.
    pub fn watch_presence(&self) -> impl Future<Output = ()> + Send + use<> {
        let (presence, options) = (self.presence.clone(), self.options.clone().application_name("oms watch"));
        async move { presence.watch(|| ask(options.clone())).await }
    }

    /// URL of the database, with its password if it has one.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Options that connect to it.
    pub fn connect_options(&self) -> &PgConnectOptions {
        &self.options
    }

    /// Whether it is an embedded one.
    pub fn is_embedded(&self) -> bool {
        self.embedded.is_some()
    }

    /// Opens a pool and checks that the database answers.
    ///
    /// # Errors
    /// [`DatabaseError::Connect`].
    pub async fn connect(&self, settings: &PoolSettings) -> Result<DatabaseConnection, DatabaseError> {
        self.connect_with(self.options.clone(), settings, true).await
    }

    async fn connect_with(
        &self,
        options: PgConnectOptions,
        settings: &PoolSettings,
        test_before_acquire: bool,
    ) -> Result<DatabaseConnection, DatabaseError> {
        let pool = attended(settings.pool_options(), self.presence.clone(), test_before_acquire)
            .connect_with(settings.apply(options))
            .await
            .map_err(|source| DatabaseError::Connect { at: self.place(), source })?;
        Ok(SqlxPostgresConnector::from_sqlx_postgres_pool(pool))
    }

    /// Opens a pool whose connections may only read, and see no order until they are told which
    /// ([`Reader`](crate::reader::Reader)). The schema must be current.
    ///
    /// # Errors
    /// [`DatabaseError::Connect`].
    pub async fn connect_reader(&self, settings: &PoolSettings) -> Result<DatabaseConnection, DatabaseError> {
        let options = self.options.clone().options(reads_only());
        // The reader repeats a beginning that a dead connection has failed: a question before each would cost as much as the
        // beginning itself.
        self.connect_with(options, settings, false).await
    }

    /// Leaves the embedded server, if it is one, and stops it when nobody else uses it. Close the pools first.
    ///
    /// # Errors
    /// [`DatabaseError::Embedded`]; the server then runs on, and the next start adopts it.
    pub async fn close(self) -> Result<(), DatabaseError> {
        match self.embedded {
            Some(server) => blocking(move || lock(&server).leave()).await,
            None => Ok(()),
        }
    }

    fn place(&self) -> String {
        place(&self.options)
    }
}

/// Has a pool give up connections that lead nowhere.
///
/// The library waits for the server when a connection is given back, with no bound and with the connection's place in the
/// pool taken; so it is asked here before, where the wait ends with the server's silence. What was opened before a silence
/// is not used after it: it may lead to a server that is gone, and what was given up on it may not have come to its end.
fn attended(options: PgPoolOptions, presence: Arc<Presence>, test_before_acquire: bool) -> PgPoolOptions {
    let returning = presence.clone();
    options
        .before_acquire(move |connection, meta| {
            let is_trusted = presence.trusts(meta.age);
            Box::pin(async move {
                if !is_trusted {
                    return Err(given_up());
                }
                if !test_before_acquire {
                    return Ok(true);
                }
                let pinged = tokio::time::timeout(PING_TIMEOUT, connection.ping()).await;
                // One that was closed by the other side is no news.
                pinged.map_or_else(|_| Err(given_up()), |pinged| Ok(pinged.is_ok()))
            })
        })
        .after_release(move |connection, meta| {
            let presence = returning.clone();
            Box::pin(async move {
                if !presence.trusts(meta.age) {
                    return Err(given_up());
                }
                let pinged = presence.unless_silent(connection.ping()).await;
                pinged.unwrap_or_else(|| Err(given_up()))?;
                presence.note_answer();
                Ok(true)
            })
        })
}

/// What the pool is told of a connection that must not be used again, nor be closed politely: nobody may listen.
fn given_up() -> sqlx::Error {
    let message = "closing a connection on which the database does not answer";
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, message))
}

/// Asks a server for anything. Completes when it has said something, a refusal included.
async fn ask(options: PgConnectOptions) {
    if let Ok(connection) = options.connect().await {
        // It has let us in; how it takes our leave does not matter.
        let _ = connection.close().await;
    }
}

/// Where options lead to: host and port, or the socket.
fn place(options: &PgConnectOptions) -> String {
    match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    }
}

/// What makes a connection one that may only read, and sees no order until it is told which.
fn reads_only() -> [(&'static str, &'static str); 2] {
    [("role", READER_ROLE), ("default_transaction_read_only", "on")]
}

fn lock(server: &Mutex<EmbeddedServer>) -> MutexGuard<'_, EmbeddedServer> {
    // Each operation looks at the server anew, so one that panicked leaves nothing to be afraid of.
    server.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the database when the cluster that `options` lead to has none of that name.
async fn create_database(options: &PgConnectOptions, name: &str) -> Result<(), DatabaseError> {
    let failed = |source| DatabaseError::Create(source);
    let mut connection = options.clone().database("postgres").connect().await.map_err(failed)?;
    let exists = sqlx::query("SELECT FROM pg_database WHERE datname = $1").bind(name);
    if exists.fetch_optional(&mut connection).await.map_err(failed)?.is_none() {
        match sqlx::raw_sql(sqlx::AssertSqlSafe(format!("CREATE DATABASE \"{name}\"")))
            .execute(&mut connection)
            .await
        {
            Ok(_) => {}
            Err(error) if is_duplicate(&error) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    connection.close().await.map_err(failed)
}

/// Another process was quicker: `duplicate_database`, or the unique index beneath it.
fn is_duplicate(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|e| e.code()).is_some_and(|code| code == "42P04" || code == "23505")
}

fn embedded_connect_options(socket_dir: &Path) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .socket(socket_dir)
        .port(embedded::PORT)
        .username(embedded::USER)
        // The variable PGSSLMODE is for other servers.
        .ssl_mode(PgSslMode::Disable)
}

fn embedded_url(socket_dir: &Path, database: &str) -> String {
    let mut host = String::new();
    for byte in socket_dir.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' | b'~' => {
                host.push(char::from(*byte))
            }
            _ => host.push_str(&format!("%{byte:02X}")),
        }
    }
    // The host in front is there for programs that take a URL apart and lose an empty one; the parameter wins over it.
    format!("postgresql://{}@localhost/{database}?host={host}", embedded::USER)
}

/// Runs what blocks on a thread that may.
async fn blocking<T, F>(work: F) -> Result<T, DatabaseError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, EmbeddedError> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(DatabaseError::Embedded),
        Err(join_error) => std::panic::resume_unwind(join_error.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_of_an_embedded_server_is_read_back_whatever_the_folder_is_called() {
        let dir = Path::new("/tmp/a shop+more/ü&b");
        let url = embedded_url(dir, "oms");
        assert_eq!(url, "postgresql://postgres@localhost/oms?host=/tmp/a%20shop%2Bmore/%C3%BC%26b");
        let options: PgConnectOptions = url.parse().expect("our own URL");
        assert_eq!(options.get_socket().map(std::path::PathBuf::as_path), Some(dir));
        assert_eq!((options.get_username(), options.get_database()), ("postgres", Some("oms")));
    }
}
