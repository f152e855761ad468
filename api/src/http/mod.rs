//! GraphQL over HTTP, and what operators ask for.
//!
//! | path | |
//! |---|---|
//! | `POST /graphql` | a request in JSON; answered as JSON, or as a stream of events where `Accept` asks for one (`sse`) |
//! | `GET /graphql` | a WebSocket (`ws`), a query in `?query=`, or GraphiQL in a browser |
//! | `/healthz`, `/readyz` | `health` |
//! | `/metrics` | how busy the process is, to nobody beyond this machine: elsewhere on an address of its own alone |
//!
//! Everything from outside has a bound: how many connections there are, the head and the body and the time that they take to
//! arrive (`connections`), the time that an answer waits to be taken (`impatient`), the size of WebSocket messages, how many sockets and streams an app has open (`crate::access`), the cost of a query
//! (`crate::graphql`).
//!
//! The GraphQL library has glue of its own for HTTP and WebSockets. It answers 200 whatever happened, whatever `Accept` asks
//! for, takes mutations by GET and plain text by POST (so that any page of the web could send some), and is silent about
//! bounds; hence this glue over its executor.
//!
//! Absent on purpose: cookies, batches and uploads. Pages of other origins are let in only where the settings name them.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header::{
    ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
    RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::{from_fn, map_response};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::CorsLayer;

use crate::app::App;
use crate::graphql::error::INTERNAL;

pub(crate) use self::connections::serve;

mod accept;
mod answer;
mod caller;
mod connections;
mod graphql;
mod health;
mod impatient;
mod parameters;
mod request_id;
mod sse;
mod unread;
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

/// Returns what is served at the address that is set apart for the metrics.
pub(crate) fn metrics_router(metrics: RenderMetrics) -> Router {
    Router::new()
        .route("/healthz", get(health::alive))
        .route("/metrics", get(async move || metrics.render()))
        .layer(map_response(protect))
}

/// Returns the routes of the application; with the metrics only where they are given.
pub fn router(app: App, metrics: Option<RenderMetrics>) -> Router {
    let readiness = Arc::new(health::Readiness::default());
    let ready = async move |State(app): State<App>| readiness.tell(&app).await;
    let (is_open, origins) = (app.door().is_open(), allowed_origins(&app));
    let mut router = Router::new()
        .route("/", get(async || Redirect::temporary("/graphql")))
        .route("/graphql", get(graphql::get).post(graphql::post))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(ready));
    if let Some(metrics) = metrics {
        router = router.route("/metrics", get(async move || metrics.render()));
    }
    let mut router = router
        .fallback(graphql::other_path)
        .method_not_allowed_fallback(graphql::other_method)
        .with_state(app)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(map_response(protect))
        .layer(from_fn(unread::read_up));
    if !origins.is_empty() {
        router = router.layer(cross_origin(origins));
    }
    if is_open {
        router = router.layer(from_fn(caller::only_for_this_machine));
    }
    router.layer(from_fn(request_id::assign))
}

/// Puts the headers into an answer that keep browsers from doing more with it than showing it, where it has none of its own.
async fn protect(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (CACHE_CONTROL, "no-store"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

fn allowed_origins(app: &App) -> Vec<HeaderValue> {
    let origins = app.settings().allowed_origins.iter();
    origins.filter_map(|origin| HeaderValue::from_str(origin).ok()).collect()
}

/// Lets pages of these origins read answers. No credential is ever sent along by a browser on its own, since there are no
/// cookies.
fn cross_origin(origins: Vec<HeaderValue>) -> CorsLayer {
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([ACCEPT, AUTHORIZATION, CONTENT_TYPE, X_API_KEY, LAST_EVENT_ID, request_id::HEADER])
        .expose_headers([request_id::HEADER, RETRY_AFTER])
        .max_age(Duration::from_secs(600))
}

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Answers a request whose handler panicked. The panic's own message is in the log already.
fn panicked(_: Box<dyn Any + Send + 'static>) -> Response {
    answer::Refused::new(StatusCode::INTERNAL_SERVER_ERROR, INTERNAL, "internal error").into_response()
}
