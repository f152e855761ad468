//! Closed loop and open loop.
//!
//! In a closed loop each connection sends its next request when the last is answered: it finds how much the server can
//! do. In an open loop requests are due at fixed times, whether or not earlier ones are answered, and latency counts
//! from when a request was due: a server that stalls is charged for every request that it kept waiting (Gil Tene's
//! "coordinated omission").

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::report::{Latencies, Progress};

/// How long a connection waits after a failure, so that a server that is gone is not asked in a tight loop.
const FAILURE_PAUSE: Duration = Duration::from_millis(100);

/// Where a run ends, whichever comes first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound {
    pub(super) requests: u64,
    pub(super) time: Duration,
}

/// How hard to drive, and for how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Connections.
    pub(super) concurrency: u32,
    /// Requests due per second; `None` for a closed loop.
    pub(super) rate: Option<f64>,
    pub(super) bound: Bound,
    /// The same load before the measurement.
    pub(super) warm_up: Duration,
}

/// One connection's side of a workload.
pub(super) trait Client: Send + 'static {
    /// Makes the `n`th request and checks the answer. A client that has failed connects again by itself.
    fn request(&mut self, n: u64) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// What came of driving.
#[derive(Debug, Default)]
pub(super) struct Driven {
    /// Of the requests that succeeded.
    pub(super) latencies: Latencies,
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
    /// From the first request to the last answer.
    pub(super) elapsed: Duration,
}

impl Driven {
    /// Requests that succeeded.
    pub(super) fn succeeded(&self) -> u64 {
        self.latencies.len()
    }

    fn absorb(&mut self, other: Self) {
        self.latencies.absorb(&other.latencies);
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
    }
}

impl Pace {
    /// Runs the warm-up; what it measures is thrown away.
    pub(super) async fn warm_up<C: Client>(&self, clients: Vec<C>) -> Vec<C> {
        if self.warm_up.is_zero() {
            return clients;
        }
        let bound = Bound { requests: u64::MAX, time: self.warm_up };
        let pace = Self { bound, ..*self };
        pace.drive(clients, &Progress::hidden()).await.0
    }

    /// Drives until the bound and waits for the last answers. Requests are numbered from 0.
    pub(super) async fn drive<C: Client>(&self, clients: Vec<C>, progress: &Progress) -> (Vec<C>, Driven) {
        let next = Arc::new(AtomicU64::new(0));
        let begin = Instant::now();
        let mut tasks = JoinSet::new();
        for client in clients {
            let (pace, next, progress) = (*self, next.clone(), progress.clone());
            tasks.spawn(async move { pace.drive_one(client, begin, &next, &progress).await });
        }
        let (mut clients, mut driven) = (Vec::new(), Driven::default());
        while let Some(joined) = tasks.join_next().await {
            match joined {
                Ok((client, part)) => {
                    clients.push(client);
                    driven.absorb(part);
                }
                Err(error) => {
                    driven.errors += 1;
                    driven.first_error.get_or_insert(error.to_string());
                }
            }
        }
        driven.elapsed = begin.elapsed();
        (clients, driven)
    }

    async fn drive_one<C: Client>(
        self,
        mut client: C,
        begin: Instant,
        next: &AtomicU64,
        progress: &Progress,
    ) -> (C, Driven) {
        let end = begin + self.bound.time;
        let mut driven = Driven::default();
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let due = match self.rate {
                Some(rate) => begin + Duration::from_secs_f64(n as f64 / rate),
                None => Instant::now(),
            };
            if n >= self.bound.requests || due >= end {
                return (client, driven);
            }
            if self.rate.is_some() {
                sleep_until(due).await;
            }
            match client.request(n).await {
                Ok(()) => driven.latencies.record(due.elapsed()),
                Err(error) => {
                    driven.errors += 1;
                    driven.first_error.get_or_insert_with(|| format!("{error:#}"));
                    sleep(FAILURE_PAUSE).await;
                }
            }
            progress.advance(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Takes(Duration);

    impl Client for Takes {
        async fn request(&mut self, n: u64) -> anyhow::Result<()> {
            sleep(self.0).await;
            anyhow::ensure!(n != 3, "the fourth fails");
            Ok(())
        }
    }

    fn pace(rate: Option<f64>, requests: u64, seconds: u64) -> Pace {
        let bound = Bound { requests, time: Duration::from_secs(seconds) };
        Pace { concurrency: 1, rate, bound, warm_up: Duration::ZERO }
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_loop_ends_at_its_count_and_counts_failures_apart() {
        let clients = vec![Takes(Duration::from_millis(10)), Takes(Duration::from_millis(10))];
        let (_, driven) = pace(None, 10, 60).drive(clients, &Progress::hidden()).await;
        assert_eq!((driven.succeeded(), driven.errors), (9, 1));
        assert_eq!(driven.first_error.as_deref(), Some("the fourth fails"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_loop_charges_the_wait_to_the_requests_that_waited() {
        // Due every 10 ms, answered in 100 ms, on one connection: the third was due at 20 ms and is answered at 300 ms.
        let clients = vec![Takes(Duration::from_millis(100))];
        let (_, driven) = pace(Some(100.0), 3, 60).drive(clients, &Progress::hidden()).await;
        let longest = driven.latencies.percentiles().expect("some").max_ms;
        assert!((275.0..290.0).contains(&longest), "{longest}");
    }

    #[tokio::test(start_paused = true)]
    async fn time_ends_a_run_too() {
        let clients = vec![Takes(Duration::from_millis(300))];
        let (_, driven) = pace(None, u64::MAX, 1).drive(clients, &Progress::hidden()).await;
        assert_eq!(driven.succeeded() + driven.errors, 4, "begun at 0, 300, 600 and 900 ms");
    }
}
