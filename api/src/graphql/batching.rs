//! Batching: what many resolvers ask for becomes one query.
//!
//! Keys are gathered by what their askers have in common, and each such group lives by itself: it has its own queries on
//! their way and gets its answers as soon as they are there. Whoever waits, for its part of the connections or for a slow
//! statement, holds up nobody of another group.
//!
//! Within a group, while its queries are on their way the next keys gather, and whichever query ends first is followed by
//! one for all of them. Nobody waits for a timer: a key that comes alone is looked up alone and at once, and the busier
//! the database is the more keys share a query. Nothing is remembered, so that all requests can share it.
//!
//! Absent on purpose: a bound across groups. A query takes a connection, and the pool shares those out.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sea_orm::DbErr;
use tokio::sync::oneshot;

/// The most keys of one query.
const MAX_BATCH: usize = 1_000;

/// Queries of a group that are on their way at a time: while the answer of one is being read, Postgres works on the other.
const IN_FLIGHT: usize = 2;

/// How often other tasks get a turn before a batch is closed.
const TURNS: usize = 3;

/// Rows by key; keys that are missing have no row.
type Found<K, V> = Result<HashMap<K, V>, DbErr>;

/// Looks up many keys of a group.
type Find<C, K, V> = dyn Fn(C, Vec<K>) -> BoxFuture<'static, Found<K, V>> + Send + Sync;

/// Looks up rows by key (`K`), among those with the same in common (`C`). Cheap to clone.
pub(super) struct Batching<C, K, V>(Arc<Shared<C, K, V>>);

struct Shared<C, K, V> {
    find: Box<Find<C, K, V>>,
    /// Without those for which nothing is on its way.
    groups: Mutex<HashMap<C, Group<K, V>>>,
}

/// What is wanted and on its way for those with the same in common.
struct Group<K, V> {
    waiting: Vec<Wanted<K, V>>,
    in_flight: usize,
    /// Whether one of those in flight has yet to take what is waiting.
    is_gathering: bool,
}

struct Wanted<K, V> {
    key: K,
    answer: oneshot::Sender<Result<Option<V>, DbErr>>,
}

impl<C, K, V> fmt::Debug for Batching<C, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batching").finish_non_exhaustive()
    }
}

impl<C, K, V> Batching<C, K, V>
where
    C: Clone + Eq + Hash + Send + Sync + 'static,
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Batches over a function that looks up many keys of a group.
    pub(super) fn new<F, Finding>(find: F) -> Self
    where
        F: Fn(C, Vec<K>) -> Finding + Send + Sync + 'static,
        Finding: Future<Output = Found<K, V>> + Send + 'static,
    {
        let find = Box::new(move |common, keys| find(common, keys).boxed());
        Self(Arc::new(Shared { find, groups: Mutex::default() }))
    }

    /// Looks up one key.
    ///
    /// # Errors
    /// Any error of the database, the same for each key of the query.
    pub(super) async fn load(&self, common: C, key: K) -> Result<Option<V>, DbErr> {
        let (answer, answered) = oneshot::channel();
        if self.0.enqueue(&common, Wanted { key, answer }) {
            tokio::spawn(Arc::clone(&self.0).look_up_while_wanted(common));
        }
        let broken_off = || DbErr::Custom("looking up a row was broken off".to_owned());
        answered.await.unwrap_or_else(|_| Err(broken_off()))
    }
}

impl<C, K, V> Shared<C, K, V>
where
    C: Clone + Eq + Hash,
    K: Clone + Eq + Hash,
    V: Clone,
{
    fn lock(&self) -> MutexGuard<'_, HashMap<C, Group<K, V>>> {
        // Nothing panics while it holds the lock.
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a key wait; returns whether a query is to be put on its way for it.
    fn enqueue(&self, common: &C, wanted: Wanted<K, V>) -> bool {
        let mut groups = self.lock();
        let group = groups.entry(common.clone()).or_insert_with(|| Group {
            waiting: Vec::new(),
            in_flight: 0,
            is_gathering: false,
        });
        group.waiting.push(wanted);
        let starts = !group.is_gathering && group.in_flight < IN_FLIGHT;
        if starts {
            group.in_flight += 1;
            group.is_gathering = true;
        }
        starts
    }

    /// Looks up what is waiting, and what has come meanwhile, until nothing is.
    async fn look_up_while_wanted(self: Arc<Self>, common: C) {
        loop {
            // Whoever is about to ask gets its turn first: a few turns cost nothing where nobody is, and share the query
            // with everybody where many are.
            for _ in 0..TURNS {
                tokio::task::yield_now().await;
            }
            let batch = self.take(&common);
            if !batch.is_empty() {
                let keys = batch.iter().map(|wanted| wanted.key.clone()).collect();
                let finding = async { (self.find)(common.clone(), keys).await };
                // A panic costs this batch its answers and the next one nothing.
                if let Ok(found) = AssertUnwindSafe(finding).catch_unwind().await {
                    answer(batch, &found);
                }
            }
            if !self.goes_on(&common) {
                return;
            }
        }
    }

    /// Takes what is waiting, but for those who have stopped waiting.
    fn take(&self, common: &C) -> Vec<Wanted<K, V>> {
        let mut groups = self.lock();
        let Some(group) = groups.get_mut(common) else { return Vec::new() };
        group.is_gathering = false;
        group.waiting.retain(|wanted| !wanted.answer.is_closed());
        let count = group.waiting.len().min(MAX_BATCH);
        group.waiting.drain(..count).collect()
    }

    /// Whether more is waiting, which nobody else is about to take. Otherwise one less is in flight.
    fn goes_on(&self, common: &C) -> bool {
        let mut groups = self.lock();
        let Entry::Occupied(mut entry) = groups.entry(common.clone()) else { return false };
        let group = entry.get_mut();
        if !group.is_gathering && !group.waiting.is_empty() {
            group.is_gathering = true;
            return true;
        }
        group.in_flight -= 1;
        if group.in_flight == 0 {
            entry.remove();
        }
        false
    }
}

fn answer<K: Eq + Hash, V: Clone>(batch: Vec<Wanted<K, V>>, found: &Found<K, V>) {
    for Wanted { key, answer } in batch {
        let row = found.as_ref().map(|rows| rows.get(&key).cloned()).map_err(Clone::clone);
        // A resolver that was dropped wants no answer.
        let _ = answer.send(row);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn keys_that_wait_share_a_query_and_each_gets_its_own_row() {
        let queries: Arc<Mutex<Vec<usize>>> = Arc::default();
        let seen = Arc::clone(&queries);
        let squares = Batching::new(move |(), keys: Vec<u32>| {
            seen.lock().expect("not poisoned").push(keys.len());
            async move { Ok(keys.into_iter().filter(|key| *key != 7).map(|key| (key, key * key)).collect()) }
        });
        let found = join_all((0..50).map(|key| squares.load((), key))).await;
        assert_eq!(found[5], Ok(Some(25)));
        assert_eq!(found[7], Ok(None), "no row");
        assert_eq!(*queries.lock().expect("not poisoned"), [50]);
        assert!(squares.0.lock().is_empty(), "nothing is on its way");
    }

    #[tokio::test]
    async fn a_group_that_waits_holds_up_no_other_and_gathers_what_comes_meanwhile() {
        let open = Arc::new(Semaphore::new(0));
        let (closed, queries) = (Arc::clone(&open), Arc::new(Mutex::new(Vec::new())));
        let seen = Arc::clone(&queries);
        let loader = Arc::new(Batching::new(move |group: &'static str, keys: Vec<u32>| {
            seen.lock().expect("not poisoned").push((group, keys.len()));
            let closed = Arc::clone(&closed);
            async move {
                if group == "slow" {
                    closed.acquire().await.expect("never closed").forget();
                }
                Ok(keys.into_iter().map(|key| (key, key)).collect())
            }
        }));
        let mut waiting = Vec::new();
        for key in 0..20 {
            let slow = Arc::clone(&loader);
            waiting.push(tokio::spawn(async move { slow.load("slow", key).await }));
            assert_eq!(loader.load("quick", key).await, Ok(Some(key)));
        }
        open.add_permits(3);
        for (key, answer) in (0..).zip(join_all(waiting).await) {
            assert_eq!(answer.expect("no panic"), Ok(Some(key)));
        }
        let queries = queries.lock().expect("not poisoned").clone();
        let of_slow: Vec<usize> =
            queries.into_iter().filter(|(group, _)| *group == "slow").map(|(_, keys)| keys).collect();
        assert_eq!(of_slow, [1, 1, 18], "two are on their way, and the rest gather");
    }

    #[tokio::test]
    async fn an_error_reaches_each_caller_and_a_panic_costs_only_its_batch() {
        let fails = Batching::<(), u32, u32>::new(|(), keys| async move {
            assert!(keys != [13], "unlucky");
            Err(DbErr::Custom("away".to_owned()))
        });
        let away = Err(DbErr::Custom("away".to_owned()));
        assert_eq!(join_all([fails.load((), 1), fails.load((), 2)]).await, [away.clone(), away.clone()]);
        assert!(fails.load((), 13).await.is_err());
        assert_eq!(fails.load((), 1).await, away);
    }
}
