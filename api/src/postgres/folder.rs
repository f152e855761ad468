//! The folder of an embedded server: `data/`, the socket, `postgres.log` and three lock files.
//!
//! - `owner.lock` is held by the one `oms serve` for as long as it lives.
//! - `users.lock` is held, shared, by each process that uses the server. Who can turn that into an exclusive lock is
//!   the last, and stops the server.
//! - `turn.lock` is held for the moment of joining or leaving, so that the two never cross.
//!
//! The kernel releases a lock when its process dies, so a kill leaves no stale lock behind.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::account::Account;
use super::embedded::EmbeddedError;

/// How long to wait for another process that joins or leaves: as long as it may take to start or stop the server.
const TURN_TIMEOUT: Duration = Duration::from_secs(200);

/// A log larger than this is set aside at the next start of the server, replacing the one set aside before.
const MAX_LOG_BYTES: u64 = 16 * 1024 * 1024;

/// One of these is in each folder that is in use; the first is made by whoever opens it.
const OUR_NAMES: &[&str] = &["turn.lock", "owner.lock", "users.lock", "data", "data.new"];

/// An existing folder that the server's account owns.
#[derive(Debug)]
pub(super) struct Folder {
    dir: PathBuf,
    account: Option<Account>,
}

impl Folder {
    /// Opens the folder, making it (mode 0700) when missing and giving it to the server's account when run by root.
    pub(super) fn open(dir: &Path) -> Result<Self, EmbeddedError> {
        let account = Account::for_server_in(dir)?;
        make_parent(dir.parent().unwrap_or(Path::new("/")), account.as_ref())?;
        match DirBuilder::new().mode(0o700).create(dir) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => check_is_ours(dir)?,
            Err(error) => return Err(EmbeddedError::io("create", dir, error)),
        }
        // Postgres wants its folder closed to others, and `trust` relies on it.
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
            .map_err(|e| not_ours_or("close", dir, e))?;
        let folder = Self { dir: dir.to_owned(), account };
        folder.give_away(dir)?;
        Ok(folder)
    }

    /// The folder if it is there; touches nothing.
    pub(super) fn existing(dir: &Path) -> Option<Self> {
        dir.is_dir().then(|| Self { dir: dir.to_owned(), account: None })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.dir.join("postgres.log")
    }

    /// Account that the server runs as; `None` for our own.
    pub(super) fn account(&self) -> Option<&Account> {
        self.account.as_ref()
    }

    /// Major version that made the data; `None` before there is any.
    pub(super) fn data_major(&self) -> Option<u32> {
        fs::read_to_string(self.data().join("PG_VERSION")).ok()?.trim().parse().ok()
    }

    /// Opens the log for appending.
    pub(super) fn open_log(&self) -> Result<File, EmbeddedError> {
        let path = self.log();
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() > MAX_LOG_BYTES) {
            fs::rename(&path, self.dir.join("postgres.log.1"))
                .map_err(|e| EmbeddedError::io("rename", &path, e))?;
        }
        self.open_file(&path)
    }

    /// Takes the folder for one `oms serve`.
    pub(super) fn lock_owner(&self) -> Result<Lock, EmbeddedError> {
        let mut lock = self.lock_file("owner.lock")?;
        match lock.file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let pid = lock.file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(EmbeddedError::InUse { dir: self.dir.clone(), pid });
            }
            Err(TryLockError::Error(error)) => return Err(EmbeddedError::io("lock", &lock.path, error)),
        }
        // The number is for the message above only; the lock itself is what counts.
        let written = lock.file.set_len(0).and_then(|()| lock.file.rewind());
        let written = written.and_then(|()| writeln!(lock.file, "{}", std::process::id()));
        written.map_err(|e| EmbeddedError::io("write", &lock.path, e))?;
        Ok(lock)
    }

    /// Counts this process among the users. Call it in our turn, when nobody can hold the lock exclusively.
    pub(super) fn lock_users(&self) -> Result<Lock, EmbeddedError> {
        let lock = self.lock_file("users.lock")?;
        lock.file.lock_shared().map_err(|e| EmbeddedError::io("lock", &lock.path, e))?;
        Ok(lock)
    }

    /// Waits for our turn to join or to leave.
    pub(super) fn lock_turn(&self) -> Result<Lock, EmbeddedError> {
        let lock = self.lock_file("turn.lock")?;
        let end = Instant::now() + TURN_TIMEOUT;
        loop {
            match lock.file.try_lock() {
                Ok(()) => return Ok(lock),
                Err(TryLockError::WouldBlock) if Instant::now() < end => {
                    thread::sleep(Duration::from_millis(20))
                }
                Err(TryLockError::WouldBlock) => return Err(EmbeddedError::Busy { dir: self.dir.clone() }),
                Err(TryLockError::Error(error)) => return Err(EmbeddedError::io("lock", &lock.path, error)),
            }
        }
    }

    fn lock_file(&self, name: &str) -> Result<Lock, EmbeddedError> {
        let path = self.dir.join(name);
        let file = self.open_file(&path)?;
        Ok(Lock { file, path })
    }

    fn open_file(&self, path: &Path) -> Result<File, EmbeddedError> {
        let opened = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path);
        let file = opened.map_err(|e| EmbeddedError::io("open", path, e))?;
        self.give_away(path)?;
        Ok(file)
    }

    /// Gives what root has made to the server's account.
    fn give_away(&self, path: &Path) -> Result<(), EmbeddedError> {
        let Some(account) = &self.account else { return Ok(()) };
        chown(path, Some(account.uid), Some(account.gid)).map_err(|e| EmbeddedError::io("give away", path, e))
    }
}

/// Makes the folder around ours, if the server's account will get that far.
fn make_parent(parent: &Path, account: Option<&Account>) -> Result<(), EmbeddedError> {
    if let Some(account) = account {
        let existing = parent.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
        if !account.can_enter(existing) {
            return Err(EmbeddedError::NotEnterable {
                account: account.name.clone(),
                dir: existing.to_owned(),
            });
        }
    }
    if parent.exists() {
        return Ok(());
    }
    fs::create_dir_all(parent).map_err(|e| EmbeddedError::io("create", parent, e))?;
    if account.is_some() {
        // Root's umask may have closed what the server's account has to pass.
        fs::set_permissions(parent, fs::Permissions::from_mode(0o755))
            .map_err(|e| EmbeddedError::io("open up", parent, e))?;
    }
    Ok(())
}

fn not_ours_or(action: &'static str, dir: &Path, error: io::Error) -> EmbeddedError {
    match error.kind() {
        io::ErrorKind::PermissionDenied => EmbeddedError::BelongsToOther { dir: dir.to_owned() },
        _ => EmbeddedError::io(action, dir, error),
    }
}

/// Refuses a folder that holds other things, before its owner and mode are changed.
fn check_is_ours(dir: &Path) -> Result<(), EmbeddedError> {
    let entries = fs::read_dir(dir).map_err(|e| not_ours_or("read", dir, e))?;
    let names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    if names.is_empty() || names.iter().any(|name| OUR_NAMES.iter().any(|ours| name == ours)) {
        return Ok(());
    }
    Err(EmbeddedError::NotOurs { dir: dir.to_owned() })
}

/// A lock file that is locked as long as this lives.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Whether no other process shares the lock; if so, it is held exclusively from now on.
    pub(super) fn become_only_user(&self) -> Result<bool, EmbeddedError> {
        let changed = self.file.unlock().map_err(TryLockError::Error).and_then(|()| self.file.try_lock());
        match changed {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(EmbeddedError::io("lock", &self.path, error)),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Said aloud, because a child that is being started may still have a copy of the open file for an instant.
        let _ = self.file.unlock();
    }
}
