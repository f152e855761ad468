//! A runner of one [`Subject`]'s saga in a process of its own, which stops at a chosen instruction.
//!
//! Its test writes one line for each scene into its standard input, and it answers `armed`:
//!
//! ```text
//! PLACE|DISTURBANCE,DISTURBANCE
//! ```
//!
//! The place is that of a crash point, as `before_send/capture_payment/forward`. The first thread that comes there stops
//! the whole process with SIGSTOP; what happens then is up to the test. The end of the standard input is the end of the
//! process, so that it never outlives its test.

use std::io::{BufRead, Write};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use saga::engine::{Definitions, Runner, RunnerSettings, Wakeups};
use sea_orm::{DatabaseConnection, SqlxPostgresConnector};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio_util::sync::CancellationToken;

use crate::disturb::{Disturbance, Script, disturb};
use crate::fail_points::{arm_from_environment, stop_at};
use crate::process::is_stopped;
use crate::subject::{SUBJECTS, Subject};
use crate::wait::{eventually, within};

/// The variable that makes `oms-under-test` a runner under test, and names the subject.
pub const SUBJECT: &str = "OMS_TEST_SUBJECT";

/// The variable that names fail points to be switched on from the start, separated by commas.
pub const FAIL_POINTS: &str = "OMS_TEST_FAIL_POINTS";

/// The variable that gives the worker lease, in milliseconds.
pub const WORKER_LEASE_MS: &str = "OMS_TEST_WORKER_LEASE_MS";

/// The variable that leads the simulated other system to the database by another way.
pub const GATEWAY_URL: &str = "OMS_SUBJECT_GATEWAY_URL";

/// What a runner under test calls itself in `pg_stat_activity`.
pub const APPLICATION_NAME: &str = "runner under test";

/// A runner that is quick to notice, for subjects whose calls take [`CALL_TIME_OUT`](crate::subject::CALL_TIME_OUT).
pub fn quick_settings() -> RunnerSettings {
    RunnerSettings {
        poll_interval: Duration::from_millis(100),
        timer_interval: Duration::from_millis(20),
        worker_lease: Duration::from_secs(1),
        drain_time: Duration::from_secs(1),
        ..RunnerSettings::default()
    }
}

/// The child's side, if the environment asks for it.
pub fn run_if_asked() -> Option<ExitCode> {
    let name = std::env::var(SUBJECT).ok()?;
    let (_, subject) = SUBJECTS.into_iter().find(|(known, _)| *known == name).expect("a known subject");
    for fail_point in
        std::env::var(FAIL_POINTS).unwrap_or_default().split(',').filter(|name| !name.is_empty())
    {
        fail::cfg(fail_point, "return").expect("fail points are compiled in");
    }
    arm_from_environment();
    let script = Arc::new(Script::default());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let runner = runtime.block_on(async {
        let url = std::env::var("DATABASE_URL").expect("a database");
        let (db, gateway) = (connect(&url).await, connect(&std::env::var(GATEWAY_URL).unwrap_or(url)).await);
        let mut settings = quick_settings();
        if let Ok(lease) = std::env::var(WORKER_LEASE_MS) {
            settings.worker_lease = Duration::from_millis(lease.parse().expect("a number"));
        }
        start_runner(db, gateway, subject, &script, settings)
    });
    say("ready");
    for scene in std::io::stdin().lock().lines() {
        let scene = scene.expect("text");
        let (place, disturbances) = scene.split_once('|').expect("a place and disturbances");
        let disturbances = disturbances.split(',').filter(|text| !text.is_empty());
        script.replace(disturbances.map(|text| text.parse().expect("a disturbance")).collect());
        stop_at(place);
        say("armed");
    }
    // As a process that dies, not as one that stops.
    runtime.shutdown_background();
    drop(runner);
    Some(ExitCode::FAILURE)
}

async fn connect(url: &str) -> DatabaseConnection {
    let options: PgConnectOptions = url.parse().expect("a URL");
    let pool = PgPoolOptions::new().max_connections(8).acquire_timeout(Duration::from_secs(5));
    let pool = pool.connect_with(options.application_name(APPLICATION_NAME)).await.expect("it answers");
    SqlxPostgresConnector::from_sqlx_postgres_pool(pool)
}

/// Starts a runner of one subject's saga, whose steps follow a script. The other system keeps its books in `gateway`.
fn start_runner(
    db: DatabaseConnection,
    gateway: DatabaseConnection,
    subject: &dyn Subject,
    script: &Arc<Script>,
    settings: RunnerSettings,
) -> Runner {
    let definition = disturb(subject.definition(gateway), script);
    let definitions = Definitions::try_new([definition]).expect("the saga is well defined");
    Runner::start(db, definitions, Wakeups::new(), settings, CancellationToken::new())
}

fn say(word: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "{word}").and_then(|()| out.flush()).expect("the test listens");
}

/// The test's side.
#[derive(Debug)]
pub struct RunnerUnderTest {
    child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl RunnerUnderTest {
    /// Starts one on the database at `url`. `program` is the path of `oms-under-test`.
    pub async fn start(program: &str, url: &str, subject: &str, settings: &[(&str, &str)]) -> Self {
        let mut command = Command::new(program);
        command
            .env("DATABASE_URL", url)
            .env(SUBJECT, subject)
            .envs(settings.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().expect("oms-under-test starts");
        let stdin = child.stdin.take().expect("it was asked for as a pipe");
        let stdout = child.stdout.take().expect("it was asked for as a pipe");
        let mut runner = Self { child, stdin, stdout: BufReader::new(stdout).lines() };
        runner.expect("ready").await;
        runner
    }

    /// Says where to stop, nowhere if empty, and what goes wrong from now on.
    pub async fn arm(&mut self, place: &str, disturbances: &[Disturbance]) {
        let disturbances: Vec<String> = disturbances.iter().map(ToString::to_string).collect();
        let line = format!("{place}|{}\n", disturbances.join(","));
        self.stdin.write_all(line.as_bytes()).await.expect("the runner listens");
        self.expect("armed").await;
    }

    async fn expect(&mut self, word: &str) {
        let line = within("the runner's word", self.stdout.next_line()).await.expect("text");
        assert_eq!(line.as_deref(), Some(word));
    }

    /// Waits until it has stopped where it was told to.
    pub async fn stopped(&self) {
        eventually("the runner has come to its place", async || is_stopped(self.pid()).then_some(())).await;
    }

    /// Whether it has ended by itself.
    pub fn has_died(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_some()
    }

    fn pid(&self) -> Pid {
        let id = self.child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        id.expect("it has not been waited for")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it runs");
    }

    /// Kills it: kill -9.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("it runs");
    }
}
