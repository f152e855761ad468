//! The saga engine: many sagas per commit, intent before call, no progress that depends on memory.
//!
//! A saga is a row. What it does next is decided by [`plan`], a pure function of its definition, where it is and how
//! the last attempt ended. The [`runner`] carries decisions out in two kinds of transaction:
//!
//! - **advance**: claim ready sagas, run their local steps set by set until each saga blocks, write everything, commit,
//!   and only then send the gateway calls whose intents that commit holds;
//! - **settle**: take the open calls whose results came in, matched by epoch, record what the results mean, and go on
//!   as above.
//!
//! The [`sweeper`] moves what is due or abandoned back into play, from rows alone.
//!
//! Absent on purpose: orders, payments, HTTP. This module imports nothing of the rest of the program; a test holds it
//! to that.

mod advance;
mod batch;
mod batch_error;
mod breaker;
mod caller;
mod crash_point;
pub mod database_error;
pub mod definition;
mod dispatch;
pub mod guard;
mod history;
pub mod notify;
pub mod operate;
pub mod plan;
pub mod presence;
pub mod process;
pub mod retry;
pub mod runner;
mod settler;
mod status;
mod step;
mod step_transaction;
pub mod store;
mod sweeper;
pub mod verify;

pub use definition::{
    Action, Definition, DefinitionError, Definitions, Resolution, StepDefinition, StepKind,
};
pub use notify::{Changed, Wakeups};
pub use presence::Presence;
pub use retry::RetryPolicy;
pub use runner::{Runner, RunnerSettings};
pub use status::{Direction, SagaStatus};
pub use step::{Call, ExternalStep, Failure, LocalStep, Lookup, Outcome, Saga, Settled, StepError, Verdict};
pub use step_transaction::{Deferred, StepTransaction};
