//! Kills a process at a chosen instruction.
//!
//! The engine has fail points (`saga/src/engine`): `before_batch_commit`, `after_batch_commit`, `before_send` and
//! `after_answer`. `OMS_KILL_AT=after_answer:2` makes the process send itself SIGKILL when it comes to the second
//! gateway answer: nothing is flushed, closed or said, as when the power goes.

use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Signal, getpid, kill_process};

/// The variable that says where.
pub const KILL_AT: &str = "OMS_KILL_AT";

/// Does what [`KILL_AT`] says, if it is set.
///
/// # Panics
/// The variable is not a fail point, a colon and a number from 1.
pub fn arm_from_environment() {
    let Ok(setting) = std::env::var(KILL_AT) else { return };
    let (name, turn) = setting.split_once(':').expect("OMS_KILL_AT is a fail point, a colon and a number");
    let turn: u32 = turn.parse().expect("the number in OMS_KILL_AT");
    let passed = AtomicU32::new(0);
    fail::cfg_callback(name, move || {
        if passed.fetch_add(1, Ordering::SeqCst) + 1 == turn {
            kill_process(getpid(), Signal::KILL).expect("a process may kill itself");
            // The signal is on its way to every thread; this one must not get further.
            loop {
                std::thread::park();
            }
        }
    })
    .expect("fail points are compiled in");
}
