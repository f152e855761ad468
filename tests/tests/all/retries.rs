//! A gateway that answers late, badly or not at all. Whatever it does, money moves at most once.

use oms_tests::{Shop, eventually, order};
use serde_json::json;

use crate::{STORY_OF_SUCCESS, event_types, step};

/// Milliseconds after which the gateway's answer counts as lost, in tests that lose one.
const SHORT_TIMEOUT_MS: u64 = 400;

#[tokio::test]
async fn a_flaky_gateway_takes_exactly_three_attempts_and_one_capture() {
    let shop = Shop::open().await;
    let placed = shop.place(order("flaky", [("SKU-1", 1)]).card("tok_flaky").settled()).await;
    assert_eq!(placed.order["status"], "CONFIRMED");
    assert_eq!(step(&placed.order, "authorize_payment")["attempts"], 3);
    assert_eq!(step(&placed.order, "capture_payment")["attempts"], 1);
    assert_eq!(event_types(&placed.order), STORY_OF_SUCCESS, "attempts are no events");
    let payment = shop.db.gateway_payment(placed.id()).await.expect("the gateway knows the payment");
    assert_eq!(payment.captures, 1);
    shop.close().await;
}

#[tokio::test]
async fn every_attempt_sends_one_key_and_the_same_bytes() {
    let shop = Shop::open().await;
    let placed = shop.place(order("same-bytes", [("SKU-1", 1)]).card("tok_capture_flaky").settled()).await;
    assert_eq!(step(&placed.order, "capture_payment")["attempts"], 3);
    let attempts: Vec<i32> = shop.db.gateway_attempts(placed.id()).await.into_values().collect();
    assert_eq!(attempts, [1, 3], "one authorization, and three captures under one key");
    let requests = "SELECT request FROM saga_log WHERE step = 'capture_payment' AND kind = 'ATTEMPT'";
    let requests = shop.db.texts(requests).await;
    assert_eq!(requests.len(), 3);
    assert!(requests.iter().all(|request| *request == requests[0]));
    shop.close().await;
}

/// Places an order whose first answer is lost, and asserts that there is one attempt more and one capture.
async fn one_answer_is_lost(card: &str, lost: &str) {
    let shop = Shop::open_with_gateway_timeout(SHORT_TIMEOUT_MS).await;
    let placed = shop.place(order("lost-answer", [("SKU-1", 2)]).card(card).settled()).await;
    assert_eq!(placed.order["status"], "CONFIRMED");
    assert_eq!(step(&placed.order, lost)["attempts"], 2);
    assert_eq!(event_types(&placed.order), STORY_OF_SUCCESS);
    let payment = shop.db.gateway_payment(placed.id()).await.expect("the gateway knows the payment");
    assert_eq!((payment.captures, payment.captured_minor, payment.voided), (1, 2990, false));
    shop.close().await;
}

#[tokio::test]
async fn an_authorization_whose_answer_is_lost_is_asked_for_again() {
    one_answer_is_lost("tok_timeout_with_effect", "authorize_payment").await;
}

#[tokio::test]
async fn an_authorization_that_is_lost_itself_is_asked_for_again() {
    one_answer_is_lost("tok_timeout_without_effect", "authorize_payment").await;
}

#[tokio::test]
async fn a_capture_whose_answer_is_lost_is_not_taken_twice() {
    one_answer_is_lost("tok_capture_timeout_with_effect", "capture_payment").await;
}

#[tokio::test]
async fn a_capture_that_is_lost_itself_is_asked_for_again() {
    one_answer_is_lost("tok_capture_timeout_without_effect", "capture_payment").await;
}

#[tokio::test]
async fn a_slow_gateway_is_waited_for() {
    let shop = Shop::open().await;
    let placed = shop.place(order("slow", [("SKU-1", 1)]).card("tok_slow").settled()).await;
    assert_eq!(placed.order["status"], "CONFIRMED");
    assert_eq!(step(&placed.order, "authorize_payment")["attempts"], 1);
    shop.close().await;
}

#[tokio::test]
async fn a_capture_of_unknown_outcome_is_never_guessed_and_never_given_up() {
    let shop = Shop::open().await;
    let placed = shop.place(order("unknown", [("SKU-1", 2)]).card("tok_capture_down")).await;
    eventually("it goes on after its last attempt", async || {
        shop.db.fire_timers().await;
        let order = shop.order(placed.id()).await;
        assert_eq!(order["status"], "PENDING");
        (step(&order, "capture_payment")["attempts"].as_i64() >= Some(8)).then_some(())
    })
    .await;
    let order = shop.order(placed.id()).await;
    assert_eq!(
        (&order["paymentStatus"], &order["process"]["state"]),
        (&json!("AUTHORIZED"), &json!("RUNNING"))
    );
    let stuck = "SELECT count(*) FROM saga WHERE stuck_since IS NOT NULL AND status = 'RUNNING'";
    assert_eq!(shop.db.number(stuck).await, 1, "a person is told");
    shop.db.assert_books_balance().await;

    shop.db.execute("UPDATE simulated_gateway_payments SET token = 'tok_approve'").await;
    eventually("the outcome is known", async || {
        shop.db.fire_timers().await;
        (shop.order(placed.id()).await["status"] == "CONFIRMED").then_some(())
    })
    .await;
    let payment = shop.db.gateway_payment(placed.id()).await.expect("the gateway knows the payment");
    assert_eq!((payment.captures, payment.captured_minor), (1, 2990));
    assert_eq!(shop.db.number("SELECT count(*) FROM saga WHERE stuck_since IS NOT NULL").await, 0);
    shop.close().await;
}
