//! `oms bench watch`

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use chrono::{DateTime, Utc};
use clap::Args;
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::database::{BenchDatabase, RunOrders};
use super::pacing::Client;
use super::place::{Buyer, Lines};
use super::report::{Latencies, Output, Report};
use super::shop::Shop;
use super::target::Target;
use super::{LoadArgs, OutputArgs, ServerArgs, run_mark};

/// Viewers unless said.
const VIEWERS: u32 = 100;

/// How long one order's story may take to be told. Longer than any retry of a healthy gateway.
const STORY_TIME: Duration = Duration::from_secs(60);

const SUBSCRIPTION: &str =
    "subscription ($id: ID!) { orderStatus(id: $id) { sequence status event { occurredAt } } }";

#[derive(Debug, Args)]
pub(in crate::cli) struct WatchArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(args: &WatchArgs) -> anyhow::Result<()> {
    let mut target = args.server.target().await?;
    target.probe().await?;
    let database = BenchDatabase::join(&args.server.database).await?;
    target.use_key(args.server.api_key.as_deref(), &database.db).await?;
    let measured = measure(args, &target, &database, args.output.output()).await;
    database.leave().await?;
    let report = measured?;
    args.output.output().tell(&report)?;
    ensure!(report.errors == 0, "{} stories were not told as they happened", report.errors);
    Ok(())
}

async fn measure(
    args: &WatchArgs,
    target: &Target,
    database: &BenchDatabase,
    output: Output,
) -> anyhow::Result<Report> {
    ensure!(!database.live_workers().await?.is_empty(), "no runner is at work; start one with `oms serve`");
    let shop = Arc::new(Shop::stocked(&database.db, 1_000).await?);
    let environment = database.environment().await?;
    let pace = args.load.pace(VIEWERS);
    let warm_up = Viewer::open_all(target, &shop, &run_mark(), pace.concurrency).await?;
    pace.warm_up(warm_up).await;
    let mark = run_mark();
    let viewers = Viewer::open_all(target, &shop, &mark, pace.concurrency).await?;

    let orders = RunOrders::from_now(&mark);
    let progress = output.progress("watching", args.load.orders);
    let (viewers, driven) = pace.drive(viewers, &progress).await;
    progress.finish();
    orders.are_here(&database.db, driven.succeeded()).await?;

    let (mut latencies, mut events) = (Latencies::default(), 0);
    for viewer in &viewers {
        latencies.absorb(&viewer.latencies);
        events += viewer.events;
    }
    let report = Report::of("watch", "events", &driven, environment.clone());
    let counted = Report::new("watch", "events", events, driven.elapsed, environment);
    Ok(Report {
        count: counted.count,
        rate: counted.rate,
        latency: latencies.percentiles(),
        accept_to_confirmed: orders.accept_to_confirmed(&database.db).await?,
        orders: orders.count_by_state(&database.db).await?,
        more: vec![
            ("viewers".to_owned(), f64::from(pace.concurrency)),
            ("live_events".to_owned(), latencies.len() as f64),
            ("stories".to_owned(), driven.succeeded() as f64),
        ],
        ..report
    })
}

type Socket = WebSocketStream<TcpStream>;

/// Places orders, one after another, and watches each until its story is over.
struct Viewer {
    target: Target,
    buyer: Buyer,
    socket: Option<Socket>,
    /// Of the events that happened while their order was watched, from the beginning of the transaction that made
    /// them true to their arrival.
    latencies: Latencies,
    events: u64,
}

/// What the server tells.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ServerMessage {
    ConnectionAck,
    Next { id: String, payload: Payload },
    Complete { id: String },
    Error { payload: serde_json::Value },
    Ping,
    Pong,
}

#[derive(Deserialize)]
struct Payload {
    data: Option<Data>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    order_status: Update,
}

#[derive(Deserialize)]
struct Update {
    sequence: i32,
    status: String,
    event: Event,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    occurred_at: DateTime<Utc>,
}

impl Viewer {
    async fn open_all(
        target: &Target,
        shop: &Arc<Shop>,
        mark: &str,
        count: u32,
    ) -> anyhow::Result<Vec<Self>> {
        let mut viewers = Vec::new();
        for buyer in Buyer::open_all(target, shop, Lines::Two, mark, count).await? {
            viewers.push(Self {
                target: target.clone(),
                buyer,
                socket: Some(connect(target).await?),
                latencies: Latencies::default(),
                events: 0,
            });
        }
        Ok(viewers)
    }

    /// Subscribes to an order and takes in its story to the end: each event once, in sequence, without a gap.
    async fn watch(&mut self, socket: &mut Socket, id: &str, order_id: &str) -> anyhow::Result<()> {
        let payload = json!({ "query": SUBSCRIPTION, "variables": { "id": order_id } });
        send(socket, &json!({ "id": id, "type": "subscribe", "payload": payload })).await?;
        let (mut sequence, mut status, mut watched_since) = (0, String::new(), None);
        loop {
            match receive(socket).await? {
                ServerMessage::Next { id: of, payload } if of == id => {
                    let update = payload.data.context("an update without data")?.order_status;
                    let now = Utc::now();
                    ensure!(
                        update.sequence == sequence + 1,
                        "order {order_id}: event {} came after {sequence}",
                        update.sequence
                    );
                    (sequence, status) = (update.sequence, update.status);
                    self.events += 1;
                    // What was there before is replayed at once; only what happens from then on has a latency.
                    if update.event.occurred_at > *watched_since.get_or_insert(now) {
                        self.latencies.record((now - update.event.occurred_at).to_std().unwrap_or_default());
                    }
                }
                ServerMessage::Complete { id: of } if of == id => break,
                ServerMessage::Error { payload } => bail!("order {order_id}: {payload}"),
                _ => {}
            }
        }
        ensure!(
            matches!(status.as_str(), "CONFIRMED" | "FAILED"),
            "order {order_id}: the story ended after event {sequence} with {status}"
        );
        Ok(())
    }
}

impl Client for Viewer {
    async fn request(&mut self, n: u64) -> anyhow::Result<()> {
        let order_id = self.buyer.place(n).await?;
        // Taken out, so that a socket on which a story was not told to its end is not used again.
        let mut socket = match self.socket.take() {
            Some(socket) => socket,
            None => connect(&self.target).await?,
        };
        tokio::time::timeout(STORY_TIME, self.watch(&mut socket, &n.to_string(), &order_id))
            .await
            .with_context(|| format!("order {order_id}: no end after {} s", STORY_TIME.as_secs()))??;
        self.socket = Some(socket);
        Ok(())
    }
}

async fn connect(target: &Target) -> anyhow::Result<Socket> {
    let mut request = format!("ws://{}{}", target.addr, target.path).into_client_request()?;
    let protocol = HeaderValue::from_static("graphql-transport-ws");
    request.headers_mut().insert("sec-websocket-protocol", protocol);
    let stream = TcpStream::connect(target.addr).await.context("cannot connect a WebSocket")?;
    stream.set_nodelay(true).context("cannot set up a WebSocket")?;
    let (mut socket, _) = client_async(request, stream).await.context("the server takes no WebSocket")?;
    send(&mut socket, &json!({ "type": "connection_init", "payload": { "x-api-key": target.api_key } }))
        .await?;
    match receive(&mut socket).await? {
        ServerMessage::ConnectionAck => Ok(socket),
        _ => bail!("the server did not acknowledge the WebSocket"),
    }
}

async fn send(socket: &mut Socket, message: &serde_json::Value) -> anyhow::Result<()> {
    socket.send(Message::Text(message.to_string().into())).await.context("cannot send over a WebSocket")
}

async fn receive(socket: &mut Socket) -> anyhow::Result<ServerMessage> {
    loop {
        match socket.next().await.context("the server closed a WebSocket")?.context("a WebSocket broke")? {
            Message::Text(text) => {
                return serde_json::from_str(&text).with_context(|| format!("not a message: {text}"));
            }
            Message::Close(frame) => bail!("the server closed a WebSocket: {frame:?}"),
            _ => {}
        }
    }
}
