//! Orders that cannot be carried out fail, say why, and leave nothing taken.

use oms_tests::{Shop, eventually, order};
use serde_json::json;

use crate::{event_types, step};

#[tokio::test]
async fn an_order_fails_when_the_card_is_declined() {
    let shop = Shop::open().await;
    let placed = shop.place(order("declined", [("SKU-4", 3)]).card("tok_decline").settled()).await;
    assert_eq!(placed.errors, [] as [serde_json::Value; 0]);

    let order = &placed.order;
    assert_eq!((&order["status"], &order["paymentStatus"]), (&json!("FAILED"), &json!("UNPAID")));
    assert_eq!(order["failure"]["code"], "CARD_DECLINED");
    assert!(order["failedAt"].is_string() && order["confirmedAt"].is_null());
    assert_eq!(
        event_types(order),
        ["OrderPlaced", "StockReserved", "OrderQuoted", "PaymentDeclined", "StockReleased", "OrderFailed"]
    );
    assert_eq!(step(order, "authorize_payment")["status"], "FAILED");
    assert_eq!(step(order, "authorize_payment")["message"], "the card was declined");
    assert_eq!(step(order, "reserve_stock")["status"], "COMPENSATED");
    assert_eq!(step(order, "capture_payment")["status"], "SKIPPED");
    assert_eq!(order["process"]["state"], "COMPENSATED");
    assert_eq!(shop.stock("SKU-4").await["available"], 300);
    shop.close().await;
}

#[tokio::test]
async fn an_order_fails_when_the_card_has_no_funds() {
    let shop = Shop::open().await;
    let placed = shop.place(order("poor", [("SKU-1", 1)]).card("tok_insufficient_funds").settled()).await;
    assert_eq!(placed.order["failure"]["code"], "INSUFFICIENT_FUNDS");
    shop.close().await;
}

#[tokio::test]
async fn an_order_fails_when_it_is_out_of_stock() {
    let shop = Shop::open().await;
    let placed = shop.place(order("none-left", [("SKU-SOLD-OUT", 1)]).settled()).await;
    let order = &placed.order;
    assert_eq!((&order["status"], &order["failure"]["code"]), (&json!("FAILED"), &json!("OUT_OF_STOCK")));
    assert_eq!(order["failure"]["message"], "SKU-SOLD-OUT: 1 requested, 0 available");
    assert_eq!(event_types(order), ["OrderPlaced", "OrderFailed"]);
    assert_eq!(shop.db.gateway_payment(placed.id()).await, None, "the gateway was never asked");
    shop.close().await;
}

#[tokio::test]
async fn one_sku_too_few_takes_none_of_the_others() {
    let shop = Shop::open().await;
    let lines = [("SKU-4", 10), ("SKU-SOLD-OUT", 1), ("SKU-5", 10)];
    let placed = shop.place(order("all-or-nothing", lines).settled()).await;
    assert_eq!(placed.order["failure"]["code"], "OUT_OF_STOCK");
    assert_eq!(shop.stock("SKU-4").await["reserved"], 0);
    assert_eq!(shop.stock("SKU-5").await["reserved"], 0);
    shop.close().await;
}

#[tokio::test]
async fn the_lines_of_one_sku_count_together() {
    let shop = Shop::open().await;
    let placed = shop.place(order("split", [("SKU-RARE", 3), ("SKU-RARE", 3)]).settled()).await;
    assert_eq!(placed.order["failure"]["code"], "OUT_OF_STOCK", "five copies are not six");
    let placed = shop.place(order("split-2", [("SKU-RARE", 3), ("SKU-RARE", 2)]).settled()).await;
    assert_eq!(placed.order["status"], "CONFIRMED");
    assert_eq!(shop.stock("SKU-RARE").await["available"], 0);
    shop.close().await;
}

#[tokio::test]
async fn an_order_that_cannot_be_shipped_fails_and_gives_its_stock_back() {
    let shop = Shop::open().await;
    let input = order("balloon", [("SKU-4", 1)]).with("shippingMethod", json!("balloon")).settled();
    let placed = shop.place(input).await;
    assert_eq!(placed.order["failure"]["code"], "NO_SHIPPING_RATE");
    assert_eq!(event_types(&placed.order), ["OrderPlaced", "StockReserved", "StockReleased", "OrderFailed"]);
    assert_eq!(shop.stock("SKU-4").await["reserved"], 0);
    shop.close().await;
}

#[tokio::test]
async fn a_price_that_changes_between_placing_and_quoting_fails_the_order() {
    // The saga waits behind a lock on the stock row while the shipping rate goes up.
    let shop = Shop::open().await;
    let mut lock = shop.db.pool().begin().await.expect("a transaction");
    let row = sqlx::query("SELECT FROM stock WHERE sku = 'SKU-1' FOR UPDATE");
    row.execute(&mut *lock).await.expect("the row is locked");
    let total = json!({ "amount": "29.90" });
    let placed = shop.place(order("raised", [("SKU-1", 2)]).with("expectedTotal", total)).await;
    shop.db.execute("UPDATE shipping_rates SET price_minor = price_minor + 1").await;
    lock.commit().await.expect("the lock is released");

    shop.db.wait_until_settled().await;
    let order = shop.order(placed.id()).await;
    assert_eq!(order["failure"]["code"], "PRICE_CHANGED");
    assert_eq!(order["failure"]["message"], "the order costs 29.91 USD, not 29.90 USD as expected");
    assert_eq!(shop.db.gateway_payment(placed.id()).await, None, "nothing was promised");
    shop.close().await;
}

#[tokio::test]
async fn callers_are_not_told_what_the_database_says_and_operators_are() {
    let shop = Shop::open().await;
    shop.db.execute("ALTER TABLE reservations ADD CONSTRAINT of_no_concern CHECK (quantity <> 3)").await;
    let placed = shop.place(order("refused", [("SKU-1", 3)])).await;
    let order = eventually("an attempt has failed", async || {
        let order = shop.order(placed.id()).await;
        (!step(&order, "reserve_stock")["message"].is_null()).then_some(order)
    })
    .await;
    assert_eq!(step(&order, "reserve_stock")["message"], "it could not be done yet; it is tried again");
    assert!(!order.to_string().contains("of_no_concern"), "{order}");
    let said = "SELECT DISTINCT detail ->> 'reason' FROM saga_log WHERE outcome = 'RETRY'";
    let said = shop.db.texts(said).await;
    assert!(said.iter().all(|reason| reason.contains("of_no_concern")), "{said:?}");
    shop.db.execute("ALTER TABLE reservations DROP CONSTRAINT of_no_concern").await;
    shop.close().await;
}

#[tokio::test]
async fn callers_are_told_of_an_unknown_outcome_and_operators_why_it_is() {
    let shop = Shop::open().await;
    let placed = shop.place(order("flaky", [("SKU-1", 1)]).card("tok_flaky").settled()).await;
    let authorized = step(&placed.order, "authorize_payment");
    assert_eq!(authorized["status"], "SUCCEEDED", "{authorized}");
    assert_eq!(authorized["message"], "it is not known how the last attempt ended");
    assert!(!placed.order.to_string().contains("server error"), "{}", placed.order);
    let query = "query ($id: ID!) { saga(orderId: $id) { history { outcome text } } }";
    let history = shop.execute(query, json!({ "id": placed.id() })).await["saga"]["history"].take();
    let told = json!({ "outcome": "UNKNOWN", "text": "the gateway answered with a server error" });
    assert!(history.as_array().is_some_and(|history| history.contains(&told)), "{history}");
    shop.close().await;
}
