//! The `oms` program; see [`oms::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    oms::cli::run()
}
