//! Runs a private Postgres in a folder, for whoever has none to point at.
//!
//! The programs come from the machine ([`binaries`](super::binaries)); the data, the socket, the log and the locks
//! live in one folder ([`folder`](super::folder)). The server listens on a Unix socket in that folder and on
//! nothing else. `trust` authentication is safe there, because only the folder's owner and root reach the socket.
//!
//! The server outlives a killed `oms` on purpose: the next start finds it through `postmaster.pid` and adopts it.
//! Whoever leaves last stops it.
//!
//! Everything here blocks; [`Database`](super::Database) calls it from a thread that may.
//!
//! Absent on purpose: tuning for a production machine. A shop that grows runs Postgres itself and sets
//! `DATABASE_URL`.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tracing::{debug, info, warn};

use super::binaries::Binaries;
use super::folder::{Folder, Lock};

/// Port in the name of the socket file, `.s.PGSQL.5432`; nothing listens on the network.
pub const PORT: u16 = 5432;

/// The superuser that `initdb` makes; the only role of an embedded cluster.
pub const USER: &str = "postgres";

/// Longest path of a Unix socket: `sun_path` has 108 bytes on Linux and 104 on macOS, one of them for the NUL.
const MAX_SOCKET_PATH_BYTES: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// How long a starting server may take; crash recovery after a busy quarter of an hour is the slowest case.
const START_TIMEOUT: Duration = Duration::from_secs(180);

/// How long a start is repeated while the remains of a killed server (shared memory, backends) go away.
const RETRY_WINDOW: Duration = Duration::from_secs(20);

/// How long the fast shutdown may take before the server is told to quit at once; it then recovers at its next start.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// Pause between two looks at `postmaster.pid`.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// What the shell that guards an ephemeral server runs: once our end of its standard input is closed, by `stop` or
/// by our death, it stops the server ($1) and removes the folder ($2).
const LIFELINE: &str = r#"cat >/dev/null; kill -QUIT "$1" 2>/dev/null; tries=0
while kill -0 "$1" 2>/dev/null && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries+1)); done; rm -rf -- "$2""#;

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
        Self { dir: dir.into(), fsync: true, max_connections: 200, settings: Vec::new(), ephemeral: false }
    }

    /// Options for a server that this process alone uses and that leaves nothing behind, whichever way the process
    /// ends. `dir` must not exist yet.
    pub fn ephemeral(dir: impl Into<PathBuf>) -> Self {
        let settings = vec![("shared_buffers".to_owned(), "64MB".to_owned())];
        Self { fsync: false, ephemeral: true, settings, ..Self::new(dir) }
    }
}

/// Why there is no embedded server. Each message names the remedy where there is one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddedError {
    /// The machine has no PostgreSQL, or none that is recent enough.
    #[error(
        "no PostgreSQL server found{found}. Install one (Debian/Ubuntu: apt-get install postgresql; macOS: brew \
         install postgresql@17), or set PG_BIN_DIR to the folder of `postgres` and `initdb`, or set DATABASE_URL to \
         use a running server"
    )]
    NoServer {
        /// What was found instead, or nothing.
        found: String,
    },
    /// `PG_BIN_DIR` points at a folder without the two programs.
    #[error("PG_BIN_DIR is {}, which does not hold both `postgres` and `initdb`", dir.display())]
    BadBinDir {
        /// Value of the variable.
        dir: PathBuf,
    },
    /// The data was made by another major version.
    #[error(
        "the data in {} was made by PostgreSQL {data_major} and the server found is PostgreSQL {server_major}; \
         install PostgreSQL {data_major} or point PG_BIN_DIR at it, or choose another folder with OMS_DATA_DIR",
        dir.display()
    )]
    VersionMismatch {
        /// The data folder.
        dir: PathBuf,
        /// Major version that wrote the data.
        data_major: u32,
        /// Major version of the newest server found.
        server_major: u32,
    },
    /// Another `oms serve` has the folder.
    #[error(
        "another `oms serve`{} is running on {}; stop it, or choose another folder with --data-dir or OMS_DATA_DIR",
        pid.map(|pid| format!(" (process {pid})")).unwrap_or_default(),
        dir.display()
    )]
    InUse {
        /// The data folder.
        dir: PathBuf,
        /// Process that has it, where known.
        pid: Option<u32>,
    },
    /// Another process has been starting or stopping the server for too long.
    #[error("another process is still starting or stopping the server in {}; try again", dir.display())]
    Busy {
        /// The data folder.
        dir: PathBuf,
    },
    /// Run as root, and there is no ordinary account for the server.
    #[error("Postgres refuses to run as root, and there is no account `postgres` or `nobody` to run it as")]
    NoAccount,
    /// Run as root, and the server's account may not pass a folder on the way.
    #[error(
        "the account `{account}`, as which root runs Postgres, may not enter {}; choose another folder with --data-dir \
         or OMS_DATA_DIR, for example /var/lib/oms",
        dir.display()
    )]
    NotEnterable {
        /// Account of the server.
        account: String,
        /// Folder that it may not enter.
        dir: PathBuf,
    },
    /// The folder holds something else.
    #[error(
        "{} holds other files; choose an empty or missing folder with --data-dir or OMS_DATA_DIR",
        dir.display()
    )]
    NotOurs {
        /// The folder.
        dir: PathBuf,
    },
    /// The path of the socket does not fit.
    #[error(
        "the socket path {} has {} bytes and at most {MAX_SOCKET_PATH_BYTES} are possible; choose a folder with a \
         shorter path with --data-dir or OMS_DATA_DIR",
        path.display(),
        path.as_os_str().len()
    )]
    SocketPathTooLong {
        /// Path of the socket.
        path: PathBuf,
    },
    /// A file or folder could not be used.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// `initdb` failed.
    #[error("initdb failed: {reason}")]
    InitFailed {
        /// Last line it wrote.
        reason: String,
    },
    /// The server ended or hung while starting.
    #[error("the embedded Postgres did not start: {reason} (see {})", log.display())]
    StartFailed {
        /// Last fatal line of the log.
        reason: String,
        /// The log.
        log: PathBuf,
    },
}

impl EmbeddedError {
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
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
        let folder = Folder::open(&options.dir)?;
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
        Self::enter(options, Folder::open(&options.dir)?, None)
    }

    /// Whether a server runs in `dir` now. Starts nothing and makes nothing.
    pub fn is_running(dir: &Path) -> bool {
        Folder::existing(dir).is_some_and(|folder| live_postmaster(&folder).is_some())
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
        let socket = folder.dir().join(format!(".s.PGSQL.{PORT}"));
        if socket.as_os_str().len() > MAX_SOCKET_PATH_BYTES {
            return Err(EmbeddedError::SocketPathTooLong { path: socket });
        }

        // Starting and stopping take turns, so that nobody joins a server that is about to be stopped.
        let _turn = folder.lock_turn()?;
        let users = folder.lock_users()?;
        let (pid, child) = match adopt(&folder)? {
            Some(pid) => (pid, None),
            None => {
                let child = start(options, &folder)?;
                (Pid::from_child(&child), Some(child))
            }
        };
        let mut server = Self { folder, pid, child, lifeline: None, users, owner, stopped: false };
        if options.ephemeral {
            server.lifeline = Some(spawn_lifeline(pid, server.folder.dir())?);
        }
        Ok(server)
    }

    /// Leaves the server, and stops it if nobody else uses it.
    ///
    /// # Errors
    /// When the lock or the folder cannot be used; the server then runs on and the next start adopts it.
    pub fn stop(mut self) -> Result<(), EmbeddedError> {
        self.leave()
    }

    fn leave(&mut self) -> Result<(), EmbeddedError> {
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
            let gone = match &mut self.child {
                // An error means that somebody else has reaped it.
                Some(child) => !matches!(child.try_wait(), Ok(None)),
                None => !is_live_postgres(self.pid),
            };
            if gone {
                return true;
            }
            thread::sleep(POLL_INTERVAL);
        }
        false
    }
}

impl Drop for EmbeddedServer {
    fn drop(&mut self) {
        if let Err(error) = self.leave() {
            warn!(%error, "could not stop the embedded Postgres; the next start will adopt it");
        }
    }
}

/// What `postmaster.pid` says: process, and `starting`, `ready` or `stopping`.
struct Postmaster {
    pid: Pid,
    status: String,
}

fn read_postmaster(folder: &Folder) -> Option<Postmaster> {
    let text = fs::read_to_string(folder.data().join("postmaster.pid")).ok()?;
    let mut lines = text.lines();
    let pid = Pid::from_raw(lines.next()?.trim().parse().ok()?)?;
    // Line 8; it is missing for a moment after the file is made.
    let status = lines.nth(6).unwrap_or_default().trim().to_owned();
    Some(Postmaster { pid, status })
}

fn live_postmaster(folder: &Folder) -> Option<Postmaster> {
    read_postmaster(folder).filter(|postmaster| is_live_postgres(postmaster.pid))
}

/// Whether the process runs and is a Postgres. A zombie counts as gone, as does a stranger that got the number.
fn is_live_postgres(pid: Pid) -> bool {
    if test_kill_process(pid).is_err_and(|error| error == rustix::io::Errno::SRCH) {
        return false;
    }
    match fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())) {
        Ok(command_line) => {
            let program = command_line.split(|&byte| byte == 0).next().unwrap_or_default();
            program.windows(b"postgres".len()).any(|window| window == b"postgres")
        }
        // No /proc here, as on macOS: the number alone has to do.
        Err(_) => true,
    }
}

/// Finds the server that runs in the folder already and waits until it is ready.
fn adopt(folder: &Folder) -> Result<Option<Pid>, EmbeddedError> {
    let end = Instant::now() + START_TIMEOUT;
    while let Some(postmaster) = live_postmaster(folder) {
        if postmaster.status == "ready" {
            info!(pid = postmaster.pid.as_raw_nonzero().get(), "using the embedded Postgres that runs already");
            return Ok(Some(postmaster.pid));
        }
        if Instant::now() > end {
            let reason = format!("it has been {} for {} s", postmaster.status, START_TIMEOUT.as_secs());
            return Err(EmbeddedError::StartFailed { reason, log: folder.log() });
        }
        thread::sleep(POLL_INTERVAL);
    }
    Ok(None)
}

fn start(options: &EmbeddedOptions, folder: &Folder) -> Result<Child, EmbeddedError> {
    let data_major = folder.data_major();
    let binaries = Binaries::find(data_major)?;
    match data_major {
        None => init(options, folder, &binaries)?,
        Some(data_major) if data_major != binaries.major => {
            let (dir, server_major) = (folder.data(), binaries.major);
            return Err(EmbeddedError::VersionMismatch { dir, data_major, server_major });
        }
        Some(_) => remove_stale_pid_file(folder)?,
    }

    let begun = Instant::now();
    loop {
        let mut log = folder.open_log()?;
        let log_start = log.seek(SeekFrom::End(0)).map_err(|e| EmbeddedError::io("read", &folder.log(), e))?;
        let mut child = spawn(options, folder, &binaries, log)?;
        if wait_until_ready(folder, &mut child) {
            info!(
                pid = child.id(),
                version = binaries.major,
                took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
                "started the embedded Postgres"
            );
            return Ok(child);
        }
        let _ = child.kill();
        let _ = child.wait();
        let written = log_since(folder, log_start);
        let transient = written.contains("still in use") || written.contains("already exists");
        if !transient || begun.elapsed() > RETRY_WINDOW {
            return Err(EmbeddedError::StartFailed { reason: last_fatal_line(&written), log: folder.log() });
        }
        debug!("the remains of the last server are still there; trying again");
        thread::sleep(Duration::from_millis(250));
    }
}

/// Makes the cluster beside its final name, so that a half-made one never counts.
fn init(options: &EmbeddedOptions, folder: &Folder, binaries: &Binaries) -> Result<(), EmbeddedError> {
    let made = folder.dir().join("data.new");
    if made.exists() {
        fs::remove_dir_all(&made).map_err(|e| EmbeddedError::io("remove", &made, e))?;
    }
    info!(dir = %folder.data().display(), version = binaries.major, "making an embedded Postgres");
    let mut command = prepare(Command::new(binaries.dir.join("initdb")), folder);
    command.args(["-U", USER, "-A", "trust", "-E", "UTF8", "--no-locale", "--data-checksums", "-D"]).arg(&made);
    if !options.fsync {
        command.arg("--no-sync");
    }
    let output = command.output().map_err(|e| EmbeddedError::io("run", &binaries.dir.join("initdb"), e))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let reason = text.lines().rfind(|line| line.contains("error")).or(text.lines().last());
        return Err(EmbeddedError::InitFailed { reason: reason.unwrap_or("it said nothing").trim().to_owned() });
    }
    fs::rename(&made, folder.data()).map_err(|e| EmbeddedError::io("rename", &made, e))?;
    // The new name is durable only once its folder is.
    File::open(folder.dir())
        .and_then(|dir| dir.sync_all())
        .map_err(|e| EmbeddedError::io("sync", folder.dir(), e))
}

/// Removes a `postmaster.pid` whose number now belongs to a stranger, or to a zombie that nobody reaps: Postgres
/// would take either for a running server. A number that belongs to nobody it handles itself.
fn remove_stale_pid_file(folder: &Folder) -> Result<(), EmbeddedError> {
    match read_postmaster(folder) {
        Some(postmaster) if test_kill_process(postmaster.pid).is_ok() => {
            let path = folder.data().join("postmaster.pid");
            fs::remove_file(&path).map_err(|e| EmbeddedError::io("remove", &path, e))
        }
        _ => Ok(()),
    }
}

fn spawn(
    options: &EmbeddedOptions,
    folder: &Folder,
    binaries: &Binaries,
    log: File,
) -> Result<Child, EmbeddedError> {
    let log_again = log.try_clone().map_err(|e| EmbeddedError::io("open", &folder.log(), e))?;
    let mut command = prepare(Command::new(binaries.dir.join("postgres")), folder);
    command.arg("-D").arg(folder.data());
    for (name, value) in server_settings(options, folder.dir()) {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    command
        // A group of its own: Ctrl-C in the terminal must reach `oms` alone, which then stops the server in order.
        .process_group(0)
        // A file and not a pipe: the server must be able to write after `oms` was killed.
        .stdout(log)
        .stderr(log_again)
        .spawn()
        .map_err(|e| EmbeddedError::io("run", &binaries.dir.join("postgres"), e))
}

/// Clean environment, working folder and account for a Postgres program.
fn prepare(mut command: Command, folder: &Folder) -> Command {
    command.env_clear().env("LC_ALL", "C").env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.current_dir(folder.dir()).stdin(Stdio::null());
    if let Some(account) = folder.account() {
        account.apply(&mut command);
    }
    command
}

fn server_settings(options: &EmbeddedOptions, socket_dir: &Path) -> Vec<(String, String)> {
    let on_off = |on: bool| if on { "on" } else { "off" }.to_owned();
    let mut settings: Vec<(String, String)> = vec![
        ("listen_addresses".into(), String::new()),
        ("port".into(), PORT.to_string()),
        // Quoted, since the setting is a list and a path may hold a comma.
        ("unix_socket_directories".into(), quote_list_item(&socket_dir.to_string_lossy())),
        ("unix_socket_permissions".into(), "0700".into()),
        ("cluster_name".into(), "oms".into()),
        ("max_connections".into(), options.max_connections.to_string()),
        ("fsync".into(), on_off(options.fsync)),
        ("full_page_writes".into(), on_off(options.fsync)),
        ("synchronous_commit".into(), on_off(options.fsync)),
        ("shared_buffers".into(), "256MB".into()),
        // Checkpoints far apart: each makes the next write of every page a full page image.
        ("max_wal_size".into(), "4GB".into()),
        ("checkpoint_timeout".into(), "15min".into()),
        ("wal_compression".into(), "on".into()),
        // Statements here are short; compiling them costs more than it saves.
        ("jit".into(), "off".into()),
        ("timezone".into(), "UTC".into()),
        ("log_timezone".into(), "UTC".into()),
        ("log_line_prefix".into(), "%m [%p] ".into()),
    ];
    // The last value of a name wins.
    settings.extend(options.settings.iter().cloned());
    settings
}

fn quote_list_item(path: &str) -> String {
    format!("\"{}\"", path.replace('"', "\"\""))
}

/// Waits for `ready`; false when the server has ended or the time is up.
fn wait_until_ready(folder: &Folder, child: &mut Child) -> bool {
    let end = Instant::now() + START_TIMEOUT;
    let pid = Pid::from_child(child);
    while Instant::now() < end {
        if !matches!(child.try_wait(), Ok(None)) {
            return false;
        }
        // The file of a killed predecessor may still lie there: only our own number counts.
        if read_postmaster(folder).is_some_and(|postmaster| postmaster.pid == pid && postmaster.status == "ready") {
            return true;
        }
        thread::sleep(POLL_INTERVAL);
    }
    false
}

fn log_since(folder: &Folder, start: u64) -> String {
    let mut bytes = Vec::new();
    let read = File::open(folder.log()).and_then(|mut log| {
        log.seek(SeekFrom::Start(start))?;
        log.read_to_end(&mut bytes)
    });
    if let Err(error) = read {
        return format!("the log cannot be read: {error}");
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn last_fatal_line(log: &str) -> String {
    let line = log.lines().rfind(|line| line.contains("FATAL:")).or(log.lines().last());
    let line = line.unwrap_or("it took too long and said nothing");
    line.split_once("FATAL:").map_or(line, |(_, message)| message).trim().to_owned()
}

fn spawn_lifeline(pid: Pid, dir: &Path) -> Result<(Child, ChildStdin), EmbeddedError> {
    let mut guard = Command::new("/bin/sh")
        .args(["-c", LIFELINE, "sh", &pid.as_raw_nonzero().to_string()])
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_of_a_failed_start_is_the_last_fatal_line() {
        let log = "12:00 [7] LOG:  starting\n12:00 [7] FATAL:  could not create lock file\n12:00 [7] LOG:  bye\n";
        assert_eq!(last_fatal_line(log), "could not create lock file");
        assert_eq!(last_fatal_line("segmentation fault\n"), "segmentation fault");
    }

    #[test]
    fn a_socket_folder_may_hold_commas_and_quotes() {
        assert_eq!(quote_list_item(r#"/a, "b"/c"#), r#""/a, ""b""/c""#);
    }

    #[test]
    fn given_settings_come_after_the_chosen_ones() {
        let options = EmbeddedOptions::ephemeral("/tmp/x");
        let settings = server_settings(&options, &options.dir);
        let last = settings.iter().rfind(|(name, _)| name == "shared_buffers").map(|(_, value)| value.as_str());
        assert_eq!(last, Some("64MB"));
    }
}
