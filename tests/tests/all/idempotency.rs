//! One order per key, however often, from wherever and with whatever luck it is asked for.

use std::collections::HashSet;

use futures_util::future::join_all;
use oms_tests::{Server, Shop, TestDatabase, order};
use serde_json::json;

use crate::start_oms;

#[tokio::test]
async fn the_same_key_gives_the_same_order() {
    let shop = Shop::open().await;
    let first = shop.place(order("twice", [("SKU-1", 1)]).settled()).await;
    let census = shop.db.census().await;
    let second = shop.place(order("twice", [("SKU-1", 1)])).await;
    assert!(!first.replayed && second.replayed);
    assert_eq!(first.order, second.order);
    assert_eq!(shop.db.census().await, census, "a replay writes nothing");
    shop.close().await;
}

#[tokio::test]
async fn how_long_to_wait_is_no_part_of_the_input() {
    let shop = Shop::open().await;
    let first = shop.place(order("wait", [("SKU-1", 1)])).await;
    let second = shop.place(order("wait", [("SKU-1", 1)]).settled()).await;
    assert_eq!((first.id(), second.replayed), (second.id(), true));
    assert_eq!(second.order["status"], "CONFIRMED", "a replay waits as well");
    shop.close().await;
}

#[tokio::test]
async fn a_failed_order_is_replayed_and_not_tried_again() {
    let shop = Shop::open().await;
    let input = || order("declined", [("SKU-1", 1)]).card("tok_decline").settled();
    let first = shop.place(input()).await;
    let second = shop.place(input()).await;
    assert_eq!((first.id(), second.replayed), (second.id(), true));
    assert_eq!(second.order["failure"]["code"], "CARD_DECLINED");
    shop.close().await;
}

#[tokio::test]
async fn a_replay_is_answered_whatever_has_become_of_the_catalog() {
    let shop = Shop::open().await;
    let total = json!({ "amount": "29.90", "currency": "USD" });
    let input = || order("old-price", [("SKU-1", 2)]).with("expectedTotal", total.clone()).settled();
    let first = shop.place(input()).await;
    shop.upsert_products(json!([{ "sku": "SKU-1", "name": "Mug", "price": { "amount": "13.00" } }])).await;
    let second = shop.place(input()).await;
    assert_eq!(second.errors, [] as [serde_json::Value; 0]);
    assert_eq!((first.id(), second.replayed), (second.id(), true));
    assert_eq!(second.order["lines"][0]["unitPrice"]["amount"], "12.50", "as it was placed");
    shop.close().await;
}

#[tokio::test]
async fn the_same_key_with_another_input_is_refused_and_writes_nothing() {
    let shop = Shop::open().await;
    shop.place(order("reused", [("SKU-1", 1)]).settled()).await;
    let census = shop.db.census().await;
    let others = [
        order("reused", [("SKU-1", 2)]),
        order("reused", [("SKU-2", 1)]),
        order("reused", [("SKU-1", 1), ("SKU-2", 1)]),
        order("reused", [("SKU-1", 1)]).card("tok_decline"),
        order("reused", [("SKU-1", 1)]).with("email", json!("ada@example.org")),
        order("reused", [("SKU-1", 1)]).with("expectedTotal", json!({ "amount": "17.40" })),
        // It is refused for its key, whatever else there is to say about it.
        order("reused", [("NO-SUCH-SKU", 1)]),
    ];
    for other in others {
        let refused = shop.place(other.clone()).await;
        assert!(refused.order.is_null(), "{other:?}");
        assert_eq!(refused.errors.len(), 1, "{other:?}");
        assert_eq!(refused.errors[0]["code"], "IDEMPOTENCY_KEY_REUSED", "{other:?}");
        assert_eq!(refused.errors[0]["path"], json!(["input", "idempotencyKey"]));
        assert_eq!(refused.errors[0]["__typename"], "IdempotencyKeyReusedError");
    }
    assert_eq!(shop.db.census().await, census);
    shop.close().await;
}

#[tokio::test]
async fn a_refused_input_does_not_use_its_key_up() {
    let shop = Shop::open().await;
    let refused = shop.place(order("corrected", [("NO-SUCH-SKU", 1)])).await;
    assert!(refused.order.is_null());
    let placed = shop.place(order("corrected", [("SKU-1", 1)]).settled()).await;
    assert_eq!((placed.replayed, &placed.order["status"]), (false, &json!("CONFIRMED")));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_fifty_times_at_once_places_one_order() {
    let shop = Shop::open().await;
    let calls = (0..50).map(|_| shop.place(order("at-once", [("SKU-4", 1)]).settled()));
    let answers = join_all(calls).await;
    let ids: HashSet<&str> = answers.iter().map(|answer| answer.id()).collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1, "one of them placed it");
    assert_eq!(shop.db.number("SELECT count(*) FROM orders").await, 1);
    assert_eq!(shop.stock("SKU-4").await["reserved"], 1);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_inputs_with_one_key_at_once_place_one_of_them() {
    let shop = Shop::open().await;
    for round in 0..10 {
        let key = format!("race-{round}");
        let calls = (0..10).map(|n| shop.place(order(&key, [("SKU-1", 1 + n % 2)])));
        let answers = join_all(calls).await;
        let winners: HashSet<&str> =
            answers.iter().filter_map(|answer| answer.order["id"].as_str()).collect();
        assert_eq!(winners.len(), 1, "{answers:?}");
        let refused = answers.iter().filter(|answer| answer.order.is_null());
        assert!(refused.clone().all(|answer| answer.errors[0]["code"] == "IDEMPOTENCY_KEY_REUSED"));
        assert_eq!(refused.count(), 5);
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_used_at_two_servers_at_once_places_one_order() {
    let db = TestDatabase::create().await;
    let (left, right) = tokio::join!(Server::start(&db), Server::start(&db));
    let clients = [left.client(), right.client()];
    for round in 0..10 {
        let key = format!("two-servers-{round}");
        let calls = (0..8).map(|n| clients[n % 2].place(order(&key, [("SKU-1", 1)])));
        let answers = join_all(calls).await;
        let ids: HashSet<&str> = answers.iter().map(|answer| answer.id()).collect();
        assert_eq!(ids.len(), 1);
        assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
    }
    assert_eq!(db.number("SELECT count(*) FROM orders").await, 10);
    db.wait_until_settled().await;
    tokio::join!(left.stop(), right.stop());
    db.close().await;
}

#[tokio::test]
async fn a_key_is_remembered_by_the_next_process() {
    let db = TestDatabase::create().await;
    let first = start_oms(&db).await;
    let placed = first.client().place(order("kept", [("SKU-1", 1)])).await;
    first.kill().await;
    let second = start_oms(&db).await;
    let again = second.client().place(order("kept", [("SKU-1", 1)]).settled()).await;
    assert_eq!((placed.id(), again.replayed), (again.id(), true));
    assert_eq!(again.order["status"], "CONFIRMED");
    second.stop().await;
    db.close().await;
}
