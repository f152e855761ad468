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
use futures_util::{Stream, StreamExt, stream};

use super::graphql::has_no_data;
use crate::access::Caller;
use crate::app::App;

/// Silence after which a comment is sent, shorter than the time after which common proxies cut a silent connection.
const KEEP_ALIVE: Duration = Duration::from_secs(12);

/// Executes the request and answers with its events.
pub(super) fn respond(app: &App, caller: Caller, request: Request) -> Response {
    let events = until_failure(app.graphql().execute_stream(caller, request))
        .map(|response| Event::default().event("next").json_data(response).unwrap_or_default())
        .chain(stream::once(async { Event::default().event("complete").data("") }))
        .map(Ok::<_, Infallible>)
        .take_until(app.shutdown().clone().cancelled_owned());
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

/// Ends the answers behind the first that is nothing but errors: behind an update that could not be shown, the client
/// would not notice the gap.
fn until_failure(
    answers: impl Stream<Item = async_graphql::Response> + Send + Unpin,
) -> impl Stream<Item = async_graphql::Response> + Send {
    stream::unfold(Some(answers), async |answers| {
        let mut answers = answers?;
        let answer = answers.next().await?;
        let rest = (!has_no_data(&answer)).then_some(answers);
        Some((answer, rest))
    })
}

#[cfg(test)]
mod tests {
    use async_graphql::{Response, ServerError};

    use super::*;

    #[tokio::test]
    async fn nothing_follows_an_update_that_could_not_be_shown() {
        let failed = || Response::from_errors(vec![ServerError::new("busy", None)]);
        let answers = stream::iter([Response::new(1), failed(), Response::new(3)]);
        let shown: Vec<Response> = until_failure(answers).collect().await;
        assert_eq!(shown, [Response::new(1), failed()]);
    }
}
