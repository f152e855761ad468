//! A client of our own server, as any other program would be one: GraphQL over HTTP, and `graphql-transport-ws`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use chrono::{DateTime, Utc};
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// How long one answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

const PLACE_ORDER: &str = "mutation ($input: PlaceOrderInput!) { placeOrder(input: $input) { \
    order { id } userErrors { code message path } } }";

const GET_ORDER: &str = "query ($id: ID!) { getOrder(id: $id) { id status \
    totals { total { amount currency } } failure { code } process { steps { name status attempts } } } }";

const ORDER_STATUS: &str = "subscription ($id: ID!) { orderStatus(id: $id) { sequence status \
    event { type occurredAt } } }";

/// An order as the demo reads it.
#[derive(Debug, Deserialize)]
pub(super) struct Order {
    pub(super) id: String,
    pub(super) status: String,
    pub(super) totals: Option<Totals>,
    pub(super) failure: Option<Failure>,
    pub(super) process: Process,
}

#[derive(Debug, Deserialize)]
pub(super) struct Totals {
    pub(super) total: Money,
}

#[derive(Debug, Deserialize)]
pub(super) struct Money {
    pub(super) amount: String,
    pub(super) currency: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Failure {
    pub(super) code: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Process {
    pub(super) steps: Vec<Step>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Step {
    pub(super) name: String,
    pub(super) status: String,
    pub(super) attempts: u32,
}

/// One event of an order, as `orderStatus` tells it.
#[derive(Debug, Deserialize)]
pub(super) struct Update {
    pub(super) sequence: i32,
    pub(super) status: String,
    pub(super) event: Event,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Event {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) occurred_at: DateTime<Utc>,
}

/// Speaks GraphQL with the server.
pub(super) struct Client {
    http: reqwest::Client,
    addr: SocketAddr,
    url: String,
}

impl Client {
    pub(super) fn try_new(listening: SocketAddr) -> anyhow::Result<Self> {
        let addr = reachable(listening);
        // No proxy: the server is this process.
        let http = reqwest::Client::builder().no_proxy().timeout(ANSWER_TIMEOUT).build()?;
        Ok(Self { http, addr, url: format!("http://{addr}/graphql") })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Places an order and returns its id.
    pub(super) async fn place_order(&self, input: Value) -> anyhow::Result<String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Data {
            place_order: Payload,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Payload {
            order: Option<Placed>,
            user_errors: Vec<UserError>,
        }
        #[derive(Deserialize)]
        struct Placed {
            id: String,
        }
        #[derive(Deserialize)]
        struct UserError {
            code: String,
            message: String,
        }
        let data: Data =
            self.execute(PLACE_ORDER, json!({ "input": input })).await.context("cannot place an order")?;
        if let Some(error) = data.place_order.user_errors.first() {
            let hint = match error.code.as_str() {
                "UNKNOWN_SKU" => "; the demo needs the catalog that a fresh embedded database gets",
                _ => "",
            };
            bail!("an order was refused: {}{hint}", error.message);
        }
        Ok(data.place_order.order.context("an order was neither accepted nor refused")?.id)
    }

    /// Reads an order.
    pub(super) async fn get_order(&self, id: &str) -> anyhow::Result<Order> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Data {
            get_order: Option<Order>,
        }
        let data: Data =
            self.execute(GET_ORDER, json!({ "id": id })).await.context("cannot read an order")?;
        data.get_order.with_context(|| format!("the order {id} is gone"))
    }

    /// Opens a WebSocket to watch orders on.
    pub(super) async fn watch(&self) -> anyhow::Result<Watcher> {
        tokio::time::timeout(ANSWER_TIMEOUT, Watcher::connect(self.addr))
            .await
            .unwrap_or_else(|_| bail!("no answer in {} s", ANSWER_TIMEOUT.as_secs()))
            .context("cannot open a WebSocket")
    }

    async fn execute<T: DeserializeOwned>(&self, query: &str, variables: Value) -> anyhow::Result<T> {
        let request = json!({ "query": query, "variables": variables });
        let response = self.http.post(&self.url).json(&request).send().await?;
        read_data(response.json().await?)
    }
}

/// A WebSocket on which any number of orders is watched.
pub(super) struct Watcher {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

#[derive(Deserialize)]
struct ServerMessage {
    #[serde(rename = "type")]
    kind: String,
    id: Option<String>,
    payload: Option<Value>,
}

impl Watcher {
    async fn connect(addr: SocketAddr) -> anyhow::Result<Self> {
        let mut request = format!("ws://{addr}/graphql").into_client_request()?;
        let protocol = HeaderValue::from_static("graphql-transport-ws");
        request.headers_mut().insert("sec-websocket-protocol", protocol);
        let (socket, _) = connect_async(request).await?;
        let mut watcher = Self { socket };
        watcher.send(json!({ "type": "connection_init" })).await?;
        let answer = watcher.receive().await?;
        ensure!(answer.kind == "connection_ack", "the server answered {:?} to connection_init", answer.kind);
        Ok(watcher)
    }

    /// Watches an order from its first event; `index` names it in what [`next`](Self::next) returns.
    pub(super) async fn subscribe(&mut self, index: usize, order_id: &str) -> anyhow::Result<()> {
        let payload = json!({ "query": ORDER_STATUS, "variables": { "id": order_id } });
        self.send(json!({ "type": "subscribe", "id": index.to_string(), "payload": payload }))
            .await
            .context("cannot watch an order")
    }

    /// Waits for the next event of any order; `None` in place of an event says that the order is settled.
    pub(super) async fn next(&mut self) -> anyhow::Result<(usize, Option<Update>)> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Data {
            order_status: Update,
        }
        loop {
            let message = self.receive().await.context("cannot watch the orders")?;
            let index = message.id.as_deref().and_then(|id| id.parse().ok());
            match (message.kind.as_str(), index, message.payload) {
                ("next", Some(index), Some(payload)) => {
                    let data: Data = read_data(payload).context("cannot watch an order")?;
                    return Ok((index, Some(data.order_status)));
                }
                ("complete", Some(index), _) => return Ok((index, None)),
                ("error", _, payload) => bail!("cannot watch an order: {}", payload.unwrap_or_default()),
                ("ping", ..) => self.send(json!({ "type": "pong" })).await?,
                _ => {}
            }
        }
    }

    async fn send(&mut self, message: Value) -> anyhow::Result<()> {
        Ok(self.socket.send(Message::text(message.to_string())).await?)
    }

    async fn receive(&mut self) -> anyhow::Result<ServerMessage> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text)?),
                Some(Ok(Message::Close(frame))) => {
                    bail!(
                        "the server closed the WebSocket: {}",
                        frame.map(|frame| frame.reason).unwrap_or_default()
                    )
                }
                // The library answers pings by itself.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => bail!("the WebSocket ended"),
            }
        }
    }
}

fn read_data<T: DeserializeOwned>(mut response: Value) -> anyhow::Result<T> {
    if let Some(error) = response["errors"].get(0) {
        bail!("{}", error["message"].as_str().unwrap_or("an error without a message"));
    }
    Ok(serde_json::from_value(response["data"].take())?)
}

/// A server that listens on every address is reached on the loopback one.
fn reachable(listening: SocketAddr) -> SocketAddr {
    let ip = match listening.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listening.port())
}
