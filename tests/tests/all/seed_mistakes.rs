//! The mistakes of the system that this one replaces. Each must not come back.

use futures_util::StreamExt;
use oms_tests::{Shop, order, watch_over_sse, watch_over_websocket};
use reqwest::StatusCode;
use serde_json::json;

#[tokio::test]
async fn the_stock_condition_is_what_is_taken_and_not_that_there_is_any() {
    let shop = Shop::open().await;
    let placed = shop.place(order("six-of-five", [("SKU-RARE", 6)]).settled()).await;
    assert_eq!(placed.order["failure"]["code"], "OUT_OF_STOCK");
    let stock = shop.stock("SKU-RARE").await;
    assert_eq!((&stock["onHand"], &stock["available"]), (&json!(5), &json!(5)));
    shop.close().await;
}

#[tokio::test]
async fn a_failed_payment_does_not_leave_the_stock_taken() {
    let shop = Shop::open().await;
    for card in ["tok_decline", "tok_insufficient_funds", "tok_capture_decline"] {
        let placed = shop.place(order(card, [("SKU-RARE", 5)]).card(card).settled()).await;
        assert_eq!(placed.order["status"], "FAILED");
        assert_eq!(shop.stock("SKU-RARE").await["available"], 5, "{card}");
    }
    shop.close().await;
}

#[tokio::test]
async fn a_retry_inserts_no_second_order() {
    let shop = Shop::open().await;
    for _ in 0..3 {
        shop.place(order("retried", [("SKU-1", 1)]).card("tok_flaky")).await;
    }
    shop.db.wait_until_settled().await;
    assert_eq!(shop.db.number("SELECT count(*) FROM orders").await, 1);
    assert_eq!(shop.stock("SKU-1").await["reserved"], 1);
    shop.close().await;
}

#[tokio::test]
async fn no_id_that_prevents_duplicates_is_random() {
    let shop = Shop::open().await;
    let placed = shop.place(order("derived", [("SKU-1", 1)]).card("tok_flaky").settled()).await;
    let uuid = placed.id().parse::<domain::id::OrderId>().expect("an order id").uuid();
    let keys: Vec<String> = shop.db.gateway_attempts(placed.id()).await.into_keys().collect();
    let derived = ["authorize_payment", "capture_payment"].map(|step| format!("{uuid}:{step}:forward:1"));
    assert_eq!(keys, derived, "the gateway's keys follow from the order");

    // An event is named by its order and its sequence, and by the same ones however it is read.
    let read = placed.order["events"].as_array().expect("events");
    let socket: Vec<_> = watch_over_websocket(shop.addr(), placed.id(), None).await.collect().await;
    let sse: Vec<_> = watch_over_sse(&shop, placed.id(), None).await.collect().await;
    for viewed in [socket, sse] {
        let viewed: Vec<_> = viewed.into_iter().map(|update| update["event"].clone()).collect();
        assert_eq!(&viewed, read);
    }
    shop.close().await;
}

#[tokio::test]
async fn a_get_changes_nothing() {
    let shop = Shop::open().await;
    let census = shop.db.census().await;
    let query =
        "mutation { adjustStock(input: { sku: \"SKU-1\", delta: -1, reason: \"get\" }) { replayed } }";
    let answer = shop.get_graphql(&[("query", query)]).send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(shop.db.census().await, census);
    assert_eq!(shop.stock("SKU-1").await["onHand"], 1_000_000);
    shop.close().await;
}

#[tokio::test]
async fn no_resolver_throws_on_typename_or_on_an_unknown_id() {
    let shop = Shop::open().await;
    let unknown = "order_01jx2v3q8kf0v8c9m5w6r7t2ab";
    let query = "query ($id: ID!) { __typename getOrder(id: $id) { __typename id } }";
    let data = shop.execute(query, json!({ "id": unknown })).await;
    assert_eq!(data, json!({ "__typename": "Query", "getOrder": null }));
    shop.close().await;
}

#[tokio::test]
async fn no_status_is_lost_because_nobody_was_watching() {
    let shop = Shop::open().await;
    let placed = shop.place(order("unwatched", [("SKU-1", 1)]).settled()).await;
    let story: Vec<_> = watch_over_websocket(shop.addr(), placed.id(), None).await.collect().await;
    assert_eq!(story.len(), 6);
    assert_eq!(story[5]["status"], "CONFIRMED");
    shop.close().await;
}
