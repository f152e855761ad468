//! GraphQL over server-sent events, "distinct connections" mode (the `graphql-sse` protocol): the answer to a POST is a
//! stream of `next` events, and a `complete` event at its end.
//!
//! A stream that ends without `complete` was broken off: the client subscribes again, after the last sequence it has
//! seen.

use std::convert::Infallible;
use std::time::Duration;

use async_graphql::Request;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};

use crate::app::App;

/// Silence after which a comment is sent, shorter than the time after which common proxies cut a silent connection.
const KEEP_ALIVE: Duration = Duration::from_secs(12);

/// Executes the request and answers with its events.
pub(super) fn respond(app: &App, request: Request) -> Response {
    let events = app
        .schema()
        .execute_stream(request)
        .map(|response| Event::default().event("next").json_data(response).unwrap_or_default())
        .chain(stream::once(async { Event::default().event("complete").data("") }))
        .map(Ok::<_, Infallible>)
        .take_until(app.shutdown().clone().cancelled_owned());
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}
