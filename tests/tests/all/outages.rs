//! The database goes away, and comes back.

use std::collections::HashSet;

use futures_util::StreamExt;
use futures_util::future::join_all;
use oms_tests::{Shop, eventually, order, watch_over_websocket, within};
use reqwest::StatusCode;
use reqwest::header::RETRY_AFTER;
use serde_json::json;

use crate::{STORY_OF_SUCCESS, event_types, sequences};

const PLACE: &str = "mutation ($key: String!) { placeOrder(input: { idempotencyKey: $key,
    lines: [{ sku: \"SKU-1\", quantity: 1 }] }) { order { id } userErrors { code } } }";

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_callers_are_told_to_come_back() {
    let shop = Shop::open().await;
    shop.db.go_away().await;
    let answer = shop.try_send(PLACE, json!({ "key": "away" })).await.expect("the server answers");
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.headers().contains_key(RETRY_AFTER));
    let answer: serde_json::Value = answer.json().await.expect("JSON");
    assert_eq!(answer["errors"][0]["extensions"]["code"], "UNAVAILABLE");
    let shown = answer.to_string();
    assert!(!shown.contains("postgres") && !shown.contains("connection"), "no internals: {shown}");
    assert_eq!(shop.get("/healthz").send().await.expect("an answer").status(), StatusCode::OK);
    assert_eq!(
        shop.get("/readyz").send().await.expect("an answer").status(),
        StatusCode::SERVICE_UNAVAILABLE
    );

    shop.db.come_back().await;
    eventually("the server is ready again", async || {
        let status = shop.get("/readyz").send().await.expect("an answer").status();
        (status == StatusCode::OK).then_some(())
    })
    .await;
    let placed = shop.place(order("away", [("SKU-1", 1)]).settled()).await;
    assert_eq!(
        (placed.replayed, &placed.order["status"]),
        (false, &json!("CONFIRMED")),
        "nothing had been written"
    );
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_on_its_way_outlives_an_outage_and_so_does_its_viewer() {
    let shop = Shop::open().await;
    let placed = shop.place(order("outlives", [("SKU-1", 1)]).card("tok_slow")).await;
    let mut updates = watch_over_websocket(shop.addr(), placed.id(), None).await;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.extend(within("an update", updates.next()).await);
    }
    // The slow answer arrives while nobody can write it down.
    shop.db.go_away().await;
    tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    shop.db.come_back().await;

    seen.extend(within("the story is complete", updates.collect::<Vec<_>>()).await);
    assert_eq!(sequences(&seen), [1, 2, 3, 4, 5, 6]);
    let settled = shop.order(placed.id()).await;
    assert_eq!(event_types(&settled), STORY_OF_SUCCESS);
    assert_eq!(shop.db.gateway_payment(placed.id()).await.map(|payment| payment.captures), Some(1));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_somebody_holds_for_long_fails_nobody() {
    let shop = Shop::open_with(|args| {
        args.process.acquire_timeout_ms = 100;
        args.process.statement_timeout_ms = 200;
    })
    .await;
    // As an index that is made in the ordinary way, and not concurrently.
    let mut open = shop.db.pool().begin().await.expect("a transaction");
    sqlx::query("LOCK TABLE reservations").execute(&mut *open).await.expect("the lock");
    let orders = (0..3).map(|n| shop.place(order(&format!("locked-{n}"), [("SKU-1", 1)])));
    let placed = join_all(orders).await;
    let id = oms_tests::uuid_of(placed[0].id());
    // More often than a step is tried.
    let mut seen = HashSet::new();
    within("it was put off again and again", async {
        while seen.len() < 8 {
            seen.extend(shop.db.texts(&format!("SELECT updated_at::text FROM saga WHERE id = '{id}'")).await);
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    open.rollback().await.expect("it is given up");
    shop.db.wait_until_settled().await;
    for placed in &placed {
        let order = shop.order(placed.id()).await;
        assert_eq!((&order["status"], event_types(&order)), (&json!("CONFIRMED"), STORY_OF_SUCCESS.to_vec()));
    }
    let attempts = "SELECT max(attempt)::bigint FROM saga_log WHERE step = 'reserve_stock'";
    assert_eq!(shop.db.number(attempts).await, 1, "no attempt was counted");
    shop.close().await;
}
