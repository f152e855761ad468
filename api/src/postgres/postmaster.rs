//! Finds the server that runs in a folder already, through `postmaster.pid`.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, test_kill_process};
use tracing::info;

use super::embedded_error::EmbeddedError;
use super::folder::Folder;

/// How long a starting server may take; crash recovery after a busy quarter of an hour is the slowest case.
pub(super) const START_TIMEOUT: Duration = Duration::from_secs(180);

/// Pause between two looks at `postmaster.pid`.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// What `postmaster.pid` says: process, and `starting`, `ready` or `stopping`.
pub(super) struct Postmaster {
    pub(super) pid: Pid,
    pub(super) status: String,
}

/// Reads `postmaster.pid`; `None` when there is none, or while it is being written.
pub(super) fn read(folder: &Folder) -> Option<Postmaster> {
    let text = fs::read_to_string(folder.data().join("postmaster.pid")).ok()?;
    let mut lines = text.lines();
    let pid = Pid::from_raw(lines.next()?.trim().parse().ok()?)?;
    // Line 8; it is missing for a moment after the file is made.
    let status = lines.nth(6).unwrap_or_default().trim().to_owned();
    Some(Postmaster { pid, status })
}

/// The server of the folder if it lives.
pub(super) fn find_live(folder: &Folder) -> Option<Postmaster> {
    read(folder).filter(|postmaster| is_live_postgres(postmaster.pid))
}

/// Whether the process runs and is a Postgres. A zombie counts as gone, as does a stranger that got the number.
pub(super) fn is_live_postgres(pid: Pid) -> bool {
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
pub(super) fn adopt(folder: &Folder) -> Result<Option<Pid>, EmbeddedError> {
    let end = Instant::now() + START_TIMEOUT;
    while let Some(postmaster) = find_live(folder) {
        if postmaster.status == "ready" {
            info!(
                pid = postmaster.pid.as_raw_nonzero().get(),
                "using the embedded Postgres that runs already"
            );
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

/// Removes a `postmaster.pid` whose number now belongs to a stranger, or to a zombie that nobody reaps: Postgres
/// would take either for a running server. A number that belongs to nobody it handles itself.
pub(super) fn remove_stale_file(folder: &Folder) -> Result<(), EmbeddedError> {
    match read(folder) {
        Some(postmaster) if test_kill_process(postmaster.pid).is_ok() => {
            let path = folder.data().join("postmaster.pid");
            fs::remove_file(&path).map_err(|e| EmbeddedError::io("remove", &path, e))
        }
        _ => Ok(()),
    }
}
