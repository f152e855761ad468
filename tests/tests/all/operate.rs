//! What operators see of sagas and do to them, over GraphQL and on the command line.
//!
//! A saga that a test looks at is parked first: its timer is put off for an hour, so that nothing moves by itself.

use std::process::{Output, Stdio};

use oms::config::Role;
use oms_tests::{Client, GatewayPayment, Server, Shop, TestDatabase, eventually, oms_command, order, within};
use serde_json::{Value, json};

use crate::{OMS, event_types, step};

const SAGA: &str = "orderId state step direction attempts stuckSince waitsFor waitsUntil inDoubt error
    failure { code message } possibleActs explanation order { status }
    history { kind step direction attempt outcome idempotencyKey text startedAt finishedAt }";

const BULK: &str = "matched count dryRun sagas { orderId waitsFor } endCursor
    userErrors { __typename code path message ... on SagaBusyError { orderId } ... on SagaOverError { orderId }
        ... on ActNotPossibleError { orderId } ... on NotFoundError { orderId } }";

async fn saga(client: &Client, order_id: &str) -> Value {
    let query = format!("query ($id: ID!) {{ saga(orderId: $id) {{ {SAGA} }} }}");
    client.execute(&query, json!({ "id": order_id })).await["saga"].take()
}

async fn sagas(client: &Client, filter: Value) -> Vec<String> {
    let query = "query ($filter: SagaFilter) { sagas(filter: $filter) { nodes { orderId } } }";
    let data = client.execute(query, json!({ "filter": filter })).await;
    let nodes = data["sagas"]["nodes"].as_array().expect("a list").iter();
    nodes.map(|node| node["orderId"].as_str().expect("an id").to_owned()).collect()
}

/// Acts on the saga of one order and returns the payload.
async fn act(client: &Client, mutation: &str, order_id: &str) -> Value {
    act_on(client, mutation, json!({ "filter": { "orderIds": [order_id] } })).await
}

async fn act_on(client: &Client, mutation: &str, mut input: Value) -> Value {
    input["by"] = json!("ada");
    input["reason"] = json!("the gateway is back");
    let query = format!("mutation ($input: ActOnSagasInput!) {{ {mutation}(input: $input) {{ {BULK} }} }}");
    client.execute(&query, json!({ "input": input })).await[mutation].take()
}

async fn resolve(client: &Client, order_id: &str, finding: (&str, &str)) -> Value {
    let query = "mutation ($input: ResolveSagaInput!) { resolveSaga(input: $input) {
        saga { state waitsFor } userErrors { code path message } } }";
    let mut input = json!({ "orderId": order_id, "by": "ada", "evidence": "seen in the dashboard" });
    input[finding.0] = json!(finding.1);
    client.execute(query, json!({ "input": input })).await["resolveSaga"].take()
}

/// Puts the saga's timer off as soon as it waits for one in the given state; hurries it until then.
async fn park(db: &TestDatabase, order_id: &str, state: &str) {
    let id = oms_tests::uuid_of(order_id);
    eventually("the saga is parked", async || {
        let parked = sqlx::query(sqlx::AssertSqlSafe(format!(
            "UPDATE saga_timer SET due_at = now() + interval '59 min 30 s' FROM saga
             WHERE saga.id = saga_id AND saga_id = '{id}' AND {state}"
        )));
        let parked = parked.execute(db.pool()).await.expect("the timer can be set");
        if parked.rows_affected() == 1 {
            return Some(());
        }
        db.fire_timers().await;
        None
    })
    .await;
}

/// Places an order whose authorization is given no answer, and parks it while it is retried.
async fn retrying(shop: &Shop, key: &str) -> String {
    let placed = shop.place(order(key, [("SKU-4", 2)]).card("tok_down")).await;
    let id = oms_tests::uuid_of(placed.id());
    eventually("it is retried", async || {
        let parked = sqlx::query(sqlx::AssertSqlSafe(format!(
            "UPDATE saga_timer SET due_at = now() + interval '59 min 30 s' WHERE saga_id = '{id}'"
        )));
        (parked.execute(shop.db.pool()).await.expect("the timer can be set").rows_affected() == 1)
            .then_some(())
    })
    .await;
    placed.id().to_owned()
}

/// Places an order whose capture is given no answer until a person should look, and parks it.
async fn stuck(shop: &Shop, key: &str) -> String {
    let placed = shop.place(order(key, [("SKU-4", 1)]).card("tok_capture_down")).await;
    park(&shop.db, placed.id(), "saga.stuck_since IS NOT NULL").await;
    placed.id().to_owned()
}

/// Places such an order, and makes it so old that another attempt would not be safe.
async fn held(shop: &Shop, key: &str) -> String {
    let order_id = stuck(shop, key).await;
    let id = oms_tests::uuid_of(&order_id);
    shop.db.execute(&format!("UPDATE saga SET step_since = now() - interval '25 h' WHERE id = '{id}'")).await;
    assert_eq!(act(shop, "retrySagas", &order_id).await["count"], 1);
    eventually("it is held", async || (saga(shop, &order_id).await["state"] == "HELD").then_some(())).await;
    order_id
}

/// Returns what the order's events say operators did.
fn acts(order: &Value) -> Vec<Value> {
    let events = order["events"].as_array().expect("an order has events").iter();
    events.filter(|event| event["type"] == "OperatorActed").map(|event| event["data"].clone()).collect()
}

async fn settled(shop: &Shop, order_id: &str) -> Value {
    shop.db.wait_until_settled().await;
    shop.order(order_id).await
}

async fn payment(shop: &Shop, order_id: &str) -> GatewayPayment {
    shop.db.gateway_payment(order_id).await.expect("the gateway knows the payment")
}

/// Puts a number sign in place of everything that differs from run to run.
fn redacted(explanation: &Value) -> String {
    let lines = explanation.as_array().expect("a list of sentences").iter();
    let redact = |word: &str| {
        let bare = word.trim_end_matches(['.', ',', ';', ':']);
        let varies = bare.contains(|character: char| character.is_ascii_digit());
        let is_unit = ["ms", "s", "min", "h"].contains(&bare);
        let end = &word[bare.len()..];
        if varies || is_unit { format!("#{end}") } else { word.to_owned() }
    };
    let redact_line = |line: &Value| {
        let words = line.as_str().expect("a sentence").split(' ').map(redact);
        words.collect::<Vec<_>>().join(" ")
    };
    lines.map(redact_line).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn sagas_are_listed_by_each_filter() {
    let shop = Shop::open().await;
    let confirmed = shop.place(order("good", [("SKU-1", 1)]).settled()).await;
    let declined = shop.place(order("bad", [("SKU-1", 1)]).card("tok_decline").settled()).await;
    let stuck = stuck(&shop, "stuck").await;
    let held = held(&shop, "held").await;
    let retrying = retrying(&shop, "retrying").await;
    let (confirmed, declined) = (confirmed.id().to_owned(), declined.id().to_owned());

    let on_their_way = [stuck.clone(), held.clone(), retrying.clone()];
    assert_eq!(sagas(&shop, json!(null)).await, on_their_way, "those that are over are left out");
    assert_eq!(sagas(&shop, json!({ "state": "RUNNING" })).await, [stuck.as_str(), retrying.as_str()]);
    assert_eq!(sagas(&shop, json!({ "state": "HELD" })).await, [held.as_str()]);
    assert_eq!(sagas(&shop, json!({ "state": "SUCCEEDED" })).await, [confirmed.as_str()]);
    assert_eq!(sagas(&shop, json!({ "state": "COMPENSATED" })).await, [declined.as_str()]);
    assert_eq!(sagas(&shop, json!({ "stuck": true })).await, [stuck.as_str(), held.as_str()]);
    assert_eq!(sagas(&shop, json!({ "step": "authorize_payment" })).await, [retrying.as_str()]);
    assert_eq!(
        sagas(&shop, json!({ "step": "capture_payment", "state": "RUNNING" })).await,
        [stuck.as_str()]
    );
    assert_eq!(sagas(&shop, json!({ "olderThanSeconds": 86400 })).await, [held.as_str()]);
    assert_eq!(sagas(&shop, json!({ "error": "SERVER error" })).await, on_their_way);
    assert_eq!(sagas(&shop, json!({ "error": "declined" })).await, [] as [&str; 0], "those are over");
    assert_eq!(
        sagas(&shop, json!({ "error": "declined", "state": "COMPENSATED" })).await,
        [declined.as_str()]
    );
    let by_id = json!({ "orderIds": [retrying, confirmed, "order_01jx2v3q8kf0v8c9m5w6r7t2ab", "nonsense"] });
    assert_eq!(sagas(&shop, by_id).await, [confirmed, retrying]);
    shop.close_with_pending_orders().await;
}

#[tokio::test]
async fn a_list_is_read_page_by_page() {
    let shop = Shop::open().await;
    let mut placed = Vec::new();
    for key in ["a", "b", "c"] {
        placed.push(retrying(&shop, key).await);
    }
    let query = "query ($after: String) { sagas(first: 2, after: $after) {
        nodes { orderId } pageInfo { hasNextPage hasPreviousPage endCursor } } }";
    let first = shop.execute(query, json!({})).await;
    let page = &first["sagas"];
    assert_eq!(page["nodes"], json!([{ "orderId": placed[0] }, { "orderId": placed[1] }]));
    assert_eq!(page["pageInfo"]["hasNextPage"], true);
    let second = shop.execute(query, json!({ "after": page["pageInfo"]["endCursor"] })).await;
    assert_eq!(second["sagas"]["nodes"], json!([{ "orderId": placed[2] }]));
    assert_eq!(second["sagas"]["pageInfo"]["hasNextPage"], false);
    shop.close_with_pending_orders().await;
}

#[tokio::test]
async fn a_retrying_saga_is_explained() {
    let shop = Shop::open().await;
    let id = retrying(&shop, "retrying").await;
    let saga = saga(&shop, &id).await;
    insta::assert_snapshot!(redacted(&saga["explanation"]), @"
    It is at authorize_payment, step # of #, and has been there for # #.
    Its last attempt did not succeed: the gateway answered with a server error.
    An attempt ended unknown, so it may have taken effect there. The other system knows it by the key #.
    Next: attempt # begins in # #.
    After # attempts without success it is given up and undone.
    You can retry it (try now instead of then), abandon it (undo what was done) or resolve it (say on evidence how the call ended).
    ");
    assert_eq!(saga["possibleActs"], json!(["RETRY", "ABANDON", "RESOLVE"]));
    assert_eq!((&saga["waitsFor"], &saga["order"]["status"]), (&json!("TIME"), &json!("PENDING")));
    shop.close_with_pending_orders().await;
}

#[tokio::test]
async fn a_stuck_saga_is_explained() {
    let shop = Shop::open().await;
    let id = stuck(&shop, "stuck").await;
    let saga = saga(&shop, &id).await;
    insta::assert_snapshot!(redacted(&saga["explanation"]), @"
    It is at capture_payment, step # of #, and has been there for # #.
    Its last attempt did not succeed: the gateway answered with a server error.
    An attempt ended unknown, so it may have taken effect there. The other system knows it by the key #.
    It has needed a person for # #.
    Next: attempt # begins in # #.
    It is tried until #; then the other system may have forgotten the key, and it is held for a person.
    You can retry it (try now instead of then) or resolve it (say on evidence how the call ended).
    ");
    assert_eq!(saga["possibleActs"], json!(["RETRY", "RESOLVE"]));
    let key = format!("{}:capture_payment:forward:1", oms_tests::uuid_of(&id));
    let last = saga["history"].as_array().and_then(|history| history.last()).expect("a history");
    assert_eq!((&last["idempotencyKey"], &last["outcome"]), (&json!(key), &json!("UNKNOWN")));
    shop.close_with_pending_orders().await;
}

#[tokio::test]
async fn a_held_saga_is_explained_and_goes_on_when_it_is_resumed() {
    let shop = Shop::open().await;
    let id = held(&shop, "held").await;
    insta::assert_snapshot!(redacted(&saga(&shop, &id).await["explanation"]), @"
    It is held at capture_payment, step # of #, and has been there for # #.
    Its last attempt did not succeed: the gateway answered with a server error.
    An attempt ended unknown, so it may have taken effect there. The other system knows it by the key #.
    It has needed a person for # #.
    Next: nothing, until a person decides.
    You can resume it (try again under the same key) or resolve it (say on evidence how the call ended).
    ");

    shop.db.execute("UPDATE simulated_gateway_payments SET token = 'tok_approve'").await;
    let resumed = act(&shop, "resumeSagas", &id).await;
    assert_eq!((&resumed["count"], &resumed["userErrors"]), (&json!(1), &json!([])));
    let order = settled(&shop, &id).await;
    assert_eq!(order["status"], "CONFIRMED");
    assert_eq!(payment(&shop, &id).await.captures, 1);
    let keys = shop.db.gateway_attempts(&id).await;
    assert_eq!(keys.len(), 2, "an authorization and a capture, each under one key: {keys:?}");
    shop.close().await;
}

#[tokio::test]
async fn a_resumed_saga_is_held_again_and_keeps_the_age_of_its_key() {
    let shop = Shop::open().await;
    let id = held(&shop, "held").await;
    let since = saga(&shop, &id).await["history"].as_array().map(Vec::len);
    assert_eq!(act(&shop, "resumeSagas", &id).await["count"], 1);
    eventually("it is held again", async || {
        shop.db.fire_timers().await;
        let saga = saga(&shop, &id).await;
        (saga["state"] == "HELD" && saga["history"].as_array().map(Vec::len) > since).then_some(())
    })
    .await;
    let age = "SELECT count(*) FROM saga WHERE status = 'HELD' AND step_since < now() - interval '24 h'";
    assert_eq!(shop.db.number(age).await, 1);
    shop.close_with_pending_orders().await;
}

#[tokio::test]
async fn a_saga_that_is_over_is_explained() {
    let shop = Shop::open().await;
    let confirmed = shop.place(order("good", [("SKU-1", 1)]).settled()).await;
    let declined = shop.place(order("bad", [("SKU-1", 1)]).card("tok_capture_decline").settled()).await;
    insta::assert_snapshot!(redacted(&saga(&shop, confirmed.id()).await["explanation"]), @"Every step succeeded; it has been over for # #.");
    let saga = saga(&shop, declined.id()).await;
    insta::assert_snapshot!(redacted(&saga["explanation"]), @"
    What had been done was undone; it has been over for # #.
    It turned round because of CARD_DECLINED: the card was declined.
    ");
    assert_eq!(saga["possibleActs"], json!([]));
    let history = saga["history"].as_array().expect("a history").iter();
    let plan = history.into_iter().find(|entry| entry["kind"] == "PLAN").expect("a plan");
    assert_eq!(
        plan["text"],
        "undo authorize_payment, reserve_stock, because of CARD_DECLINED: the card was declined"
    );
    shop.close().await;
}

#[tokio::test]
async fn a_capture_in_doubt_is_not_sent_again_once_its_key_may_be_forgotten() {
    let shop = Shop::open().await;
    let order_id = stuck(&shop, "old").await;
    let id = oms_tests::uuid_of(&order_id);
    let sent = format!("SELECT count(*) FROM saga_log WHERE saga_id = '{id}' AND step = 'capture_payment'");
    let before = shop.db.number(&sent).await;
    shop.db.execute(&format!("UPDATE saga SET step_since = now() - interval '25 h' WHERE id = '{id}'")).await;
    // Whatever makes it ready: a timer that was due over a weekend, a process that comes back, a person.
    shop.db.execute("UPDATE saga_timer SET due_at = now()").await;
    eventually("it is held", async || (saga(&shop, &order_id).await["state"] == "HELD").then_some(())).await;
    let attempts = "AND kind = 'ATTEMPT'";
    assert_eq!(shop.db.number(&format!("{sent} {attempts}")).await, before, "and nothing was sent");
    // Somebody vouches for one more attempt.
    shop.db.execute("UPDATE simulated_gateway_payments SET token = 'tok_approve'").await;
    assert_eq!(act(&shop, "resumeSagas", &order_id).await["count"], 1);
    assert_eq!(settled(&shop, &order_id).await["status"], "CONFIRMED");
    assert_eq!(payment(&shop, &order_id).await.captures, 1);
    shop.close().await;
}

#[tokio::test]
async fn an_order_whose_events_cannot_be_written_is_parked_at_the_step_that_says_them() {
    let db = TestDatabase::create().await;
    let api = Server::start_with(&db, |args| args.process.role = Role::Api).await;
    let client = api.client();
    let orders = (0..40).map(|n| client.place(order(&format!("many-{n}"), [("SKU-1", 1)])));
    let placed = futures_util::future::join_all(orders).await;
    let culprit = oms_tests::uuid_of(placed[17].id());
    // As no code of ours ever leaves it: an order that is over, and its saga only begins.
    db.execute(&format!("UPDATE orders SET status = 'FAILED' WHERE id = '{culprit}'")).await;
    let server = Server::start(&db).await;
    eventually("all but one are confirmed, and that one waits alone", async || {
        let confirmed = "SELECT count(*) FROM orders WHERE status = 'CONFIRMED'";
        let parked = format!(
            "SELECT count(*) FROM saga_log WHERE saga_id = '{culprit}' AND step = 'reserve_stock' AND outcome = 'RETRY'"
        );
        (db.number(confirmed).await == 39 && db.number(&parked).await >= 1).then_some(())
    })
    .await;
    let of_culprit = format!("SELECT count(*) FROM order_events WHERE order_id = '{culprit}'");
    assert_eq!(db.number(&of_culprit).await, 1, "what could not be told did not happen");
    let reserved = format!("SELECT count(*) FROM reservations WHERE order_id = '{culprit}'");
    assert_eq!(db.number(&reserved).await, 0);
    db.execute(&format!("UPDATE orders SET status = 'PENDING' WHERE id = '{culprit}'")).await;
    db.wait_until_settled().await;
    let story = server.client().order(placed[17].id()).await;
    assert!(["CONFIRMED", "FAILED"].contains(&story["status"].as_str().unwrap_or_default()), "{story}");
    tokio::join!(api.stop(), server.stop());
    db.close().await;
}

#[tokio::test]
async fn a_retry_does_not_wait_for_the_timer() {
    let shop = Shop::open().await;
    let id = stuck(&shop, "stuck").await;
    shop.db.execute("UPDATE simulated_gateway_payments SET token = 'tok_approve'").await;
    let retried = act_on(&shop, "retrySagas", json!({ "filter": { "stuck": true } })).await;
    assert_eq!((&retried["matched"], &retried["count"]), (&json!(1), &json!(1)));
    let order = settled(&shop, &id).await;
    assert_eq!(order["status"], "CONFIRMED");
    let expected =
        json!({ "act": "retry", "by": "ada", "via": "anonymous", "reason": "the gateway is back" });
    assert_eq!(acts(&order), [expected]);
    assert_eq!(payment(&shop, &id).await.captures, 1);
    shop.close().await;
}

#[tokio::test]
async fn a_retry_keeps_the_age_of_the_key() {
    let shop = Shop::open().await;
    let id = stuck(&shop, "stuck").await;
    let times = async || {
        let query = "query ($id: ID!) { saga(orderId: $id) { stepSince stuckSince } }";
        shop.execute(query, json!({ "id": id })).await["saga"].take()
    };
    let before = times().await;
    let attempts = saga(&shop, &id).await["attempts"].clone();
    assert_eq!(act(&shop, "retrySagas", &id).await["count"], 1);
    eventually("it was tried again", async || {
        (saga(&shop, &id).await["attempts"].as_i64() > attempts.as_i64()).then_some(())
    })
    .await;
    assert_eq!(times().await, before, "an act is neither an arrival nor a success");
    shop.close_with_pending_orders().await;
}

#[tokio::test]
async fn abandoning_before_the_pivot_restores_the_stock_and_makes_the_payment_void() {
    let shop = Shop::open().await;
    let id = retrying(&shop, "abandoned").await;
    assert_eq!(shop.stock("SKU-4").await["available"], 298);
    let abandoned = act(&shop, "abandonSagas", &id).await;
    assert_eq!((&abandoned["count"], &abandoned["userErrors"]), (&json!(1), &json!([])));

    let order = settled(&shop, &id).await;
    assert_eq!(order["status"], "FAILED");
    assert_eq!(order["failure"], json!({ "code": "ABANDONED", "message": "it was called off" }));
    assert_eq!(
        event_types(&order),
        ["OrderPlaced", "StockReserved", "OrderQuoted", "OperatorActed", "StockReleased", "OrderFailed"]
    );
    assert_eq!(
        acts(&order),
        [json!({ "act": "abandon", "by": "ada", "via": "anonymous", "reason": "the gateway is back" })]
    );
    assert_eq!(shop.stock("SKU-4").await["available"], 300);
    assert!(payment(&shop, &id).await.voided, "an authorization that is still on its way is shut out");
    shop.close().await;
}

#[tokio::test]
async fn two_operators_abandon_a_saga_once() {
    let shop = Shop::open().await;
    let id = retrying(&shop, "twice").await;
    let (left, right) = tokio::join!(act(&shop, "abandonSagas", &id), act(&shop, "abandonSagas", &id));
    let done = left["count"].as_i64().unwrap_or(0) + right["count"].as_i64().unwrap_or(0);
    assert_eq!(done, 1, "{left} {right}");
    assert_eq!(acts(&settled(&shop, &id).await).len(), 1);
    shop.close().await;
}

#[tokio::test]
async fn a_saga_is_not_abandoned_while_nobody_knows_whether_its_pivot_took_effect() {
    let shop = Shop::open().await;
    let (stuck, held) = (stuck(&shop, "stuck").await, held(&shop, "held").await);
    for id in [&stuck, &held] {
        let refused = act(&shop, "abandonSagas", id).await;
        assert_eq!(refused["count"], 0);
        assert_eq!(
            refused["userErrors"],
            json!([{
                "__typename": "ActNotPossibleError", "code": "ACT_NOT_POSSIBLE", "path": ["input", "filter"],
                "orderId": id,
                "message": "it cannot be abandoned: nobody knows whether the point of no return was passed; resolve \
                            that first",
            }])
        );
    }
    assert_eq!(acts(&shop.order(&stuck).await), [] as [Value; 0], "nothing was written");
    shop.close_with_pending_orders().await;
}

#[tokio::test]
async fn a_step_that_cannot_run_fails_no_order_until_a_person_says_so() {
    let db = TestDatabase::create().await;
    let api = Server::start_with(&db, |args| args.process.role = Role::Api).await;
    let placed = api.client().place(order("broken", [("SKU-4", 2)])).await;
    let id = placed.id();
    api.stop().await;
    db.execute("UPDATE saga SET state = '\"?\"'").await;

    let server = Server::start(&db).await;
    let client = server.client();
    park(&db, id, "saga.stuck_since IS NOT NULL AND saga.attempt > 5").await;
    assert_eq!(client.order(id).await["status"], "PENDING");
    let stuck = saga(&client, id).await;
    assert_eq!(stuck["possibleActs"], json!(["RETRY", "ABANDON"]));
    insta::assert_snapshot!(redacted(&stuck["explanation"]), @r#"
    It is at quote, step # of #, and has been there for # #.
    Its last attempt did not succeed: the saga's state cannot be read or written: invalid type: string "?", expected struct State.
    It has needed a person for # #.
    Next: attempt # begins in # #.
    It is tried until its step can run.
    You can retry it (try now instead of then) or abandon it (undo what was done).
    "#);
    assert_eq!(act(&client, "abandonSagas", id).await["count"], 1);
    db.wait_until_settled().await;
    assert_eq!(client.order(id).await["failure"]["code"], "ABANDONED");
    server.stop().await;
    db.close().await;
}

#[tokio::test]
async fn a_saga_is_not_abandoned_past_its_pivot() {
    let db = TestDatabase::create().await;
    let server = Server::start(&db).await;
    let placed = server.client().place(order("past", [("SKU-4", 1)]).card("tok_capture_down")).await;
    park(&db, placed.id(), "saga.stuck_since IS NOT NULL").await;
    server.stop().await;
    db.execute("UPDATE simulated_gateway_payments SET captured_minor = authorized_minor, captures = 1").await;

    // Without a runner it stays where it is put.
    let api = Server::start_with(&db, |args| args.process.role = Role::Api).await;
    let client = api.client();
    let resolved = resolve(&client, placed.id(), ("succeeded", "capture_1")).await;
    assert_eq!(resolved, json!({ "saga": { "state": "RUNNING", "waitsFor": "RUNNER" }, "userErrors": [] }));
    let refused = act(&client, "abandonSagas", placed.id()).await;
    let message = "it cannot be abandoned: it is past the point of no return";
    assert_eq!(refused["userErrors"][0]["message"], message);
    let refused = act(&client, "retrySagas", placed.id()).await;
    assert_eq!(refused["userErrors"][0]["code"], "ACT_NOT_POSSIBLE", "it is ready already");
    api.stop().await;

    let server = Server::start(&db).await;
    db.wait_until_settled().await;
    assert_eq!(server.client().order(placed.id()).await["status"], "CONFIRMED");
    server.stop().await;
    db.close().await;
}

#[tokio::test]
async fn a_stuck_capture_that_was_taken_is_resolved_as_succeeded() {
    let shop = Shop::open().await;
    let id = stuck(&shop, "taken").await;
    let taken = "UPDATE simulated_gateway_payments SET captured_minor = authorized_minor, captures = 1";
    shop.db.execute(taken).await;
    assert_eq!(resolve(&shop, &id, ("succeeded", "capture_1")).await["userErrors"], json!([]));

    let order = settled(&shop, &id).await;
    assert_eq!((&order["status"], &order["paymentStatus"]), (&json!("CONFIRMED"), &json!("PAID")));
    assert_eq!(
        event_types(&order)[4..],
        ["OperatorActed", "PaymentCaptured", "OrderConfirmed"],
        "what follows from the act follows in the story"
    );
    assert_eq!(
        acts(&order),
        [json!({ "act": "resolve", "by": "ada", "via": "anonymous", "reason": "seen in the dashboard" })]
    );
    assert_eq!(step(&order, "capture_payment")["status"], "SUCCEEDED");
    let history = saga(&shop, &id).await["history"].take();
    let act = history.as_array().and_then(|history| history.iter().find(|entry| entry["kind"] == "OPERATOR"));
    let act = act.expect("the saga's history names the operator as well");
    assert_eq!(
        (&act["text"], &act["outcome"]),
        (&json!("resolve by ada: seen in the dashboard"), &json!("SUCCEEDED"))
    );
    shop.close().await;
}

#[tokio::test]
async fn a_stuck_capture_that_was_refused_is_resolved_and_undone() {
    let shop = Shop::open().await;
    let id = stuck(&shop, "refused").await;
    assert_eq!(resolve(&shop, &id, ("refused", "CARD_DECLINED")).await["userErrors"], json!([]));

    let order = settled(&shop, &id).await;
    assert_eq!((&order["status"], &order["paymentStatus"]), (&json!("FAILED"), &json!("VOIDED")));
    assert_eq!(order["failure"]["code"], "CARD_DECLINED");
    assert_eq!(
        event_types(&order)[4..],
        ["OperatorActed", "PaymentDeclined", "PaymentVoided", "StockReleased", "OrderFailed"]
    );
    assert_eq!(step(&order, "capture_payment")["status"], "FAILED");
    assert_eq!(shop.stock("SKU-4").await["available"], 300);
    let payment = payment(&shop, &id).await;
    assert_eq!((payment.captures, payment.voided), (0, true));
    shop.close().await;
}

#[tokio::test]
async fn a_void_that_is_refused_again_and_again_is_resolved_once_a_person_has_seen_to_it() {
    let shop = Shop::open().await;
    let card = "tok_capture_decline+void_decline";
    let placed = shop.place(order("refused-void", [("SKU-4", 1)]).card(card)).await;
    let id = placed.id();
    park(&shop.db, id, "saga.stuck_since IS NOT NULL").await;
    let before = saga(&shop, id).await;
    assert_eq!((&before["inDoubt"], &before["direction"]), (&json!(false), &json!("BACKWARD")));
    assert_eq!(before["possibleActs"], json!(["RETRY", "RESOLVE"]));

    shop.db.execute("UPDATE simulated_gateway_payments SET voided = true").await;
    assert_eq!(resolve(&shop, id, ("succeeded", "void_by_phone")).await["userErrors"], json!([]));
    let order = settled(&shop, id).await;
    assert_eq!((&order["status"], &order["paymentStatus"]), (&json!("FAILED"), &json!("VOIDED")));
    assert_eq!(
        event_types(&order)[4..],
        ["PaymentDeclined", "OperatorActed", "PaymentVoided", "StockReleased", "OrderFailed"]
    );
    assert_eq!(shop.stock("SKU-4").await["available"], 300);
    shop.close().await;
}

#[tokio::test]
async fn what_is_neither_in_doubt_nor_stuck_is_not_resolved() {
    let shop = Shop::open().await;
    let confirmed = shop.place(order("good", [("SKU-1", 1)]).settled()).await;
    let refused = resolve(&shop, confirmed.id(), ("refused", "NO")).await;
    assert_eq!(refused["userErrors"][0]["code"], "SAGA_OVER");
    let refused = resolve(&shop, "order_01jx2v3q8kf0v8c9m5w6r7t2ab", ("refused", "NO")).await;
    let not_found = json!([{ "code": "NOT_FOUND", "path": ["input", "orderId"],
        "message": "there is no order \"order_01jx2v3q8kf0v8c9m5w6r7t2ab\"" }]);
    assert_eq!(refused["userErrors"], not_found);
    let refused = resolve(&shop, confirmed.id(), ("succeeded", " ")).await;
    assert_eq!(refused["userErrors"][0]["path"], json!(["input", "succeeded"]));
    shop.close().await;
}

#[tokio::test]
async fn a_saga_that_awaits_an_answer_is_left_to_it() {
    let shop = Shop::open().await;
    let placed = shop.place(order("slow", [("SKU-1", 1)]).card("tok_slow")).await;
    eventually("the call is open", async || {
        (shop.db.number("SELECT count(*) FROM saga_call").await == 1).then_some(())
    })
    .await;
    let refused = act(&shop, "abandonSagas", placed.id()).await;
    assert_eq!(refused["userErrors"][0]["code"], "SAGA_BUSY", "{refused}");
    assert_eq!(settled(&shop, placed.id()).await["status"], "CONFIRMED");
    shop.close().await;
}

#[tokio::test]
async fn a_saga_in_other_hands_is_left_to_them() {
    let shop = Shop::open().await;
    let id = retrying(&shop, "taken").await;
    let mut lease = shop.db.pool().begin().await.expect("a transaction");
    sqlx::query("SELECT FROM saga_timer FOR UPDATE").execute(&mut *lease).await.expect("the row is locked");
    let refused = act(&shop, "abandonSagas", &id).await;
    assert_eq!(refused["userErrors"][0]["code"], "SAGA_BUSY", "{refused}");
    assert_eq!(acts(&shop.order(&id).await), [] as [Value; 0], "nothing was written");

    lease.rollback().await.expect("the lease is given back");
    assert_eq!(act(&shop, "abandonSagas", &id).await["count"], 1);
    assert_eq!(settled(&shop, &id).await["status"], "FAILED");
    shop.close().await;
}

#[tokio::test]
async fn a_dry_run_says_what_would_be_done_and_changes_nothing() {
    let shop = Shop::open().await;
    let (stuck, retrying) = (stuck(&shop, "stuck").await, retrying(&shop, "retrying").await);
    let rows =
        "SELECT (saga.*)::text || coalesce(due_at::text, '') FROM saga LEFT JOIN saga_timer ON saga_id = id
                ORDER BY id";
    let (before, census) = (shop.db.texts(rows).await, shop.db.census().await);

    let input = json!({ "filter": { "error": "server error" }, "dryRun": true });
    let answer = act_on(&shop, "abandonSagas", input).await;
    assert_eq!(
        (&answer["matched"], &answer["count"], &answer["dryRun"]),
        (&json!(2), &json!(1), &json!(true))
    );
    assert_eq!(answer["sagas"], json!([{ "orderId": retrying, "waitsFor": "TIME" }]));
    assert_eq!(answer["userErrors"][0]["orderId"], json!(stuck));
    let resolved =
        run(&shop.db, &["resolve", &stuck, "--refused", "NO", "--evidence", "x", "--dry-run"]).await;
    assert!(resolved.status.success(), "{resolved:?}");
    let retried = run(&shop.db, &["retry", "--stuck", "--reason", "x", "--dry-run"]).await;
    assert!(said(&retried).starts_with("1 saga matches; it can be retried now"), "{retried:?}");

    assert_eq!((shop.db.texts(rows).await, shop.db.census().await), (before, census));
    shop.close_with_pending_orders().await;
}

#[tokio::test]
async fn a_filter_without_a_condition_acts_on_nothing() {
    let shop = Shop::open().await;
    let id = retrying(&shop, "retrying").await;
    for filter in [
        json!({}),
        json!({ "stuck": false }),
        json!({ "step": "nonsense" }),
        json!({ "olderThanSeconds": -1 }),
    ] {
        let refused = act_on(&shop, "abandonSagas", json!({ "filter": filter })).await;
        assert_eq!(refused["userErrors"][0]["code"], "INVALID_INPUT", "{refused}");
    }
    let none = act_on(&shop, "abandonSagas", json!({ "filter": { "orderIds": [] } })).await;
    assert_eq!((&none["matched"], &none["userErrors"]), (&json!(0), &json!([])));
    assert_eq!(acts(&shop.order(&id).await), [] as [Value; 0]);
    shop.close_with_pending_orders().await;
}

async fn run(db: &TestDatabase, arguments: &[&str]) -> Output {
    let arguments: Vec<&str> = ["sagas"].into_iter().chain(arguments.iter().copied()).collect();
    let mut command = oms_command(OMS, db, &arguments);
    within("the command has ended", command.stdin(Stdio::null()).output()).await.expect("oms-under-test runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn the_command_line_lists_and_explains() {
    let shop = Shop::open().await;
    assert_eq!(said(&run(&shop.db, &["list"]).await), "no saga matches\n");
    let id = stuck(&shop, "stuck").await;
    let listed =
        said(&run(&shop.db, &["list", "--stuck", "--state", "running", "--step", "capture_payment"]).await);
    let [header, line] = listed.lines().collect::<Vec<_>>()[..] else { panic!("{listed}") };
    assert!(header.starts_with("ORDER"), "{listed}");
    assert!(line.starts_with(&id) && line.contains("RUNNING (stuck)"), "{listed}");

    let listed = run(&shop.db, &["list", "--error", "SERVER", "--json"]).await;
    let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    assert_eq!((&listed[0]["orderId"], &listed[0]["inDoubt"]), (&json!(id), &json!(true)));
    let listed = run(&shop.db, &["list", "--older-than", "1h", "--json"]).await;
    assert_eq!(said(&listed), "[]\n");

    let explained = said(&run(&shop.db, &["explain", &id]).await);
    assert!(explained.contains("It is at capture_payment, step 4 of 5"), "{explained}");
    assert!(explained.contains(&format!("oms sagas retry {id} --reason TEXT")), "{explained}");
    assert!(explained.contains("the gateway answered with a server error"), "{explained}");
    let unknown = run(&shop.db, &["explain", "order_01jx2v3q8kf0v8c9m5w6r7t2ab"]).await;
    assert_eq!(unknown.status.code(), Some(1));
    shop.close_with_pending_orders().await;
}

#[tokio::test]
async fn the_command_line_acts_by_filter_only_when_told_to_go_on() {
    let shop = Shop::open().await;
    let id = stuck(&shop, "stuck").await;
    shop.db.execute("UPDATE simulated_gateway_payments SET token = 'tok_approve'").await;
    let retry = ["retry", "--stuck", "--reason", "the gateway is back", "--by", "ada"];
    let refused = run(&shop.db, &retry).await;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--yes"), "{refused:?}");
    assert_eq!(acts(&shop.order(&id).await), [] as [Value; 0]);

    let retried = run(&shop.db, &[&retry[..], &["--yes"]].concat()).await;
    assert!(retried.status.success(), "{retried:?}");
    assert!(said(&retried).ends_with("retried 1 of 1 saga\n"), "{retried:?}");
    let order = settled(&shop, &id).await;
    assert_eq!(order["status"], "CONFIRMED");
    assert_eq!(
        acts(&order),
        [json!({ "act": "retry", "by": "ada", "via": "command line", "reason": "the gateway is back" })]
    );
    shop.close().await;
}

#[tokio::test]
async fn the_command_line_names_each_saga_it_could_not_act_on_and_exits_1() {
    let shop = Shop::open().await;
    let confirmed = shop.place(order("good", [("SKU-1", 1)]).settled()).await;
    let id = retrying(&shop, "retrying").await;
    let abandoned = run(&shop.db, &["abandon", &id, confirmed.id(), "--reason", "the customer called"]).await;
    assert_eq!(abandoned.status.code(), Some(1), "{abandoned:?}");
    let text = said(&abandoned);
    assert!(text.starts_with("abandoned 1 of 2 sagas\n"), "{text}");
    assert!(text.contains(confirmed.id()) && text.contains("it is over"), "{text}");
    let order = settled(&shop, &id).await;
    assert_eq!(order["failure"]["message"], "it was called off", "the reason is between operators");
    assert_eq!(acts(&order)[0]["reason"], "the customer called");

    for wrong in
        [vec!["retry", "--reason", "x"], vec!["retry", "--stuck", &id, "--reason", "x"], vec!["retry", &id]]
    {
        assert_eq!(run(&shop.db, &wrong).await.status.code(), Some(2), "{wrong:?}");
    }
    shop.close().await;
}
