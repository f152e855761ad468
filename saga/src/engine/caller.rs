//! Makes gateway calls once their intents are committed, each in a task of its own and with a deadline.
//!
//! A call that ends without a definitive answer, for whatever reason, ends unknown: time-outs and panics included.

use std::panic::AssertUnwindSafe;

use chrono::Utc;
use futures_util::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::advance::{CallResult, Dispatch, panic_message};
use super::step::{Call, ExternalStep, Outcome};

/// A result on its way to be settled, with the capacity that is given back once it has been.
pub(super) struct Answered {
    pub(super) result: CallResult,
    pub(super) permit: OwnedSemaphorePermit,
}

/// Makes a call and sends its result on.
pub(super) fn dispatch(dispatch: Dispatch, permit: OwnedSemaphorePermit, results: mpsc::Sender<Answered>) {
    tokio::spawn(async move {
        fail::fail_point!("before_send");
        let started_at = Utc::now();
        let outcome = call(dispatch.step.as_ref(), &dispatch.call).await;
        fail::fail_point!("after_answer");
        // The receiver is gone only when the process stops; another takes the call over by its lease.
        let _ = results.send(Answered { result: CallResult { dispatch, outcome, started_at }, permit }).await;
    });
}

async fn call(step: &dyn ExternalStep, call: &Call) -> Outcome {
    match tokio::time::timeout(call.time_out, AssertUnwindSafe(step.call(call)).catch_unwind()).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panic)) => Outcome::Unknown(format!("the call panicked: {}", panic_message(&panic))),
        Err(_) => Outcome::Unknown(format!("no answer within {} ms", call.time_out.as_millis())),
    }
}
