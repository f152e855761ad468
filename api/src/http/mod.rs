//! GraphQL over HTTP, and what operators ask for.
//!
//! | path | |
//! |---|---|
//! | `POST /graphql` | a request in JSON; answered as JSON, or as a stream of events where `Accept` asks for one (`sse`) |
//! | `GET /graphql` | a WebSocket (`ws`), a query in `?query=`, or GraphiQL in a browser |
//! | `/healthz`, `/readyz`, `/metrics` | `health` |
//!
//! Everything from outside has a bound: the body, the time it takes to arrive, the size and number of WebSocket
//! messages, the cost of a query (`crate::graphql`).
//!
//! Absent on purpose: cross-origin access (no `Access-Control-*` header is ever sent), cookies, batches and uploads.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use tower_http::catch_panic::CatchPanicLayer;

use crate::app::App;
use crate::graphql::error::INTERNAL;

mod caller;
mod graphql;
mod health;
mod request_id;
mod sse;
mod ws;

/// Renders the process's metrics as Prometheus reads them.
#[derive(Clone)]
pub struct RenderMetrics(Arc<dyn Fn() -> String + Send + Sync>);

impl RenderMetrics {
    /// Wraps the function that renders.
    pub fn new(render: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self(Arc::new(render))
    }

    fn render(&self) -> String {
        (self.0)()
    }
}

impl fmt::Debug for RenderMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RenderMetrics").finish_non_exhaustive()
    }
}

/// Returns the routes of the application.
pub fn router(app: App, metrics: RenderMetrics) -> Router {
    Router::new()
        .route("/", get(async || Redirect::temporary("/graphql")))
        .route("/graphql", get(graphql::get).post(graphql::post))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(async move || metrics.render()))
        .with_state(app)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(axum::middleware::from_fn(request_id::assign))
}

/// Answers a request whose handler panicked. The panic's own message is in the log already.
fn panicked(_: Box<dyn Any + Send + 'static>) -> Response {
    graphql::Refused::new(StatusCode::INTERNAL_SERVER_ERROR, INTERNAL, "internal error").into_response()
}
