//! Why a transaction of the engine was rolled back, and whose fault that is.

use std::any::Any;

use sea_orm::DbErr;
use uuid::Uuid;

use super::batch::{Advanced, Place};
use super::database_error::is_unavailable;
use super::definition::CONCLUSION;
use super::status::Direction;
use super::step::{StepError, storable};

/// Why a transaction was rolled back.
#[derive(Debug, thiserror::Error)]
pub(super) enum BatchError {
    /// A statement of the engine failed, or the commit did.
    #[error("could not {doing}")]
    Database {
        doing: &'static str,
        #[source]
        source: DbErr,
    },
    /// The commit's answer was lost: nobody knows whether it happened.
    #[error("lost the answer to a commit")]
    CommitLost {
        /// What is true if it did.
        advanced: Box<Advanced>,
        #[source]
        source: DbErr,
    },
    /// A step failed for a set of sagas of which at least one is to blame.
    #[error("step {step} failed for a batch of {}", saga_ids.len())]
    Step {
        step: &'static str,
        place: Place,
        /// Where each saga of the transaction was when it began.
        saga_ids: Vec<(Uuid, Place)>,
        #[source]
        source: StepError,
    },
}

pub(super) fn database(doing: &'static str) -> impl FnOnce(DbErr) -> BatchError {
    move |source| BatchError::Database { doing, source }
}

/// What is said of a failure after the last step, of which it is not known whose it is.
pub(super) const AFTER_THE_STEPS: &str = "(after the steps)";

/// Makes the error of what is done for all sagas after their steps. Of one saga alone it is known where it began, and
/// there it is parked.
pub(super) fn blame(started: &[(Uuid, Place)], step: &'static str, source: StepError) -> BatchError {
    let place = started.first().map_or((CONCLUSION, Direction::Forward), |(_, place)| *place);
    step_failed(started, step, place, source)
}

/// Makes the error of a step.
pub(super) fn step_failed(
    started: &[(Uuid, Place)],
    step: &'static str,
    place: Place,
    source: StepError,
) -> BatchError {
    match source {
        // Nobody's step is to blame: nothing is bisected, and no attempt is counted.
        StepError::Database(source) if is_unavailable(&source) => {
            BatchError::Database { doing: "run a step", source }
        }
        source => BatchError::Step { step, place, saga_ids: started.to_vec(), source },
    }
}

/// Returns what a panic said, if it said it in text.
pub(super) fn panic_message(panic: &Box<dyn Any + Send>) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .map_or_else(|| "no message".to_owned(), |message| storable(&message))
}
