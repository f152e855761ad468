//! Shows viewers what happens to their orders.
//!
//! The events are in the database and only there. What travels in memory is a poke: "this order has changed, look
//! again". A poke carries no news, so that a lost one costs latency and nothing else, two may melt into one, and a
//! slow viewer costs one flag however much it has missed.
//!
//! Pokes come from the saga engine's notifications, and from a poll, about once a second, that asks for the positions
//! of all watched orders in one query. With notifications off the poll does all the work.
//!
//! Absent on purpose: a buffer of events per viewer, and any memory of what a viewer has seen beyond its last
//! sequence, which the client holds as well and resumes from.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::app::Visibility;
use domain::order;
use domain::order::entity::{Column, event};
use domain::order::read::{self, OrderRow};
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use moka::sync::Cache;
use saga::engine::notify::{Changed, Wakeups};
use sea_orm::{DatabaseConnection, DbErr};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use crate::database_error::{Trouble, classify};
use crate::reader::Reader;
use crate::telemetry::chain;

/// How long a change may go unseen when its notification was lost. Each wait is drawn from three quarters to five
/// quarters of it, so that processes started together do not poll together.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Orders asked for in one query of the poll; an array of this many ids is 80 kB.
const POLL_CHUNK: usize = 5_000;

/// Events read at a time for one viewer.
const PAGE_SIZE: u64 = 100;

/// Viewers that read at the same time. The others wait here and not in the pool, where they would time out and stand
/// in the way of those who ask for lists.
const MAX_READERS: usize = 8;

/// Those of them that see the same: half, so that viewers whose look takes long leave room for the others.
const MAX_READERS_OF_ONE: usize = MAX_READERS / 2;

/// How many of those who see different things have their places kept.
const MAX_KEPT_PLACES: u64 = 10_000;

/// Places that nobody has asked for that long are forgotten; no look lasts as long.
const PLACES_IDLE: Duration = Duration::from_secs(120);

/// How often a viewer that has been shown something rides out a database that does not answer, before it is told.
const MAX_FAILED_LOOKS: u32 = 30;

/// Pause after such a failure.
const FAILED_LOOK_PAUSE: Duration = Duration::from_secs(1);

/// Shows viewers what happens to their orders. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EventFeed {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// For what is done on nobody's behalf: to see which orders have moved.
    db: DatabaseConnection,
    reader: Reader,
    watched: Mutex<HashMap<Uuid, Watched>>,
    readers: Readers,
    shutdown: CancellationToken,
}

/// Lets viewers read, some at a time.
#[derive(Debug)]
struct Readers {
    of_one: Cache<Visibility, Arc<Semaphore>>,
    of_all: Semaphore,
}

impl Readers {
    fn new() -> Self {
        let of_one = Cache::builder().max_capacity(MAX_KEPT_PLACES).time_to_idle(PLACES_IDLE).build();
        Self { of_one, of_all: Semaphore::new(MAX_READERS) }
    }

    /// Waits for a place among those who see the same.
    async fn place_of(&self, visibility: &Visibility) -> Option<OwnedSemaphorePermit> {
        let places = self.of_one.get_with_by_ref(visibility, || Arc::new(Semaphore::new(MAX_READERS_OF_ONE)));
        // The semaphore is never closed; were it, reading without a permit would still be right.
        places.acquire_owned().await.ok()
    }
}

/// An order with at least one viewer.
#[derive(Debug)]
struct Watched {
    poke: watch::Sender<()>,
    /// The order's position when the poll last saw it; 0 before. Only the poll writes it: what one viewer has read
    /// says nothing about the others.
    polled_sequence: i32,
}

impl EventFeed {
    /// Starts the two tasks that poke viewers; they end when `shutdown` fires.
    pub fn start(
        db: DatabaseConnection,
        reader: Reader,
        wakeups: &Wakeups,
        shutdown: CancellationToken,
    ) -> Self {
        let shared = Arc::new(Shared {
            db,
            reader,
            watched: Mutex::default(),
            readers: Readers::new(),
            shutdown: shutdown.clone(),
        });
        let relay = Arc::clone(&shared).relay_notifications(wakeups.subscribe_changed());
        let poll = Arc::clone(&shared).poll_forever();
        tokio::spawn(shutdown.clone().run_until_cancelled_owned(relay));
        tokio::spawn(shutdown.run_until_cancelled_owned(poll));
        Self { shared }
    }

    /// Returns the order's events with a sequence above `after`: first those that are there, then each as it happens,
    /// each once. The stream ends after the event that settles the order, or at once if there is no such visible order
    /// or its story was over before `after`.
    ///
    /// A database that does not answer is an error at first, and is ridden out for half a minute later on.
    pub fn events(
        &self,
        order_id: Uuid,
        after: i32,
        visibility: Visibility,
    ) -> impl Stream<Item = Result<event::Model, DbErr>> + Send + use<> {
        // Register before reading: an event committed after the read pokes this viewer, and one committed before is
        // read. The other way round, one in between would be missed.
        let viewer =
            Viewer { watch: self.watch(order_id), visibility, after, is_over: false, has_looked: false };
        stream::try_unfold(viewer, async |mut viewer| {
            Ok::<_, DbErr>(viewer.next_page().await?.map(|page| (stream::iter(page).map(Ok), viewer)))
        })
        .try_flatten()
    }

    /// Returns the order once it is settled, or as it is when `wait` or the process is over.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn wait_until_settled(
        &self,
        order_id: Uuid,
        wait: Duration,
    ) -> Result<Option<order::entity::Model>, DbErr> {
        // Whoever waits has placed the order.
        let (mut watch, sees) = (self.watch(order_id), Visibility::Order(order_id));
        let time_is_up = tokio::time::sleep(wait);
        tokio::pin!(time_is_up);
        let mut is_over = false;
        loop {
            let finding = read::find_order(&self.shared.db, &sees, order_id);
            let order = self.shared.reader.unless_silent(finding).await?;
            if is_over || order.as_ref().is_none_or(|order| order.status.is_settled()) {
                return Ok(order);
            }
            tokio::select! {
                () = watch.changed() => {}
                () = &mut time_is_up => is_over = true,
                () = self.shared.shutdown.cancelled() => is_over = true,
            }
        }
    }

    fn watch(&self, order_id: Uuid) -> Watch {
        let mut watched = self.shared.lock();
        let entry = watched
            .entry(order_id)
            .or_insert_with(|| Watched { poke: watch::Sender::new(()), polled_sequence: 0 });
        let pokes = entry.poke.subscribe();
        metrics::gauge!("oms_watched_orders").set(watched.len() as f64);
        Watch { shared: Arc::clone(&self.shared), order_id, pokes }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Watched>> {
        // Nothing panics while it holds the lock, and each entry stands for itself.
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pokes the viewers of each order that a notification names. Ends when no more will come.
    async fn relay_notifications(self: Arc<Self>, mut notifications: broadcast::Receiver<Changed>) {
        loop {
            match notifications.recv().await {
                Ok(Changed::Subjects(order_ids)) => self.poke(&order_ids),
                Ok(Changed::All) | Err(broadcast::error::RecvError::Lagged(_)) => self.poke_all(),
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    async fn poll_forever(self: Arc<Self>) {
        loop {
            tokio::time::sleep(POLL_INTERVAL.mul_f64(rand::random_range(0.75..1.25))).await;
            if let Err(error) = self.poll().await {
                warn!(error = chain(&error), "cannot look for changes of watched orders; trying again");
            }
        }
    }

    async fn poll(&self) -> Result<(), DbErr> {
        let order_ids: Vec<Uuid> = self.lock().keys().copied().collect();
        for chunk in order_ids.chunks(POLL_CHUNK) {
            let positions = read::find_positions(&self.db, chunk.to_vec());
            let positions = self.reader.unless_silent(positions).await?;
            let mut watched = self.lock();
            for position in positions {
                if let Some(order) = watched.get_mut(&position.id)
                    && position.sequence > order.polled_sequence
                {
                    order.polled_sequence = position.sequence;
                    order.poke.send_replace(());
                }
            }
        }
        Ok(())
    }

    fn poke(&self, order_ids: &[Uuid]) {
        let watched = self.lock();
        for order in order_ids.iter().filter_map(|order_id| watched.get(order_id)) {
            order.poke.send_replace(());
        }
    }

    fn poke_all(&self) {
        for order in self.lock().values() {
            order.poke.send_replace(());
        }
    }
}

/// One viewer's place in the registry; dropping it gives the place up.
#[derive(Debug)]
struct Watch {
    shared: Arc<Shared>,
    order_id: Uuid,
    pokes: watch::Receiver<()>,
}

impl Watch {
    /// Waits for the next poke; one that came since the last call counts.
    async fn changed(&mut self) {
        if self.pokes.changed().await.is_err() {
            // The sender lives as long as this entry, and the entry as long as this watch.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watched = self.shared.lock();
        if let Entry::Occupied(entry) = watched.entry(self.order_id)
            && entry.get().poke.receiver_count() == 1
        {
            entry.remove();
        }
        metrics::gauge!("oms_watched_orders").set(watched.len() as f64);
    }
}

/// What one viewer has been shown.
struct Viewer {
    watch: Watch,
    /// Which orders it sees; of one that it does not see it is shown nothing.
    visibility: Visibility,
    /// Sequence of the last event shown.
    after: i32,
    is_over: bool,
    has_looked: bool,
}

/// What one look at the database shows a viewer.
struct Look {
    /// The next events.
    page: Vec<event::Model>,
    /// There are none, and there will be none.
    nothing_will_come: bool,
}

impl Viewer {
    /// Returns the next events, at least one, as soon as there are any; `None` once the story is over.
    async fn next_page(&mut self) -> Result<Option<Vec<event::Model>>, DbErr> {
        while !self.is_over {
            let Look { mut page, nothing_will_come } = self.look_patiently().await?;
            self.is_over = nothing_will_come;
            if let Some(end) = page.iter().position(|event| event.status.is_settled()) {
                page.truncate(end + 1);
                self.is_over = true;
            }
            if let Some(last) = page.last() {
                self.after = last.sequence;
                return Ok(Some(page));
            }
            if !self.is_over {
                self.watch.changed().await;
            }
        }
        Ok(None)
    }

    async fn look_patiently(&mut self) -> Result<Look, DbErr> {
        let mut failures = 0;
        loop {
            match self.watch.shared.reader.unless_silent(self.look()).await {
                Err(error)
                    if self.has_looked
                        && failures < MAX_FAILED_LOOKS
                        && classify(&error) == Trouble::Unavailable =>
                {
                    failures += 1;
                    tokio::time::sleep(FAILED_LOOK_PAUSE).await;
                }
                result => {
                    self.has_looked = true;
                    return result;
                }
            }
        }
    }

    async fn look(&self) -> Result<Look, DbErr> {
        let Watch { shared, order_id, .. } = &self.watch;
        // What belongs to those who see the same comes first: whoever waits for it takes no place of the others.
        let _place = shared.readers.place_of(&self.visibility).await;
        let share = shared.reader.share(&self.visibility).await?;
        let _permit = shared.readers.of_all.acquire().await.ok();
        let tx = shared.reader.begin_with(share, &self.visibility).await?;
        let events = read::find_events(&tx, &self.visibility, vec![*order_id], self.after, PAGE_SIZE);
        let page = events.await?;
        if !page.is_empty() {
            tx.commit().await?;
            return Ok(Look { page, nothing_will_come: false });
        }
        // A viewer may resume after the last event of a settled order, or after one that never was: no event would
        // ever end its stream.
        let columns = [Column::Status, Column::Sequence].into_iter().collect();
        let orders = read::find_orders(&tx, &self.visibility, columns, vec![*order_id]).await?;
        tx.commit().await?;
        let is_open = |order: &OrderRow| {
            order.status.is_none_or(|status| !status.is_settled())
                || order.sequence.is_none_or(|sequence| sequence > self.after)
        };
        let is_over = !orders.iter().any(is_open);
        Ok(Look { page, nothing_will_come: is_over })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn feed() -> EventFeed {
        let shared = Shared {
            db: DatabaseConnection::default(),
            reader: Reader::new(DatabaseConnection::default()),
            watched: Mutex::default(),
            readers: Readers::new(),
            shutdown: CancellationToken::new(),
        };
        EventFeed { shared: Arc::new(shared) }
    }

    #[test]
    fn a_poke_between_registering_and_waiting_is_kept() {
        let (feed, order_id) = (feed(), Uuid::now_v7());
        let mut watch = feed.watch(order_id);
        assert_eq!(watch.changed().now_or_never(), None);
        feed.shared.poke(&[order_id, Uuid::now_v7()]);
        feed.shared.poke(&[order_id]);
        assert_eq!(watch.changed().now_or_never(), Some(()), "two pokes melt into one");
        assert_eq!(watch.changed().now_or_never(), None);
    }

    #[test]
    fn each_viewer_of_an_order_is_poked() {
        let (feed, order_id) = (feed(), Uuid::now_v7());
        let (mut left, mut right) = (feed.watch(order_id), feed.watch(order_id));
        feed.shared.poke_all();
        assert_eq!(left.changed().now_or_never(), Some(()));
        assert_eq!(right.changed().now_or_never(), Some(()));
    }

    #[test]
    fn the_last_viewer_to_leave_unregisters_the_order() {
        let (feed, order_id) = (feed(), Uuid::now_v7());
        let (left, right) = (feed.watch(order_id), feed.watch(order_id));
        drop(left);
        assert_eq!(feed.shared.lock().len(), 1);
        drop(right);
        assert_eq!(feed.shared.lock().len(), 0);
    }
}
