//! Carries sagas on: claims what is ready, makes the calls, settles the results, sweeps up what was abandoned.
//!
//! A runner holds nothing that it could not lose. Capacity is a number of permits, one for each open call: they are
//! taken before sagas are claimed and given back after the commit that settles the result, so a slow gateway holds
//! work back in the database and not in memory.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use metrics::{counter, gauge, histogram};
use sea_orm::{DatabaseConnection, DbErr};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use uuid::Uuid;

use super::advance::{self, Selection};
use super::batch::{Advanced, Context, Place};
use super::batch_error::{BatchError, panic_message};
use super::breaker::Breakers;
use super::caller::{self, Answered};
use super::definition::Definitions;
use super::notify::Wakeups;
use super::presence::{Presence, no_answer};
use super::retry::with_full_jitter;
use super::settler::settle_loop;
use super::step::StepError;
use super::{database_error, store, sweeper};

/// How a runner works; each field has a default that suits one process on one small machine.
#[derive(Debug, Clone)]
pub struct RunnerSettings {
    /// The most sagas of one transaction.
    pub batch_size: u32,
    /// The most calls open at a time.
    pub max_open_calls: u32,
    /// How many transactions may advance sagas, and how many may settle results, at a time.
    pub parallel_batches: u32,
    /// The longest time between two looks for ready sagas when nothing wakes the runner.
    pub poll_interval: Duration,
    /// How often timers are looked at: the precision of retries.
    pub timer_interval: Duration,
    /// How long a worker may be silent before its calls are taken over.
    pub worker_lease: Duration,
    /// How long to wait for open calls when stopping.
    pub drain_time: Duration,
    /// Commits after each step instead of after each blocking: what an engine without batches does, for comparison.
    pub one_step_per_commit: bool,
}

impl Default for RunnerSettings {
    fn default() -> Self {
        Self {
            batch_size: 500,
            max_open_calls: 2_000,
            parallel_batches: 2,
            poll_interval: Duration::from_millis(500),
            timer_interval: Duration::from_millis(100),
            worker_lease: Duration::from_secs(5),
            drain_time: Duration::from_secs(10),
            one_step_per_commit: false,
        }
    }
}

/// How long a runner that is behind waits for capacity worth a transaction: about as long as one takes.
const CAPACITY_PATIENCE: Duration = Duration::from_millis(20);

/// How long to wait before trying again when the database is in trouble.
pub(super) const TROUBLE_DELAY: Duration = Duration::from_millis(250);

/// How often to look for a lost commit before the leases are left to bring its calls back.
pub(super) const MAX_LOOKS: u32 = 40;

/// How often one batch is tried again after losing a deadlock or a serialization conflict.
const MAX_CONFLICTS: u32 = 5;

/// How long a saga waits whose step has taken longer than a statement may, because of it or of a lock that somebody holds.
const TIME_OUT_DELAY: Duration = Duration::from_secs(1);

/// A running runner.
#[derive(Debug)]
pub struct Runner {
    tasks: JoinSet<()>,
}

/// What the tasks of a runner share.
pub(super) struct Engine {
    pub(super) db: DatabaseConnection,
    pub(super) presence: Arc<Presence>,
    pub(super) worker_id: Uuid,
    pub(super) definitions: Definitions,
    pub(super) wakeups: Arc<Wakeups>,
    pub(super) settings: RunnerSettings,
    pub(super) breakers: Arc<Breakers>,
    pub(super) permits: Arc<Semaphore>,
    results: mpsc::Sender<Answered>,
}

impl Runner {
    /// Starts a runner, which works until `shutdown` and then drains. Nobody tells it that the database is silent.
    pub fn start(
        db: DatabaseConnection,
        definitions: Definitions,
        wakeups: Arc<Wakeups>,
        settings: RunnerSettings,
        shutdown: CancellationToken,
    ) -> Self {
        Self::start_with_presence(db, Arc::default(), definitions, wakeups, settings, shutdown)
    }

    /// Starts a runner that gives up what waits for a silent database, as [`Presence`] tells it.
    pub fn start_with_presence(
        db: DatabaseConnection,
        presence: Arc<Presence>,
        definitions: Definitions,
        wakeups: Arc<Wakeups>,
        settings: RunnerSettings,
        shutdown: CancellationToken,
    ) -> Self {
        let capacity = settings.max_open_calls as usize;
        let (results, answered) = mpsc::channel(capacity);
        let engine = Arc::new(Engine {
            db,
            presence,
            worker_id: Uuid::now_v7(),
            definitions,
            wakeups,
            settings,
            breakers: Arc::default(),
            permits: Arc::new(Semaphore::new(capacity)),
            results,
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // A call whose worker has no heartbeat counts as abandoned, so the first one comes before any work.
            if sweeper::sign_on(&engine, &shutdown).await {
                run_loops(engine, answered, shutdown).await;
            }
        });
        Self { tasks }
    }

    /// Waits until the runner has stopped: at once claims nothing more, then settles what is open, for no longer than
    /// the drain time. Open calls left after that are taken over by another process.
    pub async fn stopped(mut self) {
        while let Some(joined) = self.tasks.join_next().await {
            if let Err(error) = joined {
                error!(error = %chain(&error), "a task of the runner ended badly");
            }
        }
    }
}

/// Runs every loop until shutdown, and the heartbeat for as long as calls are being settled.
async fn run_loops(engine: Arc<Engine>, answered: mpsc::Receiver<Answered>, shutdown: CancellationToken) {
    let drained = CancellationToken::new();
    let mut loops = JoinSet::new();
    for _ in 0..engine.settings.parallel_batches {
        let (engine, shutdown) = (engine.clone(), shutdown.clone());
        loops.spawn(keep_up(move || advance_loop(engine.clone(), shutdown.clone())));
    }
    let (timers, abandoned, heartbeat) = (engine.clone(), engine.clone(), engine.clone());
    let (stop, stop_too, until) = (shutdown.clone(), shutdown.clone(), drained.clone());
    loops.spawn(keep_up(move || sweeper::sweep_timers(timers.clone(), stop.clone())));
    let (parked, stop) = (engine.clone(), shutdown.clone());
    loops.spawn(keep_up(move || sweeper::release_parked(parked.clone(), stop.clone())));
    let (survey, stop) = (engine.clone(), shutdown.clone());
    loops.spawn(keep_up(move || sweeper::keep_survey(survey.clone(), stop.clone())));
    let (unknown, stop) = (engine.clone(), shutdown.clone());
    loops.spawn(keep_up(move || sweeper::tell_unknown(unknown.clone(), stop.clone())));
    loops.spawn(keep_up(move || sweeper::sweep_abandoned(abandoned.clone(), stop_too.clone())));
    loops.spawn(keep_up(move || sweeper::keep_heartbeat(heartbeat.clone(), until.clone())));
    settle_loop(&engine, answered, &shutdown).await;
    drained.cancel();
    while let Some(joined) = loops.join_next().await {
        if let Err(error) = joined {
            error!(error = %chain(&error), "a loop of the runner ended badly");
        }
    }
    match engine.unless_silent(store::remove_worker(&engine.db, engine.worker_id)).await {
        Ok(()) => info!(worker.id = %engine.worker_id, "the runner has stopped"),
        Err(error) => {
            warn!(error = %chain(&error), "could not sign off; other processes will notice by the worker lease")
        }
    }
}

/// Runs a loop to its end, and begins it again if it panics: a process whose heartbeat goes on while one of its loops is
/// dead would hold up work that no other process takes over.
async fn keep_up<Looping: Future<Output = ()>>(begin: impl Fn() -> Looping) {
    while let Err(panic) = AssertUnwindSafe(begin()).catch_unwind().await {
        counter!("oms_runner_panics_total").increment(1);
        error!(panic = panic_message(&panic), "a loop of the runner panicked; beginning it again");
        tokio::time::sleep(TROUBLE_DELAY).await;
    }
}

/// Claims and advances until shutdown.
async fn advance_loop(engine: Arc<Engine>, shutdown: CancellationToken) {
    let mut is_behind = false;
    while !shutdown.is_cancelled() {
        if is_behind {
            engine.wait_for_half_a_batch().await;
        }
        let Some(permits) = engine.reserve_capacity(&shutdown).await else { return };
        let limit = permits.num_permits();
        let advanced = engine.advance(Selection::Oldest(limit as u64), permits).await;
        is_behind = matches!(advanced, Ok(moved) if moved == limit);
        match advanced {
            Ok(moved) if moved > 0 => {
                if is_behind {
                    engine.wakeups.wake_runner();
                }
            }
            Ok(_) => {
                let idle =
                    engine.settings.poll_interval / 2 + with_full_jitter(engine.settings.poll_interval / 2);
                tokio::select! {
                    () = engine.wakeups.wait_ready() => {}
                    () = tokio::time::sleep(idle) => {}
                    () = shutdown.cancelled() => {}
                }
            }
            Err(error) => {
                warn!(error = %chain(&error), "could not advance sagas; trying again");
                tokio::time::sleep(TROUBLE_DELAY).await;
            }
        }
    }
}

impl Engine {
    pub(super) fn context(&self) -> Context<'_> {
        Context {
            definitions: &self.definitions,
            breakers: &self.breakers,
            presence: &self.presence,
            worker_id: self.worker_id,
            one_step_per_commit: self.settings.one_step_per_commit,
        }
    }

    /// Does what is one statement, unless the database is silent.
    pub(super) async fn unless_silent<T>(
        &self,
        work: impl Future<Output = Result<T, DbErr>>,
    ) -> Result<T, DbErr> {
        self.presence.unless_silent(work).await.unwrap_or_else(|| Err(no_answer()))
    }

    /// Returns the epochs of the calls that this worker has open for these sagas, as they are once every transaction has
    /// ended whose commit was lost: a server that has stood still may have yet to read it.
    pub(super) async fn find_open_epochs(&self, saga_ids: Vec<Uuid>) -> Result<HashMap<Uuid, i32>, DbErr> {
        self.unless_silent(async {
            store::await_writers(&self.db, saga_ids.clone()).await?;
            store::find_open_epochs(&self.db, saga_ids, self.worker_id).await
        })
        .await
    }

    /// Waits for capacity for half a batch, but not for long: while many sagas are ready and most capacity is in use,
    /// claiming them by handfuls would cost a transaction for each handful.
    async fn wait_for_half_a_batch(&self) {
        let half = self.settings.batch_size.min(self.settings.max_open_calls) / 2;
        let permits = self.permits.acquire_many(half.max(1));
        // They are given back at once; the next taker is whoever takes as many as there are.
        let _ = tokio::time::timeout(CAPACITY_PATIENCE, permits).await;
    }

    /// Waits for capacity for at least one call, and takes up to a batch of it; `None` on shutdown.
    pub(super) async fn reserve_capacity(
        &self,
        shutdown: &CancellationToken,
    ) -> Option<OwnedSemaphorePermit> {
        let first = tokio::select! {
            first = self.permits.clone().acquire_owned() => first.ok()?,
            () = shutdown.cancelled() => return None,
        };
        let more = self.permits.available_permits().min(self.settings.batch_size.saturating_sub(1) as usize);
        let mut permits = first;
        if let Ok(rest) = self.permits.clone().try_acquire_many_owned(u32::try_from(more).unwrap_or(0)) {
            permits.merge(rest);
        }
        Some(permits)
    }

    /// Advances a selection; if a step fails for it, finds the culprits and lets the others through.
    async fn advance(
        &self,
        selection: Selection,
        permits: OwnedSemaphorePermit,
    ) -> Result<usize, BatchError> {
        let begun = Instant::now();
        let moved = match self.try_advance(selection, None).await {
            Err(BatchError::Step { saga_ids, step, source, .. }) => {
                warn!(step, sagas = saga_ids.len(), error = %chain(&source), "a step failed; bisecting its batch");
                self.isolate(saga_ids.into_iter().map(|(id, _)| id).collect(), permits).await?
            }
            other => {
                let advanced = other?;
                let moved = advanced.moved;
                self.publish(advanced, permits);
                moved
            }
        };
        if moved > 0 {
            histogram!("oms_advance_seconds").record(begun.elapsed().as_secs_f64());
            counter!("oms_sagas_advanced_total").increment(moved as u64);
        }
        Ok(moved)
    }

    async fn try_advance(
        &self,
        selection: Selection,
        halt_before: Option<Place>,
    ) -> Result<Advanced, BatchError> {
        let mut conflicts = 0;
        loop {
            let result = advance::advance(&self.db, self.context(), selection.clone(), halt_before).await;
            match result {
                Err(error) if is_conflict(&error) && conflicts < MAX_CONFLICTS => conflicts += 1,
                Err(BatchError::CommitLost { advanced, source }) => {
                    warn!(error = %chain(&source), "lost the answer to a commit; looking whether it happened");
                    return Ok(self.as_committed(*advanced).await);
                }
                other => return other,
            }
        }
    }

    /// Finds out which calls of a transaction are committed, once the database answers again, so that they are made
    /// now and not when their leases are over. Sagas without a call need nothing: rows alone carry them on.
    pub(super) async fn as_committed(&self, mut advanced: Advanced) -> Advanced {
        let saga_ids: Vec<Uuid> = advanced.dispatches.iter().map(|dispatch| dispatch.saga_id).collect();
        for _ in 0..MAX_LOOKS {
            match self.find_open_epochs(saga_ids.clone()).await {
                Ok(open) => {
                    advanced
                        .dispatches
                        .retain(|dispatch| open.get(&dispatch.saga_id) == Some(&dispatch.epoch));
                    return advanced;
                }
                Err(error) => {
                    warn!(error = %chain(&error), "cannot see whether a commit happened; trying again");
                    tokio::time::sleep(TROUBLE_DELAY).await;
                }
            }
        }
        advanced.dispatches.clear();
        advanced
    }

    /// Advances sagas of which at least one makes a step fail: halves the set until the culprits are alone, and parks
    /// each of them. The calls of a set are made as soon as it is committed. Returns how many sagas were moved.
    async fn isolate(
        &self,
        saga_ids: Vec<Uuid>,
        mut permits: OwnedSemaphorePermit,
    ) -> Result<usize, BatchError> {
        let mut sets = vec![saga_ids];
        let mut moved = 0;
        while let Some(mut set) = sets.pop() {
            let is_alone = set.len() == 1;
            let result = match set.len() {
                0 => continue,
                1 => self.advance_alone(set[0]).await,
                _ => {
                    let right = set.split_off(set.len() / 2);
                    let left_result = self.try_advance(Selection::These(set.clone()), None).await;
                    sets.push(right);
                    left_result
                }
            };
            match result {
                Ok(advanced) => {
                    moved += advanced.moved;
                    // There was a permit for each saga, and a saga has at most one call.
                    if let Some(own) = permits.split(advanced.dispatches.len()) {
                        self.publish(advanced, own);
                    }
                }
                // A half of one as well: alone it is parked.
                Err(BatchError::Step { .. }) if !is_alone => sets.push(set),
                // It is still ready, and whoever takes it next comes here again; its neighbors go on.
                Err(BatchError::Step { step, source, .. }) => {
                    error!(saga.id = %set[0], step, error = %chain(&source), "a saga can be neither advanced nor parked");
                }
                Err(error) if moved == 0 => return Err(error),
                Err(error) => {
                    // The rest is still ready; the calls that are committed must not wait for it.
                    warn!(error = %chain(&error), "could not bisect a batch to its end; going on with the rest later");
                    break;
                }
            }
        }
        Ok(moved)
    }

    /// Advances one saga that may be a culprit, as far as it goes; parks it where it fails.
    async fn advance_alone(&self, saga_id: Uuid) -> Result<Advanced, BatchError> {
        let selection = Selection::These(vec![saga_id]);
        let (step, place, start, source) = match self.try_advance(selection.clone(), None).await {
            Err(BatchError::Step { step, place, saga_ids, source }) => {
                (step, place, saga_ids.first().map(|(_, start)| *start), source)
            }
            other => return other,
        };
        if start != Some(place) {
            // What comes before the failing step is done and committed; the step then fails at its own beginning.
            return self.try_advance(selection, Some(place)).await;
        }
        counter!("oms_sagas_parked_total", "step" => step).increment(1);
        if is_time_out(&source) {
            error!(saga.id = %saga_id, step, error = %chain(&source), "the step takes too long; trying again later");
            return advance::postpone(&self.db, self.context(), saga_id, TIME_OUT_DELAY).await;
        }
        error!(saga.id = %saga_id, step, error = %chain(&source), "the step cannot run for this saga; backing off");
        advance::park(&self.db, self.context(), saga_id, &chain(&source)).await
    }

    /// Dispatches committed calls and wakes whoever waits for what was committed.
    pub(super) fn publish(&self, advanced: Advanced, mut permits: OwnedSemaphorePermit) {
        for dispatch in advanced.dispatches {
            // There was a permit for each saga, and a saga has at most one call.
            let Some(permit) = permits.split(1) else { break };
            caller::dispatch(dispatch, permit, self.results.clone(), self.breakers.clone());
        }
        // What no call needed is given back before the gauge is read.
        drop(permits);
        gauge!("oms_open_calls")
            .set((self.settings.max_open_calls as usize - self.permits.available_permits()) as f64);
        self.announce(advanced.made_ready, advanced.subject_ids);
    }

    /// Wakes whoever waits for what was committed.
    pub(super) fn announce(&self, made_ready: bool, subject_ids: Vec<Uuid>) {
        if made_ready {
            self.wakeups.sagas_ready();
        }
        self.wakeups.subjects_changed(subject_ids);
    }

    /// Completes when, after shutdown, no call is open any more or the drain time is over.
    pub(super) fn drained_after(
        self: &Arc<Self>,
        shutdown: &CancellationToken,
    ) -> impl Future<Output = ()> + use<> {
        let (engine, shutdown) = (self.clone(), shutdown.clone());
        async move {
            shutdown.cancelled().await;
            let all = engine.permits.acquire_many(engine.settings.max_open_calls);
            // Holding every permit means that nothing is open; nobody needs them any more.
            if let Ok(Ok(permits)) = tokio::time::timeout(engine.settings.drain_time, all).await {
                permits.forget();
            }
        }
    }
}

/// Returns whether the transaction lost a deadlock or a serialization conflict and may simply be run again.
pub(super) fn is_conflict(error: &BatchError) -> bool {
    let source = match error {
        BatchError::Database { source, .. }
        | BatchError::Step { source: StepError::Database(source), .. } => source,
        BatchError::Step { .. } | BatchError::CommitLost { .. } => return false,
    };
    database_error::is_conflict(source)
}

/// Returns whether a step was broken off because a statement took too long. Nobody knows whose fault that is.
pub(super) fn is_time_out(error: &StepError) -> bool {
    matches!(error, StepError::Database(source) if database_error::is_time_out(source))
}

/// Writes an error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
