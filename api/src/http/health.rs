//! Tells a load balancer whether to send requests here.
//!
//! Anybody may ask. That the database answers is found out once for all who ask at the same time, and remembered for a moment:
//! however many ask, they take one connection.

use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use sea_orm::DatabaseConnection;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::app::App;
use crate::run_to_end::run_to_end;
use crate::telemetry::chain;

/// A probe that takes longer is answered "not ready", before the usual prober gives up by itself.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long what was found out is remembered: not longer than the least interval between two looks of the usual prober.
const REMEMBER_FOR: Duration = Duration::from_secs(1);

/// The process is alive. Says nothing about the database, so that nobody restarts us because Postgres is away.
pub(super) async fn alive() -> Json<Value> {
    Json(json!({ "status": "alive" }))
}

/// Whether requests are welcome: the database answers, its schema is current, and we are not stopping.
#[derive(Debug, Default)]
pub(super) struct Readiness(Mutex<Option<(Instant, Probed)>>);

/// Nothing, or why the database is not ready.
type Probed = Result<(), &'static str>;

impl Readiness {
    /// Tells whether requests are welcome.
    pub(super) async fn tell(&self, app: &App) -> (StatusCode, Json<Value>) {
        let db = app.db();
        let probed = match app.shutdown().is_cancelled() {
            true => Err("the process is stopping"),
            // Whoever asks may leave before the answer is there; the next one then finds it.
            false => self.remember(|| run_to_end(probe(db.clone()))).await,
        };
        match probed {
            Ok(()) => (StatusCode::OK, Json(json!({ "status": "ready" }))),
            Err(reason) => {
                let body = json!({ "status": "not ready", "reason": reason });
                (StatusCode::SERVICE_UNAVAILABLE, Json(body))
            }
        }
    }

    /// Returns what the last probe has found, or probes where that is too long ago. Who comes meanwhile waits for it.
    async fn remember<Probing>(&self, probe: impl FnOnce() -> Probing) -> Probed
    where
        Probing: Future<Output = Probed>,
    {
        let mut last = self.0.lock().await;
        if let Some((at, probed)) = *last
            && at.elapsed() < REMEMBER_FOR
        {
            return probed;
        }
        let probed = probe().await;
        *last = Some((Instant::now(), probed));
        probed
    }
}

async fn probe(db: DatabaseConnection) -> Probed {
    match tokio::time::timeout(PROBE_TIMEOUT, migration::pending(&db)).await {
        Ok(Ok(pending)) if pending.is_empty() => Ok(()),
        Ok(Ok(_)) => Err("the database schema is older than this program; run `oms migrate`"),
        Ok(Err(error)) => {
            tracing::warn!(error = chain(&error), "not ready: the database cannot be reached");
            Err("the database cannot be reached")
        }
        Err(_) => Err("the database does not answer in time"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::future::join_all;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn however_many_ask_they_share_one_probe_until_it_is_old() {
        let (readiness, probes) = (Readiness::default(), AtomicU32::new(0));
        let ask = || {
            readiness.remember(async || {
                probes.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                Ok(())
            })
        };
        assert_eq!(join_all((0..500).map(|_| ask())).await, vec![Ok(()); 500]);
        assert_eq!(probes.load(Ordering::Relaxed), 1);
        tokio::time::advance(REMEMBER_FOR).await;
        assert_eq!(ask().await, Ok(()));
        assert_eq!(probes.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_leaves_lets_the_next_probe() {
        let readiness = Readiness::default();
        let left = readiness.remember(std::future::pending);
        assert!(tokio::time::timeout(Duration::from_millis(1), left).await.is_err());
        assert_eq!(readiness.remember(async || Err("away")).await, Err("away"));
        assert_eq!(readiness.remember(async || Ok(())).await, Err("away"), "remembered");
    }
}
