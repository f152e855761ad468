//! A Postgres that one test has for itself, to crash it and to start it again.
//!
//! It keeps what it has acknowledged over a crash of its own, though not over one of the machine: commits are handed to
//! the operating system and not to the disk.

use std::fs::{DirBuilder, metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use oms::postgres::embedded::{EmbeddedOptions, EmbeddedServer, PORT, USER};
use rustix::process::{Pid, Signal, kill_process};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use uuid::Uuid;

/// What a shell does once our end of its standard input is closed, by us or by our death: it stops whatever server
/// runs in the folder ($1), and removes the folder.
const LIFELINE: &str = r#"cat >/dev/null; for tries in 1 2 3 4 5 6 7 8 9 10; do
pid=$(head -1 "$1/data/postmaster.pid" 2>/dev/null) && kill -QUIT "$pid" 2>/dev/null && kill -CONT "$pid"; sleep 0.2
done; rm -rf -- "$1""#;

/// How a Postgres crashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// `pg_ctl stop -m immediate`.
    Immediate,
    /// kill -9 of the postmaster.
    Kill,
}

/// The processes of a server that stands still.
#[derive(Debug)]
pub struct Frozen(Vec<Pid>);

impl Frozen {
    /// Lets them go on.
    pub fn thaw(self) {
        self.0.into_iter().for_each(|pid| send(pid, Signal::CONT));
    }
}

/// A Postgres of one's own.
#[derive(Debug)]
pub struct OwnPostgres {
    dir: PathBuf,
    options: EmbeddedOptions,
    server: Mutex<Option<EmbeddedServer>>,
    /// The shell, and our end of its standard input.
    lifeline: (Child, ChildStdin),
}

impl OwnPostgres {
    /// Starts one.
    ///
    /// # Panics
    /// There is no Postgres on this machine.
    pub async fn start() -> Self {
        blocking(|| Self::start_in(|_| ())).await
    }

    /// Starts a streaming replica of this one, from a copy of its data. It is ready when it answers; it may be behind.
    ///
    /// `programs` is the folder of the server programs.
    pub(crate) async fn start_standby(&self, programs: PathBuf) -> Self {
        let primary = self.dir.clone();
        blocking(move || Self::start_in(|dir| copy_data(&programs, &primary, dir))).await
    }

    fn start_in(fill: impl FnOnce(&Path)) -> Self {
        let random = Uuid::now_v7().simple().to_string();
        let dir = std::env::temp_dir().join(format!("oms-own-{}-{}", std::process::id(), &random[20..]));
        let lifeline = spawn_lifeline(&dir).expect("a shell starts");
        fill(&dir);
        let mut options = EmbeddedOptions::new(&dir);
        options.fsync = false;
        options.max_connections = 100;
        // Last one wins: without it a crash would lose what the last fraction of a second has acknowledged.
        let settings = [("synchronous_commit", "on"), ("shared_buffers", "64MB"), ("max_wal_size", "256MB")];
        options.settings.extend(settings.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let server = EmbeddedServer::join(&options).expect("Postgres starts");
        Self { dir, options, server: Mutex::new(Some(server)), lifeline }
    }

    /// Options that connect to one of its databases.
    pub fn connect_options(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(&self.dir)
            .port(PORT)
            .username(USER)
            .database(database)
            .ssl_mode(PgSslMode::Disable)
    }

    /// URL of one of its databases.
    pub fn url(&self, database: &str) -> String {
        format!("postgresql:///{database}?host={}&user={USER}", self.dir.display())
    }

    /// Process id of the postmaster.
    pub(crate) fn pid(&self) -> i32 {
        self.server().as_ref().expect("it runs").pid()
    }

    /// Crashes it, and returns once it is gone.
    pub async fn crash(&self, how: Crash) {
        let server = self.server().take().expect("it runs");
        blocking(move || {
            let pid = Pid::from_raw(server.pid()).expect("a process id");
            let signal = match how {
                Crash::Immediate => Signal::QUIT,
                Crash::Kill => Signal::KILL,
            };
            kill_process(pid, signal).expect("it runs");
            server.stop().expect("it is gone");
        })
        .await;
    }

    /// Stops the server and every process of it where it stands: whoever asks is not answered and not refused, as when the
    /// network is gone. Returns them, to be thawed or killed.
    pub async fn freeze(&self) -> Frozen {
        let postmaster = Pid::from_raw(self.pid()).expect("a process id");
        // The postmaster first, so that nobody comes after the others.
        kill_process(postmaster, Signal::STOP).expect("it runs");
        let pids = blocking(move || {
            let children = children_of(postmaster);
            children.iter().for_each(|pid| send(*pid, Signal::STOP));
            [vec![postmaster], children].concat()
        })
        .await;
        Frozen(pids)
    }

    /// Kills a frozen server, all of it at once, and starts it again.
    pub async fn replace(&self, frozen: Frozen) {
        let server = self.server().take().expect("it runs");
        blocking(move || {
            frozen.0.iter().for_each(|pid| send(*pid, Signal::KILL));
            server.stop().expect("it is gone");
        })
        .await;
        self.start_again().await;
    }

    /// Starts it again, and returns once it answers.
    pub async fn start_again(&self) {
        let options = self.options.clone();
        let server = blocking(move || EmbeddedServer::join(&options).expect("Postgres starts again")).await;
        *self.server() = Some(server);
    }

    /// Crashes it and starts it again.
    pub async fn restart(&self, how: Crash) {
        self.crash(how).await;
        self.start_again().await;
    }

    /// Stops it and removes its folder. Dropping it does so as well, a moment later.
    pub async fn stop(self) {
        blocking(move || {
            let server = self.server().take().expect("it runs");
            server.stop().expect("it stops");
            let (mut guard, stdin) = self.lifeline;
            guard.kill().and_then(|()| guard.wait()).expect("the shell is our child");
            drop(stdin);
            std::fs::remove_dir_all(&self.dir).expect("the folder is ours");
        })
        .await;
    }

    fn server(&self) -> std::sync::MutexGuard<'_, Option<EmbeddedServer>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends a signal to a process that may have ended meanwhile.
fn send(pid: Pid, signal: Signal) {
    let _ = kill_process(pid, signal);
}

/// The processes that a process has started.
fn children_of(parent: Pid) -> Vec<Pid> {
    let is_child = |pid: &Pid| {
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
        // The name is in parentheses and may hold anything; behind it come the state and the parent.
        let parent_of = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
        parent_of == Some(parent.as_raw_nonzero().get())
    };
    let entries = std::fs::read_dir("/proc").expect("the processes of this machine").flatten();
    let pids = entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    pids.filter(is_child).collect()
}

/// Copies the data of the server in `primary` into a folder of the same owner, to begin as its replica.
fn copy_data(programs: &Path, primary: &Path, dir: &Path) {
    let owner = metadata(primary).expect("the folder of the server");
    DirBuilder::new().mode(0o700).create(dir).expect("the folder is not there yet");
    let mut command = Command::new(programs.join("pg_basebackup"));
    if rustix::process::geteuid().is_root() {
        chown(dir, Some(owner.uid()), Some(owner.gid())).expect("root may");
        command.uid(owner.uid()).gid(owner.gid());
    }
    let copied = command
        .args(["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync"])
        .args(["--username", USER, "--port", &PORT.to_string(), "--host"])
        .arg(primary)
        .arg("--pgdata")
        .arg(dir.join("data"))
        .env_clear()
        .current_dir(dir)
        .output();
    let copied = copied.expect("pg_basebackup is beside the server's programs");
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
}

fn spawn_lifeline(dir: &Path) -> io::Result<(Child, ChildStdin)> {
    let mut guard = Command::new("/bin/sh")
        .arg("-c")
        .arg(LIFELINE)
        .arg("oms-lifeline")
        .arg(dir)
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let stdin = guard.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    Ok((guard, stdin))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("it does not panic")
}
