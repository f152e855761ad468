//! `oms`, with fail points, and with a leash: it ends when the test that started it does.

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = oms_tests::runner_under_test::run_if_asked() {
        return code;
    }
    oms_tests::run_oms_on_a_leash()
}
