//! The transactions of the engine: advance and settle, and the rarer ones that park, expire and decide.
//!
//! Each takes leases, loads the sagas, carries them on as a [`Batch`], and writes everything with one statement for
//! each table. None of them sends anything: calls are returned, to be dispatched once the commit that holds their
//! intents is through.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use sea_orm::{DatabaseConnection, DatabaseTransaction, DbErr, TransactionTrait};
use serde_json::{Value, json};
use tracing::warn;
use uuid::Uuid;

use super::batch::{Advanced, Batch, Context, Place, Written, begin_attempt};
use super::batch_error::{BatchError, database};
use super::breaker::Breakers;
use super::definition::Definitions;
use super::dispatch::CallResult;
use super::guard::Guard;
use super::history::{Attempt, LogEntry, LogKind, evidence};
use super::plan::{self, Ended};
use super::presence::{Presence, no_answer};
use super::step::{Failure, Outcome, Saga};
use super::store::{self, CallName, CallRow, SagaRow};

/// What becomes of sagas once the results of their calls are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Onward {
    /// They are carried on in the same transaction.
    Now,
    /// They are made ready, and a transaction of their own carries them on: a step that cannot run for one of them then
    /// cannot take the record of the result away again.
    Later,
}

/// Which ready sagas to take.
#[derive(Debug, Clone)]
pub(super) enum Selection {
    /// Up to this many, the oldest first.
    Oldest(u64),
    /// These, as far as they are ready.
    These(Vec<Uuid>),
}

/// Advances ready sagas. With `halt_before`, a saga that would enter that place is made ready again instead, so that
/// the place begins its next transaction.
pub(super) async fn advance(
    db: &DatabaseConnection,
    context: Context<'_>,
    selection: Selection,
    halt_before: Option<Place>,
) -> Result<Advanced, BatchError> {
    commit_unless_silent(context.presence, "advance sagas", async {
        let tx = db.begin().await.map_err(database("begin to advance"))?;
        let claimed = match selection {
            Selection::Oldest(limit) => store::claim_ready(&tx, limit).await,
            Selection::These(ids) => store::claim_these(&tx, &ids).await,
        }
        .map_err(database("claim ready sagas"))?;
        if claimed.is_empty() {
            return Ok(None);
        }
        let rows = store::load_sagas(&tx, &claimed).await.map_err(database("load sagas"))?;
        let mut batch = Batch::new(context, &tx, rows, halt_before);
        batch.run().await?;
        let written = batch.write().await?;
        Ok(Some((tx, written)))
    })
    .await
}

/// Does what comes before a commit and commits it, if there is anything; gives up when the database is silent. The commit
/// is apart from the rest, since only of a commit nobody knows whether it happened.
async fn commit_unless_silent(
    presence: &Presence,
    doing: &'static str,
    work: impl Future<Output = Result<Option<(DatabaseTransaction, Written)>, BatchError>>,
) -> Result<Advanced, BatchError> {
    let silent = || Err(BatchError::Database { doing, source: no_answer() });
    match presence.unless_silent(work).await.unwrap_or_else(silent)? {
        Some((tx, written)) => written.commit(tx, presence).await,
        None => Ok(Advanced::default()),
    }
}

/// Ends one saga's attempt at the place it is at, because its step cannot run: the saga goes to backoff alone.
pub(super) async fn park(
    db: &DatabaseConnection,
    context: Context<'_>,
    saga_id: Uuid,
    reason: &str,
) -> Result<Advanced, BatchError> {
    commit_unless_silent(context.presence, "park a saga", async {
        let tx = db.begin().await.map_err(database("begin to park a saga"))?;
        let rows = claim_alone(&tx, saga_id).await?;
        let mut batch = Batch::new(context, &tx, rows, None);
        for mut saga in std::mem::take(&mut batch.runnable) {
            begin_attempt(&mut saga);
            let ended = Ended::Postponed { delay: None, reason: reason.to_owned() };
            batch.end_attempt(saga, ended, Attempt::local(batch.now, json!({ "reason": reason })));
        }
        // Giving up may turn the saga round; its undo runs in a transaction of its own.
        for saga in std::mem::take(&mut batch.runnable) {
            batch.block_ready(saga);
        }
        let written = batch.write().await?;
        Ok(Some((tx, written)))
    })
    .await
}

/// Takes one saga, if it is ready.
async fn claim_alone(tx: &DatabaseTransaction, saga_id: Uuid) -> Result<Vec<SagaRow>, BatchError> {
    let claimed = store::claim_these(tx, &[saga_id]).await.map_err(database("claim a saga"))?;
    store::load_sagas(tx, &claimed).await.map_err(database("load a saga"))
}

/// Lets one saga wait where it is, without an attempt being counted.
pub(super) async fn postpone(
    db: &DatabaseConnection,
    context: Context<'_>,
    saga_id: Uuid,
    delay: Duration,
) -> Result<Advanced, BatchError> {
    commit_unless_silent(context.presence, "postpone a saga", async {
        let tx = db.begin().await.map_err(database("begin to postpone a saga"))?;
        let rows = claim_alone(&tx, saga_id).await?;
        let mut batch = Batch::new(context, &tx, rows, None);
        for saga in std::mem::take(&mut batch.runnable) {
            batch.block_until(saga, delay);
        }
        let written = batch.write().await?;
        Ok(Some((tx, written)))
    })
    .await
}

/// Records results, matched to their open calls by step, direction and epoch, and carries the sagas on. A result that matches none is kept
/// as evidence and changes nothing.
pub(super) async fn settle(
    db: &DatabaseConnection,
    context: Context<'_>,
    results: &[CallResult],
    onward: Onward,
) -> Result<Advanced, BatchError> {
    let mut stale_results = 0;
    let settled = commit_unless_silent(context.presence, "settle results", async {
        let tx = db.begin().await.map_err(database("begin to settle"))?;
        let (ended, stale) = take_ended(&tx, results).await?;
        stale_results = stale.len();
        let written = settle_taken(&tx, context, ended, stale, onward).await?;
        Ok(Some((tx, written)))
    });
    let mut advanced = settled.await?;
    advanced.stale = stale_results;
    Ok(advanced)
}

/// Takes the open calls that results match by step, direction and epoch, and makes evidence of those that match none.
async fn take_ended(
    tx: &DatabaseTransaction,
    results: &[CallResult],
) -> Result<(Vec<(CallRow, Outcome)>, Vec<LogEntry>), BatchError> {
    let name = |CallResult { dispatch, .. }: &CallResult| CallName {
        saga_id: dispatch.saga_id,
        step: dispatch.place.0,
        direction: dispatch.place.1,
        epoch: dispatch.epoch,
    };
    let names: Vec<CallName> = results.iter().map(name).collect();
    let taken = store::take_calls(tx, &names).await.map_err(database("take open calls"))?;
    let epoch_of = |saga_id: Uuid, epoch: i32| (saga_id, if Guard::EpochMatch.is_off() { 0 } else { epoch });
    let outcomes: HashMap<(Uuid, i32), &Outcome> = results
        .iter()
        .map(|result| (epoch_of(result.dispatch.saga_id, result.dispatch.epoch), &result.outcome))
        .collect();
    let ended: Vec<(CallRow, Outcome)> = taken
        .into_iter()
        .filter_map(|row| {
            outcomes.get(&epoch_of(row.saga_id, row.epoch)).map(|&outcome| (row, outcome.clone()))
        })
        .collect();
    let matched: HashSet<(Uuid, i32)> = ended.iter().map(|(row, _)| (row.saga_id, row.epoch)).collect();
    let stale = results
        .iter()
        .filter(|result| !matched.contains(&(result.dispatch.saga_id, result.dispatch.epoch)))
        .map(evidence)
        .collect();
    Ok((ended, stale))
}

/// Ends calls whose lease is over or whose worker is dead. Nobody knows how they ended.
pub(super) async fn expire(
    db: &DatabaseConnection,
    context: Context<'_>,
    worker_lease: Duration,
    limit: u64,
) -> Result<Advanced, BatchError> {
    commit_unless_silent(context.presence, "expire calls", async {
        let tx = db.begin().await.map_err(database("begin to expire calls"))?;
        let taken = store::take_abandoned_calls(&tx, context.definitions, worker_lease, limit)
            .await
            .map_err(database("take abandoned calls"))?;
        if taken.is_empty() {
            return Ok(None);
        }
        warn!(calls = taken.len(), "taking over calls of which nobody knows the outcome");
        let lost =
            Outcome::Unknown("the worker that made the call did not record a result in time".to_owned());
        let ended = taken.into_iter().map(|row| (row, lost.clone())).collect();
        // The calls of many sagas expire together, and none of them must wait for another one's next step.
        let written = settle_taken(&tx, context, ended, Vec::new(), Onward::Later).await?;
        Ok(Some((tx, written)))
    })
    .await
}

/// What a person decided about a saga whose lease the caller holds.
#[derive(Debug)]
pub(super) enum Decision {
    /// Try the step again now; everything else stays as it is, the age of its key included.
    TryNow,
    /// Try the step again now, as patiently as if none of its attempts had been made.
    TryAfresh,
    /// Turn round.
    Abandon(Failure),
    /// Take this for the outcome of the attempts that ended unknown, or of what is stuck.
    Resolve(Outcome),
}

/// Carries a decision out and leaves `note` in the history. The saga is ready afterwards, unless it is over: whatever
/// its next step is, a runner takes it.
pub(super) async fn apply_decision(
    tx: &DatabaseTransaction,
    definitions: &Definitions,
    saga_id: Uuid,
    decision: Decision,
    note: &Value,
) -> Result<(), BatchError> {
    let rows = store::load_sagas(tx, &[saga_id]).await.map_err(database("load a saga"))?;
    // No call is made here: a decision leaves the saga ready, and a runner makes its next one.
    let breakers = Breakers::default();
    let (presence, worker_id) = (Presence::default(), Uuid::nil());
    let context = Context {
        definitions,
        breakers: &breakers,
        presence: &presence,
        worker_id,
        one_step_per_commit: true,
    };
    let mut batch = Batch::new(context, tx, rows, None);
    let Some(mut saga) = batch.runnable.pop() else {
        let missing = DbErr::RecordNotFound(format!("saga {saga_id}"));
        return Err(BatchError::Database { doing: "load a saga", source: missing });
    };
    saga.epoch += 1;
    let outcome = match &decision {
        Decision::Resolve(Outcome::Succeeded(_)) => "SUCCEEDED",
        Decision::Resolve(Outcome::Refused(_)) => "REFUSED",
        _ => "OPERATOR",
    };
    batch.log(&saga, LogKind::Operator, outcome, note.to_string());
    match decision {
        Decision::TryNow => batch.runnable.push(saga),
        Decision::TryAfresh => {
            saga.cursor.attempt = 0;
            saga.stuck = false;
            batch.runnable.push(saga);
        }
        Decision::Abandon(failure) => {
            let next = plan::abandon(&saga.definition, saga.cursor, failure, batch.now);
            batch.carry_out(saga, next);
        }
        Decision::Resolve(outcome) => batch.resolve(saga, &outcome).await?,
    }
    for saga in std::mem::take(&mut batch.runnable) {
        batch.block_ready(saga);
    }
    batch.write().await.map(drop)
}

async fn settle_taken(
    tx: &DatabaseTransaction,
    context: Context<'_>,
    mut ended: Vec<(CallRow, Outcome)>,
    stale: Vec<LogEntry>,
    onward: Onward,
) -> Result<Written, BatchError> {
    ended.sort_unstable_by_key(|(row, _)| row.saga_id);
    let saga_ids: Vec<Uuid> = ended.iter().map(|(row, _)| row.saga_id).collect();
    let rows = store::load_sagas(tx, &saga_ids).await.map_err(database("load sagas"))?;
    let mut batch = Batch::new(context, tx, rows, None);
    batch.writes.log = stale;
    let mut calls: HashMap<Uuid, (CallRow, Outcome)> =
        ended.into_iter().map(|(row, outcome)| (row.saga_id, (row, outcome))).collect();
    let mut waiting: Vec<(Saga, CallRow, Outcome)> = std::mem::take(&mut batch.runnable)
        .into_iter()
        .filter_map(|saga| calls.remove(&saga.id).map(|(row, outcome)| (saga, row, outcome)))
        .collect();
    batch.record(&mut waiting).await?;
    for (saga, row, outcome) in waiting {
        let ended = Ended::from(&outcome);
        batch.end_attempt(saga, ended, Attempt::call(row, &outcome));
    }
    match onward {
        Onward::Now => batch.run().await?,
        Onward::Later => {
            for saga in std::mem::take(&mut batch.runnable) {
                batch.block_ready(saga);
            }
        }
    }
    batch.write().await
}
