//! GraphQL over server-sent events, "distinct connections" mode (the `graphql-sse` protocol): the answer to a POST is a
//! stream of `next` events, and a `complete` event at its end.
//!
//! A stream that ends without `complete` was broken off: the client subscribes again, after the last sequence it has
//! seen.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::time::Duration;

use async_graphql::{Request, ServerError, Value};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::answer::{has_no_data, is_request_error};
use super::connections::ShutOut;
use crate::access::Caller;
use crate::access::door::{Credential, Denied, LOOK_AGAIN_AFTER};
use crate::access::streams::OpenStream;
use crate::app::App;

/// Silence after which a comment is sent, shorter than the time after which common proxies cut a silent connection.
const KEEP_ALIVE: Duration = Duration::from_secs(12);

/// Executes the request and answers with its events, which count as `stream`. `shown` is the credential, and from where.
pub(super) fn respond(
    app: &App,
    caller: Caller,
    shown: (Option<Credential>, IpAddr),
    request: Request,
    stream: OpenStream,
) -> Response {
    // Apart from the stream, which nobody asks for more while the client takes nothing.
    let is_shut_out = CancellationToken::new();
    let fires = is_shut_out.clone();
    let denied = wait_until_denied(app.clone(), shown);
    let watch = AbortOnDropHandle::new(tokio::spawn(async move {
        denied.await;
        fires.cancel();
    }));
    let events = until_failure(app.graphql().execute_stream(caller, request))
        .map(|response| {
            let event = Event::default().event("next");
            // The browser sends it back as Last-Event-ID when it has lost the stream.
            let event = match sequence_of(&response) {
                Some(sequence) => event.id(sequence.to_string()),
                None => event,
            };
            if is_request_error(&response) {
                // A request that was refused has no data, not even null.
                return event
                    .json_data(Refusal { errors: &response.errors, extensions: &response.extensions })
                    .unwrap_or_default();
            }
            event.json_data(response).unwrap_or_default()
        })
        .chain(stream::once(async { Event::default().event("complete").data("") }))
        .map(move |event| {
            // Open until its last event has left, or the client has.
            let _ = (&stream, &watch);
            Ok::<_, Infallible>(event)
        })
        .take_until(app.shutdown().clone().cancelled_owned())
        .take_until(is_shut_out.clone().cancelled_owned());
    let mut answer = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    answer.extensions_mut().insert(ShutOut(is_shut_out));
    answer
}

#[derive(Serialize)]
struct Refusal<'a> {
    errors: &'a [ServerError],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    extensions: &'a BTreeMap<String, Value>,
}

/// The sequence of the event in an answer, under whatever name the subscription's one field was asked for.
fn sequence_of(response: &async_graphql::Response) -> Option<i64> {
    let Value::Object(data) = &response.data else { return None };
    let Some(Value::Object(update)) = data.values().next() else { return None };
    match update.get("sequence") {
        Some(Value::Number(sequence)) => sequence.as_i64(),
        _ => None,
    }
}

/// Waits until the credential is no good any more.
async fn wait_until_denied(app: App, (credential, peer): (Option<Credential>, IpAddr)) {
    loop {
        tokio::time::sleep(LOOK_AGAIN_AFTER).await;
        if app.identify(credential.as_ref(), peer).await.err() == Some(Denied::Unauthenticated) {
            return;
        }
    }
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
    use async_graphql::Response;

    use super::*;

    #[tokio::test]
    async fn nothing_follows_an_update_that_could_not_be_shown() {
        let failed = || Response::from_errors(vec![ServerError::new("busy", None)]);
        let answers = stream::iter([Response::new(1), failed(), Response::new(3)]);
        let shown: Vec<Response> = until_failure(answers).collect().await;
        assert_eq!(shown, [Response::new(1), failed()]);
    }
}
