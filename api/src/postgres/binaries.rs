//! Finds the Postgres programs of this machine.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::embedded::EmbeddedError;

/// Oldest major version that the schema and the statements are written for.
const MINIMUM_MAJOR: u32 = 14;

/// Where packagers put each major version: a folder, and how the names in it begin.
const VERSIONED_DIRS: &[(&str, &str)] = &[
    ("/usr/lib/postgresql", ""),                          // Debian, Ubuntu
    ("/usr", "pgsql-"),                                   // the Postgres project's RPMs
    ("/opt/homebrew/opt", "postgresql@"),                 // Homebrew on Apple silicon
    ("/usr/local/opt", "postgresql@"),                    // Homebrew on Intel
    ("/Applications/Postgres.app/Contents/Versions", ""), // Postgres.app
];

/// A folder with `postgres` and `initdb`.
#[derive(Debug)]
pub(super) struct Binaries {
    /// The folder.
    pub(super) dir: PathBuf,
    /// Major version of the server in it.
    pub(super) major: u32,
}

impl Binaries {
    /// Finds the server of version `wanted_major`, or else the newest one.
    ///
    /// `PG_BIN_DIR` settles it; then come the folders of the known packages, newest first, then `PATH`.
    pub(super) fn find(wanted_major: Option<u32>) -> Result<Self, EmbeddedError> {
        if let Some(dir) = env::var_os("PG_BIN_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from) {
            return Self::in_dir(&dir).ok_or(EmbeddedError::BadBinDir { dir });
        }
        let mut newest: Option<Self> = None;
        for dir in installed_dirs().into_iter().chain(dirs_on_path()) {
            let Some(binaries) = Self::in_dir(&dir) else { continue };
            if wanted_major.is_none_or(|wanted| wanted == binaries.major) && binaries.major >= MINIMUM_MAJOR {
                return Ok(binaries);
            }
            newest = newest.or(Some(binaries));
        }
        match newest {
            None => Err(EmbeddedError::NoServer { found: String::new() }),
            Some(newest) if newest.major < MINIMUM_MAJOR => Err(EmbeddedError::NoServer {
                found: format!(" of version {MINIMUM_MAJOR} or later (only version {})", newest.major),
            }),
            Some(newest) => Ok(newest),
        }
    }

    fn in_dir(dir: &Path) -> Option<Self> {
        let postgres = dir.join("postgres");
        if !postgres.is_file() || !dir.join("initdb").is_file() {
            return None;
        }
        let output = Command::new(postgres).arg("--version").output().ok()?;
        let major = parse_major(&String::from_utf8_lossy(&output.stdout))?;
        Some(Self { dir: dir.to_owned(), major })
    }
}

/// Reads 15 out of `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)` and 18 out of `... 18beta1`.
fn parse_major(version: &str) -> Option<u32> {
    let number = version.split_once(") ")?.1;
    let digits = number.find(|c: char| !c.is_ascii_digit()).map_or(number, |end| &number[..end]);
    digits.parse().ok()
}

fn installed_dirs() -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for (dir, prefix) in VERSIONED_DIRS {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let version = name.to_str().and_then(|name| name.strip_prefix(prefix)).map(str::parse::<u32>);
            if let Some(Ok(version)) = version {
                found.push((version, entry.path().join("bin")));
            }
        }
    }
    found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    found.into_iter().map(|(_, dir)| dir).collect()
}

fn dirs_on_path() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // A link on the path leads to the folder that also holds the other programs.
    env::split_paths(&path)
        .filter_map(|dir| fs::canonicalize(dir.join("postgres")).ok())
        .filter_map(|postgres| postgres.parent().map(Path::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_what_the_server_says() {
        assert_eq!(parse_major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(parse_major("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(parse_major("no such thing"), None);
    }
}
