//! Why there is no embedded server, in words that name the remedy.

use std::io;
use std::path::{Path, PathBuf};

/// Longest path of a Unix socket: `sun_path` has 108 bytes on Linux and 104 on macOS, one of them for the NUL.
pub(super) const MAX_SOCKET_PATH_BYTES: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

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
    /// The folder is closed to us.
    #[error(
        "{} belongs to another user; run oms as that user, or choose another folder with --data-dir or OMS_DATA_DIR",
        dir.display()
    )]
    BelongsToOther {
        /// The folder.
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
