//! Placing: many callers, one transaction.
//!
//! A commit costs the same for one order as for hundreds. So callers queue, and while two transactions are on their way
//! the next callers gather; the loop takes all of them into the next transaction. Nobody waits for a timer: an order
//! that comes alone is placed alone and at once.
//!
//! Each caller gets its own answer. One bad order cannot fail its neighbors: a batch that the database refuses is
//! halved until the culprit stands alone.
//!
//! Absent on purpose: the rules of an order ([`domain::order::place`]) and what becomes of it (`saga::place_order`).

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use domain::order;
use domain::order::place::{PlaceOrder, PlaceResult};
use futures_util::FutureExt;
use saga::engine::Presence;
use saga::engine::notify::Wakeups;
use saga::engine::presence::no_answer;
use saga::place_order;
use sea_orm::{DatabaseConnection, DbErr, TransactionTrait};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tracing::{debug, error, warn};

use crate::database_error::{Trouble, classify};
use crate::telemetry::chain;

/// Callers that may wait. At a few thousand orders a second this is under a second of work; more would only wait for
/// answers that their clients no longer want.
const QUEUE_LENGTH: usize = 2_000;

/// The most orders of one transaction: its locks and its memory stay small, and a larger one is no faster.
const MAX_BATCH: usize = 500;

/// Transactions at a time: while one waits for the disk, the other works.
const LANES: usize = 2;

/// How often other tasks get a turn before a batch is closed.
const TURNS: usize = 3;

/// How often a transaction that lost a conflict is tried, the first time included.
const MAX_TRIES: u32 = 4;

/// Pause before the second try of a transaction that lost a conflict; the third waits twice as long, and so on.
const CONFLICT_PAUSE: Duration = Duration::from_millis(5);

/// Places orders. Cheap to clone; the loop behind it ends once every clone is gone and the queue is empty.
#[derive(Debug, Clone)]
pub struct Placing {
    queue: mpsc::Sender<Waiting>,
}

/// Why there is no answer to an order. Whether it was placed is open where the commit's answer was lost: the caller
/// repeats it with the same key.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PlacingError {
    /// Too many callers are waiting; nothing was written.
    #[error("too many orders are waiting to be placed")]
    Overloaded,
    /// The loop has ended.
    #[error("placing the order was broken off")]
    BrokenOff,
    /// The database failed.
    #[error("cannot place the order")]
    Database(#[source] DbErr),
}

type Answer = oneshot::Sender<Result<PlaceResult, PlacingError>>;

struct Waiting {
    order: PlaceOrder,
    answer: Answer,
    since: Instant,
}

impl Placing {
    /// Starts the loop.
    pub fn start(db: DatabaseConnection, presence: Arc<Presence>, wakeups: Arc<Wakeups>) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_LENGTH);
        tokio::spawn(place_forever(Placer { db, presence, wakeups }, waiting));
        Self { queue }
    }

    /// Places the order and its saga in one transaction, together with whoever else is waiting.
    ///
    /// # Errors
    /// [`PlacingError`]. What the client can act on is the `Err` of the inner [`PlaceResult`]; then nothing was written.
    pub async fn place(&self, order: PlaceOrder) -> Result<PlaceResult, PlacingError> {
        let (answer, answered) = oneshot::channel();
        self.queue.try_send(Waiting { order, answer, since: Instant::now() }).map_err(
            |error| match error {
                mpsc::error::TrySendError::Full(_) => PlacingError::Overloaded,
                mpsc::error::TrySendError::Closed(_) => PlacingError::BrokenOff,
            },
        )?;
        answered.await.unwrap_or(Err(PlacingError::BrokenOff))
    }
}

/// What the lanes have found out about the database.
#[derive(Debug, Default)]
struct Health {
    succeeded_at: Option<Instant>,
    /// When it was found to be away, and how.
    away: Option<(Instant, DbErr)>,
}

impl Health {
    /// Notes how a batch ended that was begun then. One lane's slow failure says nothing while the other succeeds.
    fn note(&mut self, begun: Instant, trouble: Option<DbErr>) {
        let now = Instant::now();
        match trouble {
            None => {
                self.succeeded_at = Some(now);
                self.away = self.away.take().filter(|(found_at, _)| *found_at > begun);
            }
            Some(error) if self.succeeded_at.is_none_or(|succeeded_at| succeeded_at < begun) => {
                self.away = Some((now, error));
            }
            Some(_) => {}
        }
    }
}

type SharedHealth = Arc<Mutex<Health>>;

async fn place_forever(placer: Placer, mut waiting: mpsc::Receiver<Waiting>) {
    let mut batch = Vec::with_capacity(MAX_BATCH);
    let (lanes, health) = (Arc::new(Semaphore::new(LANES)), SharedHealth::default());
    // The lane first: what comes in while none is free joins the batch. The semaphore is never closed.
    while let Ok(lane) = Arc::clone(&lanes).acquire_owned().await
        && waiting.recv_many(&mut batch, MAX_BATCH).await > 0
    {
        gather(&mut batch, &mut waiting).await;
        give_up_on_those_who_waited(&health, &mut batch);
        // A client that has left does not want its order any more, and knows no id that would have to exist.
        batch.retain(|waiting| !waiting.answer.is_closed());
        if batch.is_empty() {
            continue;
        }
        metrics::histogram!("oms_placing_batch_size").record(batch.len() as f64);
        let work = placer.clone().place_all(Batch::new(batch.drain(..)));
        tokio::spawn(place_in_lane(lane, work, Arc::clone(&health)));
    }
}

/// Refuses those who were waiting already when the database was found to be away: they have waited long enough, and the
/// next try would wait as long again.
fn give_up_on_those_who_waited(health: &SharedHealth, batch: &mut Vec<Waiting>) {
    let away = health.lock().unwrap_or_else(PoisonError::into_inner).away.clone();
    let Some((found_at, error)) = away else { return };
    for Waiting { answer, .. } in batch.extract_if(.., |waiting| waiting.since <= found_at) {
        let _ = answer.send(Err(PlacingError::Database(error.clone())));
    }
}

/// Places one batch, and leaves the lane to the next.
async fn place_in_lane(
    lane: OwnedSemaphorePermit,
    work: impl Future<Output = Option<DbErr>>,
    health: SharedHealth,
) {
    let begun = Instant::now();
    // A panic costs this batch its answers and the next one nothing.
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(trouble) => {
            health.lock().unwrap_or_else(PoisonError::into_inner).note(begun, trouble);
        }
        Err(_) => error!("placing a batch panicked; its callers were told that it was broken off"),
    }
    drop(lane);
}

/// Lets other tasks have a few turns, and takes in the orders that they bring: clients that were answered together ask
/// again together, and would otherwise be spread over many small transactions. Where nobody else is at work it returns
/// at once.
async fn gather(batch: &mut Vec<Waiting>, waiting: &mut mpsc::Receiver<Waiting>) {
    for _ in 0..TURNS {
        tokio::task::yield_now().await;
        while batch.len() < MAX_BATCH
            && let Ok(another) = waiting.try_recv()
        {
            batch.push(another);
        }
    }
}

/// Orders next to those who wait for them, in the same order.
#[derive(Default)]
struct Batch {
    orders: Vec<PlaceOrder>,
    answers: Vec<Answer>,
}

impl Batch {
    fn new(waiting: impl Iterator<Item = Waiting>) -> Self {
        let (orders, answers) = waiting.map(|waiting| (waiting.order, waiting.answer)).unzip();
        Self { orders, answers }
    }

    /// Keeps the first half and returns the second.
    fn split_off_half(&mut self) -> Self {
        let middle = self.orders.len() / 2;
        Self { orders: self.orders.split_off(middle), answers: self.answers.split_off(middle) }
    }

    fn answer(self, results: impl IntoIterator<Item = Result<PlaceResult, PlacingError>>) {
        for (answer, result) in self.answers.into_iter().zip(results) {
            // A caller that has left misses nothing: it repeats with the same key.
            let _ = answer.send(result);
        }
    }
}

#[derive(Clone)]
struct Placer {
    db: DatabaseConnection,
    presence: Arc<Presence>,
    wakeups: Arc<Wakeups>,
}

impl Placer {
    /// Places every order of the batch that can be placed, and answers each caller. Returns the failure of a database that
    /// is away.
    async fn place_all(self, batch: Batch) -> Option<DbErr> {
        let (mut todo, mut away) = (vec![batch], None);
        while let Some(mut batch) = todo.pop() {
            if batch.orders.is_empty() {
                continue;
            }
            match self.place_with_retries(&batch.orders).await {
                Ok(results) => {
                    self.wakeups.sagas_ready();
                    batch.answer(results.into_iter().map(Ok));
                }
                Err(error) if batch.orders.len() > 1 && classify(&error) != Trouble::Unavailable => {
                    warn!(
                        orders = batch.orders.len(),
                        error = chain(&error),
                        "cannot place a batch; placing its halves"
                    );
                    let later = batch.split_off_half();
                    todo.extend([later, batch]);
                }
                Err(error) => {
                    if classify(&error) == Trouble::Unavailable {
                        away = Some(error.clone());
                    }
                    let count = batch.orders.len();
                    batch.answer(std::iter::repeat_n(Err(PlacingError::Database(error)), count));
                }
            }
        }
        away
    }

    /// Repeats a transaction that lost a conflict. A lost answer to the commit is no conflict: nobody knows whether
    /// it happened, so only the caller's own repetition, with its key, is safe.
    async fn place_with_retries(&self, orders: &[PlaceOrder]) -> Result<Vec<PlaceResult>, DbErr> {
        let mut tries = 1;
        loop {
            let placing = self.presence.unless_silent(self.place_batch(orders)).await;
            // Whatever was given up, the commit included, may have happened: as where its answer was lost.
            match placing.unwrap_or_else(|| Err(no_answer())) {
                Err(error) if classify(&error) == Trouble::Conflict && tries < MAX_TRIES => {
                    debug!(
                        orders = orders.len(),
                        tries,
                        error = chain(&error),
                        "placing lost a conflict; repeating it"
                    );
                    tokio::time::sleep(CONFLICT_PAUSE * tries).await;
                    tries += 1;
                }
                result => return result,
            }
        }
    }

    /// The whole of placing: orders and their sagas, together or not at all.
    async fn place_batch(&self, orders: &[PlaceOrder]) -> Result<Vec<PlaceResult>, DbErr> {
        let tx = self.db.begin().await?;
        let results = order::place::place(&tx, orders).await?;
        place_order::start(&tx, &placed_now(&results)).await?;
        tx.commit().await?;
        Ok(results)
    }
}

/// Returns the orders that this batch has placed; replayed ones have their saga already.
fn placed_now(results: &[PlaceResult]) -> Vec<order::entity::Model> {
    let placed = results.iter().filter_map(|result| result.as_ref().ok());
    placed.filter(|placed| !placed.replayed).map(|placed| placed.order.clone()).collect()
}

#[cfg(test)]
mod tests {
    use domain::id::local_app;
    use domain::order::place::{PlaceOrderInput, RequestedLine};

    use super::*;

    fn waiting(key: &str) -> (Waiting, oneshot::Receiver<Result<PlaceResult, PlacingError>>) {
        let input = PlaceOrderInput {
            idempotency_key: key.to_owned(),
            lines: vec![RequestedLine { sku: "SKU-1".to_owned(), quantity: 1 }],
            ..Default::default()
        };
        let order = PlaceOrder::try_new(local_app(), input).expect("a valid input");
        let (answer, answered) = oneshot::channel();
        (Waiting { order, answer, since: Instant::now() }, answered)
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once() {
        let (queue, _waiting) = mpsc::channel(1);
        let placing = Placing { queue };
        let (first, _answered) = waiting("a");
        placing.queue.try_send(first).expect("room for one");
        let refused = placing.place(waiting("b").0.order).await;
        assert!(matches!(refused, Err(PlacingError::Overloaded)));
    }

    #[tokio::test]
    async fn an_unreachable_database_fails_each_caller_and_not_the_loop() {
        let db = DatabaseConnection::default();
        let placing = Placing::start(db, Arc::default(), Wakeups::new());
        for key in ["a", "b"] {
            let result = placing.place(waiting(key).0.order).await;
            assert!(matches!(result, Err(PlacingError::Database(_) | PlacingError::BrokenOff)));
        }
    }

    #[test]
    fn one_lane_s_slow_failure_says_nothing_while_the_other_succeeds() {
        let mut health = Health::default();
        let (earlier, away) = (Instant::now(), || Some(DbErr::Custom("away".to_owned())));
        health.note(earlier, None);
        health.note(earlier, away());
        assert!(health.away.is_none(), "another batch has succeeded since it began");
        let begun = Instant::now();
        health.note(begun, away());
        assert!(health.away.is_some());
        health.note(begun, None);
        assert!(health.away.is_some(), "that one had begun before");
        health.note(Instant::now(), None);
        assert!(health.away.is_none());
    }

    #[test]
    fn halves_keep_orders_and_callers_together() {
        let (list, _answered): (Vec<_>, Vec<_>) = ["a", "b", "c"].map(waiting).into_iter().unzip();
        let mut batch = Batch::new(list.into_iter());
        let later = batch.split_off_half();
        assert_eq!((batch.orders.len(), batch.answers.len()), (1, 1));
        assert_eq!((later.orders.len(), later.answers.len()), (2, 2));
    }
}
