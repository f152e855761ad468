//! GraphQL over WebSocket: the `graphql-transport-ws` protocol.
//!
//! Written out here, message by message, because the protocol's rules are what keeps a server alive: a client has
//! a few seconds to introduce itself, no id is used twice at a time, a socket has a bounded number of operations, an app a
//! bounded number of sockets, and each breach has its close code.
//!
//! One task per socket does everything, so that a slow client slows down itself only: while a message to it waits,
//! nothing is read for it from the database.

use std::borrow::Cow;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use async_graphql::{ErrorExtensionValues, Response, ServerError};
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use futures_util::{Stream, StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};
use tokio_stream::StreamMap;
use tracing::debug;

use super::answer::{Refused, has_no_data};
use super::parameters::Parameters;
use crate::access::door::{Credential, Denied, LOOK_AGAIN_AFTER};
use crate::access::streams::{OpenStream, TooManyStreams};
use crate::access::{Caller, FORBIDDEN};
use crate::app::App;
use crate::config::ConnectionArgs;
use crate::graphql::Executor;
use crate::graphql::error::RequestId;

const PROTOCOL: &str = "graphql-transport-ws";

/// `extensions.code` of an operation beyond those that a socket may have at a time.
const TOO_MANY_OPERATIONS: &str = "TOO_MANY_OPERATIONS";

/// The longest id of an operation, in bytes; ids are kept and sent with each message.
const MAX_ID: usize = 128;

/// How often we ask whether the client is still there; it is gone when two questions in a row stay open. Shorter than
/// the time after which common proxies cut a silent connection.
const PING_INTERVAL: Duration = Duration::from_secs(15);

/// How long one message may take to leave. A client that reads slower resumes from the last sequence it has seen.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Accepts the socket and serves it until either side has enough.
pub(super) fn upgrade(
    app: App,
    upgrade: WebSocketUpgrade,
    headers: &HeaderMap,
    peer: IpAddr,
    request_id: RequestId,
) -> axum::response::Response {
    let limits = app.settings().connections.clone();
    let max_bytes = limits.max_message_bytes as usize;
    let upgrade = upgrade.protocols([PROTOCOL]).max_message_size(max_bytes).max_frame_size(max_bytes);
    if !is_from_here(headers) && !is_allowed(headers, &app.settings().allowed_origins) {
        let message = "pages of this origin may not call; name it in OMS_ALLOWED_ORIGINS if they should";
        return Refused::new(StatusCode::FORBIDDEN, FORBIDDEN, message).into_response();
    }
    if upgrade.selected_protocol().is_none() {
        // Accepted first, so that the client is told why in the words of the protocol.
        return upgrade.on_upgrade(async |mut socket: WebSocket| {
            let frame = CloseFrame { code: 4406, reason: "Subprotocol not acceptable".into() };
            let _ = timeout(SEND_TIMEOUT, socket.send(Message::Close(Some(frame)))).await;
        });
    }
    // Programs send their credential as a header; browsers cannot, and send it in `connection_init`.
    let credential = match Credential::of_headers(headers) {
        Ok(credential) => credential,
        Err(denied) => return denied.into_response(),
    };
    let sockets = app.sockets().clone();
    upgrade.on_upgrade(move |socket| {
        let session = Session {
            socket,
            graphql: app.graphql().clone(),
            request_id,
            operations: StreamMap::new(),
            limits,
            credential,
            peer,
            caller: None,
            open: None,
            last_heard: Instant::now(),
        };
        sockets.track_future(session.serve(app))
    })
}

/// A message from the client.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ClientMessage {
    ConnectionInit { payload: Option<serde_json::Map<String, serde_json::Value>> },
    Ping { payload: Option<serde_json::Value> },
    Pong,
    Subscribe { id: String, payload: Box<Parameters> },
    Complete { id: String },
}

/// A message to the client.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ServerMessage<'a> {
    ConnectionAck,
    Ping,
    Pong {
        #[serde(skip_serializing_if = "Option::is_none")]
        payload: Option<serde_json::Value>,
    },
    Next {
        id: &'a str,
        payload: &'a Response,
    },
    /// The operation was refused, or has failed; it has ended.
    Error {
        id: &'a str,
        payload: &'a [ServerError],
    },
    Complete {
        id: &'a str,
    },
}

/// Why the conversation ends.
enum End {
    /// We close, and say why.
    Close(u16, Cow<'static, str>),
    /// The client has left, or cannot be reached.
    Gone,
}

impl End {
    fn denied(denied: Denied) -> Self {
        match denied {
            Denied::Unauthenticated => Self::Close(4403, "Forbidden".into()),
            Denied::Unavailable => {
                Self::Close(close_code::AGAIN, "nobody can tell now who you are; connect again later".into())
            }
        }
    }

    fn bad_message(what: impl Into<Cow<'static, str>>) -> Self {
        Self::Close(4400, what.into())
    }
}

/// The answers of one operation, and `None` at their end.
type Operation = Pin<Box<dyn Stream<Item = Option<Response>> + Send>>;

struct Session {
    socket: WebSocket,
    graphql: Executor,
    request_id: RequestId,
    operations: StreamMap<String, Operation>,
    limits: ConnectionArgs,
    credential: Option<Credential>,
    peer: IpAddr,
    /// Known once the client has introduced itself.
    caller: Option<Caller>,
    /// Counts the socket among the app's, since its client has introduced itself.
    open: Option<OpenStream>,
    last_heard: Instant,
}

impl Session {
    async fn serve(mut self, app: App) {
        match self.converse(app).await {
            End::Close(code, reason) => {
                debug!(code, %reason, "closing a WebSocket");
                let frame = CloseFrame { code, reason: fit_close_reason(&reason).into() };
                // The client may be gone already; then there is nobody to tell.
                let _ = timeout(SEND_TIMEOUT, self.socket.send(Message::Close(Some(frame)))).await;
            }
            End::Gone => debug!("the client of a WebSocket has left"),
        }
    }

    /// Talks until the conversation ends.
    async fn converse(&mut self, app: App) -> End {
        let introduced_by = Instant::now() + self.limits.init_timeout();
        let mut look_again = interval_at(Instant::now() + LOOK_AGAIN_AFTER, LOOK_AGAIN_AFTER);
        look_again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ping = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let step = tokio::select! {
                () = app.shutdown().cancelled() => {
                    Err(End::Close(close_code::AWAY, "the server is stopping; connect again and resume".into()))
                }
                () = sleep_until(introduced_by), if self.caller.is_none() => {
                    Err(End::Close(4408, "Connection initialisation timeout".into()))
                }
                _ = look_again.tick(), if self.caller.is_some() => self.look_again(&app).await,
                _ = ping.tick() => self.ask_whether_alive().await,
                frame = self.socket.recv() => self.on_frame(&app, frame).await,
                Some((id, answer)) = self.operations.next(), if !self.operations.is_empty() => {
                    self.on_answer(&id, answer).await
                }
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    /// Closes the socket when its credential is no good any more. Operations that run keep what they were begun with until
    /// then.
    async fn look_again(&mut self, app: &App) -> Result<(), End> {
        match identify(app, self.credential.clone(), self.peer).await {
            Ok(caller) => self.caller = Some(caller),
            // Nobody can tell now: that is no reason to send anybody away.
            Err(Denied::Unavailable) => {}
            Err(denied) => return Err(End::denied(denied)),
        }
        Ok(())
    }

    async fn ask_whether_alive(&mut self) -> Result<(), End> {
        if self.last_heard.elapsed() > PING_INTERVAL * 2 {
            return Err(End::Gone);
        }
        if self.caller.is_some() {
            // Browsers do not show the frames to their programs, which may want to know whether we are there.
            self.send(&ServerMessage::Ping).await?;
        }
        self.send_frame(Message::Ping(Default::default())).await
    }

    async fn on_frame(&mut self, app: &App, frame: Option<Result<Message, axum::Error>>) -> Result<(), End> {
        self.last_heard = Instant::now();
        match frame {
            Some(Ok(Message::Text(text))) => self.on_text(app, &text).await,
            Some(Ok(Message::Binary(_))) => Err(End::bad_message("messages must be text")),
            // The library answers a ping by itself.
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(()),
            Some(Err(error)) if is_too_long(&error) => Err(End::Close(
                close_code::SIZE,
                format!("a message must not be longer than {} bytes", self.limits.max_message_bytes).into(),
            )),
            Some(Ok(Message::Close(_)) | Err(_)) | None => Err(End::Gone),
        }
    }

    async fn on_text(&mut self, app: &App, text: &str) -> Result<(), End> {
        let message: ClientMessage = serde_json::from_str(text)
            .map_err(|_| End::bad_message("not a message of graphql-transport-ws"))?;
        match message {
            ClientMessage::ConnectionInit { .. } if self.caller.is_some() => {
                Err(End::Close(4429, "Too many initialisation requests".into()))
            }
            ClientMessage::ConnectionInit { payload } => {
                if let Some(credential) = Credential::of_payload(payload.as_ref()).map_err(End::denied)? {
                    self.credential = Some(credential);
                }
                let caller = identify(app, self.credential.clone(), self.peer).await.map_err(End::denied)?;
                let open = app.streams().open(&caller);
                // Clients of the protocol take 4429 for a mistake of theirs, and do not connect again.
                let again =
                    |too_many: TooManyStreams| End::Close(close_code::AGAIN, too_many.to_string().into());
                self.open = Some(open.map_err(again)?);
                self.caller = Some(caller);
                self.send(&ServerMessage::ConnectionAck).await
            }
            ClientMessage::Ping { payload } => self.send(&ServerMessage::Pong { payload }).await,
            ClientMessage::Pong => Ok(()),
            ClientMessage::Subscribe { id, payload } => match self.caller.clone() {
                Some(caller) => self.subscribe(caller, id, *payload).await,
                None => Err(End::Close(4401, "Unauthorized".into())),
            },
            ClientMessage::Complete { id } => {
                // An unknown id is no fault: our own `complete` may have crossed the client's.
                self.operations.remove(&id);
                Ok(())
            }
        }
    }

    async fn subscribe(&mut self, caller: Caller, id: String, payload: Parameters) -> Result<(), End> {
        if id.is_empty() || id.len() > MAX_ID {
            return Err(End::bad_message(format!("an id must have 1 to {MAX_ID} bytes")));
        }
        let request = payload.into_request().map_err(|unclear| End::bad_message(unclear.to_string()))?;
        if self.operations.contains_key(&id) {
            return Err(End::Close(4409, format!("Subscriber for {id} already exists").into()));
        }
        let max = self.limits.max_operations as usize;
        if self.operations.len() >= max {
            let message = format!("a socket must not have more than {max} operations at a time");
            let mut error = ServerError::new(message, None);
            let extensions = error.extensions.get_or_insert_with(ErrorExtensionValues::default);
            extensions.set("code", TOO_MANY_OPERATIONS);
            let errors = [error];
            return self.send(&ServerMessage::Error { id: &id, payload: &errors }).await;
        }
        let answers = self.graphql.execute_stream(caller, request.data(self.request_id.clone()));
        self.operations.insert(id, answers.map(Some).chain(stream::once(async { None })).boxed());
        Ok(())
    }

    async fn on_answer(&mut self, id: &str, answer: Option<Response>) -> Result<(), End> {
        match answer {
            Some(response) if has_no_data(&response) => {
                // Ended here even if more would come: behind an update that could not be shown, the client would not
                // notice the gap. It subscribes again and resumes.
                self.operations.remove(id);
                self.send(&ServerMessage::Error { id, payload: &response.errors }).await
            }
            Some(response) => self.send(&ServerMessage::Next { id, payload: &response }).await,
            None => {
                self.operations.remove(id);
                self.send(&ServerMessage::Complete { id }).await
            }
        }
    }

    async fn send(&mut self, message: &ServerMessage<'_>) -> Result<(), End> {
        let text = serde_json::to_string(message)
            .map_err(|_| End::Close(close_code::ERROR, "internal error".into()))?;
        self.send_frame(Message::Text(text.into())).await
    }

    async fn send_frame(&mut self, frame: Message) -> Result<(), End> {
        match timeout(SEND_TIMEOUT, self.socket.send(frame)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(End::Gone),
        }
    }
}

/// Whether no page of another origin has opened the socket: programs send no origin, our own page sends ours.
fn is_from_here(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    matches!((origin, host), (Some((_, origin)), Some(host)) if origin.eq_ignore_ascii_case(host))
}

fn is_allowed(headers: &HeaderMap, allowed: &[String]) -> bool {
    let origin = headers.get(ORIGIN).and_then(|origin| origin.to_str().ok());
    origin.is_some_and(|origin| allowed.iter().any(|allowed| allowed == origin))
}

/// A function apart from the session, which no other thread may look at while it waits.
async fn identify(app: &App, credential: Option<Credential>, peer: IpAddr) -> Result<Caller, Denied> {
    app.identify(credential.as_ref(), peer).await
}

fn is_too_long(error: &axum::Error) -> bool {
    error.to_string().starts_with("Space limit exceeded")
}

/// Cuts a reason to the 123 bytes that fit into a close frame (RFC 6455, section 5.5).
fn fit_close_reason(reason: &str) -> String {
    let end = (0..=reason.len().min(123)).rev().find(|&end| reason.is_char_boundary(end));
    reason[..end.unwrap_or(0)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_reason_fits_its_frame() {
        assert_eq!(fit_close_reason("short"), "short");
        assert_eq!(fit_close_reason(&"ä".repeat(100)).len(), 122);
    }

    #[test]
    fn messages_are_read_as_the_protocol_spells_them() {
        let parse = |text: &str| serde_json::from_str::<ClientMessage>(text);
        assert!(matches!(
            parse(r#"{"type": "connection_init", "payload": {"token": "x"}}"#),
            Ok(ClientMessage::ConnectionInit { payload: Some(_) })
        ));
        assert!(matches!(parse(r#"{"type": "ping"}"#), Ok(ClientMessage::Ping { payload: None })));
        assert!(matches!(parse(r#"{"type": "pong", "payload": null}"#), Ok(ClientMessage::Pong)));
        let subscribe = r#"{"id": "1", "type": "subscribe", "payload": {"query": "{ __typename }"}}"#;
        assert!(matches!(parse(subscribe), Ok(ClientMessage::Subscribe { id, .. }) if id == "1"));
        assert!(parse(r#"{"type": "start", "id": "1", "payload": {"query": ""}}"#).is_err());
    }
}
