//! Sends a running server what nobody should send, and a lot of what everybody may, and reads each answer.
//!
//! ```text
//! cargo run -p oms-tests --bin fuzz -- --seconds 120
//! ```
//!
//! Requests are put together from the server's own schema, with arguments that fit and others that do not; then some are
//! cut, doubled and scrambled. Whatever comes, the server must answer in time, in JSON, with a status below 500, and with a
//! response that the GraphQL specification allows (section 7.1). The exit code is 1 if it ever did not.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use oms_tests::{Client, Shop, is_on_a_leash, order, run_oms_on_a_leash};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use serde_json::{Value, json};

/// Requests on their way at a time.
const IN_FLIGHT: usize = 8;

/// How long an answer may take: a query's own limit, and some.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// The most faults that are told; more are counted.
const MAX_TOLD: usize = 20;

/// Send a server what nobody should send, and check every answer
#[derive(Debug, Parser)]
#[command(name = "fuzz")]
struct Args {
    /// Seconds to go on
    #[arg(long, default_value_t = 120)]
    seconds: u64,

    /// Decides what is sent; another number is another run [default: a random one, which is printed]
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    if is_on_a_leash() {
        return run_oms_on_a_leash();
    }
    let args = Args::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(&format!("cannot start the threads of this process: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(&args)) {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn say(line: &str) {
    // Nobody may be listening.
    let _ = writeln!(io::stdout(), "{line}");
}

/// Runs for as long as it was told, and returns how many answers were wrong.
async fn run(args: &Args) -> usize {
    let seed = args.seed.unwrap_or_else(rand::random);
    say(&format!("fuzzing for {} s with --seed {seed}", args.seconds));
    let shop = Shop::open().await;
    let id = shop.place(order("known", [("SKU-1", 1)]).settled()).await.id().to_owned();
    let schema = Schema::of(&shop).await;
    let bar = ProgressBar::new(args.seconds)
        .with_style(ProgressStyle::with_template("{bar:40} {pos}/{len} s  {msg}").expect("a template"));
    let end = Instant::now() + Duration::from_secs(args.seconds);
    let mut senders = Vec::new();
    for sender in 0..IN_FLIGHT {
        let (client, schema, id, bar) = (Client::clone(&shop), schema.clone(), id.clone(), bar.clone());
        let mut random = StdRng::seed_from_u64(seed.wrapping_add(sender as u64));
        senders.push(tokio::spawn(async move {
            let (mut sent, mut faults) = (0_usize, Vec::new());
            let begun = Instant::now();
            while Instant::now() < end {
                let request = schema.request(&mut random, &id);
                if let Some(fault) = send(&client, &request).await {
                    faults.push(format!("{fault}\n  {}", request.describe()));
                }
                sent += 1;
                if sender == 0 {
                    bar.set_position(begun.elapsed().as_secs());
                    bar.set_message(format!("about {} requests", sent * IN_FLIGHT));
                }
            }
            (sent, faults)
        }));
    }
    let (mut sent, mut faults) = (0, Vec::new());
    for sender in senders {
        let (more, found) = sender.await.expect("a sender does not panic");
        sent += more;
        faults.extend(found);
    }
    bar.finish_and_clear();
    for fault in faults.iter().take(MAX_TOLD) {
        say(fault);
    }
    // The server has kept its wits, and its books.
    assert_eq!(shop.order(&id).await["status"], "CONFIRMED");
    shop.close().await;
    say(&format!("{sent} requests, {} wrong answers", faults.len()));
    faults.len()
}

/// A request as it goes out.
struct Request {
    accept: &'static str,
    content_type: &'static str,
    body: Vec<u8>,
}

impl Request {
    fn describe(&self) -> String {
        let body = String::from_utf8_lossy(&self.body);
        format!("{} {} {body:.2000}", self.accept, self.content_type)
    }
}

/// Sends a request and says what is wrong with the answer.
async fn send(client: &Client, request: &Request) -> Option<String> {
    let sent = client
        .post()
        .header(ACCEPT, request.accept)
        .header(CONTENT_TYPE, request.content_type)
        .body(request.body.clone())
        .timeout(ANSWER_WITHIN)
        .send()
        .await;
    let response = match sent {
        Ok(response) => response,
        Err(error) => return Some(format!("no answer: {error:?}")),
    };
    let status = response.status();
    let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let content_type = content_type.unwrap_or_default().to_owned();
    let text = match response.text().await {
        Ok(text) => text,
        Err(error) => return Some(format!("{status}: half an answer: {error:?}")),
    };
    if status.is_server_error() {
        return Some(format!("{status}: {text:.500}"));
    }
    if content_type.starts_with("text/event-stream") {
        let data = text.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim);
        return data.filter(|data| !data.is_empty()).find_map(|data| fault_of(data, true));
    }
    fault_of(&text, status.is_success()).map(|fault| format!("{status}: {fault}"))
}

/// Says what is wrong with a response (GraphQL specification, section 7.1).
fn fault_of(text: &str, is_success: bool) -> Option<String> {
    let Ok(Value::Object(response)) = serde_json::from_str(text) else {
        return Some(format!("not a JSON object: {text:.500}"));
    };
    if let Some(other) = response.keys().find(|key| !["data", "errors", "extensions"].contains(&key.as_str()))
    {
        return Some(format!("a response has no {other}: {text:.500}"));
    }
    let is_error = |error: &Value| {
        error["message"].is_string()
            && error.get("path").is_none_or(Value::is_array)
            && error.get("extensions").is_none_or(Value::is_object)
    };
    match response.get("errors") {
        Some(Value::Array(errors)) if errors.is_empty() || !errors.iter().all(is_error) => {
            return Some(format!("errors that are none: {text:.500}"));
        }
        Some(Value::Array(_)) => {}
        Some(_) => return Some(format!("errors are no list: {text:.500}")),
        None if response.get("data").is_none_or(Value::is_null) => {
            return Some(format!("neither data nor errors: {text:.500}"));
        }
        None => {}
    }
    if !is_success && !response.contains_key("errors") {
        return Some(format!("a refusal without errors: {text:.500}"));
    }
    match text.contains("panicked") || text.contains("internal error") {
        true => Some(format!("an internal error: {text:.500}")),
        false => None,
    }
}

/// What there is to ask for.
#[derive(Clone)]
struct Schema {
    types: serde_json::Map<String, Value>,
}

const INTROSPECTION: &str = "{ __schema { types { kind name enumValues { name } possibleTypes { name }
    inputFields { name type { ...Type } } fields { name args { name type { ...Type } } type { ...Type } } } } }
    fragment Type on __Type { kind name ofType { kind name ofType { kind name ofType { kind name } } } }";

impl Schema {
    async fn of(client: &Client) -> Self {
        let answer = client.execute(INTROSPECTION, json!({})).await;
        let types = answer["__schema"]["types"].as_array().expect("types").iter();
        let types = types.map(|ty| (ty["name"].as_str().expect("a name").to_owned(), ty.clone())).collect();
        Self { types }
    }

    /// Puts a request together.
    fn request(&self, random: &mut StdRng, id: &str) -> Request {
        let roots = ["Query", "Query", "Query", "Mutation", "Subscription"];
        let root = *roots.choose(random).expect("some");
        let mut query = root.to_lowercase();
        self.selection(root, 1, random, id, &mut query);
        if random.random_bool(0.05) {
            let _ = write!(query, " fragment F on Order {{ id ...F }}");
        }
        let mut body = match random.random_range(0..10) {
            0 => json!({ "query": query, "variables": { "a": random.random::<i64>(), "": null } }),
            1 => json!({ "query": query, "operationName": "Nothing" }),
            2 => json!({ "query": query, "extensions": { "persistedQuery": { "version": 1, "sha256Hash": "00" } } }),
            _ => json!({ "query": query }),
        }
        .to_string()
        .into_bytes();
        if random.random_bool(0.3) {
            scramble(&mut body, random);
        }
        let accepts = ["application/json", "application/graphql-response+json", "text/event-stream", "*/*"];
        Request {
            accept: accepts.choose(random).expect("some"),
            content_type: if random.random_bool(0.95) { "application/json" } else { "text/plain" },
            body,
        }
    }

    fn selection(&self, ty: &str, depth: usize, random: &mut StdRng, id: &str, query: &mut String) {
        let ty = &self.types[ty];
        let possible = ty["possibleTypes"].as_array().filter(|_| ty["kind"] != "OBJECT");
        let fields = ty["fields"].as_array().filter(|fields| !fields.is_empty());
        query.push_str(" { __typename ");
        if let Some(one) = possible.and_then(|possible| possible.choose(random)) {
            let name = one["name"].as_str().expect("a name");
            let _ = write!(query, "... on {name}");
            self.selection(name, depth + 1, random, id, query);
        }
        for _ in 0..random.random_range(1..5) {
            let Some(field) = fields.and_then(|fields| fields.choose(random)) else { break };
            if random.random_bool(0.1) {
                let _ = write!(query, "a{}: ", random.random_range(0..100));
            }
            query.push_str(field["name"].as_str().expect("a name"));
            let arguments = field["args"].as_array().expect("arguments");
            let given = self.filled(arguments, 0, random, id);
            if !given.is_empty() {
                let _ = write!(query, "({})", given.join(", "));
            }
            let inner = named(&field["type"]);
            let is_leaf = matches!(self.types[inner]["kind"].as_str(), Some("SCALAR" | "ENUM"));
            if is_leaf == random.random_bool(0.02) && depth < 8 {
                self.selection(if is_leaf { "Order" } else { inner }, depth + 1, random, id, query);
            }
            query.push(' ');
        }
        query.push_str("} ");
    }

    /// Gives values to what needs one, and to some of the rest.
    fn filled(&self, inputs: &[Value], depth: usize, random: &mut StdRng, id: &str) -> Vec<String> {
        let mut given = Vec::new();
        for input in inputs {
            let name = input["name"].as_str().expect("a name");
            // Nobody waits for an order here.
            if name != "waitMs" && (input["type"]["kind"] == "NON_NULL" || random.random_bool(0.4)) {
                given.push(format!("{name}: {}", self.value(&input["type"], depth, random, id)));
            }
        }
        given
    }

    fn value(&self, ty: &Value, depth: usize, random: &mut StdRng, id: &str) -> String {
        if random.random_bool(0.05) {
            return odd_value(random).to_owned();
        }
        match ty["kind"].as_str().expect("a kind") {
            "NON_NULL" => self.value(&ty["ofType"], depth, random, id),
            "LIST" => {
                let items =
                    (0..random.random_range(0..4)).map(|_| self.value(&ty["ofType"], depth, random, id));
                format!("[{}]", items.collect::<Vec<_>>().join(", "))
            }
            "ENUM" => {
                let values = self.types[named(ty)]["enumValues"].as_array().expect("values");
                values.choose(random).expect("some")["name"].as_str().expect("a name").to_owned()
            }
            "INPUT_OBJECT" if depth < 4 => {
                let fields = self.types[named(ty)]["inputFields"].as_array().expect("fields");
                let given = self.filled(fields, depth + 1, random, id);
                format!("{{ {} }}", given.join(", "))
            }
            _ => match named(ty) {
                "Int" => random.random_range(-2..200).to_string(),
                "Boolean" => random.random::<bool>().to_string(),
                "ID" => {
                    json!(*[id, "order_", "app_00000000000000000000000000"].choose(random).expect("some"))
                        .to_string()
                }
                "_Any" => format!("{{ __typename: \"Order\", id: {} }}", json!(id)),
                _ => json!(
                    *["SKU-1", "known", "", "1.50", "2026-11-25T10:00:00Z", "ä\u{0}\n", "orders:read"]
                        .choose(random)
                        .expect("some")
                )
                .to_string(),
            },
        }
    }
}

fn odd_value(random: &mut StdRng) -> &'static str {
    let odd = [
        "null",
        "{}",
        "[]",
        "[[[]]]",
        "\"\"",
        "-1",
        "1e400",
        "99999999999999999999",
        "0.1",
        "$missing",
        "ENUM",
        "{ a: { b: 1 } }",
        "\"\\u0000\"",
        "\"\\ud800\"",
        "true",
    ];
    odd.choose(random).copied().expect("some")
}

fn named(ty: &Value) -> &str {
    let mut ty = ty;
    while !ty["ofType"].is_null() {
        ty = &ty["ofType"];
    }
    ty["name"].as_str().expect("a name")
}

/// Cuts, doubles and changes bytes.
fn scramble(body: &mut Vec<u8>, random: &mut StdRng) {
    for _ in 0..random.random_range(1..6) {
        let at = random.random_range(0..=body.len());
        match random.random_range(0..5) {
            0 => body.truncate(at),
            1 => {
                let piece = body[at..(at + 40).min(body.len())].to_vec();
                let times = random.random_range(1..50);
                let repeated: Vec<u8> = piece.iter().copied().cycle().take(piece.len() * times).collect();
                body.splice(at..at, repeated);
            }
            2 if at < body.len() => body[at] = random.random(),
            3 => body.splice(at..at, b"{\"[(}])".choose(random).copied()).for_each(drop),
            _ if at < body.len() => drop(body.remove(at)),
            _ => {}
        }
    }
}
