//! Nobody's slow queries, and nobody's many connections, stand in the way of the others.

use std::net::IpAddr;
use std::time::Duration;

use domain::app::Scope;
use domain::app::key::Secret;
use futures_util::StreamExt;
use futures_util::future::join_all;
use oms::config::Role;
use oms_tests::{Client, Shop, app_with_key, eventually, order, watch_over_sse, within};
use reqwest::StatusCode;
use reqwest::header::ACCEPT;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

/// Well below the ten seconds after which a query that waits for a lock is given up.
const AT_ONCE: Duration = Duration::from_secs(4);

/// Places an order and returns its id.
async fn place(client: &Client, key: &str) -> String {
    let place = "mutation ($input: PlaceOrderInput!) { placeOrder(input: $input) { order { id } } }";
    let input = order(key, [("SKU-1", 1)]).settled().into_value();
    let placed = client.execute(place, json!({ "input": input })).await;
    placed["placeOrder"]["order"]["id"].as_str().expect("an id").to_owned()
}

/// Lets every look of this app at an order wait until the connection is closed, and nobody else's.
async fn hold_up(shop: &Shop, app_id: Uuid) -> PgConnection {
    shop.db
        .execute(&format!(
            "CREATE FUNCTION is_let_through() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
                 IF current_setting('oms.visibility') LIKE '%{app_id}%' THEN
                     PERFORM pg_advisory_xact_lock_shared(1);
                 END IF;
                 RETURN true;
             END $$;
             CREATE POLICY held_up ON orders AS RESTRICTIVE FOR SELECT TO oms_reader USING (is_let_through());
             CREATE POLICY held_up ON order_events AS RESTRICTIVE FOR SELECT TO oms_reader
                 USING (is_let_through())"
        ))
        .await;
    let mut connection = PgConnection::connect(&shop.db.url()).await.expect("a connection");
    sqlx::raw_sql("SELECT pg_advisory_lock(1)").execute(&mut connection).await.expect("the lock");
    connection
}

/// Asks for one order in many ways, so that none shares the query of another, until half of the five connections wait.
async fn fill_share(shop: &Shop, client: &Client, id: &str) -> Vec<JoinHandle<(StatusCode, Value)>> {
    let fields =
        ["id", "status", "sequence", "number", "currency", "createdAt", "updatedAt", "paymentStatus"];
    let mut asking = Vec::new();
    for field in fields {
        let (client, id) = (client.clone(), id.to_owned());
        let query = format!("query ($id: ID!) {{ getOrder(id: $id) {{ {field} }} }}");
        asking.push(tokio::spawn(async move { client.send(&query, json!({ "id": id })).await }));
        // The first is on its way before the others ask.
        wait_until_waiting(shop, 1).await;
    }
    wait_until_waiting(shop, 3).await;
    asking
}

async fn wait_until_waiting(shop: &Shop, at_least: i64) {
    eventually("queries wait for the lock", async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock'";
        (shop.db.number(waiting).await >= at_least).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_app_whose_queries_wait_holds_up_no_other_app() {
    let shop = Shop::open_with(|args| args.access.dev_anonymous = false).await;
    let scopes = [Scope::OrdersWrite, Scope::OrdersRead];
    let slow_app = app_with_key(&shop.db.connection(), "slow", &scopes).await;
    let slow = shop.with(&slow_app.secret);
    let quick = shop.with(&app_with_key(&shop.db.connection(), "quick", &scopes).await.secret);
    let (of_slow, of_quick) = (place(&slow, "slow").await, place(&quick, "quick").await);

    let lock = hold_up(&shop, slow_app.app_id).await;
    let asking = fill_share(&shop, &slow, &of_slow).await;

    let read = "query ($id: ID!) { getOrder(id: $id) { id status } }";
    for _ in 0..10 {
        let answer = tokio::time::timeout(AT_ONCE, quick.execute(read, json!({ "id": of_quick }))).await;
        assert_eq!(answer.expect("answered at once")["getOrder"]["status"], "CONFIRMED");
    }
    assert!(asking.iter().any(|asked| !asked.is_finished()), "the lock still holds");
    lock.close().await.expect("unlocked");
    join_all(asking).await;
    shop.close().await;
}

#[tokio::test]
async fn an_app_whose_viewers_wait_holds_up_no_viewer_of_another() {
    let shop = Shop::open_with(|args| {
        args.access.dev_anonymous = false;
        // Whoever waits for its share waits for longer than the test does.
        args.process.acquire_timeout_ms = 25_000;
        args.limits.query_timeout_ms = 60_000;
    })
    .await;
    let scopes = [Scope::OrdersWrite, Scope::OrdersRead];
    let slow_app = app_with_key(&shop.db.connection(), "slow", &scopes).await;
    let slow = shop.with(&slow_app.secret);
    let quick = shop.with(&app_with_key(&shop.db.connection(), "quick", &scopes).await.secret);
    let (of_slow, of_quick) = (place(&slow, "slow").await, place(&quick, "quick").await);

    let lock = hold_up(&shop, slow_app.app_id).await;
    let asking = fill_share(&shop, &slow, &of_slow).await;
    let viewers = join_all((0..20).map(|_| watch_over_sse(&slow, &of_slow, None))).await;

    let updates = watch_over_sse(&quick, &of_quick, None).await;
    let updates: Vec<Value> =
        tokio::time::timeout(AT_ONCE, updates.collect()).await.expect("the story is told at once");
    assert_eq!(updates.last().expect("a story")["status"], "CONFIRMED");

    lock.close().await.expect("unlocked");
    join_all(asking).await;
    // They were patient, and see what they waited for.
    for updates in join_all(viewers.into_iter().map(|viewer| viewer.collect::<Vec<Value>>())).await {
        assert_eq!(updates.len(), 6);
    }
    shop.close().await;
}

/// Places orders and returns the access token and the id of each.
async fn place_with_tokens(client: &Client, count: usize) -> Vec<(Client, String)> {
    let place =
        "mutation ($input: PlaceOrderInput!) { placeOrder(input: $input) { order { id } accessToken } }";
    let mut placed = Vec::new();
    for n in 0..count {
        let input = order(&format!("shopper-{n}"), [("SKU-1", 1)]).into_value();
        let answer = client.execute(place, json!({ "input": input })).await;
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let answer = &answer["placeOrder"];
        placed.push((client.with(&text(&answer["accessToken"])), text(&answer["order"]["id"])));
    }
    placed
}

/// A connection from one of this machine's addresses, over which a request was sent.
async fn connect_from(shop: &Shop, address: [u8; 4]) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((address, 0).into()).expect("an address of this machine");
    let mut connection = socket.connect(shop.addr()).await.expect("a connection");
    let head = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    // One that is closed at once may not even take this.
    let _ = connection.write_all(head.as_bytes()).await;
    connection
}

async fn is_answered(connection: &mut TcpStream) -> bool {
    let mut answer = [0; 12];
    let read = within("an answer or the end", connection.read_exact(&mut answer)).await;
    read.is_ok() && &answer == b"HTTP/1.1 200"
}

#[tokio::test]
async fn one_address_does_not_take_all_connections() {
    let shop = Shop::open_with(|args| args.connections.max_connections = 4).await;
    let (one, other) = ([127, 0, 0, 2], [127, 0, 0, 3]);
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut connection = connect_from(&shop, one).await;
        assert!(is_answered(&mut connection).await);
        held.push(connection);
    }
    for _ in 0..6 {
        assert!(!is_answered(&mut connect_from(&shop, one).await).await, "it has its half");
    }
    assert!(is_answered(&mut connect_from(&shop, other).await).await);
    drop(held);
    eventually("its half is free again", async || {
        is_answered(&mut connect_from(&shop, one).await).await.then_some(())
    })
    .await;
    shop.close().await;
}

#[tokio::test]
async fn more_orders_open_no_more_than_the_shoppers_of_an_app_have_together() {
    let shop = Shop::open_with(|args| {
        args.access.dev_anonymous = false;
        // No order is ever settled, so that nothing ends a stream.
        args.process.role = Role::Api;
        args.access.shopper_points_per_second = 10;
        args.connections.max_shopper_streams = Some(2);
    })
    .await;
    let app = app_with_key(&shop.db.connection(), "app", &[Scope::OrdersWrite, Scope::OrdersRead]).await;
    let app = shop.with(&app.secret);
    let shoppers = place_with_tokens(&app, 4).await;

    let held = join_all(shoppers[..2].iter().map(|(shopper, id)| watch_over_sse(shopper, id, None))).await;
    let watch = |client: &Client| {
        let query = format!("subscription {{ orderStatus(orderId: \"{}\") {{ sequence }} }}", shoppers[2].1);
        client.post().header(ACCEPT, "text/event-stream").json(&json!({ "query": query })).send()
    };
    let refused = watch(&shoppers[2].0).await.expect("an answer");
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(watch(&app).await.expect("an answer").status(), StatusCode::OK);
    drop(held);

    // Each asks less than an order may by itself.
    let read = "query ($id: ID!) { getOrder(id: $id) { id status } }";
    let mut refused = 0;
    for (shopper, id) in shoppers.iter().cycle().take(400) {
        let (status, _) = shopper.send(read, json!({ "id": id })).await;
        refused += usize::from(status == StatusCode::TOO_MANY_REQUESTS);
    }
    assert!(refused > 0);
    assert_eq!(app.send(read, json!({ "id": shoppers[0].1 })).await.0, StatusCode::OK);
    shop.close_with_pending_orders().await;
}

/// Lets each look-up of a key take a third of a second.
async fn slow_down_keys(shop: &Shop) {
    shop.db
        .execute(
            "ALTER TABLE api_keys RENAME TO kept_api_keys;
             CREATE FUNCTION keys_slowly() RETURNS SETOF kept_api_keys LANGUAGE plpgsql AS $$ BEGIN
                 PERFORM pg_sleep(0.3);
                 RETURN QUERY SELECT * FROM kept_api_keys;
             END $$;
             CREATE VIEW api_keys AS SELECT * FROM keys_slowly()",
        )
        .await;
}

#[tokio::test]
async fn keys_that_one_address_makes_up_lock_out_nobody() {
    let shop = Shop::open_with(|args| args.access.dev_anonymous = false).await;
    let scopes = [Scope::OrdersWrite, Scope::OrdersRead];
    let app = app_with_key(&shop.db.connection(), "app", &scopes).await;
    let newcomer = app_with_key(&shop.db.connection(), "newcomer", &scopes).await;
    slow_down_keys(&shop).await;
    let shoppers = place_with_tokens(&shop.with(&app.secret), 2).await;

    let url = format!("http://{}/graphql", shop.addr());
    let from_there = reqwest::Client::builder().no_proxy().local_address(IpAddr::from([127, 0, 0, 2]));
    let from_there = from_there.build().expect("a client without TLS");
    let ask_from_there = move |credential: &str| {
        let request = from_there.post(&url).bearer_auth(credential);
        let asking = request.json(&json!({ "query": "{ __typename }" })).send();
        async move { asking.await.map(|answer| answer.status()) }
    };
    let is_shut_out = CancellationToken::new();
    let flood: Vec<_> = (0..40)
        .map(|_| {
            let (ask, is_shut_out) = (ask_from_there.clone(), is_shut_out.clone());
            AbortOnDropHandle::new(tokio::spawn(async move {
                loop {
                    let status = ask(Secret::generate().reveal()).await;
                    if status.is_ok_and(|status| status == StatusCode::SERVICE_UNAVAILABLE) {
                        is_shut_out.cancel();
                    }
                }
            }))
        })
        .collect();
    within("the flood has filled its queue", is_shut_out.cancelled()).await;

    let ok = Some(StatusCode::OK);
    assert_eq!(ask_from_there(&app.secret).await.ok(), ok, "a key that was seen before");
    let token = shoppers[0].0.credential().expect("a token");
    assert_eq!(ask_from_there(token).await.ok(), ok, "a token that is signed");
    let of_another = shop.with(&newcomer.secret);
    assert_eq!(of_another.send("{ __typename }", json!({})).await.0, StatusCode::OK, "a key from elsewhere");
    drop(flood);
    shop.close().await;
}
