//! `oms database-url`

use std::io::{self, Write};

use super::print_line;
use crate::config::DatabaseArgs;
use crate::postgres;

pub(super) fn run(args: &DatabaseArgs) -> anyhow::Result<()> {
    let (url, is_running) = postgres::url(args)?;
    print_line(url)?;
    if !is_running {
        // Nothing can be done where standard error is closed.
        let _ = writeln!(io::stderr(), "The embedded Postgres is not running now; `oms serve` starts it.");
    }
    Ok(())
}
