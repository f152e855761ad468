//! What was done is undone, in reverse, and nothing but that.

use oms_tests::{Shop, eventually, order};
use serde_json::json;

use crate::{event_types, step};

#[tokio::test]
async fn a_refused_capture_makes_the_authorization_void_and_releases_the_stock() {
    let shop = Shop::open().await;
    let placed = shop.place(order("refused", [("SKU-4", 2)]).card("tok_capture_decline").settled()).await;
    let order = &placed.order;
    assert_eq!((&order["status"], &order["paymentStatus"]), (&json!("FAILED"), &json!("VOIDED")));
    assert_eq!(order["failure"]["code"], "CARD_DECLINED");
    assert_eq!(
        event_types(order),
        [
            "OrderPlaced",
            "StockReserved",
            "OrderQuoted",
            "PaymentAuthorized",
            "PaymentDeclined",
            "PaymentVoided",
            "StockReleased",
            "OrderFailed"
        ]
    );
    assert_eq!(step(order, "authorize_payment")["status"], "COMPENSATED");
    assert_eq!(step(order, "reserve_stock")["status"], "COMPENSATED");

    let payment = shop.db.gateway_payment(placed.id()).await.expect("the gateway knows the payment");
    assert_eq!((payment.captures, payment.voided), (0, true));
    assert_eq!(shop.stock("SKU-4").await["available"], 300);
    shop.close().await;
}

#[tokio::test]
async fn the_plan_is_written_before_anything_is_undone() {
    let shop = Shop::open().await;
    shop.place(order("planned", [("SKU-1", 1)]).card("tok_capture_decline").settled()).await;
    let plan = "SELECT detail #>> '{undo}' FROM saga_log WHERE kind = 'PLAN'";
    assert_eq!(shop.db.texts(plan).await, [r#"["authorize_payment", "reserve_stock"]"#]);
    let early = "SELECT undo.step FROM saga_log AS undo JOIN saga_log AS plan USING (saga_id)
                 WHERE plan.kind = 'PLAN' AND undo.kind = 'ATTEMPT' AND undo.direction = 'BACKWARD'
                   AND undo.epoch <= plan.epoch";
    assert_eq!(shop.db.texts(early).await, [] as [String; 0]);
    shop.close().await;
}

#[tokio::test]
async fn an_authorization_that_was_given_up_is_made_void_though_nobody_knows_whether_it_exists() {
    let shop = Shop::open().await;
    let placed = shop.place(order("unknown", [("SKU-4", 1)]).card("tok_down").settled()).await;
    let order = &placed.order;
    assert_eq!((&order["status"], &order["paymentStatus"]), (&json!("FAILED"), &json!("UNPAID")));
    assert_eq!(order["failure"]["code"], "PAYMENT_UNAVAILABLE");
    assert_eq!(step(order, "authorize_payment")["attempts"], 5);
    let payment = shop.db.gateway_payment(placed.id()).await.expect("the gateway was told");
    assert!(payment.voided, "an authorization that is still on its way is shut out");
    assert_eq!(shop.stock("SKU-4").await["available"], 300);
    shop.close().await;
}

#[tokio::test]
async fn an_undo_keeps_trying_until_it_succeeds_and_a_person_is_told() {
    let shop = Shop::open().await;
    // The capture is given no answer until the card is changed: it refuses, and the undo of the authorization fails.
    let placed = shop.place(order("stubborn", [("SKU-4", 1)]).card("tok_capture_down")).await;
    eventually("the capture was tried", async || {
        shop.db
            .gateway_attempts(placed.id())
            .await
            .into_keys()
            .any(|key| key.contains("capture"))
            .then_some(())
    })
    .await;
    // A capture that the gateway refuses for a void payment; the void itself then answers with server errors.
    shop.db.execute("UPDATE simulated_gateway_payments SET token = 'tok_void_down', voided = true").await;
    eventually("the undo was tried past its patience", async || {
        shop.db.fire_timers().await;
        let tries =
            "SELECT coalesce(max(attempts), 0)::bigint FROM simulated_gateway_calls WHERE operation = 'void'";
        (shop.db.number(tries).await >= 6).then_some(())
    })
    .await;
    let stuck = "SELECT count(*) FROM saga WHERE stuck_since IS NOT NULL AND status = 'COMPENSATING'";
    eventually("a person is told", async || (shop.db.number(stuck).await == 1).then_some(())).await;
    assert_eq!(shop.order(placed.id()).await["status"], "PENDING", "not failed while money may be promised");

    shop.db.execute("UPDATE simulated_gateway_payments SET token = 'tok_approve', voided = false").await;
    eventually("the undo succeeded", async || {
        shop.db.fire_timers().await;
        (shop.order(placed.id()).await["status"] == "FAILED").then_some(())
    })
    .await;
    assert_eq!(shop.order(placed.id()).await["paymentStatus"], "VOIDED");
    assert_eq!(shop.stock("SKU-4").await["available"], 300);
    shop.close().await;
}
