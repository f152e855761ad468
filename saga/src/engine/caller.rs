//! Makes gateway calls once their intents are committed, each in a task of its own and with a deadline.
//!
//! A call that ends without a definitive answer, for whatever reason, ends unknown: time-outs and panics included. So does
//! one that is not sent, because so much time has passed since its intent that another process may make it: this one has
//! stood still, or has looked for long whether its commit happened. Standing still between that look at the clock and the
//! first byte goes unnoticed; the key and the epoch are the guards then.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use chrono::Utc;
use futures_util::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tracing::warn;

use super::batch_error::panic_message;
use super::breaker::Breakers;
use super::crash_point::CrashPoint;
use super::dispatch::{CallResult, Dispatch};
use super::step::{Lookup, Outcome};

/// A result on its way to be settled, with the capacity that is given back once it has been.
pub(super) struct Answered {
    pub(super) result: CallResult,
    pub(super) permit: OwnedSemaphorePermit,
}

/// Makes a call and sends its result on.
pub(super) fn dispatch(
    dispatch: Dispatch,
    permit: OwnedSemaphorePermit,
    results: mpsc::Sender<Answered>,
    breakers: Arc<Breakers>,
) {
    tokio::spawn(async move {
        let started_at = Utc::now();
        let outcome = if Instant::now() < dispatch.send_before {
            CrashPoint::BeforeSend.pass(&dispatch);
            fail::fail_point!("before_send");
            let outcome = resolve_or_call(&dispatch).await.into_storable();
            breakers.observe(dispatch.step.system(), &outcome, Instant::now());
            outcome
        } else {
            // The other system is not to blame, so its breaker learns nothing.
            warn!(saga.id = %dispatch.saga_id, "too late after the intent of a call; not sending it");
            Outcome::Unknown("not sent: it was too late after the intent".to_owned())
        };
        CrashPoint::AfterAnswer.pass(&dispatch);
        fail::fail_point!("after_answer");
        // The receiver is gone only when the process stops; another takes the call over by its lease.
        let _ = results.send(Answered { result: CallResult { dispatch, outcome, started_at }, permit }).await;
    });
}

/// Makes a call; where an earlier attempt may have taken effect, asks about that one first if the step says so. Both
/// together have the time of one call.
async fn resolve_or_call(dispatch: &Dispatch) -> Outcome {
    let (step, call) = (dispatch.step.as_ref(), &dispatch.call);
    let attempt = async {
        if dispatch.look_up_first
            && let Lookup::Found(outcome) = step.look_up(call).await
        {
            return outcome;
        }
        step.call(call).await
    };
    match tokio::time::timeout(call.time_out, AssertUnwindSafe(attempt).catch_unwind()).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panic)) => Outcome::Unknown(format!("the call panicked: {}", panic_message(&panic))),
        Err(_) => Outcome::Unknown(format!("no answer within {} ms", call.time_out.as_millis())),
    }
}
