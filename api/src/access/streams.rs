//! How many sockets and event streams an app holds open in this process: each takes memory and a connection for as long as it
//! lasts, which no budget of points sees.
//!
//! What shoppers hold open is counted by their order, and once more among all shoppers of the app that has placed it. Neither
//! counts among the app's own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Caller, Holder};

/// The most that those who follow one order hold open together: whoever passes its link on does not open the whole of what an
/// app may.
const MAX_OF_ORDER: u32 = 100;

/// Counts what is open. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Streams(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    max_of_app: u32,
    max_of_shoppers: u32,
    /// Without those that have none.
    open: Mutex<HashMap<Holder, u32>>,
}

/// One of those that are open, for as long as it lives.
#[derive(Debug)]
pub(crate) struct OpenStream {
    counts: Arc<Counts>,
    holders: Vec<Holder>,
}

/// The caller holds as many open as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not more than {max} sockets and event streams may be open at a time; close one, or come back later")]
pub(crate) struct TooManyStreams {
    max: u32,
}

impl Streams {
    /// Lets each app hold so many open, and all of its shoppers together so many.
    pub(crate) fn new(max_of_app: u32, max_of_shoppers: u32) -> Self {
        Self(Arc::new(Counts { max_of_app, max_of_shoppers, open: Mutex::default() }))
    }

    /// Counts another one.
    ///
    /// # Errors
    /// There are too many.
    pub(crate) fn open(&self, caller: &Caller) -> Result<OpenStream, TooManyStreams> {
        let holders = std::iter::once(caller.holder()).chain(caller.holder_together()).collect::<Vec<_>>();
        let mut open = self.0.lock();
        for holder in &holders {
            let max = self.0.max_of(*holder);
            if open.get(holder).is_some_and(|count| *count >= max) {
                return Err(TooManyStreams { max });
            }
        }
        for holder in &holders {
            *open.entry(*holder).or_default() += 1;
        }
        Ok(OpenStream { counts: Arc::clone(&self.0), holders })
    }
}

impl Counts {
    /// The most that may be open, each at least one.
    fn max_of(&self, holder: Holder) -> u32 {
        match holder {
            Holder::App(_) => self.max_of_app,
            Holder::Order(_) => self.max_of_app.min(MAX_OF_ORDER),
            Holder::ShoppersOf(_) => self.max_of_shoppers,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Holder, u32>> {
        // Held for a look and a write.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut open = self.counts.lock();
        for holder in &self.holders {
            if let Some(count) = open.get_mut(holder) {
                *count -= 1;
                if *count == 0 {
                    open.remove(holder);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::app::{Scopes, store};
    use domain::id::AppId;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn each_app_and_each_order_has_its_own_count() {
        let app = store::App::new(AppId::from_uuid(Uuid::now_v7()), "app");
        let caller = Caller::app(&app, Scopes::default(), &[], None, None);
        let streams = Streams::new(2, 1_000);
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
        let streams = Streams::new(1_000, 1_000);
        let open: Vec<_> = (0..MAX_OF_ORDER).map_while(|_| streams.open(&shopper).ok()).collect();
        assert_eq!(open.len(), 100);
        assert!(streams.open(&shopper).is_err());
    }

    #[test]
    fn the_shoppers_of_an_app_share_a_count() {
        let [app, other] =
            ["app", "other"].map(|name| store::App::new(AppId::from_uuid(Uuid::now_v7()), name));
        let streams = Streams::new(1_000, 2);
        let open = |app| streams.open(&Caller::shopper(app, Uuid::now_v7(), None));
        let held = [open(&app).expect("the first"), open(&app).expect("the second")];
        assert_eq!(open(&app).err(), Some(TooManyStreams { max: 2 }));
        assert!(open(&other).is_ok());
        assert!(streams.open(&Caller::app(&app, Scopes::default(), &[], None, None)).is_ok());
        drop(held);
        assert!(open(&app).is_ok());
        assert!(streams.0.lock().is_empty());
    }
}
