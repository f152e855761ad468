//! Starts a server: makes the cluster when there is none, runs `postgres`, and waits until it is ready.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Pid;
use tracing::{debug, info};

use super::binaries::Binaries;
use super::embedded::{EmbeddedOptions, PORT, USER};
use super::embedded_error::EmbeddedError;
use super::folder::Folder;
use super::postmaster::{self, POLL_INTERVAL, START_TIMEOUT};

/// How long a start is repeated while the remains of a killed server (shared memory, backends) go away.
const RETRY_WINDOW: Duration = Duration::from_secs(20);

/// Starts the server of the folder, which does not run. Returns once it takes connections.
pub(super) fn start(options: &EmbeddedOptions, folder: &Folder) -> Result<Child, EmbeddedError> {
    let data_major = folder.data_major();
    let binaries = Binaries::find(data_major)?;
    match data_major {
        None => init(options, folder, &binaries)?,
        Some(data_major) if data_major != binaries.major => {
            let (dir, server_major) = (folder.data(), binaries.major);
            return Err(EmbeddedError::VersionMismatch { dir, data_major, server_major });
        }
        Some(_) => postmaster::remove_stale_file(folder)?,
    }

    let begun = Instant::now();
    loop {
        let mut log = folder.open_log()?;
        let log_start =
            log.seek(SeekFrom::End(0)).map_err(|e| EmbeddedError::io("read", &folder.log(), e))?;
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
    command
        .args(["-U", USER, "-A", "trust", "-E", "UTF8", "--no-locale", "--data-checksums", "-D"])
        .arg(&made);
    if !options.fsync {
        command.arg("--no-sync");
    }
    let output = command.output().map_err(|e| EmbeddedError::io("run", &binaries.dir.join("initdb"), e))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let reason = text.lines().rfind(|line| line.contains("error")).or(text.lines().last());
        return Err(EmbeddedError::InitFailed {
            reason: reason.unwrap_or("it said nothing").trim().to_owned(),
        });
    }
    fs::rename(&made, folder.data()).map_err(|e| EmbeddedError::io("rename", &made, e))?;
    // The new name is durable only once its folder is.
    File::open(folder.dir())
        .and_then(|dir| dir.sync_all())
        .map_err(|e| EmbeddedError::io("sync", folder.dir(), e))
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
        if postmaster::read(folder)
            .is_some_and(|postmaster| postmaster.pid == pid && postmaster.status == "ready")
        {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_of_a_failed_start_is_the_last_fatal_line() {
        let log =
            "12:00 [7] LOG:  starting\n12:00 [7] FATAL:  could not create lock file\n12:00 [7] LOG:  bye\n";
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
        let last =
            settings.iter().rfind(|(name, _)| name == "shared_buffers").map(|(_, value)| value.as_str());
        assert_eq!(last, Some("64MB"));
    }
}
