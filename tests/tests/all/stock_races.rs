//! Many orders for little stock: nothing is oversold, and nobody is sent away whom what is left would have served.

use futures_util::future::join_all;
use oms_tests::{Client, OrderInput, Server, Shop, TestDatabase, order};
use serde_json::json;

const SKU: &str = "SKU-RARE";

async fn set_stock(client: &Client, units: i64) {
    let set = client.adjust_stock(json!({ "sku": SKU, "setTo": units, "reason": "count" })).await;
    assert_eq!(set["stock"]["onHand"], units);
}

/// Places all at once, alternating between the clients.
async fn place_all(clients: &[Client], orders: Vec<OrderInput>) {
    let calls = orders.into_iter().enumerate().map(|(n, input)| clients[n % clients.len()].place(input));
    for placed in join_all(calls).await {
        placed.id();
    }
}

async fn count(db: &TestDatabase, condition: &str) -> i64 {
    db.number(&format!("SELECT count(*) FROM orders WHERE {condition}")).await
}

/// How many failed orders ask for no more than is left.
async fn sent_away_in_vain(db: &TestDatabase) -> i64 {
    db.number(
        "SELECT count(*) FROM orders WHERE status = 'FAILED' AND NOT EXISTS (
             SELECT FROM order_lines JOIN stock USING (sku)
             WHERE order_id = orders.id AND quantity > on_hand - reserved)",
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_orders_for_fifty_units_confirm_exactly_fifty() {
    let shop = Shop::open().await;
    set_stock(&shop, 50).await;
    let orders = (0..200).map(|n| order(&format!("one-{n}"), [(SKU, 1)])).collect();
    place_all(std::slice::from_ref(&shop), orders).await;
    shop.db.wait_until_settled().await;

    assert_eq!(count(&shop.db, "status = 'CONFIRMED'").await, 50);
    assert_eq!(count(&shop.db, "status = 'FAILED' AND failure_code = 'OUT_OF_STOCK'").await, 150);
    assert_eq!(shop.stock(SKU).await, json!({ "sku": SKU, "onHand": 50, "reserved": 50, "available": 0 }));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_order_that_still_fits_fails_while_units_are_left() {
    let shop = Shop::open().await;
    set_stock(&shop, 101).await;
    let orders = (0..120).map(|n| order(&format!("mixed-{n}"), [(SKU, 1 + n % 9)])).collect();
    place_all(std::slice::from_ref(&shop), orders).await;
    shop.db.wait_until_settled().await;

    assert_eq!(sent_away_in_vain(&shop.db).await, 0);
    assert!(count(&shop.db, "status = 'FAILED'").await > 0, "600 units were asked for");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_runners_share_the_last_units_without_overselling() {
    let db = TestDatabase::create().await;
    // Small batches, so that the two get in each other's way often.
    let small = |args: &mut oms::config::ServeArgs| args.runner.batch_size = 3;
    let (left, right) = tokio::join!(Server::start_with(&db, small), Server::start_with(&db, small));
    let clients = [left.client(), right.client()];
    set_stock(&clients[0], 50).await;
    let orders = (0..150).map(|n| order(&format!("shared-{n}"), [(SKU, 1 + n % 2), ("SKU-1", 1)])).collect();
    place_all(&clients, orders).await;
    db.wait_until_settled().await;

    assert_eq!(sent_away_in_vain(&db).await, 0);
    let stock = clients[0].stock(SKU).await;
    assert!(stock["available"].as_i64() <= Some(1), "{stock}");
    tokio::join!(left.stop(), right.stop());
    db.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_that_share_skus_in_different_order_all_get_through() {
    let shop = Shop::open().await;
    let lines = [("SKU-1", 1), ("SKU-2", 1), ("SKU-3", 1), ("SKU-4", 1)];
    let orders = (0..80).map(|n| {
        let mut lines = lines;
        lines.rotate_left(n % 4);
        if n % 8 >= 4 {
            lines.reverse();
        }
        order(&format!("crossed-{n}"), lines)
    });
    place_all(std::slice::from_ref(&shop), orders.collect()).await;
    shop.db.wait_until_settled().await;
    assert_eq!(count(&shop.db, "status = 'CONFIRMED'").await, 80);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_declined_cards_give_back_can_be_sold_again() {
    let shop = Shop::open().await;
    set_stock(&shop, 10).await;
    let declined = (0..10).map(|n| order(&format!("declined-{n}"), [(SKU, 1)]).card("tok_decline")).collect();
    place_all(std::slice::from_ref(&shop), declined).await;
    shop.db.wait_until_settled().await;
    assert_eq!(shop.stock(SKU).await["available"], 10);

    let paid = (0..10).map(|n| order(&format!("paid-{n}"), [(SKU, 1)])).collect();
    place_all(std::slice::from_ref(&shop), paid).await;
    shop.db.wait_until_settled().await;
    assert_eq!(count(&shop.db, "status = 'CONFIRMED'").await, 10);
    shop.close().await;
}
