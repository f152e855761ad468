//! `oms`, with fail points, and with a leash: it ends when the test that started it does.

use std::io::Read;
use std::process::ExitCode;

fn main() -> ExitCode {
    oms_tests::fail_points::arm_from_environment();
    if let Some(code) = oms_tests::runner_under_test::run_if_asked() {
        return code;
    }
    if std::env::var_os("OMS_LEASH").is_some() {
        std::thread::spawn(|| {
            // The test holds the other end of our standard input. It closes with the test, even a killed one.
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            #[expect(clippy::disallowed_methods, reason = "what a killed test leaves must end at once")]
            std::process::exit(1);
        });
    }
    oms::cli::run()
}
