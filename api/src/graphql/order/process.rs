//! How far an order has been carried out, as clients see it.

use async_graphql::{Enum, SimpleObject};
use chrono::{DateTime, Utc};
use saga::engine::process;

/// Where an order's process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(remote = "saga::engine::SagaStatus")]
pub(crate) enum ProcessState {
    /// Going forward.
    Running,
    /// A step failed for good; what was done before is being undone.
    Compensating,
    /// Waiting for a person: the outcome of a call could not be found out.
    Held,
    /// All steps are done.
    Succeeded,
    /// Everything that was done has been undone.
    Compensated,
}

/// Where a step of a process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(remote = "process::StepStatus")]
pub(super) enum StepStatus {
    /// Its turn has not come.
    Waiting,
    /// On its way.
    Running,
    /// An attempt went wrong; another will follow.
    Retrying,
    /// Done.
    Succeeded,
    /// Failed for good.
    Failed,
    /// Being undone.
    Compensating,
    /// Undone.
    Compensated,
    /// Never begun, since an earlier step failed.
    Skipped,
}

/// How far an order has been carried out.
#[derive(Debug, Clone, SimpleObject)]
pub(super) struct OrderProcess {
    /// Where it stands as a whole. Example: `RUNNING`
    state: ProcessState,
    /// The step it is at; null once it is over. Example: `capture_payment`
    current_step: Option<String>,
    /// Every step, in the order in which they run.
    steps: Vec<ProcessStep>,
}

/// One step of a process.
#[derive(Debug, Clone, SimpleObject)]
pub(super) struct ProcessStep {
    /// Which step. Example: `reserve_stock`
    name: String,
    /// Where it stands. Example: `SUCCEEDED`
    status: StepStatus,
    /// How often it was tried. Example: `1`
    attempts: i32,
    /// When it was first tried (RFC 3339, UTC). Example: `2026-11-25T10:00:00.123456+00:00`
    started_at: Option<DateTime<Utc>>,
    /// When it was done or had failed for good (RFC 3339, UTC). Example: `2026-11-25T10:00:00.223456+00:00`
    finished_at: Option<DateTime<Utc>>,
    /// What its last attempt said, for people. Example: `the card was declined`
    message: Option<String>,
}

impl From<process::Process> for OrderProcess {
    fn from(process: process::Process) -> Self {
        let steps = process.steps.into_iter().map(|step| ProcessStep {
            name: step.name,
            status: step.status.into(),
            attempts: step.attempts,
            started_at: step.started_at,
            finished_at: step.finished_at,
            message: step.message,
        });
        Self { state: process.state.into(), current_step: process.current_step, steps: steps.collect() }
    }
}
