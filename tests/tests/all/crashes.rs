//! kill -9 at each instruction where it could hurt. The next process goes on from the rows alone.

use oms_tests::{Client, OmsProcess, OrderInput, TestDatabase, eventually, order};
use serde_json::{Value, json};

use crate::{OMS, STORY_OF_SUCCESS, event_types, sequences, start_oms};

/// Places an order at a process that kills itself at a fail point, lets another one finish it, and returns it.
///
/// The call itself does not wait, so it is answered before the runner gets to its first commit.
async fn crash_and_recover(fail_point: &str, turn: u32, input: OrderInput) -> (TestDatabase, Value) {
    let db = TestDatabase::create().await;
    let doomed = OmsProcess::start_doomed(OMS, &db, fail_point, turn).await;
    let id = place(&doomed.client(), &db, input).await;
    doomed.killed().await;

    let next = start_oms(&db).await;
    db.wait_until_settled().await;
    let settled = next.client().order(&id).await;
    let events = settled["events"].as_array().expect("events");
    let gapless: Vec<i64> = (1..=events.len() as i64).collect();
    assert_eq!(sequences(events), gapless, "{fail_point}:{turn}");
    next.stop().await;
    (db, settled)
}

/// Places the order and returns its id, even if the process dies before it has answered.
async fn place(client: &Client, db: &TestDatabase, input: OrderInput) -> String {
    let query = "mutation ($input: PlaceOrderInput!) { placeOrder(input: $input) { order { id } } }";
    // The answer may be lost with the process; the order may not.
    let _ = client.try_send(query, json!({ "input": input.into_value() })).await;
    let id = "SELECT id::text FROM orders";
    let uuid = eventually("the order is in the database", async || db.texts(id).await.pop()).await;
    domain::id::OrderId::from_uuid(uuid.parse().expect("a UUID")).to_string()
}

async fn one_capture_after_a_crash_at(fail_point: &str, turns: std::ops::RangeInclusive<u32>) {
    for turn in turns {
        let input = order("crash", [("SKU-1", 2)]);
        let (db, settled) = crash_and_recover(fail_point, turn, input).await;
        assert_eq!(settled["status"], "CONFIRMED", "{fail_point}:{turn}");
        assert_eq!(event_types(&settled), STORY_OF_SUCCESS, "{fail_point}:{turn}");
        let id = settled["id"].as_str().expect("an id");
        let payment = db.gateway_payment(id).await.expect("the gateway knows the payment");
        assert_eq!((payment.captures, payment.captured_minor, payment.voided), (1, 2990, false));
        db.close().await;
    }
}

/// An order that turns round at its capture: three calls, and four commits.
async fn everything_undone_after_a_crash_at(fail_point: &str, turns: std::ops::RangeInclusive<u32>) {
    for turn in turns {
        let input = order("crash", [("SKU-4", 2)]).card("tok_capture_decline");
        let (db, settled) = crash_and_recover(fail_point, turn, input).await;
        assert_eq!(settled["status"], "FAILED", "{fail_point}:{turn}");
        let ends = ["PaymentDeclined", "PaymentVoided", "StockReleased", "OrderFailed"];
        assert_eq!(event_types(&settled)[4..], ends, "{fail_point}:{turn}");
        let id = settled["id"].as_str().expect("an id");
        let payment = db.gateway_payment(id).await.expect("the gateway knows the payment");
        assert_eq!((payment.captures, payment.voided), (0, true), "{fail_point}:{turn}");
        assert_eq!(db.number("SELECT reserved FROM stock WHERE sku = 'SKU-4'").await, 0);
        db.close().await;
    }
}

// The commits of an order: up to the authorization's intent, up to the capture's intent, to the end.

#[tokio::test]
async fn capture_is_not_repeated_after_a_crash_before_a_commit() {
    one_capture_after_a_crash_at("before_batch_commit", 1..=3).await;
}

#[tokio::test]
async fn capture_is_not_repeated_after_a_crash_after_a_commit() {
    one_capture_after_a_crash_at("after_batch_commit", 1..=3).await;
}

// The calls of an order: authorize, capture.

#[tokio::test]
async fn capture_is_not_lost_after_a_crash_before_a_call() {
    one_capture_after_a_crash_at("before_send", 1..=2).await;
}

#[tokio::test]
async fn capture_is_not_repeated_after_a_crash_after_an_answer() {
    one_capture_after_a_crash_at("after_answer", 1..=2).await;
}

#[tokio::test]
async fn a_compensation_is_finished_after_a_crash_before_a_commit() {
    everything_undone_after_a_crash_at("before_batch_commit", 3..=4).await;
}

#[tokio::test]
async fn a_compensation_is_finished_after_a_crash_after_a_commit() {
    everything_undone_after_a_crash_at("after_batch_commit", 3..=4).await;
}

#[tokio::test]
async fn a_compensation_is_finished_after_a_crash_around_a_call() {
    everything_undone_after_a_crash_at("before_send", 3..=3).await;
    everything_undone_after_a_crash_at("after_answer", 3..=3).await;
}

#[tokio::test]
async fn an_order_whose_id_was_returned_survives_a_kill_at_once() {
    let db = TestDatabase::create().await;
    let mut ids = Vec::new();
    for round in 0..3 {
        let process = start_oms(&db).await;
        ids.push(
            process.client().place(order(&format!("accepted-{round}"), [("SKU-1", 1)])).await.id().to_owned(),
        );
        process.kill().await;
    }
    let next = start_oms(&db).await;
    db.wait_until_settled().await;
    for id in ids {
        assert_eq!(next.client().order(&id).await["status"], "CONFIRMED");
    }
    next.stop().await;
    db.close().await;
}
