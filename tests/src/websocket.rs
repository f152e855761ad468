//! A `graphql-transport-ws` client, message by message.

use std::net::SocketAddr;

use futures_util::stream::BoxStream;
use futures_util::{SinkExt, StreamExt, stream};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::wait::within;

/// What a viewer of an order asks for.
pub(crate) const ORDER_STATUS: &str =
    "subscription ($id: ID!, $after: Int) { orderStatus(id: $id, after: $after) {
    orderId sequence status event { sequence type status data occurredAt } order { id status sequence } } }";

/// An open WebSocket.
#[derive(Debug)]
pub struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    /// Opens a socket and says nothing yet.
    pub async fn open(addr: SocketAddr) -> Self {
        let mut request = format!("ws://{addr}/graphql").into_client_request().expect("a URL");
        let protocol = "graphql-transport-ws".parse().expect("a header value");
        request.headers_mut().insert("sec-websocket-protocol", protocol);
        let (socket, _) = within("a WebSocket", connect_async(request)).await.expect("the server takes it");
        Self(socket)
    }

    /// Opens a socket with another subprotocol or as a page of an origin would, or returns the status of the refusal.
    ///
    /// # Errors
    /// The server does not take it.
    pub async fn open_as(
        addr: SocketAddr,
        protocol: Option<&str>,
        origin: Option<&str>,
    ) -> Result<Self, u16> {
        let mut request = format!("ws://{addr}/graphql").into_client_request().expect("a URL");
        for (name, value) in [("sec-websocket-protocol", protocol), ("origin", origin)] {
            if let Some(value) = value {
                request.headers_mut().insert(name, value.parse().expect("a header value"));
            }
        }
        match within("a WebSocket", connect_async(request)).await {
            Ok((socket, _)) => Ok(Self(socket)),
            Err(tokio_tungstenite::tungstenite::Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("no WebSocket: {error}"),
        }
    }

    /// Opens a socket and introduces itself.
    pub async fn connect(addr: SocketAddr) -> Self {
        let mut socket = Self::open(addr).await;
        socket.send(json!({ "type": "connection_init" })).await;
        assert_eq!(socket.receive().await, Ok(json!({ "type": "connection_ack" })));
        socket
    }

    /// Subscribes to an order's story.
    pub async fn subscribe(&mut self, id: &str, order_id: &str, after: Option<i64>) {
        let payload = json!({ "query": ORDER_STATUS, "variables": { "id": order_id, "after": after } });
        self.send(json!({ "id": id, "type": "subscribe", "payload": payload })).await;
    }

    /// Sends a message.
    pub async fn send(&mut self, message: Value) {
        self.0.send(Message::Text(message.to_string().into())).await.expect("the socket is open");
    }

    /// Sends a text, JSON or not. That the server has closed meanwhile shows when something is received.
    pub async fn send_text(&mut self, text: String) {
        let _ = self.0.send(Message::Text(text.into())).await;
    }

    /// Receives the next message, or the code with which the server closed.
    pub async fn receive(&mut self) -> Result<Value, u16> {
        loop {
            match within("a message", self.0.next()).await {
                Some(Ok(Message::Text(text))) => {
                    let message: Value = serde_json::from_str(&text).expect("JSON");
                    // Sent now and then, and answered by the frames beneath.
                    if message["type"] != "ping" {
                        return Ok(message);
                    }
                }
                Some(Ok(Message::Close(Some(frame)))) => return Err(frame.code.into()),
                Some(Ok(_)) => {}
                // 1006: closed without a word (RFC 6455, section 7.4.1).
                Some(Err(_)) | None => return Err(1006),
            }
        }
    }
}

/// Watches an order over a WebSocket of its own: each update, until the server says `complete`. Dropping the stream
/// drops the connection.
pub async fn watch_over_websocket(
    addr: SocketAddr,
    order_id: &str,
    after: Option<i64>,
) -> BoxStream<'static, Value> {
    let mut socket = Socket::connect(addr).await;
    socket.subscribe("1", order_id, after).await;
    stream::unfold(socket, async |mut socket| {
        let mut message = socket.receive().await.expect("the story goes on until it is complete");
        match message["type"].as_str() {
            Some("complete") => None,
            Some("next") => Some((take_update(&mut message["payload"]), socket)),
            _ => panic!("not an update: {message}"),
        }
    })
    .boxed()
}

/// Takes the update out of a response.
pub(crate) fn take_update(response: &mut Value) -> Value {
    assert!(response.get("errors").is_none(), "{response}");
    response["data"]["orderStatus"].take()
}
