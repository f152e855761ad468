//! The database goes away, and comes back.

use futures_util::StreamExt;
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
