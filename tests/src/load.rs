//! Clients that do not give up: they place orders, repeat what was not answered, watch, and resume.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use reqwest::header::ACCEPT;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::websocket::ORDER_STATUS;

/// How long a client waits before it turns to another process.
const CLIENT_TIME_OUT: Duration = Duration::from_secs(4);

/// Pause after an answer that was none.
const PAUSE: Duration = Duration::from_millis(100);

/// Cards of which each misbehaves in another way, and all come to an end.
const BAD_CARDS: [&str; 14] = [
    "tok_decline",
    "tok_flaky",
    "tok_timeout_with_effect",
    "tok_timeout_without_effect",
    "tok_reset_after_send",
    "tok_malformed_answer",
    "tok_down",
    "tok_capture_decline",
    "tok_capture_flaky",
    "tok_capture_timeout_with_effect",
    "tok_capture_reset_after_send",
    "tok_flaky+capture_decline+void_timeout_with_effect",
    "tok_timeout_with_effect+capture_decline+void_flaky",
    "tok_capture_timeout_without_effect",
];

/// A die that falls the same way for the same seed (SplitMix64).
#[derive(Debug, Clone)]
pub struct Die(u64);

impl Die {
    /// Makes one.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Throws a number below `sides`.
    pub fn below(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (bits ^ (bits >> 31)) % sides.max(1)
    }
}

/// Where the processes answer now.
#[derive(Debug, Default)]
pub struct Targets(Mutex<Vec<Option<SocketAddr>>>);

impl Targets {
    /// Says where the process with this number answers, if it does.
    pub fn set(&self, process: usize, addr: Option<SocketAddr>) {
        let mut targets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if targets.len() <= process {
            targets.resize(process + 1, None);
        }
        targets[process] = addr;
    }

    fn pick(&self, die: &mut Die) -> Option<SocketAddr> {
        let targets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let up: Vec<SocketAddr> = targets.iter().flatten().copied().collect();
        let index = usize::try_from(die.below(up.len() as u64)).ok()?;
        up.get(index).copied()
    }
}

/// What the clients have been told.
#[derive(Debug, Default)]
pub struct Told {
    /// The order that each key was answered with.
    pub acknowledged: BTreeMap<String, String>,
    /// Answers that said "come back later".
    pub unavailable: usize,
    /// Requests that got no answer.
    pub unanswered: usize,
    /// Stories that were watched to their end, over as many connections as it took.
    pub watched: HashMap<String, i64>,
    /// Connections that viewers have opened.
    pub connections: usize,
    /// What nobody should ever be told.
    pub wrong: Vec<String>,
}

/// Clients at work.
#[derive(Debug)]
pub struct Load {
    /// Where they go.
    pub targets: Arc<Targets>,
    told: Arc<Mutex<Told>>,
    placing: CancellationToken,
    clients: JoinSet<()>,
}

/// How much they do.
#[derive(Debug, Clone, Copy)]
pub struct LoadSettings {
    /// Decides what each client does when.
    pub seed: u64,
    /// Clients that place orders.
    pub clients: u64,
    /// Orders a second of all clients together, at most.
    pub rate: u64,
    /// One order in this many is paid with a card that misbehaves.
    pub one_bad_card_in: u64,
    /// One order in this many is watched.
    pub one_viewer_in: u64,
}

impl Load {
    /// Sets clients to work on the processes that `targets` will name.
    pub fn start(targets: Arc<Targets>, settings: LoadSettings) -> Self {
        let (told, placing) = (Arc::default(), CancellationToken::new());
        let mut clients = JoinSet::new();
        for number in 0..settings.clients {
            let client = Client {
                http: reqwest::Client::builder()
                    .no_proxy()
                    .timeout(CLIENT_TIME_OUT)
                    .build()
                    .expect("a client"),
                streams: reqwest::Client::builder()
                    .no_proxy()
                    .read_timeout(CLIENT_TIME_OUT)
                    .build()
                    .expect("a client"),
                targets: targets.clone(),
                told: Arc::clone(&told),
                number,
            };
            clients.spawn(client.work(settings, placing.clone()));
        }
        Self { targets, told, placing, clients }
    }

    /// Looks at what the clients have been told so far.
    pub fn look<T>(&self, look: impl FnOnce(&Told) -> T) -> T {
        look(&self.told.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets the clients begin no new order, waits until each has its answer and each story its end, and returns what
    /// they were told.
    pub async fn finish(mut self) -> Told {
        self.placing.cancel();
        while let Some(joined) = self.clients.join_next().await {
            joined.expect("a client does not panic");
        }
        std::mem::take(&mut *self.told.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Clone)]
struct Client {
    http: reqwest::Client,
    streams: reqwest::Client,
    targets: Arc<Targets>,
    told: Arc<Mutex<Told>>,
    number: u64,
}

impl Client {
    async fn work(self, settings: LoadSettings, placing: CancellationToken) {
        let mut die = Die::new(settings.seed.wrapping_mul(1_000).wrapping_add(self.number));
        let pace = Duration::from_millis(1_000 * settings.clients / settings.rate.max(1));
        let mut ticks = tokio::time::interval(pace);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut viewers = JoinSet::new();
        for turn in 0_u64.. {
            if placing.run_until_cancelled(ticks.tick()).await.is_none() {
                break;
            }
            let key = format!("client-{}-order-{turn}", self.number);
            let card = match die.below(settings.one_bad_card_in) {
                0 => BAD_CARDS[die.below(BAD_CARDS.len() as u64) as usize],
                _ => "tok_approve",
            };
            let order = input(&key, card, &mut die);
            let id = self.place(&key, &order, &mut die).await;
            if die.below(settings.one_viewer_in) == 0 {
                viewers.spawn(self.clone().watch(id, Die::new(die.below(u64::MAX))));
            }
            // A client that has its answer may ask again, and gets the same one.
            if die.below(20) == 0 {
                self.place(&key, &order, &mut die).await;
            }
        }
        while let Some(joined) = viewers.join_next().await {
            joined.expect("a viewer does not panic");
        }
    }

    /// Places one order, however often it takes, and returns its id.
    async fn place(&self, key: &str, input: &Value, die: &mut Die) -> String {
        let query = "mutation ($input: PlaceOrderInput!) {
            placeOrder(input: $input) { order { id } userErrors { code message } } }";
        let body = json!({ "query": query, "variables": { "input": input } });
        loop {
            match self.send(&body, die).await {
                Some(mut answer) => {
                    let payload = answer["data"]["placeOrder"].take();
                    if let Some(id) = payload["order"]["id"].as_str() {
                        let earlier =
                            self.told(|told| told.acknowledged.insert(key.to_owned(), id.to_owned()));
                        if earlier.is_some_and(|earlier| earlier != id) {
                            self.told(|told| told.wrong.push(format!("two orders for the key {key}")));
                        }
                        return id.to_owned();
                    }
                    if !is_trouble(&answer) {
                        self.told(|told| told.wrong.push(format!("{key}: {payload} {answer}")));
                        return String::new();
                    }
                    self.told(|told| told.unavailable += 1);
                }
                None => self.told(|told| told.unanswered += 1),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn send(&self, body: &Value, die: &mut Die) -> Option<Value> {
        let addr = self.targets.pick(die)?;
        let request = self.http.post(format!("http://{addr}/graphql")).header(ACCEPT, "application/json");
        request.json(body).send().await.ok()?.json().await.ok()
    }

    /// Watches an order to its end, over as many connections as it takes.
    async fn watch(self, id: String, mut die: Die) {
        let mut last = 0;
        loop {
            self.told(|told| told.connections += 1);
            if self.watch_once(&id, &mut last, &mut die).await {
                self.told(|told| told.watched.insert(id, last));
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Watches until the connection ends, and says whether the story has.
    async fn watch_once(&self, id: &str, last: &mut i64, die: &mut Die) -> bool {
        let Some(addr) = self.targets.pick(die) else { return false };
        let body = json!({ "query": ORDER_STATUS, "variables": { "id": id, "after": *last } });
        let request = self.streams.post(format!("http://{addr}/graphql")).header(ACCEPT, "text/event-stream");
        let Ok(response) = request.json(&body).send().await else { return false };
        let (mut bytes, mut buffer) = (response.bytes_stream(), String::new());
        // A viewer may leave at any time, and come back.
        let patience = die.below(8);
        let mut seen = 0;
        while let Some(Ok(chunk)) = bytes.next().await {
            buffer.push_str(&String::from_utf8_lossy(&chunk));
            while let Some((event, rest)) = buffer.split_once("\n\n") {
                let data = event.lines().find_map(|line| line.strip_prefix("data:"));
                let update: Option<Value> = data.and_then(|data| serde_json::from_str(data.trim()).ok());
                buffer = rest.to_owned();
                let Some(update) = update else { continue };
                let update = &update["data"]["orderStatus"];
                let Some(sequence) = update["sequence"].as_i64() else { return false };
                if sequence != *last + 1 {
                    self.told(|told| told.wrong.push(format!("{id}: {sequence} was shown after {last}")));
                }
                *last = sequence;
                seen += 1;
                if matches!(update["status"].as_str(), Some("CONFIRMED" | "FAILED" | "CANCELED")) {
                    return true;
                }
                if seen > patience {
                    return false;
                }
            }
        }
        false
    }

    fn told<T>(&self, note: impl FnOnce(&mut Told) -> T) -> T {
        note(&mut self.told.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// An order of one or two popular things.
fn input(key: &str, card: &str, die: &mut Die) -> Value {
    let mut lines = vec![json!({ "sku": "SKU-1", "quantity": 1 + die.below(3) })];
    if die.below(2) == 0 {
        lines.push(json!({ "sku": "SKU-7", "quantity": 1 }));
    }
    json!({ "idempotencyKey": key, "lines": lines, "payment": { "token": card } })
}

/// Whether an answer says "come back later", and nothing else.
fn is_trouble(answer: &Value) -> bool {
    let errors = answer["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
    let codes: Vec<&str> = errors.iter().filter_map(|error| error["extensions"]["code"].as_str()).collect();
    !codes.is_empty() && codes.iter().all(|code| ["UNAVAILABLE", "OVERLOADED"].contains(code))
}
