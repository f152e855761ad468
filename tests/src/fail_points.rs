//! Kills or stops a process at a chosen instruction.
//!
//! The engine has fail points (`saga/src/engine`): `before_batch_commit`, `after_batch_commit`, `before_send` and
//! `after_answer`. `OMS_KILL_AT=after_answer:2` makes the process send itself SIGKILL when it comes to the second
//! gateway answer: nothing is flushed, closed or said, as when the power goes.
//!
//! `OMS_STOP_AT=before_send/capture_payment/forward` makes it send itself SIGSTOP where it first comes to that point of
//! that step (`saga/src/engine/crash_point.rs`): what happens then is up to the test.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};

/// The variable that says where.
pub const KILL_AT: &str = "OMS_KILL_AT";

/// The variable that says where to stop.
pub const STOP_AT: &str = "OMS_STOP_AT";

/// Does what [`KILL_AT`] and [`STOP_AT`] say, if they are set.
///
/// # Panics
/// The variable is not a fail point, a colon and a number from 1.
pub fn arm_from_environment() {
    if let Ok(place) = std::env::var(STOP_AT) {
        stop_at(&place);
    }
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

/// Stops the process when it comes to a place for the first time; an empty place is nowhere.
pub(crate) fn stop_at(place: &str) {
    fail::remove("crash_place");
    if place.is_empty() {
        return;
    }
    let is_armed = AtomicBool::new(true);
    fail::cfg_callback("crash", move || {
        if is_armed.swap(false, Ordering::SeqCst) {
            kill_process(getpid(), Signal::STOP).expect("a process may stop itself");
            // The signal stops every thread, this one as well, but not within this instruction.
            #[expect(clippy::disallowed_methods, reason = "the thread is meant to stand still")]
            std::thread::sleep(Duration::from_millis(50));
        }
    })
    .expect("fail points are compiled in");
    fail::cfg("crash_place", &format!("return({place})")).expect("fail points are compiled in");
}
