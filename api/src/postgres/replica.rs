//! A streaming replica of the database: where it is, and whether it is one.

use std::time::Duration;

use sea_orm::DatabaseConnection;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection};

use super::{Database, DatabaseError, PoolSettings, place, reads_only};

/// How long a replica may take to say which one it is. A server that is gone from the network says nothing, and whoever
/// waits for it meanwhile goes on when this is over: before the wait for a connection (2 s) would be.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a read waits for a lock of the replica's recovery, which on a replica that stands still may hold it for ever. On
/// the primary nothing of ours takes a lock that reads wait for, but a migration.
const LOCK_TIMEOUT: Duration = Duration::from_millis(250);

/// What the servers of one system have in common: a streaming replica is a copy of its primary down to the number of the
/// database. So is one that was promoted or restored and has gone its own way since: it is not in recovery any more.
/// Everybody may ask.
const IDENTITY: &str = "
SELECT (SELECT system_identifier FROM pg_control_system()),
       (SELECT oid::bigint FROM pg_database WHERE datname = current_database()),
       pg_is_in_recovery(),
       extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::bigint";

/// Why reads cannot come from a replica.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplicaError {
    /// It does not answer, or does not let us in.
    #[error(transparent)]
    Away(#[from] Away),
    /// What it shows is too old.
    #[error("the newest change on the replica at {at} is {}", age(*.seconds))]
    Behind {
        /// Host and port, or the socket; never the password.
        at: String,
        /// The age of its newest change; `None` if it has replayed none since it was started.
        seconds: Option<i64>,
    },
    /// It is a database of its own, or has become one.
    #[error(
        "OMS_READ_DATABASE_URL leads to a database at {at} that is not a streaming replica of the one at DATABASE_URL, or not \
         any more; give the URL of one, with the same database name, or leave it out"
    )]
    Foreign {
        /// Host and port, or the socket; never the password.
        at: String,
    },
}

/// Why there is no connection to a replica.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to the replica at {at}")]
pub struct Away {
    /// Host and port, or the socket; never the password.
    at: String,
    /// The reason.
    source: sqlx::Error,
}

/// System and database.
type Identity = (i64, i64);

/// System and database, whether the server follows another one, and how many seconds old the newest transaction is that it
/// has replayed.
type Answer = (i64, i64, bool, Option<i64>);

/// Where a replica is, and what it is a replica of.
#[derive(Debug, Clone)]
pub struct ReplicaServer {
    options: PgConnectOptions,
    primary: Identity,
    max_lag: Option<Duration>,
}

impl Database {
    /// Names the server at `url` a replica of this database, whose newest change may be as old as `max_lag`. Asks this
    /// database who it is, and not yet the other.
    ///
    /// # Errors
    /// [`DatabaseError::BadReadUrl`], or [`DatabaseError::Connect`] for this database.
    pub async fn replica(
        &self,
        url: &str,
        max_lag: Option<Duration>,
    ) -> Result<ReplicaServer, DatabaseError> {
        let options = url.parse::<PgConnectOptions>().map_err(DatabaseError::BadReadUrl)?;
        let primary = identify(&self.options).await;
        let (system, database, ..) =
            primary.map_err(|source| DatabaseError::Connect { at: self.place(), source })?;
        Ok(ReplicaServer { options: options.options(reads_only()), primary: (system, database), max_lag })
    }
}

impl ReplicaServer {
    /// Checks that it answers, lets us in as who reads, and is a replica, still, that shows what is new enough.
    ///
    /// # Errors
    /// Each of [`ReplicaError`].
    pub async fn check(&self) -> Result<(), ReplicaError> {
        let at = place(&self.options);
        let answer = tokio::time::timeout(CHECK_TIMEOUT, identify(&self.options)).await;
        match answer.unwrap_or(Err(sqlx::Error::PoolTimedOut)) {
            Ok((system, database, true, lag)) if (system, database) == self.primary => {
                if self.allows(lag) {
                    Ok(())
                } else {
                    Err(ReplicaError::Behind { at, seconds: lag })
                }
            }
            Ok(_) => Err(ReplicaError::Foreign { at }),
            Err(source) => Err(Away { at, source }.into()),
        }
    }

    fn allows(&self, lag: Option<i64>) -> bool {
        let is_new = |max: Duration| lag.is_some_and(|lag| lag.max(0).cast_unsigned() <= max.as_secs());
        self.max_lag.is_none_or(is_new)
    }

    /// Makes a pool that opens its connections when they are wanted. They may only read, and see no order until they are
    /// told which.
    pub fn connect_lazily(&self, settings: &PoolSettings) -> DatabaseConnection {
        let options = self.options.clone().options([("lock_timeout", LOCK_TIMEOUT.as_millis().to_string())]);
        let pool = settings.pool_options().connect_lazy_with(settings.apply(options));
        sea_orm::SqlxPostgresConnector::from_sqlx_postgres_pool(pool)
    }
}

fn age(seconds: Option<i64>) -> String {
    seconds.map_or_else(|| "not known yet".to_owned(), |seconds| format!("{seconds} s old"))
}

async fn identify(options: &PgConnectOptions) -> Result<Answer, sqlx::Error> {
    let mut connection = options.connect().await?;
    let answer = sqlx::query_as(IDENTITY).fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok(answer)
}
