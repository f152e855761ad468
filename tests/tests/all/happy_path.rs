//! An order for which everything goes well.

use oms_tests::{Shop, order};
use serde_json::json;

use crate::{STORY_OF_SUCCESS, event_types, sequences, step};

#[tokio::test]
async fn a_key_and_a_line_are_enough_for_a_confirmed_order() {
    let shop = Shop::open().await;
    let placed = shop.place(order("first", [("SKU-1", 2)]).settled()).await;
    assert_eq!((placed.errors.as_slice(), placed.replayed), (&[][..], false));

    let order = &placed.order;
    assert_eq!(order["status"], "CONFIRMED");
    assert_eq!(order["paymentStatus"], "PAID");
    assert_eq!(order["fulfillmentStatus"], "UNFULFILLED");
    assert_eq!(event_types(order), STORY_OF_SUCCESS);
    assert_eq!(sequences(order["events"].as_array().expect("events")), [1, 2, 3, 4, 5, 6]);
    assert_eq!(order["sequence"], 6);
    assert_eq!(order["failure"], json!(null));
    assert!(order["confirmedAt"].is_string() && order["failedAt"].is_null());
    // Two mugs of 12.50, 700 g: 4.90 of shipping, no tax outside the rate table's countries.
    assert_eq!(order["totals"]["items"]["amount"], "25.00");
    assert_eq!(order["totals"]["shipping"]["amount"], "4.90");
    assert_eq!(order["totals"]["tax"]["amount"], "0.00");
    assert_eq!(
        order["totals"]["total"],
        json!({ "amount": "29.90", "amountMinor": "2990", "currency": "USD" })
    );

    let payment = shop.db.gateway_payment(placed.id()).await.expect("the gateway knows the payment");
    assert_eq!((payment.captures, payment.captured_minor, payment.voided), (1, 2990, false));
    assert_eq!(shop.stock("SKU-1").await["reserved"], 2);
    shop.close().await;
}

#[tokio::test]
async fn each_step_is_attempted_once_and_says_when() {
    let shop = Shop::open().await;
    let placed = shop.place(order("steps", [("SKU-1", 1)]).settled()).await;
    assert_eq!(placed.order["process"]["state"], "SUCCEEDED");
    assert!(placed.order["process"]["currentStep"].is_null());
    for name in ["reserve_stock", "quote", "authorize_payment", "capture_payment", "confirm"] {
        let step = step(&placed.order, name);
        assert_eq!((&step["status"], &step["attempts"]), (&json!("SUCCEEDED"), &json!(1)), "{name}");
        assert!(step["startedAt"].is_string() && step["finishedAt"].is_string(), "{step}");
    }
    shop.close().await;
}

#[tokio::test]
async fn everything_the_client_said_comes_back() {
    let shop = Shop::open().await;
    let address = json!({
        "name": "Ada Lovelace", "line1": "Unter den Linden 1", "line2": "Hinterhaus", "city": "Berlin",
        "postalCode": "10117", "region": "BE", "country": "DE",
    });
    let input = order("all-fields", [("SKU-1", 1), ("SKU-3", 2)])
        .with("email", json!("ada@example.org"))
        .with("shippingAddress", address.clone())
        .with("shippingMethod", json!("express"))
        .with("externalReference", json!("web-17 ß 漢 🛒"))
        .settled();
    let placed = shop.place(input).await;

    let order = &placed.order;
    assert_eq!(order["status"], "CONFIRMED");
    assert_eq!(order["email"], "ada@example.org");
    assert_eq!(order["shippingAddress"], address);
    assert_eq!(order["shippingMethod"], "express");
    assert_eq!(order["externalReference"], "web-17 ß 漢 🛒");
    assert_eq!(
        order["lines"],
        json!([
            { "sku": "SKU-1", "name": "Coffee mug", "quantity": 1,
              "unitPrice": { "amount": "12.50" }, "total": { "amount": "12.50" } },
            { "sku": "SKU-3", "name": "Coffee beans, 1 kg", "quantity": 2,
              "unitPrice": { "amount": "24.00" }, "total": { "amount": "48.00" } },
        ])
    );
    // 19 % of 12.50 is 2.375, rounded half up; 7 % of 48.00 is 3.36. 2,450 g by express cost 14.90.
    assert_eq!(order["totals"]["tax"]["amount"], "5.74");
    assert_eq!(order["totals"]["shipping"]["amount"], "14.90");
    assert_eq!(order["totals"]["total"]["amount"], "81.14");
    shop.close().await;
}

#[tokio::test]
async fn an_order_of_250_lines_is_confirmed() {
    let shop = Shop::open().await;
    let line = json!({ "sku": "SKU-1", "quantity": 2 });
    let placed = shop.place(order("long", []).with("lines", json!(vec![line; 250])).settled()).await;
    assert_eq!(placed.order["status"], "CONFIRMED", "{:?}", placed.errors);
    assert_eq!(placed.order["lines"].as_array().map(Vec::len), Some(250));
    assert_eq!(shop.stock("SKU-1").await["reserved"], 500);
    shop.close().await;
}

#[tokio::test]
async fn without_wait_the_order_is_pending_and_goes_on_by_itself() {
    let shop = Shop::open().await;
    let placed = shop.place(order("pending", [("SKU-1", 1)]).card("tok_slow")).await;
    assert_eq!(placed.order["status"], "PENDING");
    assert!(placed.order["totals"].is_null() || placed.order["totals"].is_object());
    shop.db.wait_until_settled().await;
    assert_eq!(shop.order(placed.id()).await["status"], "CONFIRMED");
    shop.close().await;
}

#[tokio::test]
async fn a_wait_that_is_over_answers_with_the_pending_order() {
    let shop = Shop::open().await;
    let slow = order("short-wait", [("SKU-1", 1)]).card("tok_slow").with("waitMs", json!(1));
    let placed = shop.place(slow).await;
    assert_eq!(placed.order["status"], "PENDING");
    shop.close().await;
}

#[tokio::test]
async fn the_expected_total_is_accepted_when_it_is_right() {
    let shop = Shop::open().await;
    let total = json!({ "amount": "29.90", "currency": "USD" });
    let placed = shop.place(order("exact", [("SKU-1", 2)]).with("expectedTotal", total).settled()).await;
    assert_eq!(placed.order["status"], "CONFIRMED", "{:?}", placed.errors);
    shop.close().await;
}
