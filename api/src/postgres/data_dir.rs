//! Chooses the folder of the embedded server.

use std::env;
use std::io::Write;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::DatabaseError;
use super::account::Account;
use crate::config::DatabaseArgs;

/// The default data folder, relative to the working folder.
const DEFAULT_DATA_DIR: &str = ".oms";

/// Where the default data folder lies when the server's account cannot enter the working folder of root.
const DEFAULT_DATA_DIR_OF_ROOT: &str = "/var/lib/oms";

/// The folder of the embedded server.
pub(super) struct DataDir {
    pub(super) path: PathBuf,
    /// What to tell about it, where it is not the folder that one would expect.
    notice: Option<String>,
}

impl DataDir {
    /// Takes the given folder, else `.oms` in the working folder, else, for root, one under `/var/lib/oms` that goes
    /// by the working folder's path.
    pub(super) fn choose(args: &DatabaseArgs) -> Result<Self, DatabaseError> {
        let working_dir = env::current_dir().map_err(DatabaseError::WorkingDir)?;
        if let Some(given) = args.data_dir.as_ref().filter(|dir| !dir.as_os_str().is_empty()) {
            return Ok(Self { path: working_dir.join(given), notice: None });
        }
        let path = working_dir.join(DEFAULT_DATA_DIR);
        match Account::for_server_in(&path)? {
            Some(account) if !account.can_enter(&working_dir) => {
                let hash = Sha256::digest(working_dir.as_os_str().as_encoded_bytes());
                let name: String = hash[..4].iter().map(|byte| format!("{byte:02x}")).collect();
                let path = Path::new(DEFAULT_DATA_DIR_OF_ROOT).join(name);
                let notice = format!(
                    "Root runs Postgres as the account `{}`, which may not enter {}: the data is kept in {}.",
                    account.name,
                    working_dir.display(),
                    path.display()
                );
                Ok(Self { path, notice: Some(notice) })
            }
            _ => Ok(Self { path, notice: None }),
        }
    }

    /// Tells the notice, if there is one, on standard error.
    pub(super) fn tell(&self) {
        if let Some(notice) = &self.notice {
            // Nothing can be done where standard error is closed.
            let _ = writeln!(std::io::stderr(), "{notice}");
        }
    }
}
