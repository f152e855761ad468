//! Settles what came of calls: gathers results, and commits them together with what they mean.

use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};
use uuid::Uuid;

use super::advance::{self, Onward};
use super::batch_error::BatchError;
use super::caller::Answered;
use super::dispatch::CallResult;
use super::retry::with_full_jitter;
use super::runner::{Engine, MAX_LOOKS, TROUBLE_DELAY, chain, is_conflict, is_time_out};

/// How long the first results of a batch wait for others, as long as other calls are open.
const GATHER_TIME: Duration = Duration::from_millis(2);

/// The longest pause after a conflict.
const CONFLICT_PAUSE: Duration = Duration::from_millis(20);

/// Gathers results and settles them, several batches at a time, until shutdown and then until nothing is open.
pub(super) async fn settle_loop(
    engine: &Arc<Engine>,
    mut answered: mpsc::Receiver<Answered>,
    shutdown: &CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(engine.settings.parallel_batches as usize));
    let mut batches = JoinSet::new();
    let drained = engine.drained_after(shutdown);
    tokio::pin!(drained);
    loop {
        let first = tokio::select! {
            first = answered.recv() => first,
            () = &mut drained => None,
        };
        let Some(first) = first else { break };
        // The slot first: what comes in while none is free joins the batch.
        let Ok(slot) = slots.clone().acquire_owned().await else { break };
        let batch = engine.gather(first, &mut answered).await;
        let engine = engine.clone();
        batches.spawn(async move {
            engine.settle_until_done(batch).await;
            drop(slot);
        });
        while batches.try_join_next().is_some() {}
    }
    let rest = async { while batches.join_next().await.is_some() {} };
    if tokio::time::timeout(engine.settings.drain_time, rest).await.is_err() {
        warn!("stopped before every result was settled; another process will take the calls over");
    }
}

impl Engine {
    /// Finds out whether a lost commit that would have ended these calls did not happen.
    async fn is_any_open(&self, results: &[CallResult]) -> bool {
        let saga_ids: Vec<Uuid> = results.iter().map(|result| result.dispatch.saga_id).collect();
        for _ in 0..MAX_LOOKS {
            match self.find_open_epochs(saga_ids.clone()).await {
                Ok(open) => {
                    let is_open = |result: &CallResult| {
                        open.get(&result.dispatch.saga_id) == Some(&result.dispatch.epoch)
                    };
                    return results.iter().any(is_open);
                }
                Err(error) => {
                    warn!(error = %chain(&error), "cannot see whether a commit happened; trying again");
                    tokio::time::sleep(TROUBLE_DELAY).await;
                }
            }
        }
        // Settling what is settled already changes nothing.
        true
    }

    /// Waits shortly for more results, as long as calls are open, and takes up to a batch of them.
    async fn gather(&self, first: Answered, answered: &mut mpsc::Receiver<Answered>) -> Vec<Answered> {
        let limit = self.settings.batch_size as usize;
        let mut batch = vec![first];
        let deadline = tokio::time::Instant::now() + GATHER_TIME;
        while batch.len() < limit {
            if let Ok(next) = answered.try_recv() {
                batch.push(next);
                continue;
            }
            let open = self.settings.max_open_calls as usize - self.permits.available_permits();
            if open <= batch.len() {
                break;
            }
            match tokio::time::timeout_at(deadline, answered.recv()).await {
                Ok(Some(next)) => batch.push(next),
                Ok(None) | Err(_) => break,
            }
        }
        batch
    }

    /// Settles a batch, however long the database takes. When it takes longer than the leases, another process has
    /// taken the calls over and the results are kept as evidence.
    async fn settle_until_done(&self, batch: Vec<Answered>) {
        let (results, permits): (Vec<CallResult>, Vec<OwnedSemaphorePermit>) =
            batch.into_iter().map(|answered| (answered.result, answered.permit)).unzip();
        let mut permits = permits.into_iter().reduce(|mut all, one| {
            all.merge(one);
            all
        });
        let mut sets: Vec<(&[CallResult], Onward)> = vec![(&results, Onward::Now)];
        while let Some((set, onward)) = sets.pop() {
            match advance::settle(&self.db, self.context(), set, onward).await {
                Ok(advanced) => {
                    counter!("oms_calls_settled_total").increment(set.len() as u64);
                    if advanced.stale > 0 {
                        counter!("oms_stale_results_total").increment(advanced.stale as u64);
                        warn!(
                            results = advanced.stale,
                            "results came after their calls were taken over; kept as evidence"
                        );
                    }
                    if let Some(permits) = &mut permits
                        && let Some(own) = permits.split(set.len())
                    {
                        self.publish(advanced, own);
                    }
                }
                // It stays behind those that may be quicker. Whatever holds it up, the result is a fact.
                Err(BatchError::Step { source, .. }) if set.len() == 1 && is_time_out(&source) => {
                    warn!(saga.id = %set[0].dispatch.saga_id, "recording a result takes too long; trying again");
                    sets.insert(0, (set, onward));
                    tokio::time::sleep(TROUBLE_DELAY).await;
                }
                // Nobody is to blame for a conflict.
                Err(error) if is_conflict(&error) => {
                    debug!(error = %chain(&error), "settling lost a conflict; trying again");
                    sets.push((set, onward));
                    tokio::time::sleep(with_full_jitter(CONFLICT_PAUSE)).await;
                }
                Err(BatchError::Step { step, source, .. }) if set.len() > 1 => {
                    warn!(step, results = set.len(), error = %chain(&source), "a step failed; bisecting its results");
                    let (left, right) = set.split_at(set.len() / 2);
                    sets.extend([(right, onward), (left, onward)]);
                }
                // It may be the step after the call that cannot run, and the result is a fact all the same.
                Err(BatchError::Step { .. }) if onward == Onward::Now => sets.push((set, Onward::Later)),
                Err(BatchError::Step { step, source, .. }) => {
                    // The call stays open: its lease ends, and the same key gets the same answer again.
                    counter!("oms_sagas_parked_total", "step" => step).increment(1);
                    error!(saga.id = %set[0].dispatch.saga_id, step, error = %chain(&source),
                        "the result cannot be recorded; the call is repeated when its lease is over");
                }
                Err(BatchError::CommitLost { advanced, source }) => {
                    warn!(error = %chain(&source), "lost the answer to a commit; looking whether it happened");
                    if self.is_any_open(set).await {
                        sets.push((set, onward));
                        continue;
                    }
                    let advanced = self.as_committed(*advanced).await;
                    if let Some(permits) = &mut permits
                        && let Some(own) = permits.split(set.len())
                    {
                        self.publish(advanced, own);
                    }
                }
                Err(error) => {
                    warn!(error = %chain(&error), "could not settle results; trying again");
                    sets.push((set, onward));
                    tokio::time::sleep(TROUBLE_DELAY).await;
                }
            }
        }
    }
}
