//! How many sockets and event streams an app holds open in this process: each takes memory and a connection for as long as it
//! lasts, which no budget of points sees.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;

use super::{Caller, Kind};

/// The most that those who follow one order hold open together: whoever passes its link on does not open the whole of what an
/// app may.
const MAX_OF_ORDER: u32 = 100;

/// Counts what is open. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Streams(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    max_of_app: u32,
    /// Without those that have none.
    open: Mutex<HashMap<Uuid, u32>>,
}

/// One of those that are open, for as long as it lives.
#[derive(Debug)]
pub(crate) struct OpenStream {
    counts: Arc<Counts>,
    holder: Uuid,
}

/// The caller holds as many open as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not more than {max} sockets and event streams may be open at a time; close one, or come back later")]
pub(crate) struct TooManyStreams {
    max: u32,
}

impl Streams {
    /// Lets each app hold so many open.
    pub(crate) fn new(max_of_app: u32) -> Self {
        Self(Arc::new(Counts { max_of_app, open: Mutex::default() }))
    }

    /// Counts another one. A shopper's are counted by its order, as its points are.
    ///
    /// # Errors
    /// There are too many.
    pub(crate) fn open(&self, caller: &Caller) -> Result<OpenStream, TooManyStreams> {
        let max = match caller.kind() {
            Kind::Shopper { .. } => self.0.max_of_app.min(MAX_OF_ORDER),
            Kind::App { .. } | Kind::Anonymous => self.0.max_of_app,
        };
        let holder = caller.budget_id();
        let mut open = self.0.lock();
        let count = open.entry(holder).or_default();
        if *count >= max {
            return Err(TooManyStreams { max });
        }
        *count += 1;
        Ok(OpenStream { counts: Arc::clone(&self.0), holder })
    }
}

impl Counts {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, u32>> {
        // Held for a look and a write.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut open = self.counts.lock();
        if let Some(count) = open.get_mut(&self.holder) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::app::{Scopes, store};
    use domain::id::AppId;

    use super::*;

    #[test]
    fn each_app_and_each_order_has_its_own_count() {
        let app = store::App::new(AppId::from_uuid(Uuid::now_v7()), "app");
        let caller = Caller::app(&app, Scopes::default(), &[], None, None);
        let streams = Streams::new(2);
        let first = streams.open(&caller).expect("the first");
        let second = streams.open(&caller).expect("the second");
        assert_eq!(streams.open(&caller).err(), Some(TooManyStreams { max: 2 }));
        let shopper = Caller::shopper(&app, Uuid::now_v7(), None);
        assert!(streams.open(&shopper).is_ok());
        drop(first);
        assert!(streams.open(&caller).is_ok());
        drop(second);
        assert!(streams.0.lock().is_empty());
    }

    #[test]
    fn those_who_follow_one_order_share_a_smaller_count() {
        let app = store::App::new(AppId::from_uuid(Uuid::now_v7()), "app");
        let shopper = Caller::shopper(&app, Uuid::now_v7(), None);
        let streams = Streams::new(1_000);
        let open: Vec<_> = (0..MAX_OF_ORDER).map_while(|_| streams.open(&shopper).ok()).collect();
        assert_eq!(open.len(), 100);
        assert!(streams.open(&shopper).is_err());
    }
}
