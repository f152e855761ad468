//! Waiting for what must come true, without sleeping for what might.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// How long anything may take on a machine with two busy cores. A test that needs it all has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Pause between two looks at a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(15);

/// Waits until `look` returns something, and returns that.
///
/// # Panics
/// After [`PATIENCE`], naming what did not come.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        sleep(POLL_INTERVAL).await;
    }
}

/// Waits for `future`.
///
/// # Panics
/// After [`PATIENCE`], naming what did not come.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}
