//! What was read and is remembered for a while, until something is said to have changed.

use std::fmt;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};

use moka::sync::Cache;

/// What is remembered, each with the generation in which it was read. Only what was read in the present one is found again:
/// an answer that was on its way while something changed is remembered for nobody.
pub(super) struct Remembered<K, V> {
    cache: Cache<(Generation, K), V>,
    generation: AtomicU64,
}

/// Counts the changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Generation(u64);

impl<K, V> Remembered<K, V>
where
    K: Copy + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Remembers in this cache.
    pub(super) fn new(cache: Cache<(Generation, K), V>) -> Self {
        Self { cache, generation: AtomicU64::new(0) }
    }

    /// What is remembered of this key.
    pub(super) fn get(&self, key: K) -> Option<V> {
        self.cache.get(&(self.generation(), key))
    }

    /// The present generation: to be asked for before something is read.
    pub(super) fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::Acquire))
    }

    /// Remembers what was read since `generation` was asked for.
    pub(super) fn insert(&self, generation: Generation, key: K, value: V) {
        self.cache.insert((generation, key), value);
    }

    /// Forgets everything, what is on its way included.
    pub(super) fn forget(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.cache.invalidate_all();
    }
}

impl<K, V> fmt::Debug for Remembered<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remembered").field("generation", &self.generation).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_before_a_change_is_not_found_after_it() {
        let remembered = Remembered::new(Cache::new(10));
        let before = remembered.generation();
        remembered.insert(before, "key", "old");
        assert_eq!(remembered.get("key"), Some("old"));
        remembered.forget();
        assert_eq!(remembered.get("key"), None);
        // It was on its way.
        remembered.insert(before, "key", "old");
        assert_eq!(remembered.get("key"), None);
        remembered.insert(remembered.generation(), "key", "fresh");
        assert_eq!(remembered.get("key"), Some("fresh"));
    }
}
