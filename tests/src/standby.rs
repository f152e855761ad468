//! A streaming replica of a test's own Postgres, whose lag the test decides.

use rustix::process::{Pid, Signal, kill_process};
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgPool};

use crate::database::TestDatabase;
use crate::own_postgres::{Crash, OwnPostgres};
use crate::wait::{PATIENCE, eventually};

/// A replica.
#[derive(Debug)]
pub struct Standby {
    postgres: OwnPostgres,
    pool: PgPool,
}

impl Standby {
    /// Starts one of the Postgres in which the database lives.
    pub async fn start(primary: &OwnPostgres, database: &TestDatabase) -> Self {
        let programs = "SELECT setting FROM pg_config WHERE name = 'BINDIR'";
        let programs = database.texts(programs).await.pop().expect("the server knows its own programs");
        let postgres = primary.start_standby(programs.into()).await;
        let options = postgres.connect_options("postgres");
        let pool =
            PgPoolOptions::new().max_connections(2).acquire_timeout(PATIENCE).connect_lazy_with(options);
        Self { postgres, pool }
    }

    /// URL of one of its databases.
    pub fn url(&self, database: &str) -> String {
        self.postgres.url(database)
    }

    /// Waits until it shows everything that the database has committed so far.
    pub async fn catch_up(&self, database: &TestDatabase) {
        // A record of its own: the place where the next one will be may be one where none ever is.
        let mark = "SELECT pg_logical_emit_message(true, 'oms', 'here')::text";
        let written = database.texts(mark).await.pop().expect("a place");
        eventually("the replica has caught up", async || {
            let arrived = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'");
            self.is(&arrived).await.then_some(())
        })
        .await;
    }

    /// Stops the time on it: it answers, and shows nothing of what happens from now on.
    pub async fn pause(&self) {
        self.execute("SELECT pg_wal_replay_pause()").await;
        eventually("the replica stands still", async || {
            self.is("SELECT pg_get_wal_replay_pause_state() = 'paused'").await.then_some(())
        })
        .await;
    }

    /// Lets it go on.
    pub async fn resume(&self) {
        self.execute("SELECT pg_wal_replay_resume()").await;
    }

    /// Makes a server of its own of it, which goes its own way from here.
    pub async fn promote(&self) {
        self.execute("SELECT pg_promote()").await;
        eventually("the replica is promoted", async || {
            self.is("SELECT NOT pg_is_in_recovery()").await.then_some(())
        })
        .await;
    }

    /// Kills it.
    pub async fn crash(&self) {
        self.postgres.crash(Crash::Kill).await;
    }

    /// Starts it again, and returns once it answers.
    pub async fn start_again(&self) {
        self.postgres.start_again().await;
    }

    /// Stops the server and those of its processes that read for `oms`: whoever asks is not answered and not refused, as
    /// when the network is gone. Returns those processes, to be thawed.
    pub async fn freeze(&self) -> Vec<Pid> {
        let readers = "SELECT pid FROM pg_stat_activity WHERE application_name = 'oms reader'";
        let readers: Vec<i32> =
            sqlx::query_scalar(readers).fetch_all(&self.pool).await.expect("the query gives ids");
        let pids: Vec<Pid> = readers.into_iter().filter_map(Pid::from_raw).collect();
        pids.iter().copied().chain([self.postmaster()]).for_each(|pid| send(pid, Signal::STOP));
        pids
    }

    /// Lets the server go on, and let others in; the processes that were reading still stand.
    pub fn thaw_server(&self) {
        send(self.postmaster(), Signal::CONT);
    }

    /// Lets processes go on.
    pub fn thaw(&self, pids: Vec<Pid>) {
        pids.into_iter().for_each(|pid| send(pid, Signal::CONT));
    }

    fn postmaster(&self) -> Pid {
        Pid::from_raw(self.postgres.pid()).expect("a process id")
    }

    /// Whether something holds there.
    pub async fn is(&self, sql: &str) -> bool {
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&self.pool).await.expect("the query gives a boolean")
    }

    /// Executes statements.
    pub async fn execute(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&self.pool).await.expect("the statements run");
    }

    /// Stops it and removes its folder.
    pub async fn stop(self) {
        self.pool.close().await;
        self.postgres.stop().await;
    }
}

fn send(pid: Pid, signal: Signal) {
    kill_process(pid, signal).expect("it is there");
}
