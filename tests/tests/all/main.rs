//! The whole system through HTTP and WebSocket, on a real Postgres.
//!
//! One module per topic. Each test has a database of its own; closing its shop re-derives the books.

use oms_tests::{OmsProcess, TestDatabase};
use serde_json::Value;

mod access;
mod bad_inputs;
mod catalog;
mod changes;
mod command_line;
mod compensation;
mod crashes;
mod documents;
mod failures;
mod fairness;
mod federation;
mod growth;
mod happy_path;
mod http;
mod idempotency;
mod isolation;
mod laws;
mod limits;
mod listing;
mod operate;
mod outages;
mod plans;
mod processes;
mod reading;
mod replica;
mod retries;
mod seed_mistakes;
mod statements;
mod stock;
mod stock_races;
mod subscriptions;
mod visibility;
mod websocket_protocol;

/// The program that the tests start and kill.
const OMS: &str = env!("CARGO_BIN_EXE_oms-under-test");

/// Starts API and runner in a process of their own.
async fn start_oms(database: &TestDatabase) -> OmsProcess {
    OmsProcess::start(OMS, database, "all", &[]).await
}

/// Returns the named step of an order's process.
fn step<'a>(order: &'a Value, name: &str) -> &'a Value {
    let steps = order["process"]["steps"].as_array().expect("an order has steps");
    steps.iter().find(|step| step["name"] == name).expect("a step of place_order")
}

/// Returns the types of an order's events, in sequence.
fn event_types(order: &Value) -> Vec<&str> {
    let events = order["events"].as_array().expect("an order has events");
    events.iter().map(|event| event["type"].as_str().expect("an event has a type")).collect()
}

/// Returns the sequences of an order's events or of a viewer's updates.
fn sequences(items: &[Value]) -> Vec<i64> {
    items.iter().map(|item| item["sequence"].as_i64().expect("a sequence is a number")).collect()
}

/// What the books of a confirmed order read: every step once.
const STORY_OF_SUCCESS: [&str; 6] =
    ["OrderPlaced", "StockReserved", "OrderQuoted", "PaymentAuthorized", "PaymentCaptured", "OrderConfirmed"];
