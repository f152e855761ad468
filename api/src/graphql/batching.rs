//! Batching: what many resolvers ask for becomes one query.
//!
//! Keys queue, and while one query is on its way the next keys gather; the loop takes all of them into the next query.
//! Nobody waits for a timer: a key that comes alone is looked up alone and at once, and the busier the database is the
//! more keys share a query. Nothing is remembered, so that all requests can share it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use sea_orm::DbErr;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Keys that may wait; further callers wait for room.
const QUEUE_LENGTH: usize = 1_000;

/// The most keys of one query.
const MAX_BATCH: usize = 1_000;

/// Queries on their way at a time: while the answer of one is being read, Postgres works on the other.
const IN_FLIGHT: usize = 2;

/// How often other tasks get a turn before a batch is closed.
const TURNS: usize = 3;

/// Looks up rows by key. Cheap to clone; the loop behind it ends with the last clone.
#[derive(Debug)]
pub(super) struct Batching<K, V> {
    queue: mpsc::Sender<Wanted<K, V>>,
}

#[derive(Debug)]
struct Wanted<K, V> {
    key: K,
    answer: oneshot::Sender<Result<Option<V>, DbErr>>,
}

impl<K, V> Batching<K, V>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Starts the loop over a function that looks up many keys; keys that are missing from its answer have no row.
    pub(super) fn start<F, Found>(find: F) -> Self
    where
        F: Fn(Vec<K>) -> Found + Send + Sync + 'static,
        Found: Future<Output = Result<HashMap<K, V>, DbErr>> + Send + 'static,
    {
        let (queue, wanted) = mpsc::channel(QUEUE_LENGTH);
        tokio::spawn(look_up_forever(find, wanted));
        Self { queue }
    }

    /// Looks up one key.
    ///
    /// # Errors
    /// Any error of the database, the same for each key of the query.
    pub(super) async fn load(&self, key: K) -> Result<Option<V>, DbErr> {
        let broken_off = || DbErr::Custom("looking up a row was broken off".to_owned());
        let (answer, answered) = oneshot::channel();
        self.queue.send(Wanted { key, answer }).await.map_err(|_| broken_off())?;
        answered.await.unwrap_or_else(|_| Err(broken_off()))
    }
}

async fn look_up_forever<K, V, F, Found>(find: F, mut wanted: mpsc::Receiver<Wanted<K, V>>)
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    F: Fn(Vec<K>) -> Found + Send + Sync + 'static,
    Found: Future<Output = Result<HashMap<K, V>, DbErr>> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(IN_FLIGHT));
    // The semaphore is never closed. A slot first: whatever comes while none is free joins the next batch.
    while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
        let mut batch = Vec::new();
        if wanted.recv_many(&mut batch, MAX_BATCH).await == 0 {
            return;
        }
        // Whoever is about to ask gets its turn first: a few turns cost nothing where nobody is, and share the query
        // with everybody where many are.
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
            while batch.len() < MAX_BATCH
                && let Ok(another) = wanted.try_recv()
            {
                batch.push(another);
            }
        }
        let mut keys: Vec<K> = Vec::with_capacity(batch.len());
        keys.extend(batch.iter().map(|wanted| wanted.key.clone()));
        let found = find(keys);
        // A task of its own, so that a panic costs this batch its answers and the next one nothing.
        tokio::spawn(async move {
            answer(batch, found.await);
            drop(slot);
        });
    }
}

fn answer<K: Eq + Hash, V: Clone>(batch: Vec<Wanted<K, V>>, found: Result<HashMap<K, V>, DbErr>) {
    for Wanted { key, answer } in batch {
        let row = found.as_ref().map(|rows| rows.get(&key).cloned()).map_err(Clone::clone);
        // A resolver that was dropped wants no answer.
        let _ = answer.send(row);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn keys_that_wait_share_a_query_and_each_gets_its_own_row() {
        let queries: Arc<Mutex<Vec<usize>>> = Arc::default();
        let seen = Arc::clone(&queries);
        let squares = Batching::start(move |keys: Vec<u32>| {
            seen.lock().expect("not poisoned").push(keys.len());
            async move { Ok(keys.into_iter().filter(|key| *key != 7).map(|key| (key, key * key)).collect()) }
        });
        let found = join_all((0..50).map(|key| squares.load(key))).await;
        assert_eq!(found[5], Ok(Some(25)));
        assert_eq!(found[7], Ok(None), "no row");
        let queries = queries.lock().expect("not poisoned").clone();
        assert_eq!(queries.iter().sum::<usize>(), 50);
        assert!(queries.len() < 10, "{queries:?}");
    }

    #[tokio::test]
    async fn an_error_reaches_each_caller_and_a_panic_costs_only_its_batch() {
        let fails = Batching::<u32, u32>::start(|keys| async move {
            assert!(keys != [13], "unlucky");
            Err(DbErr::Custom("away".to_owned()))
        });
        let away = Err(DbErr::Custom("away".to_owned()));
        assert_eq!(join_all([fails.load(1), fails.load(2)]).await, [away.clone(), away.clone()]);
        assert!(fails.load(13).await.is_err());
        assert_eq!(fails.load(1).await, away);
    }
}
