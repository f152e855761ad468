//! A server in a process of its own, which can be killed.

use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, Stdio};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use crate::client::Client;
use crate::database::TestDatabase;
use crate::fail_points::KILL_AT;
use crate::wait::{eventually, within};

/// Begins a command of `oms` on a test's database, with the fewest and quickest settings. `program` is the path of
/// `oms-under-test`, which only the tests themselves know.
pub fn oms_command(program: &str, database: &TestDatabase, arguments: &[&str]) -> Command {
    oms_command_at(program, &database.url(), arguments)
}

/// Begins one on the database at a URL.
fn oms_command_at(program: &str, url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OMS_") {
            command.env_remove(name);
        }
    }
    command
        .args(arguments)
        .env("DATABASE_URL", url)
        .env("OMS_LOG", std::env::var("OMS_TEST_LOG").unwrap_or_else(|_| "off".to_owned()))
        .kill_on_drop(true);
    command
}

/// The variable that puts `oms` on a leash.
const LEASH: &str = "OMS_LEASH";

/// Whether a test has started this process as an `oms` on a leash.
pub fn is_on_a_leash() -> bool {
    std::env::var_os(LEASH).is_some()
}

/// Runs `oms` with this process's arguments and with fail points, and ends with the test that started it.
pub fn run_oms_on_a_leash() -> ExitCode {
    crate::fail_points::arm_from_environment();
    if is_on_a_leash() {
        std::thread::spawn(|| {
            // The test holds the other end of our standard input. It closes with the test, even a killed one.
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            #[expect(clippy::disallowed_methods, reason = "what a killed test leaves must end at once")]
            std::process::exit(1);
        });
    }
    oms::cli::run()
}

/// A running `oms serve`.
#[derive(Debug)]
pub struct OmsProcess {
    child: Child,
    /// Held apart from the child, because waiting for that would close it.
    _leash: ChildStdin,
    addr: Option<SocketAddr>,
}

impl OmsProcess {
    /// Starts `oms serve` in a role, with settings as variables, and waits until it is ready.
    pub async fn start(
        program: &str,
        database: &TestDatabase,
        role: &str,
        settings: &[(&str, &str)],
    ) -> Self {
        Self::start_at(program, &database.url(), role, settings).await
    }

    /// Starts one on the database at a URL.
    pub async fn start_at(program: &str, url: &str, role: &str, settings: &[(&str, &str)]) -> Self {
        let mut command = oms_command_at(program, url, &["serve", "--role", role]);
        command
            .env("OMS_LISTEN", "127.0.0.1:0")
            .env("OMS_POOL_SIZE", "5")
            .env("OMS_RUNNER_POOL_SIZE", "5")
            .env("OMS_GATEWAY_DELAY_MS", "0")
            .env("OMS_DEV_ANONYMOUS", "1")
            // A dead process's calls are taken over after a second.
            .env("OMS_RUNNER_WORKER_LEASE_SECONDS", "1")
            .env("OMS_RUNNER_POLL_INTERVAL_MS", "100")
            .env(LEASH, "1")
            .envs(settings.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("oms-under-test starts");
        let leash = child.stdin.take().expect("it was asked for as a pipe");
        let stdout = child.stdout.take().expect("it was asked for as a pipe");
        let mut lines = BufReader::new(stdout).lines();
        let line = within("oms is ready", lines.next_line()).await.expect("its output is text");
        let line = line.expect("it says that it is ready before it ends");
        assert!(line.starts_with("oms is ready"), "{line}");
        let addr = line.split_once("http://").and_then(|(_, rest)| rest.split('/').next()?.parse().ok());
        Self { child, _leash: leash, addr }
    }

    /// Starts one that kills itself when it comes to a fail point for the `turn`th time.
    pub async fn start_doomed(program: &str, database: &TestDatabase, fail_point: &str, turn: u32) -> Self {
        Self::start(program, database, "all", &[(KILL_AT, &format!("{fail_point}:{turn}"))]).await
    }

    /// Makes a client of it.
    ///
    /// # Panics
    /// It is a runner alone.
    pub fn client(&self) -> Client {
        Client::new(self.addr.expect("this process has an API"))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let id = self.child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        kill_process(id.expect("it has not been waited for"), signal).expect("it runs");
    }

    /// Waits until it has stopped itself where it was told to.
    pub async fn stopped(&self) {
        let id = self.child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        let id = id.expect("it has not been waited for");
        eventually("the process has come to its place", async || is_stopped(id).then_some(())).await;
    }

    /// Whether it runs, or stands still.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Kills it: kill -9.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("it runs");
    }

    /// Waits until it has killed itself.
    ///
    /// # Panics
    /// It ended in another way, or not at all.
    pub async fn killed(mut self) {
        let status = within("the process has come to its fail point", self.child.wait()).await;
        let status = status.expect("it is our child");
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "{status}");
    }

    /// Stops it in order.
    pub async fn stop(mut self) {
        self.signal(Signal::TERM);
        let status = within("the process has stopped", self.child.wait()).await.expect("it is our child");
        assert!(status.success(), "{status}");
    }
}

/// Whether a child of this process stands still.
pub(crate) fn is_stopped(id: Pid) -> bool {
    let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let status = waitid(WaitId::Pid(id), options).expect("it is our child");
    status.is_some_and(|status| status.stopped())
}
