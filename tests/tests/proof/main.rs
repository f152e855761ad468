//! What the engine promises, tried at each step, in each direction, at each instruction where it could break.
//!
//! The laws and the failure matrix are written once, for every saga that `oms_tests::subject` lists.

mod backlog;
mod bench;
mod fencing;
mod guards;
mod held;
mod laws;
mod matrix;
mod outages;
mod poison;
mod versions;

/// The program that the tests start and kill.
const OMS: &str = env!("CARGO_BIN_EXE_oms-under-test");
