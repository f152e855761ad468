//! The feed of changes loses nothing and doubles nothing.

use std::collections::HashSet;
use std::sync::Arc;

use domain::app::Scope;
use oms_tests::{Client, Shop, app_with_key, order};
use serde_json::{Value, json};

const CHANGES: &str = "query ($after: String, $first: Int!) { changes(after: $after, first: $first) {
    nodes { cursor order { id status } event { sequence type data } } endCursor hasNextPage } }";

/// Reads on from a cursor until there is no more, and returns what came and where it ends.
async fn read_on(client: &Client, mut after: Value, first: i32) -> (Vec<(String, i64)>, Value) {
    let mut seen = Vec::new();
    loop {
        let page = client.execute(CHANGES, json!({ "after": after, "first": first })).await["changes"].take();
        for change in page["nodes"].as_array().expect("a list") {
            let id = change["order"]["id"].as_str().expect("an order that is seen").to_owned();
            seen.push((id, change["event"]["sequence"].as_i64().expect("a number")));
        }
        after = page["endCursor"].clone();
        if page["hasNextPage"] == false {
            return (seen, after);
        }
    }
}

#[tokio::test]
async fn a_poller_sees_each_event_once_while_many_write() {
    let shop = Arc::new(Shop::open().await);
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let shop = Arc::clone(&shop);
            tokio::spawn(async move {
                for n in 0..10 {
                    shop.place(order(&format!("{writer}-{n}"), [("SKU-1", 1)])).await;
                }
            })
        })
        .collect();
    let (mut seen, mut after) = (Vec::new(), Value::Null);
    while !writers.iter().all(tokio::task::JoinHandle::is_finished) {
        let (more, end) = read_on(&shop, after, 7).await;
        seen.extend(more);
        after = end;
    }
    shop.db.wait_until_settled().await;
    shop.db.wait_until_feed_is_complete().await;
    let (more, end) = read_on(&shop, after, 100).await;
    seen.extend(more);
    let distinct: HashSet<&(String, i64)> = seen.iter().collect();
    assert_eq!(distinct.len(), seen.len(), "an event came twice");
    assert_eq!(seen.len() as i64, shop.db.number("SELECT count(*) FROM order_events").await);
    assert_eq!(read_on(&shop, end, 100).await.0, []);
    // The events of one order come in sequence.
    for id in seen.iter().map(|(id, _)| id).collect::<HashSet<_>>() {
        let sequences: Vec<i64> = seen.iter().filter(|(other, _)| other == id).map(|(_, n)| *n).collect();
        assert!(sequences.is_sorted(), "{id}: {sequences:?}");
    }
    Arc::into_inner(shop).expect("the writers are done").close().await;
}

#[tokio::test]
async fn a_transaction_that_is_left_open_holds_the_feed_back_and_nothing_is_skipped() {
    let shop = Shop::open().await;
    let first = shop.place(order("first", [("SKU-1", 1)]).settled()).await.id().to_owned();
    shop.db.wait_until_feed_is_complete().await;
    let (seen, after) = read_on(&shop, Value::Null, 100).await;
    assert_eq!(seen.len(), 6);

    let mut open = shop.db.pool().begin().await.expect("a transaction");
    let event = "INSERT INTO order_events (order_id, sequence, type, status, data)
                 SELECT id, 7, 'Noted', status, '{}' FROM orders WHERE idempotency_key = 'first'";
    sqlx::query(event).execute(&mut *open).await.expect("an event");
    let second = shop.place(order("second", [("SKU-1", 1)]).settled()).await.id().to_owned();
    let (seen, after) = read_on(&shop, after, 100).await;
    assert_eq!(seen, [], "what committed later waits for what began earlier");
    open.commit().await.expect("it commits");
    shop.db.wait_until_feed_is_complete().await;
    let (seen, _) = read_on(&shop, after, 100).await;
    assert_eq!(seen[0], (first, 7));
    let expected: Vec<(String, i64)> = (1..=6).map(|sequence| (second.clone(), sequence)).collect();
    assert_eq!(seen[1..], expected);
    // The books would miss the order that has counted to seven.
    shop.db.execute("DELETE FROM order_events WHERE type = 'Noted'").await;
    shop.close().await;
}

#[tokio::test]
async fn an_app_is_fed_its_own_orders_alone_and_a_bad_cursor_is_refused() {
    let shop = Shop::open_with(|args| args.access.dev_anonymous = false).await;
    let db = shop.db.connection();
    let a = shop.with(&app_with_key(&db, "a", &[Scope::OrdersWrite]).await.secret);
    let b = shop.with(&app_with_key(&db, "b", &[Scope::OrdersWrite]).await.secret);
    let place = "mutation ($input: PlaceOrderInput!) { placeOrder(input: $input) { order { id } } }";
    for (client, key) in [(&a, "a"), (&b, "b"), (&a, "c")] {
        let input = order(key, [("SKU-1", 1)]).settled().into_value();
        client.execute(place, json!({ "input": input })).await;
    }
    shop.db.wait_until_feed_is_complete().await;
    assert_eq!(
        (read_on(&a, Value::Null, 5).await.0.len(), read_on(&b, Value::Null, 5).await.0.len()),
        (12, 6)
    );
    let [(_, of_a), (_, of_b)] = [read_on(&a, Value::Null, 100).await, read_on(&b, Value::Null, 100).await];
    let (_, again) = read_on(&b, of_b.clone(), 100).await;
    let [of_a, of_b, again] = [of_a, of_b, again].map(|cursor| cursor.as_str().expect("a cursor").to_owned());
    // Nothing has moved, and whether something has cannot be told.
    assert_ne!(of_b, again);
    assert_eq!(of_b.len(), again.len());
    // As cursors of other lists are written.
    let plain = "393939393a00000000000000000000000000000000003a30";
    for cursor in ["", "nonsense", "00", plain, &of_a] {
        let (_, answer) = b.send(CHANGES, json!({ "after": cursor, "first": 5 })).await;
        assert_eq!(answer["errors"][0]["extensions"]["code"], "INVALID_INPUT", "{answer}");
    }
    shop.close().await;
}

#[tokio::test]
async fn events_of_a_restored_dump_are_the_oldest_of_the_feed() {
    let shop = Shop::open().await;
    shop.place(order("before", [("SKU-1", 1)]).settled()).await;
    // As a dump of a cluster that has seen far more transactions leaves them.
    shop.db.execute("UPDATE order_events SET xid = '5000000000'").await;
    assert_eq!(read_on(&shop, Value::Null, 100).await.0, [], "hidden until the counter has come there");
    migration::migrate(&shop.db.connection()).await.expect("the schema is current");
    let after = shop.place(order("after", [("SKU-1", 1)]).settled()).await.id().to_owned();
    shop.db.wait_until_feed_is_complete().await;
    let (seen, _) = read_on(&shop, Value::Null, 100).await;
    assert_eq!(seen.len(), 12);
    assert!(seen[6..].iter().all(|(id, _)| *id == after), "{seen:?}");
    shop.close().await;
}

#[tokio::test]
async fn a_page_of_the_feed_reads_no_more_orders_than_it_looks_at_events() {
    let shop = Shop::open().await;
    shop.place(order("a", [("SKU-1", 1)]).settled()).await;
    let mut connection = shop.db.pool().acquire().await.expect("a connection");
    for statement in
        ["SET ROLE oms_reader", "SET oms.visibility = 'apps:{00000000-0000-0000-0000-000000000001}'"]
    {
        sqlx::query(statement).execute(&mut *connection).await.expect("it may");
    }
    let plan = "EXPLAIN SELECT * FROM order_events WHERE xid > '0' ORDER BY xid LIMIT 10";
    let plan: Vec<String> = sqlx::query_scalar(plan).fetch_all(&mut *connection).await.expect("a plan");
    // A hashed subplan would read every order there is.
    assert!(!plan.join("\n").contains("hashed"), "{plan:#?}");
    sqlx::query("RESET ROLE").execute(&mut *connection).await.expect("it may");
    sqlx::query("RESET oms.visibility").execute(&mut *connection).await.expect("it may");
    drop(connection);
    shop.close().await;
}
