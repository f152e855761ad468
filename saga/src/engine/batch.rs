//! The sagas of one transaction: carries each on until it blocks, and gathers what is to be written.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use sea_orm::DatabaseTransaction;
use serde_json::{Value, json};
use tracing::{debug, error, info, warn};
use uuid::Uuid;

use super::batch_error::{AFTER_THE_STEPS, BatchError, blame, database, panic_message, step_failed};
use super::breaker::{Breakers, LONGEST_PARKING};
use super::crash_point::CommitPlaces;
use super::definition::{Action, Definition, Definitions, LEASE_MARGIN, Resolution};
use super::dispatch::Dispatch;
use super::guard::Guard;
use super::history::{Attempt, LogEntry, LogKind};
use super::plan::{self, Cursor, Ended, Next, Wait};
use super::presence::{Presence, no_answer};
use super::retry::with_full_jitter;
use super::runner::chain;
use super::status::{Direction, SagaStatus};
use super::step::{Call, ExternalStep, Failure, LocalStep, Outcome, Saga, Settled, StepError, Verdict};
use super::step_transaction::StepTransaction;
use super::store::{self, CallRow, NewCall, SagaRow, SagaUpdate, Timer, Writes};

/// What every transaction of a process works with.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) definitions: &'a Definitions,
    pub(super) breakers: &'a Breakers,
    pub(super) presence: &'a Presence,
    pub(super) worker_id: Uuid,
    /// Commits after each step instead of after each blocking, as an engine without batches would.
    pub(super) one_step_per_commit: bool,
}

/// A step of a saga in one direction.
pub(super) type Place = (i16, Direction);

/// What a transaction did.
#[derive(Debug, Default)]
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

pub(super) fn begin_attempt(saga: &mut Saga) {
    saga.cursor.attempt += 1;
    saga.epoch += 1;
}

/// The sagas of one transaction and what it will write.
pub(super) struct Batch<'a> {
    context: Context<'a>,
    steps: StepTransaction<'a>,
    pub(super) now: DateTime<Utc>,
    begun: Instant,
    started: Vec<(Uuid, Place)>,
    halt_before: Option<Place>,
    pub(super) runnable: Vec<Saga>,
    pub(super) writes: Writes,
    advanced: Advanced,
}

impl<'a> Batch<'a> {
    pub(super) fn new(
        context: Context<'a>,
        tx: &'a DatabaseTransaction,
        rows: Vec<SagaRow>,
        halt_before: Option<Place>,
    ) -> Self {
        let now = rows.first().map_or_else(Utc::now, |row| row.now);
        let mut batch = Self {
            context,
            steps: StepTransaction::new(tx),
            now,
            begun: Instant::now(),
            started: Vec::with_capacity(rows.len()),
            halt_before,
            runnable: Vec::with_capacity(rows.len()),
            writes: Writes::default(),
            advanced: Advanced::default(),
        };
        let unknown: Vec<SagaRow> = rows.into_iter().filter_map(|row| batch.admit(row)).collect();
        batch.put_off_unknown(&unknown);
        batch
    }

    /// Takes a saga in, or gives it back if its definition is not known here.
    fn admit(&mut self, row: SagaRow) -> Option<SagaRow> {
        if row.status.has_ended() {
            debug!(saga.id = %row.id, "a saga that has ended was ready; leaving it as it is");
            return None;
        }
        let Some(definition) = self.context.definitions.find(&row.definition, row.version) else {
            return Some(row);
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
            failure: row.failure.and_then(|failure| read_failure(row.id, failure)),
            definition: definition.clone(),
            cursor,
            epoch: row.epoch,
            stuck: row.stuck_since.is_some(),
            state: row.state,
        });
        None
    }

    /// Leaves sagas to a process that knows their definition, as during a rolling deploy.
    fn put_off_unknown(&mut self, rows: &[SagaRow]) {
        let Some(first) = rows.first() else { return };
        warn!(sagas = rows.len(), saga.id = %first.id, saga.definition = first.definition, saga.version = first.version,
            "this process does not know the definition of sagas; leaving them to one that does");
        self.writes.timers.extend(rows.iter().map(|row| {
            // They are not written to meanwhile, so that their age tells for how long they have waited.
            let waited = (row.now - row.updated_at).to_std().unwrap_or_default();
            let delay = waited.clamp(MIN_UNKNOWN_DELAY, MAX_UNKNOWN_DELAY);
            Timer { saga_id: row.id, delay, parked_for: None }
        }));
    }

    /// Carries every saga on, step by step and set by set, until it blocks.
    pub(super) async fn run(&mut self) -> Result<(), BatchError> {
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
                    let verdicts = run_local(step.as_ref(), &self.steps, &mut group)
                        .await
                        .map_err(|source| self.step_error(&definition, place, source))?;
                    self.write_deferred_of_one(&definition, place).await?;
                    for (saga, verdict) in group.into_iter().zip(verdicts) {
                        let detail = match &verdict {
                            Verdict::Done => Value::Null,
                            Verdict::Refused(failure) => json!(failure),
                            Verdict::RetryAfter(delay) => json!({ "retryAfterMs": delay.as_millis() as u64 }),
                        };
                        self.end_attempt(saga, verdict.into(), Attempt::local(self.now, detail));
                    }
                }
                Some(Action::External(step)) => {
                    let step = step.clone();
                    self.block_calls(&definition, place, &step, group).await?;
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
    pub(super) async fn resolve(&mut self, mut saga: Saga, outcome: &Outcome) -> Result<(), BatchError> {
        let definition = saga.definition.clone();
        let place = (saga.cursor.step, saga.cursor.direction);
        if let Some(Action::External(step)) = definition.action(place.0, place.1) {
            let settled = match outcome {
                Outcome::Succeeded(answer) => Some(Settled { saga: &mut saga, outcome: Ok(answer) }),
                Outcome::Refused(failure) => Some(Settled { saga: &mut saga, outcome: Err(failure) }),
                Outcome::Unknown(_) => None,
            };
            let mut settled: Vec<Settled<'_>> = settled.into_iter().collect();
            record(step.as_ref(), &self.steps, &mut settled)
                .await
                .map_err(|source| self.step_error(&definition, place, source))?;
            self.write_deferred_of_one(&definition, place).await?;
        }
        // A person's word settles the doubt either way.
        saga.cursor.in_doubt = false;
        self.follow(saga, Ended::from(outcome));
        Ok(())
    }

    /// Lets each step write what the definitive outcomes of its calls mean.
    pub(super) async fn record(&self, waiting: &mut [(Saga, CallRow, Outcome)]) -> Result<(), BatchError> {
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
            record(step.as_ref(), &self.steps, &mut settled)
                .await
                .map_err(|source| self.step_error(&definition, place, source))?;
            self.write_deferred_of_one(&definition, place).await?;
        }
        Ok(())
    }

    fn step_error(&self, definition: &Definition, place: Place, source: StepError) -> BatchError {
        step_failed(&self.started, definition.step_name(place.0), place, source)
    }

    /// Writes the attempt into the history and does what the plan says.
    pub(super) fn end_attempt(&mut self, saga: Saga, ended: Ended, attempt: Attempt) {
        self.writes.log.push(attempt.into_entry(&saga, &ended));
        self.follow(saga, ended);
    }

    fn follow(&mut self, saga: Saga, ended: Ended) {
        let next = plan::next(&saga.definition, saga.cursor, ended, self.now);
        self.carry_out(saga, next);
    }

    pub(super) fn carry_out(&mut self, mut saga: Saga, next: Next) {
        let step = saga.definition.step_name(saga.cursor.step);
        match next {
            Next::Step(cursor) => {
                saga.cursor = cursor;
                saga.stuck = false;
                if self.context.one_step_per_commit {
                    self.block_ready(saga);
                } else {
                    self.runnable.push(saga);
                }
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
                self.block_until(saga, delay);
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
    pub(super) fn log(&mut self, saga: &Saga, kind: LogKind, outcome: &'static str, detail: String) {
        self.writes.log.push(LogEntry::at_its_place(saga, kind, outcome, detail, self.now));
    }

    /// Writes the intents of calls. A repeated attempt takes its request from the history: the same bytes.
    async fn block_calls(
        &mut self,
        definition: &Arc<Definition>,
        place: Place,
        step: &Arc<dyn ExternalStep>,
        group: Vec<Saga>,
    ) -> Result<(), BatchError> {
        // A person may have had the attempts counted afresh; what was sent before is sent again all the same.
        let is_repeated = |saga: &&Saga| saga.cursor.attempt > 0 || saga.cursor.in_doubt;
        let repeated: Vec<Uuid> = group.iter().filter(is_repeated).map(|saga| saga.id).collect();
        let mut frozen = HashMap::new();
        if !repeated.is_empty() {
            let name = definition.step_name(place.0);
            let requests = store::load_frozen_requests(&self.steps, repeated)
                .await
                .map_err(database("load frozen requests"))?;
            frozen.extend(
                requests
                    .into_iter()
                    .filter(|row| row.step == name && row.direction == place.1)
                    .map(|row| ((row.saga_id, row.generation.cast_unsigned()), row.request)),
            );
        }
        for mut saga in group {
            if let Some(next) = plan::instead_of_call(&saga.definition, saga.cursor, self.now) {
                self.carry_out(saga, next);
                continue;
            }
            if !self.context.breakers.admit(step.system(), Instant::now()) {
                // No attempt is begun: the saga waits where it is until the system answers others again.
                self.park(saga, step.system());
                continue;
            }
            let request = match frozen.remove(&(saga.id, saga.cursor.generation)) {
                Some(request) => request,
                None => freeze(step.as_ref(), &saga)
                    .map_err(|source| self.step_error(definition, place, source))?,
            };
            begin_attempt(&mut saga);
            self.block_call(saga, step.clone(), request);
        }
        Ok(())
    }

    fn block_call(&mut self, saga: Saga, step: Arc<dyn ExternalStep>, request: String) {
        let definition = saga.definition.clone();
        let (index, direction) = (saga.cursor.step, saga.cursor.direction);
        let (time_out, on_unknown) = definition
            .step(index)
            .map_or((LEASE_MARGIN, Resolution::Repeat), |step| (step.time_out, step.on_unknown));
        let idempotency_key = idempotency_key(&saga);
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
            look_up_first: saga.cursor.in_doubt && on_unknown == Resolution::Query,
            step,
            call: Call { idempotency_key, request, time_out },
            // The lease has begun with the transaction, and lasts for a whole call after this.
            send_before: self.begun + LEASE_MARGIN,
        });
        self.block(saga, None);
    }

    pub(super) fn block_ready(&mut self, saga: Saga) {
        self.writes.ready.push(saga.id);
        self.block(saga, None);
    }

    /// Lets a saga wait where it is.
    pub(super) fn block_until(&mut self, saga: Saga, delay: Duration) {
        self.writes.timers.push(Timer { saga_id: saga.id, delay, parked_for: None });
        self.block(saga, None);
    }

    /// Lets a saga wait where it is until another system answers.
    fn park(&mut self, saga: Saga, system: &'static str) {
        self.writes.timers.push(Timer { saga_id: saga.id, delay: LONGEST_PARKING, parked_for: Some(system) });
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

    /// Writes everything into the transaction.
    pub(super) async fn write(self) -> Result<Written, BatchError> {
        self.write_deferred().await?;
        let mut advanced = self.advanced;
        advanced.moved = self.writes.sagas.len();
        advanced.made_ready = !self.writes.ready.is_empty();
        let places = CommitPlaces::of(&self.writes, &advanced.dispatches);
        let written = store::write(&self.steps, self.writes, self.context.worker_id).await;
        written.map_err(|source| blame(&self.started, AFTER_THE_STEPS, source.into()))?;
        Ok(Written { advanced, places })
    }

    /// Writes what the steps of a batch of one saga have put off, so that what fails is known to be the last one's.
    async fn write_deferred_of_one(&self, definition: &Definition, place: Place) -> Result<(), BatchError> {
        match self.started.len() {
            1 => self.catch_deferred().await.map_err(|source| self.step_error(definition, place, source)),
            _ => Ok(()),
        }
    }

    /// Writes what the steps have put off.
    async fn write_deferred(&self) -> Result<(), BatchError> {
        self.catch_deferred().await.map_err(|source| blame(&self.started, AFTER_THE_STEPS, source))
    }

    async fn catch_deferred(&self) -> Result<(), StepError> {
        AssertUnwindSafe(self.steps.write_deferred())
            .catch_unwind()
            .await
            .unwrap_or_else(|panic| Err(StepError::Panicked(panic_message(&panic))))
    }
}

/// A batch that is written and not committed yet.
pub(super) struct Written {
    advanced: Advanced,
    places: CommitPlaces,
}

impl Written {
    /// Commits it. A commit that is given up is one whose answer was lost.
    pub(super) async fn commit(
        self,
        tx: DatabaseTransaction,
        presence: &Presence,
    ) -> Result<Advanced, BatchError> {
        let Self { advanced, places } = self;
        if Guard::IntentBeforeSend.is_off() {
            for Dispatch { step, call, .. } in &advanced.dispatches {
                step.call(call).await;
            }
        }
        places.pass_before();
        fail::fail_point!("before_batch_commit");
        let committed = presence.unless_silent(tx.commit()).await.unwrap_or_else(|| Err(no_answer()));
        if let Err(source) = committed {
            return Err(BatchError::CommitLost { advanced: Box::new(advanced), source });
        }
        places.pass_after();
        fail::fail_point!("after_batch_commit");
        Ok(advanced)
    }
}

/// How long a saga of a definition unknown here waits at first before another process may try: a process that knows it
/// is there in a rolling deploy. From then on it waits for as long as it has waited already.
const MIN_UNKNOWN_DELAY: Duration = Duration::from_secs(1);

/// How long it waits at most: this is how much later it goes on once a process has come that knows it.
const MAX_UNKNOWN_DELAY: Duration = Duration::from_secs(60);

/// Derives the key of a call: never random, so that it is the same after a crash and on an older replica.
fn idempotency_key(saga: &Saga) -> String {
    if Guard::DerivedKey.is_off() {
        return Uuid::now_v7().to_string();
    }
    let Cursor { step, direction, generation, .. } = saga.cursor;
    let step = saga.definition.step_name(step);
    format!("{}:{step}:{}:{generation}", saga.id, direction.as_str().to_lowercase())
}

/// Reads why a saga compensates. What cannot be read stays in its row, and keeps no saga from being undone.
fn read_failure(saga_id: Uuid, failure: Value) -> Option<Failure> {
    let read = serde_json::from_value(failure);
    read.inspect_err(
        |error| error!(saga.id = %saga_id, error = %chain(&error), "cannot read why the saga compensates"),
    )
    .ok()
}

/// Freezes a request; a panic is the saga's own.
fn freeze(step: &dyn ExternalStep, saga: &Saga) -> Result<String, StepError> {
    std::panic::catch_unwind(AssertUnwindSafe(|| step.request(saga)))
        .unwrap_or_else(|panic| Err(StepError::Panicked(panic_message(&panic))))
}

async fn record(
    step: &dyn ExternalStep,
    steps: &StepTransaction<'_>,
    settled: &mut [Settled<'_>],
) -> Result<(), StepError> {
    AssertUnwindSafe(step.record(steps, settled))
        .catch_unwind()
        .await
        .unwrap_or_else(|panic| Err(StepError::Panicked(panic_message(&panic))))
}

async fn run_local(
    step: &dyn LocalStep,
    steps: &StepTransaction<'_>,
    sagas: &mut [Saga],
) -> Result<Vec<Verdict>, StepError> {
    let verdicts = AssertUnwindSafe(step.run(steps, sagas))
        .catch_unwind()
        .await
        .unwrap_or_else(|panic| Err(StepError::Panicked(panic_message(&panic))))?;
    if verdicts.len() == sagas.len() {
        Ok(verdicts)
    } else {
        Err(StepError::Broken(format!("the step gave {} verdicts for {} sagas", verdicts.len(), sagas.len())))
    }
}
