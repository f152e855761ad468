//! What was done is undone, in reverse, and nothing but that.

use oms::config::Role;
use oms_tests::{Server, Shop, TestDatabase, eventually, order, uuid_of};
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
async fn an_authorization_that_the_database_has_forgotten_is_made_void() {
    // The database was failed over to a replica that has not heard of the authorizations. The gateway has: of one under
    // the same key, with the total of earlier rates; of the other under another key.
    let db = TestDatabase::create().await;
    let api = Server::start_with(&db, |args| args.process.role = Role::Api).await;
    let same_key = api.client().place(order("same-key", [("SKU-4", 1)])).await;
    let other_key = api.client().place(order("other-key", [("SKU-4", 1)])).await;
    api.stop().await;
    for (placed, generation) in [(&same_key, 1), (&other_key, 2)] {
        let id = uuid_of(placed.id());
        db.execute(&format!(
            "INSERT INTO simulated_gateway_calls (idempotency_key, operation, reference, request, attempts, answer)
             VALUES ('{id}:authorize_payment:forward:{generation}', 'authorize', '{id}', '{{}}', 1,
                     '{{ \"succeeded\": {{ \"id\": \"auth_{id}\" }} }}')"
        ))
        .await;
        db.execute(&format!(
            "INSERT INTO simulated_gateway_payments (reference, token, authorized_minor) VALUES ('{id}', 'tok_approve', 1)"
        ))
        .await;
    }

    let server = Server::start(&db).await;
    db.wait_until_settled().await;
    for placed in [same_key, other_key] {
        let order = server.client().order(placed.id()).await;
        assert_eq!((&order["status"], &order["paymentStatus"]), (&json!("FAILED"), &json!("UNPAID")));
        assert_eq!(order["failure"]["code"], "PAYMENT_UNAVAILABLE");
        let payment = db.gateway_payment(placed.id()).await.expect("the gateway knows the payment");
        assert_eq!((payment.captures, payment.voided), (0, true));
    }
    server.stop().await;
    db.close().await;
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
