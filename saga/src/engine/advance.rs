//! The two transactions of the engine: advance and settle.
//!
//! Both take leases, load the sagas, carry each on until it blocks, and write everything with one statement for each
//! table. Neither sends anything: calls are returned, to be dispatched once the commit that holds their intents is
//! through.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use sea_orm::{DatabaseConnection, DatabaseTransaction, DbErr, TransactionTrait};
use serde_json::{Value, json};
use tracing::{debug, error, info, warn};
use uuid::Uuid;

use super::definition::{Action, Definition, Definitions, LEASE_MARGIN};
use super::plan::{self, Cursor, Ended, Next, Wait};
use super::retry::with_full_jitter;
use super::status::{Direction, SagaStatus};
use super::step::{Call, ExternalStep, Failure, LocalStep, Outcome, Saga, Settled, StepError, Verdict};
use super::store::{self, CallRow, LogEntry, LogKind, NewCall, SagaRow, SagaUpdate, Writes};

/// A step of a saga in one direction.
pub(super) type Place = (i16, Direction);

/// Which ready sagas to take.
#[derive(Debug, Clone)]
pub(super) enum Selection {
    /// Up to this many, the oldest first.
    Oldest(u64),
    /// These, as far as they are ready.
    These(Vec<Uuid>),
}

/// What a transaction did.
#[derive(Default)]
pub(super) struct Advanced {
    /// How many sagas it moved.
    pub(super) moved: usize,
    /// Calls whose intents are committed.
    pub(super) dispatches: Vec<Dispatch>,
    /// Subjects of the sagas it moved.
    pub(super) subject_ids: Vec<Uuid>,
    /// Whether it made sagas ready again.
    pub(super) made_ready: bool,
    /// Results that matched no open call.
    pub(super) stale: usize,
}

/// A call to be made, with everything that its result has to name.
#[derive(Clone)]
pub(super) struct Dispatch {
    pub(super) saga_id: Uuid,
    pub(super) definition: Arc<Definition>,
    pub(super) place: Place,
    pub(super) epoch: i32,
    pub(super) attempt: u32,
    pub(super) generation: u32,
    pub(super) step: Arc<dyn ExternalStep>,
    pub(super) call: Call,
}

/// A call that was made, and how it ended.
pub(super) struct CallResult {
    pub(super) dispatch: Dispatch,
    pub(super) outcome: Outcome,
    pub(super) started_at: DateTime<Utc>,
}

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

fn database(doing: &'static str) -> impl FnOnce(DbErr) -> BatchError {
    move |source| BatchError::Database { doing, source }
}

/// Advances ready sagas. With `halt_before`, a saga that would enter that place is made ready again instead, so that
/// the place begins its next transaction.
pub(super) async fn advance(
    db: &DatabaseConnection,
    definitions: &Definitions,
    worker_id: Uuid,
    selection: Selection,
    halt_before: Option<Place>,
) -> Result<Advanced, BatchError> {
    let tx = db.begin().await.map_err(database("begin to advance"))?;
    let claimed = match selection {
        Selection::Oldest(limit) => store::claim_ready(&tx, limit).await,
        Selection::These(ids) => store::claim_these(&tx, &ids).await,
    }
    .map_err(database("claim ready sagas"))?;
    if claimed.is_empty() {
        return Ok(Advanced::default());
    }
    let rows = store::load_sagas(&tx, &claimed).await.map_err(database("load sagas"))?;
    let mut batch = Batch::new(definitions, rows, halt_before);
    batch.run(&tx).await?;
    batch.commit(tx, worker_id).await
}

/// Ends one saga's attempt at the place it is at, because its step cannot run: the saga goes to backoff alone.
pub(super) async fn park(
    db: &DatabaseConnection,
    definitions: &Definitions,
    worker_id: Uuid,
    saga_id: Uuid,
    reason: &str,
) -> Result<Advanced, BatchError> {
    let tx = db.begin().await.map_err(database("begin to park a saga"))?;
    let claimed = store::claim_these(&tx, &[saga_id]).await.map_err(database("claim a saga to park"))?;
    let rows = store::load_sagas(&tx, &claimed).await.map_err(database("load a saga to park"))?;
    let mut batch = Batch::new(definitions, rows, None);
    for mut saga in std::mem::take(&mut batch.runnable) {
        begin_attempt(&mut saga);
        let ended = Ended::Postponed { delay: None, reason: reason.to_owned() };
        batch.end_attempt(saga, ended, &Attempt::local(batch.now, json!({ "reason": reason })));
    }
    // Giving up may turn the saga round; its undo runs in a transaction of its own.
    for saga in std::mem::take(&mut batch.runnable) {
        batch.block_ready(saga);
    }
    batch.commit(tx, worker_id).await
}

/// Records results, matched to their open calls by epoch, and carries the sagas on. A result that matches none is kept
/// as evidence and changes nothing.
pub(super) async fn settle(
    db: &DatabaseConnection,
    definitions: &Definitions,
    worker_id: Uuid,
    results: &[CallResult],
) -> Result<Advanced, BatchError> {
    let tx = db.begin().await.map_err(database("begin to settle"))?;
    let (saga_ids, epochs) =
        results.iter().map(|result| (result.dispatch.saga_id, result.dispatch.epoch)).unzip();
    let taken = store::take_calls(&tx, saga_ids, epochs).await.map_err(database("take open calls"))?;
    let outcomes: HashMap<(Uuid, i32), &Outcome> = results
        .iter()
        .map(|result| ((result.dispatch.saga_id, result.dispatch.epoch), &result.outcome))
        .collect();
    let ended: Vec<(CallRow, Outcome)> = taken
        .into_iter()
        .filter_map(|row| outcomes.get(&(row.saga_id, row.epoch)).map(|&outcome| (row, outcome.clone())))
        .collect();
    let matched: HashSet<(Uuid, i32)> = ended.iter().map(|(row, _)| (row.saga_id, row.epoch)).collect();
    let stale: Vec<LogEntry> = results
        .iter()
        .filter(|result| !matched.contains(&(result.dispatch.saga_id, result.dispatch.epoch)))
        .map(evidence)
        .collect();
    let mut advanced =
        settle_taken(&tx, definitions, ended, stale.clone()).await?.commit(tx, worker_id).await?;
    advanced.stale = stale.len();
    Ok(advanced)
}

/// Ends calls whose lease is over or whose worker is dead. Nobody knows how they ended.
pub(super) async fn expire(
    db: &DatabaseConnection,
    definitions: &Definitions,
    worker_id: Uuid,
    worker_lease: Duration,
    limit: u64,
) -> Result<Advanced, BatchError> {
    let tx = db.begin().await.map_err(database("begin to expire calls"))?;
    let taken = store::take_abandoned_calls(&tx, worker_lease, limit)
        .await
        .map_err(database("take abandoned calls"))?;
    if taken.is_empty() {
        return Ok(Advanced::default());
    }
    warn!(calls = taken.len(), "taking over calls of which nobody knows the outcome");
    let lost = Outcome::Unknown("the worker that made the call did not record a result in time".to_owned());
    let ended = taken.into_iter().map(|row| (row, lost.clone())).collect();
    settle_taken(&tx, definitions, ended, Vec::new()).await?.commit(tx, worker_id).await
}

/// What a person decided about a saga whose lease the caller holds.
#[derive(Debug)]
pub(super) enum Decision {
    /// Try the step again now, its attempts counted afresh.
    TryAgain,
    /// Turn round.
    Abandon(Failure),
    /// Take this for the outcome of the attempt that ended unknown.
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
    let mut batch = Batch::new(definitions, rows, None);
    let Some(mut saga) = batch.runnable.pop() else {
        let missing = DbErr::RecordNotFound(format!("saga {saga_id}"));
        return Err(BatchError::Database { doing: "load a saga", source: missing });
    };
    saga.epoch += 1;
    batch.log(&saga, LogKind::Operator, "OPERATOR", note.to_string());
    match decision {
        Decision::TryAgain => {
            saga.cursor.attempt = 0;
            saga.cursor.since = batch.now;
            saga.stuck = false;
            batch.runnable.push(saga);
        }
        Decision::Abandon(failure) => {
            let next = plan::abandon(&saga.definition, saga.cursor, failure, batch.now);
            batch.carry_out(saga, next);
        }
        Decision::Resolve(outcome) => batch.resolve(tx, saga, &outcome).await?,
    }
    for saga in std::mem::take(&mut batch.runnable) {
        batch.block_ready(saga);
    }
    // No call was made ready to go, so there is no worker to name.
    store::write(tx, batch.writes, Uuid::nil()).await.map_err(database("write a decision"))
}

async fn settle_taken<'a>(
    tx: &DatabaseTransaction,
    definitions: &'a Definitions,
    mut ended: Vec<(CallRow, Outcome)>,
    stale: Vec<LogEntry>,
) -> Result<Batch<'a>, BatchError> {
    ended.sort_unstable_by_key(|(row, _)| row.saga_id);
    let saga_ids: Vec<Uuid> = ended.iter().map(|(row, _)| row.saga_id).collect();
    let rows = store::load_sagas(tx, &saga_ids).await.map_err(database("load sagas"))?;
    let mut batch = Batch::new(definitions, rows, None);
    batch.writes.log = stale;
    let mut calls: HashMap<Uuid, (CallRow, Outcome)> =
        ended.into_iter().map(|(row, outcome)| (row.saga_id, (row, outcome))).collect();
    let mut waiting: Vec<(Saga, CallRow, Outcome)> = std::mem::take(&mut batch.runnable)
        .into_iter()
        .filter_map(|saga| calls.remove(&saga.id).map(|(row, outcome)| (saga, row, outcome)))
        .collect();
    batch.record(tx, &mut waiting).await?;
    for (saga, row, outcome) in waiting {
        let ended = Ended::from(&outcome);
        batch.end_attempt(saga, ended, &Attempt::call(row, &outcome));
    }
    batch.run(tx).await?;
    Ok(batch)
}

/// What the history says of an attempt.
struct Attempt {
    idempotency_key: String,
    request: String,
    detail: Value,
    started_at: DateTime<Utc>,
}

impl Attempt {
    fn local(now: DateTime<Utc>, detail: Value) -> Self {
        Self { idempotency_key: String::new(), request: String::new(), detail, started_at: now }
    }

    fn call(row: CallRow, outcome: &Outcome) -> Self {
        Self {
            idempotency_key: row.idempotency_key,
            request: row.request,
            detail: outcome_detail(outcome),
            started_at: row.started_at,
        }
    }
}

fn outcome_name(outcome: &Outcome) -> &'static str {
    ended_name(&Ended::from(outcome))
}

fn ended_name(ended: &Ended) -> &'static str {
    match ended {
        Ended::Succeeded => "SUCCEEDED",
        Ended::Refused(_) => "REFUSED",
        Ended::Unknown(_) => "UNKNOWN",
        Ended::Postponed { .. } => "RETRY",
    }
}

fn outcome_detail(outcome: &Outcome) -> Value {
    match outcome {
        Outcome::Succeeded(answer) => answer.clone(),
        Outcome::Refused(failure) => json!(failure),
        Outcome::Unknown(reason) => json!({ "reason": reason }),
    }
}

fn evidence(result: &CallResult) -> LogEntry {
    let dispatch = &result.dispatch;
    LogEntry {
        saga_id: dispatch.saga_id,
        epoch: dispatch.epoch,
        kind: LogKind::Evidence,
        step: dispatch.definition.step_name(dispatch.place.0),
        direction: dispatch.place.1,
        attempt: dispatch.attempt,
        generation: dispatch.generation,
        outcome: outcome_name(&result.outcome),
        idempotency_key: dispatch.call.idempotency_key.clone(),
        request: dispatch.call.request.clone(),
        detail: outcome_detail(&result.outcome).to_string(),
        started_at: result.started_at,
    }
}

fn begin_attempt(saga: &mut Saga) {
    saga.cursor.attempt += 1;
    saga.epoch += 1;
}

/// The sagas of one transaction and what it will write.
struct Batch<'a> {
    definitions: &'a Definitions,
    now: DateTime<Utc>,
    started: Vec<(Uuid, Place)>,
    halt_before: Option<Place>,
    runnable: Vec<Saga>,
    writes: Writes,
    advanced: Advanced,
}

impl<'a> Batch<'a> {
    fn new(definitions: &'a Definitions, rows: Vec<SagaRow>, halt_before: Option<Place>) -> Self {
        let now = rows.first().map_or_else(Utc::now, |row| row.now);
        let mut batch = Self {
            definitions,
            now,
            started: Vec::with_capacity(rows.len()),
            halt_before,
            runnable: Vec::with_capacity(rows.len()),
            writes: Writes::default(),
            advanced: Advanced::default(),
        };
        for row in rows {
            batch.admit(row);
        }
        batch
    }

    fn admit(&mut self, row: SagaRow) {
        if row.status.has_ended() {
            debug!(saga.id = %row.id, "a saga that has ended was ready; leaving it as it is");
            return;
        }
        let Some(definition) = self.definitions.find(&row.definition, row.version) else {
            // Left for a process that knows it, as during a rolling deploy.
            warn!(saga.id = %row.id, saga.definition = row.definition, saga.version = row.version,
                "this process does not know the saga's definition");
            self.writes.timers.push((row.id, UNKNOWN_DEFINITION_DELAY));
            return;
        };
        let cursor = Cursor {
            step: row.step,
            direction: row.direction,
            attempt: row.attempt.cast_unsigned(),
            generation: row.generation.cast_unsigned(),
            in_doubt: row.in_doubt,
            since: row.step_since,
        };
        self.started.push((row.id, (cursor.step, cursor.direction)));
        self.runnable.push(Saga {
            id: row.id,
            subject_id: row.subject_id,
            failure: row.failure.and_then(|failure| serde_json::from_value(failure).ok()),
            definition: definition.clone(),
            cursor,
            epoch: row.epoch,
            stuck: row.stuck_since.is_some(),
            state: row.state,
        });
    }

    /// Carries every saga on, step by step and set by set, until it blocks.
    async fn run(&mut self, tx: &DatabaseTransaction) -> Result<(), BatchError> {
        while let Some(first) = self.runnable.first() {
            let definition = first.definition.clone();
            let place = (first.cursor.step, first.cursor.direction);
            let (mut group, rest) =
                std::mem::take(&mut self.runnable).into_iter().partition::<Vec<_>, _>(|saga| {
                    Arc::ptr_eq(&saga.definition, &definition)
                        && (saga.cursor.step, saga.cursor.direction) == place
                });
            self.runnable = rest;
            if self.halt_before == Some(place) {
                group.into_iter().for_each(|saga| self.block_ready(saga));
                continue;
            }
            match definition.action(place.0, place.1) {
                Some(Action::Local(step)) => {
                    group.iter_mut().for_each(begin_attempt);
                    let verdicts = run_local(step.as_ref(), tx, &mut group)
                        .await
                        .map_err(|source| self.step_error(&definition, place, source))?;
                    for (saga, verdict) in group.into_iter().zip(verdicts) {
                        let detail = match &verdict {
                            Verdict::Done => Value::Null,
                            Verdict::Refused(failure) => json!(failure),
                            Verdict::RetryAfter(delay) => json!({ "retryAfterMs": delay.as_millis() as u64 }),
                        };
                        self.end_attempt(saga, verdict.into(), &Attempt::local(self.now, detail));
                    }
                }
                Some(Action::External(step)) => {
                    let step = step.clone();
                    self.block_calls(tx, &definition, place, &step, group).await?;
                }
                // Nothing to do here in this direction.
                None => {
                    for saga in group {
                        self.follow(saga, Ended::Succeeded);
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes an outcome from a person as if the other system had given it.
    async fn resolve(
        &mut self,
        tx: &DatabaseTransaction,
        mut saga: Saga,
        outcome: &Outcome,
    ) -> Result<(), BatchError> {
        let definition = saga.definition.clone();
        let place = (saga.cursor.step, saga.cursor.direction);
        if let Some(Action::External(step)) = definition.action(place.0, place.1) {
            let settled = match outcome {
                Outcome::Succeeded(answer) => Some(Settled { saga: &mut saga, outcome: Ok(answer) }),
                Outcome::Refused(failure) => Some(Settled { saga: &mut saga, outcome: Err(failure) }),
                Outcome::Unknown(_) => None,
            };
            let mut settled: Vec<Settled<'_>> = settled.into_iter().collect();
            step.record(tx, &mut settled)
                .await
                .map_err(|source| self.step_error(&definition, place, source))?;
        }
        // A person's word settles the doubt either way.
        saga.cursor.in_doubt = false;
        self.follow(saga, Ended::from(outcome));
        Ok(())
    }

    /// Lets each step write what the definitive outcomes of its calls mean.
    async fn record(
        &self,
        tx: &DatabaseTransaction,
        waiting: &mut [(Saga, CallRow, Outcome)],
    ) -> Result<(), BatchError> {
        let mut places: Vec<(Arc<Definition>, Place)> = Vec::new();
        for (saga, row, _) in waiting.iter() {
            let place = (row.step, row.direction);
            if !places.iter().any(|(known, at)| Arc::ptr_eq(known, &saga.definition) && *at == place) {
                places.push((saga.definition.clone(), place));
            }
        }
        for (definition, place) in places {
            let Some(Action::External(step)) = definition.action(place.0, place.1) else { continue };
            let mut settled: Vec<Settled<'_>> = waiting
                .iter_mut()
                .filter(|(saga, row, _)| {
                    Arc::ptr_eq(&saga.definition, &definition) && (row.step, row.direction) == place
                })
                .filter_map(|(saga, _, outcome)| match outcome {
                    Outcome::Succeeded(answer) => Some(Settled { saga, outcome: Ok(answer) }),
                    Outcome::Refused(failure) => Some(Settled { saga, outcome: Err(failure) }),
                    Outcome::Unknown(_) => None,
                })
                .collect();
            if settled.is_empty() {
                continue;
            }
            let recorded = AssertUnwindSafe(step.record(tx, &mut settled)).catch_unwind().await;
            recorded
                .unwrap_or_else(|panic| Err(StepError::Panicked(panic_message(&panic))))
                .map_err(|source| self.step_error(&definition, place, source))?;
        }
        Ok(())
    }

    fn step_error(&self, definition: &Definition, place: Place, source: StepError) -> BatchError {
        BatchError::Step {
            step: definition.step_name(place.0),
            place,
            saga_ids: self.started.clone(),
            source,
        }
    }

    /// Writes the attempt into the history and does what the plan says.
    fn end_attempt(&mut self, saga: Saga, ended: Ended, attempt: &Attempt) {
        self.writes.log.push(LogEntry {
            saga_id: saga.id,
            epoch: saga.epoch,
            kind: LogKind::Attempt,
            step: saga.definition.step_name(saga.cursor.step),
            direction: saga.cursor.direction,
            attempt: saga.cursor.attempt,
            generation: saga.cursor.generation,
            outcome: ended_name(&ended),
            idempotency_key: attempt.idempotency_key.clone(),
            request: attempt.request.clone(),
            detail: if attempt.detail.is_null() { String::new() } else { attempt.detail.to_string() },
            started_at: attempt.started_at,
        });
        self.follow(saga, ended);
    }

    fn follow(&mut self, saga: Saga, ended: Ended) {
        let next = plan::next(&saga.definition, saga.cursor, ended, self.now);
        self.carry_out(saga, next);
    }

    fn carry_out(&mut self, mut saga: Saga, next: Next) {
        let step = saga.definition.step_name(saga.cursor.step);
        match next {
            Next::Step(cursor) => {
                saga.cursor = cursor;
                saga.stuck = false;
                self.runnable.push(saga);
            }
            Next::Compensate { cursor, plan, failure } => {
                info!(saga.id = %saga.id, step, failure.code, "compensating");
                self.log_plan(&saga, &plan, &failure);
                saga.cursor = cursor;
                saga.stuck = false;
                saga.failure = Some(failure);
                self.runnable.push(saga);
            }
            Next::Retry { cursor, wait, stuck } => {
                let delay = match wait {
                    Wait::Exactly(delay) => delay,
                    Wait::UpTo(longest) => with_full_jitter(longest),
                };
                if stuck && !saga.stuck {
                    error!(saga.id = %saga.id, step, attempt = cursor.attempt,
                        "the saga is stuck: it keeps trying, and a person should look");
                } else {
                    debug!(saga.id = %saga.id, step, attempt = cursor.attempt, ?delay, "trying again later");
                }
                saga.cursor = cursor;
                saga.stuck = stuck;
                self.writes.timers.push((saga.id, delay));
                self.block(saga, None);
            }
            Next::Hold(cursor) => {
                error!(saga.id = %saga.id, step, "the saga is held: the outcome is unknown and a person must decide");
                saga.cursor = cursor;
                saga.stuck = true;
                self.block(saga, Some(SagaStatus::Held));
            }
            Next::End(status) => {
                saga.stuck = false;
                self.block(saga, Some(status));
            }
        }
    }

    fn log_plan(&mut self, saga: &Saga, plan: &[i16], failure: &Failure) {
        let undo: Vec<&str> = plan.iter().map(|&step| saga.definition.step_name(step)).collect();
        let detail = json!({ "failure": failure, "undo": undo });
        self.log(saga, LogKind::Plan, "PLANNED", detail.to_string());
    }

    /// Writes something into the history that is not an attempt.
    fn log(&mut self, saga: &Saga, kind: LogKind, outcome: &'static str, detail: String) {
        self.writes.log.push(LogEntry {
            saga_id: saga.id,
            epoch: saga.epoch,
            kind,
            step: saga.definition.step_name(saga.cursor.step),
            direction: saga.cursor.direction,
            attempt: saga.cursor.attempt,
            generation: saga.cursor.generation,
            outcome,
            idempotency_key: String::new(),
            request: String::new(),
            detail,
            started_at: self.now,
        });
    }

    /// Writes the intents of calls. A repeated attempt takes its request from the history: the same bytes.
    async fn block_calls(
        &mut self,
        tx: &DatabaseTransaction,
        definition: &Arc<Definition>,
        place: Place,
        step: &Arc<dyn ExternalStep>,
        group: Vec<Saga>,
    ) -> Result<(), BatchError> {
        let repeated: Vec<Uuid> =
            group.iter().filter(|saga| saga.cursor.attempt > 0).map(|saga| saga.id).collect();
        let mut frozen = HashMap::new();
        if !repeated.is_empty() {
            let name = definition.step_name(place.0);
            let requests =
                store::load_frozen_requests(tx, repeated).await.map_err(database("load frozen requests"))?;
            frozen.extend(
                requests
                    .into_iter()
                    .filter(|row| row.step == name && row.direction == place.1)
                    .map(|row| ((row.saga_id, row.generation.cast_unsigned()), row.request)),
            );
        }
        for mut saga in group {
            let request = match frozen.remove(&(saga.id, saga.cursor.generation)) {
                Some(request) => request,
                None => step.request(&saga).map_err(|source| self.step_error(definition, place, source))?,
            };
            begin_attempt(&mut saga);
            self.block_call(saga, step.clone(), request);
        }
        Ok(())
    }

    fn block_call(&mut self, saga: Saga, step: Arc<dyn ExternalStep>, request: String) {
        let definition = saga.definition.clone();
        let (index, direction) = (saga.cursor.step, saga.cursor.direction);
        let time_out = definition.step(index).map_or(LEASE_MARGIN, |step| step.time_out);
        let idempotency_key = format!(
            "{}:{}:{}:{}",
            saga.id,
            definition.step_name(index),
            direction.as_str().to_lowercase(),
            saga.cursor.generation
        );
        self.writes.calls.push(NewCall {
            saga_id: saga.id,
            step: index,
            direction,
            epoch: saga.epoch,
            attempt: saga.cursor.attempt,
            generation: saga.cursor.generation,
            idempotency_key: idempotency_key.clone(),
            request: request.clone(),
            time_out,
            lease: time_out + LEASE_MARGIN,
        });
        self.advanced.dispatches.push(Dispatch {
            saga_id: saga.id,
            definition,
            place: (index, direction),
            epoch: saga.epoch,
            attempt: saga.cursor.attempt,
            generation: saga.cursor.generation,
            step,
            call: Call { idempotency_key, request, time_out },
        });
        self.block(saga, None);
    }

    fn block_ready(&mut self, saga: Saga) {
        self.writes.ready.push(saga.id);
        self.block(saga, None);
    }

    fn block(&mut self, saga: Saga, status: Option<SagaStatus>) {
        let on_its_way = match saga.cursor.direction {
            Direction::Forward => SagaStatus::Running,
            Direction::Backward => SagaStatus::Compensating,
        };
        self.advanced.subject_ids.push(saga.subject_id);
        self.writes.sagas.push(SagaUpdate {
            id: saga.id,
            status: status.unwrap_or(on_its_way),
            step: saga.cursor.step,
            direction: saga.cursor.direction,
            attempt: saga.cursor.attempt,
            generation: saga.cursor.generation,
            in_doubt: saga.cursor.in_doubt,
            epoch: saga.epoch,
            state: saga.state,
            failure: saga.failure.map(|failure| json!(failure)),
            step_since: saga.cursor.since,
            stuck: saga.stuck,
        });
    }

    async fn commit(self, tx: DatabaseTransaction, worker_id: Uuid) -> Result<Advanced, BatchError> {
        let mut advanced = self.advanced;
        advanced.moved = self.writes.sagas.len();
        advanced.made_ready = !self.writes.ready.is_empty();
        store::write(&tx, self.writes, worker_id).await.map_err(database("write a batch"))?;
        fail::fail_point!("before_batch_commit");
        tx.commit().await.map_err(database("commit a batch"))?;
        fail::fail_point!("after_batch_commit");
        Ok(advanced)
    }
}

/// How long a saga of a definition unknown here waits before another process may try.
const UNKNOWN_DEFINITION_DELAY: Duration = Duration::from_secs(1);

async fn run_local(
    step: &dyn LocalStep,
    tx: &DatabaseTransaction,
    sagas: &mut [Saga],
) -> Result<Vec<Verdict>, StepError> {
    let verdicts = AssertUnwindSafe(step.run(tx, sagas))
        .catch_unwind()
        .await
        .unwrap_or_else(|panic| Err(StepError::Panicked(panic_message(&panic))))?;
    if verdicts.len() == sagas.len() {
        Ok(verdicts)
    } else {
        Err(StepError::Broken(format!("the step gave {} verdicts for {} sagas", verdicts.len(), sagas.len())))
    }
}

/// Returns what a panic said, if it said it in text.
pub(super) fn panic_message(panic: &Box<dyn std::any::Any + Send>) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
