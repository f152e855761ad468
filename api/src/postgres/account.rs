//! The account that Postgres runs as when `oms` is run by root, since Postgres refuses root.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::embedded::EmbeddedError;

/// An ordinary account of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    /// Name, for messages.
    pub(super) name: String,
    /// User id.
    pub(super) uid: u32,
    /// Id of the user's first group.
    pub(super) gid: u32,
}

/// Whether this process is root and so has to run Postgres as somebody else.
pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

impl Account {
    /// Chooses the account for the server in `dir`; `None` means the one that runs this process.
    ///
    /// As root: the owner of the folder if it exists and is not root's, so that the folder stays usable to whoever
    /// made it; else `postgres`; else `nobody`.
    pub(super) fn for_server_in(dir: &Path) -> Result<Option<Self>, EmbeddedError> {
        if !is_root() {
            return Ok(None);
        }
        if let Ok(metadata) = fs::metadata(dir)
            && metadata.uid() != 0
        {
            let (uid, gid) = (metadata.uid(), metadata.gid());
            return Ok(Some(Self { name: format!("#{uid}"), uid, gid }));
        }
        let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let account = find(&accounts, "postgres").or_else(|| find(&accounts, "nobody"));
        account.map(Some).ok_or(EmbeddedError::NoAccount)
    }

    /// Makes the command run as this account, without root's further groups (the standard library drops them).
    pub(super) fn apply(&self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }

    /// Whether the account may enter `dir`, asked of the kernel, so that access lists count as well.
    pub(super) fn can_enter(&self, dir: &Path) -> bool {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", r#"cd -- "$1""#, "sh"]).arg(dir).current_dir("/").stderr(Stdio::null());
        self.apply(&mut command);
        command.status().is_ok_and(|status| status.success())
    }
}

fn find(passwd: &str, name: &str) -> Option<Account> {
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut ids = line.split(':').skip(2);
    Some(Account { name: name.to_owned(), uid: ids.next()?.parse().ok()?, gid: ids.next()?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_whole_name() {
        let passwd =
            "root:x:0:0::/root:/bin/sh\npostgres2:x:7:7::/:/bin/sh\npostgres:x:101:103:,,,:/var:/bin/sh\n";
        let account = find(passwd, "postgres").map(|account| (account.uid, account.gid));
        assert_eq!(account, Some((101, 103)));
        assert_eq!(find(passwd, "nobody"), None);
    }
}
