//! Runs a private Postgres in a folder, for whoever has none to point at.
//!
//! The programs come from the machine (`binaries.rs`); the data, the socket, the log and the locks live in one folder
//! (`folder.rs`); `launch.rs` starts the server and `postmaster.rs` finds one that runs. The server listens on a Unix
//! socket in that folder and on nothing else. `trust` authentication is safe there, because only the folder's owner
//! and root reach the socket.
//!
//! The server outlives a killed `oms` on purpose: the next start finds it through `postmaster.pid` and adopts it.
//! Whoever leaves last stops it.
//!
//! Everything here blocks; [`Database`](super::Database) calls it from a thread that may.
//!
//! Absent on purpose: tuning for a production machine. A shop that grows runs Postgres itself and sets
//! `DATABASE_URL`.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tracing::{debug, info, warn};

pub use super::embedded_error::EmbeddedError;
use super::embedded_error::MAX_SOCKET_PATH_BYTES;
use super::folder::{Folder, Lock};
use super::postmaster::POLL_INTERVAL;
use super::{launch, postmaster};
use crate::telemetry::chain;

/// Port in the name of the socket file, `.s.PGSQL.5432`; nothing listens on the network.
pub const PORT: u16 = 5432;

/// The superuser that `initdb` makes; the only role of an embedded cluster.
pub const USER: &str = "postgres";

/// Most connections of a server that keeps data, those of a visiting `psql` included.
pub const MAX_CONNECTIONS: u32 = 200;

/// How long the fast shutdown may take before the server is told to quit at once; it then recovers at its next start.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// What the shell that guards an ephemeral server runs: once our end of its standard input is closed, by `stop` or by
/// our death, it stops the server and removes the folder ($1). Where there is no server yet, it waits for what may
/// still be starting.
const LIFELINE: &str = r#"cat >/dev/null
seen= tries=0
while [ $tries -lt 100 ]; do
    pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
    if [ -n "$pid" ] && kill -QUIT "$pid" 2>/dev/null; then
        seen=yes
    else
        rm -rf -- "$1"
        if [ -n "$seen" ] || [ $tries -gt 30 ]; then break; fi
    fi
    tries=$((tries + 1)); sleep 0.1
done"#;

/// How to run an embedded server.
#[derive(Debug, Clone)]
pub struct EmbeddedOptions {
    /// Folder of data, socket, log and locks; made when missing.
    pub dir: PathBuf,
    /// Whether a commit waits for the disk. Off only where losing the data is fine, as in tests.
    pub fsync: bool,
    /// Most connections at a time, those of a visiting `psql` included.
    pub max_connections: u32,
    /// Further server settings; they win over the ones chosen here.
    pub settings: Vec<(String, String)>,
    /// Whether the folder and the server go away with this process, however it ends. For tests.
    pub ephemeral: bool,
}

impl EmbeddedOptions {
    /// Options for data that must last, in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            fsync: true,
            max_connections: MAX_CONNECTIONS,
            settings: Vec::new(),
            ephemeral: false,
        }
    }

    /// Options for a server that this process alone uses and that leaves nothing behind, whichever way the process
    /// ends. `dir` must not exist yet.
    pub fn ephemeral(dir: impl Into<PathBuf>) -> Self {
        let settings = vec![("shared_buffers".to_owned(), "64MB".to_owned())];
        Self { fsync: false, ephemeral: true, settings, ..Self::new(dir) }
    }
}

/// The right to serve from a folder, taken before anything slow happens.
#[derive(Debug)]
pub struct Claim {
    options: EmbeddedOptions,
    folder: Folder,
    owner: Lock,
}

impl Claim {
    /// Takes the folder for one `oms serve`, making it when missing.
    ///
    /// # Errors
    /// [`EmbeddedError::InUse`] when another process serves from it, and those of the folder.
    pub fn take(options: EmbeddedOptions) -> Result<Self, EmbeddedError> {
        let folder = open_folder(&options.dir)?;
        let owner = folder.lock_owner()?;
        Ok(Self { options, folder, owner })
    }

    /// Starts the server, or adopts the one that a killed process has left.
    ///
    /// # Errors
    /// All of [`EmbeddedError`].
    pub fn start(self) -> Result<EmbeddedServer, EmbeddedError> {
        EmbeddedServer::enter(&self.options, self.folder, Some(self.owner))
    }
}

/// A running embedded server that this process uses, and stops if it is the last to leave.
#[derive(Debug)]
pub struct EmbeddedServer {
    options: EmbeddedOptions,
    folder: Folder,
    pid: Pid,
    /// Present when this process started the server: it must also reap it.
    child: Option<Child>,
    lifeline: Option<(Child, ChildStdin)>,
    users: Lock,
    owner: Option<Lock>,
    stopped: bool,
}

impl EmbeddedServer {
    /// Uses the folder's server next to whoever else does, starting it when it does not run.
    ///
    /// # Errors
    /// All of [`EmbeddedError`] but `InUse`.
    pub fn join(options: &EmbeddedOptions) -> Result<Self, EmbeddedError> {
        Self::enter(options, open_folder(&options.dir)?, None)
    }

    /// Whether a server runs in `dir` now. Starts nothing and makes nothing.
    pub fn is_running(dir: &Path) -> bool {
        Folder::existing(dir).is_some_and(|folder| postmaster::find_live(&folder).is_some())
    }

    /// Folder of the socket.
    pub fn socket_dir(&self) -> &Path {
        self.folder.dir()
    }

    /// Process id of the server.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    fn enter(options: &EmbeddedOptions, folder: Folder, owner: Option<Lock>) -> Result<Self, EmbeddedError> {
        // Starting and stopping take turns, so that nobody joins a server that is about to be stopped.
        let _turn = folder.lock_turn()?;
        let users = folder.lock_users()?;
        // Before there is anything to guard: the start takes a second, in which this process may be killed.
        let lifeline = if options.ephemeral { Some(spawn_lifeline(folder.dir())?) } else { None };
        let (pid, child) = match postmaster::adopt(&folder)? {
            Some(pid) => (pid, None),
            None => {
                let child = launch::start(options, &folder)?;
                (Pid::from_child(&child), Some(child))
            }
        };
        Ok(Self { options: options.clone(), folder, pid, child, lifeline, users, owner, stopped: false })
    }

    /// Starts the server again if it has died without us, or uses the one that somebody else has started since.
    /// Returns whether there was anything to do.
    ///
    /// # Errors
    /// Those of a start.
    pub fn revive(&mut self) -> Result<bool, EmbeddedError> {
        if self.stopped || !self.is_gone() {
            return Ok(false);
        }
        warn!(pid = self.pid(), "the embedded Postgres is gone; starting it again");
        let _turn = self.folder.lock_turn()?;
        (self.pid, self.child) = match postmaster::adopt(&self.folder)? {
            Some(pid) => (pid, None),
            None => {
                let child = launch::start(&self.options, &self.folder)?;
                (Pid::from_child(&child), Some(child))
            }
        };
        Ok(true)
    }

    /// Leaves the server, and stops it if nobody else uses it.
    ///
    /// # Errors
    /// When the lock or the folder cannot be used; the server then runs on and the next start adopts it.
    pub fn stop(mut self) -> Result<(), EmbeddedError> {
        self.leave()
    }

    /// Does what [`stop`](Self::stop) does, once.
    pub(super) fn leave(&mut self) -> Result<(), EmbeddedError> {
        if std::mem::replace(&mut self.stopped, true) {
            return Ok(());
        }
        if let Some((mut guard, stdin)) = self.lifeline.take() {
            drop(stdin);
            self.wait_until_gone(STOP_TIMEOUT);
            let _ = guard.wait();
            return Ok(());
        }

        let _turn = self.folder.lock_turn()?;
        if !self.users.become_only_user()? {
            info!(pid = self.pid(), "left the embedded Postgres running for another process that uses it");
            return Ok(());
        }
        debug!(pid = self.pid(), "stopping the embedded Postgres");
        // A failing kill means that the server is gone already.
        let _ = kill_process(self.pid, Signal::INT);
        if !self.wait_until_gone(STOP_TIMEOUT) {
            warn!(pid = self.pid(), "the embedded Postgres did not stop in 30 s and is told to quit at once");
            let _ = kill_process(self.pid, Signal::QUIT);
            self.wait_until_gone(STOP_TIMEOUT);
        }
        self.owner = None;
        Ok(())
    }

    fn wait_until_gone(&mut self, timeout: Duration) -> bool {
        let end = Instant::now() + timeout;
        while Instant::now() < end {
            if self.is_gone() {
                return true;
            }
            thread::sleep(POLL_INTERVAL);
        }
        false
    }

    fn is_gone(&mut self) -> bool {
        match &mut self.child {
            // An error means that somebody else has reaped it.
            Some(child) => !matches!(child.try_wait(), Ok(None)),
            None => !postmaster::is_live_postgres(self.pid),
        }
    }
}

impl Drop for EmbeddedServer {
    fn drop(&mut self) {
        if let Err(error) = self.leave() {
            warn!(
                error = chain(&error),
                "could not stop the embedded Postgres; the next start will adopt it"
            );
        }
    }
}

/// Opens the folder if the socket will fit into it.
fn open_folder(dir: &Path) -> Result<Folder, EmbeddedError> {
    let socket = dir.join(format!(".s.PGSQL.{PORT}"));
    if socket.as_os_str().len() > MAX_SOCKET_PATH_BYTES {
        return Err(EmbeddedError::SocketPathTooLong { path: socket });
    }
    Folder::open(dir)
}

fn spawn_lifeline(dir: &Path) -> Result<(Child, ChildStdin), EmbeddedError> {
    let mut guard = Command::new("/bin/sh")
        .args(["-c", LIFELINE, "sh"])
        .arg(dir)
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| EmbeddedError::io("run", Path::new("/bin/sh"), e))?;
    let stdin = guard.stdin.take().expect("the standard input was asked for as a pipe three lines up");
    Ok((guard, stdin))
}
