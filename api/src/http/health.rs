//! Tells a load balancer whether to send requests here.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::app::App;

/// A probe that takes longer is answered "not ready", before the usual prober gives up by itself.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// The process is alive. Says nothing about the database, so that nobody restarts us because Postgres is away.
pub(super) async fn alive() -> Json<Value> {
    Json(json!({ "status": "alive" }))
}

/// Requests are welcome: the database answers, its schema is current, and we are not stopping.
pub(super) async fn ready(State(app): State<App>) -> (StatusCode, Json<Value>) {
    let reason = match tokio::time::timeout(PROBE_TIMEOUT, migration::pending(app.db())).await {
        _ if app.shutdown().is_cancelled() => "the process is stopping",
        Ok(Ok(pending)) if pending.is_empty() => return (StatusCode::OK, Json(json!({ "status": "ready" }))),
        Ok(Ok(_)) => "the database schema is older than this program; run `oms migrate`",
        Ok(Err(error)) => {
            tracing::warn!(%error, "not ready: the database cannot be reached");
            "the database cannot be reached"
        }
        Err(_) => "the database does not answer in time",
    };
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "not ready", "reason": reason })))
}
