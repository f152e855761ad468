//! Every viewer sees every event of its order once and in sequence, whenever it comes and however often it goes.

use std::collections::HashSet;

use futures_util::future::join_all;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryFutureExt};
use oms_tests::{
    Client, Server, Shop, Socket, TestDatabase, order, watch_over_sse, watch_over_websocket, within,
};
use serde_json::{Value, json};

use crate::{STORY_OF_SUCCESS, sequences};

/// How a viewer is connected.
#[derive(Debug, Clone, Copy)]
enum Over {
    WebSocket,
    Sse,
}

const BOTH: [Over; 2] = [Over::WebSocket, Over::Sse];

async fn watch(over: Over, client: &Client, id: &str, after: Option<i64>) -> BoxStream<'static, Value> {
    match over {
        Over::WebSocket => watch_over_websocket(client.addr(), id, after).await,
        Over::Sse => watch_over_sse(client, id, after).await,
    }
}

/// Watches to the end.
async fn watch_all(over: Over, client: &Client, id: &str, after: Option<i64>) -> Vec<Value> {
    let updates = watch(over, client, id, after).await;
    within("the story is complete", updates.collect()).await
}

fn types(updates: &[Value]) -> Vec<&str> {
    updates.iter().filter_map(|update| update["event"]["type"].as_str()).collect()
}

#[tokio::test]
async fn a_viewer_from_the_start_sees_the_whole_story_and_its_end() {
    for over in BOTH {
        let shop = Shop::open().await;
        let placed = shop.place(order("live", [("SKU-1", 1)]).card("tok_slow")).await;
        let updates = watch_all(over, &shop, placed.id(), None).await;
        assert_eq!(types(&updates), STORY_OF_SUCCESS, "{over:?}");
        assert_eq!(sequences(&updates), [1, 2, 3, 4, 5, 6]);
        let last = &updates[5];
        assert_eq!((&last["status"], &last["order"]["status"]), (&json!("CONFIRMED"), &json!("CONFIRMED")));
        assert!(updates.iter().all(|update| update["orderId"] == placed.order["id"]));
        shop.close().await;
    }
}

#[tokio::test]
async fn a_viewer_that_joins_after_the_end_sees_the_whole_story() {
    let shop = Shop::open().await;
    let placed = shop.place(order("late", [("SKU-1", 1)]).settled()).await;
    for over in BOTH {
        let updates = watch_all(over, &shop, placed.id(), None).await;
        assert_eq!(types(&updates), STORY_OF_SUCCESS, "{over:?}");
    }
    shop.close().await;
}

#[tokio::test]
async fn a_viewer_that_drops_resumes_where_it_was() {
    for over in BOTH {
        let shop = Shop::open().await;
        let placed = shop.place(order("resumed", [("SKU-1", 1)]).card("tok_slow")).await;
        let before = watch(over, &shop, placed.id(), None).await;
        // The slow card leaves the order pending while the connection breaks.
        let mut seen: Vec<Value> = within("two updates", before.take(2).collect()).await;
        let after = seen[1]["sequence"].as_i64();
        seen.extend(watch_all(over, &shop, placed.id(), after).await);
        assert_eq!(sequences(&seen), [1, 2, 3, 4, 5, 6], "{over:?}");
        shop.close().await;
    }
}

#[tokio::test]
async fn resuming_after_the_last_event_ends_at_once() {
    let shop = Shop::open().await;
    let placed = shop.place(order("over", [("SKU-1", 1)]).settled()).await;
    for over in BOTH {
        for after in [6, 7, i64::from(i32::MAX)] {
            assert_eq!(watch_all(over, &shop, placed.id(), Some(after)).await, [] as [Value; 0]);
        }
        assert_eq!(sequences(&watch_all(over, &shop, placed.id(), Some(4)).await), [5, 6]);
        assert_eq!(watch_all(over, &shop, placed.id(), Some(-1)).await.len(), 6);
    }
    shop.close().await;
}

#[tokio::test]
async fn a_failed_order_ends_its_stream_too() {
    let shop = Shop::open().await;
    let placed = shop.place(order("failed", [("SKU-1", 1)]).card("tok_decline")).await;
    for over in BOTH {
        let updates = watch_all(over, &shop, placed.id(), None).await;
        let last = updates.last().expect("a story");
        assert_eq!((&last["status"], &last["event"]["type"]), (&json!("FAILED"), &json!("OrderFailed")));
        assert_eq!(last["event"]["data"]["code"], "CARD_DECLINED");
    }
    shop.close().await;
}

/// Subscribes with a query of one's own, and returns the payloads of the updates, or the errors.
async fn subscribe_as(over: Over, client: &Client, query: &str, id: &str) -> Vec<Value> {
    let payload = json!({ "query": query, "variables": { "id": id } });
    let mut payloads = Vec::new();
    match over {
        Over::WebSocket => {
            let mut socket = Socket::connect(client.addr()).await;
            socket.send(json!({ "id": "1", "type": "subscribe", "payload": payload })).await;
            loop {
                let mut message = socket.receive().await.expect("the socket stays open");
                match message["type"].as_str() {
                    Some("next") => payloads.push(message["payload"].take()),
                    Some("error") => return vec![json!({ "errors": message["payload"].take() })],
                    _ => return payloads,
                }
            }
        }
        Over::Sse => {
            let request = client.post().header("accept", "text/event-stream").json(&payload);
            let answer = within("an answer", request.send()).await.expect("the server answers");
            let text = within("its end", answer.text()).await.expect("text");
            let data = text.lines().filter_map(|line| line.strip_prefix("data:"));
            payloads.extend(data.filter_map(|data| serde_json::from_str::<Value>(data.trim()).ok()));
            payloads
        }
    }
}

#[tokio::test]
async fn the_root_field_may_stand_in_a_fragment() {
    let shop = Shop::open().await;
    let placed = shop.place(order("told", [("SKU-1", 1)]).settled()).await;
    for over in BOTH {
        for query in [
            "subscription ($id: ID!) { ...F } fragment F on Subscription { orderStatus(id: $id) { sequence } }",
            "subscription ($id: ID!) { ... on Subscription { ... { orderStatus(id: $id) { ...U } } } } \
             fragment U on OrderStatusUpdate { sequence }",
        ] {
            let updates = subscribe_as(over, &shop, query, placed.id()).await;
            let seen: Vec<i64> = updates
                .iter()
                .filter_map(|update| update["data"]["orderStatus"]["sequence"].as_i64())
                .collect();
            assert_eq!(seen, [1, 2, 3, 4, 5, 6], "{over:?} {query}: {updates:?}");
        }
    }
    shop.close().await;
}

#[tokio::test]
async fn a_subscription_with_anything_but_one_root_field_is_refused() {
    let shop = Shop::open().await;
    let placed = shop.place(order("told", [("SKU-1", 1)]).settled()).await;
    for selection in [
        "a: orderStatus(id: $id) { sequence } b: orderStatus(id: $id) { sequence }",
        "orderStatus(id: $id) { sequence } ... { orderStatus(id: $id) { status } }",
        "orderStatus(id: $id) { sequence } __typename",
        "...Missing",
    ] {
        let query = format!("subscription ($id: ID!) {{ {selection} }}");
        for over in BOTH {
            let answers = subscribe_as(over, &shop, &query, placed.id()).await;
            let code = &answers[0]["errors"][0]["extensions"]["code"];
            assert_eq!(
                (answers.len(), code),
                (1, &json!("GRAPHQL_VALIDATION_FAILED")),
                "{over:?} {query}: {answers:?}"
            );
        }
        let request = shop.post().header("accept", "application/graphql-response+json");
        let body = json!({ "query": query, "variables": { "id": placed.id() } });
        let answer = request.json(&body).send().await.expect("an answer");
        if selection != "...Missing" {
            assert_eq!(answer.status(), 422, "{query}");
        }
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_viewers_of_many_orders_each_see_every_event_once() {
    let shop = Shop::open().await;
    let orders = (0..12).map(|n| shop.place(order(&format!("crowd-{n}"), [("SKU-1", 1)]).card("tok_slow")));
    let orders = join_all(orders).await;
    let viewers = orders.iter().flat_map(|placed| {
        let client = &shop;
        (0..4).map(move |n| watch_all(BOTH[n % 2], client, placed.id(), None))
    });
    for updates in join_all(viewers).await {
        assert_eq!(types(&updates), STORY_OF_SUCCESS);
        assert_eq!(sequences(&updates), [1, 2, 3, 4, 5, 6]);
        assert_eq!(
            updates.iter().map(|update| update["orderId"].to_string()).collect::<HashSet<_>>().len(),
            1
        );
    }
    shop.close().await;
}

#[tokio::test]
async fn one_socket_carries_many_subscriptions() {
    let shop = Shop::open().await;
    let mut socket = Socket::connect(shop.addr()).await;
    let (mut expected, mut seen) = (Vec::new(), Vec::new());
    for n in 0..5 {
        let placed = shop.place(order(&format!("shared-{n}"), [("SKU-1", 1)])).await;
        socket.subscribe(&n.to_string(), placed.id(), None).await;
        expected.extend((1..=6).map(|sequence| (n.to_string(), sequence)));
    }
    let mut open = 5;
    while open > 0 {
        let message = socket.receive().await.expect("the socket stays open");
        let id = message["id"].as_str().expect("an id").to_owned();
        match message["type"].as_str() {
            Some("complete") => open -= 1,
            _ => {
                let sequence = message["payload"]["data"]["orderStatus"]["sequence"].as_i64();
                seen.push((id, sequence.expect("an update")));
            }
        }
    }
    // Sequences of one order come in order; orders may be interleaved.
    seen.sort_by(|(left, _), (right, _)| left.cmp(right));
    assert_eq!(seen, expected);
    shop.close().await;
}

#[tokio::test]
async fn a_viewer_at_one_server_sees_what_a_runner_in_another_does() {
    let db = TestDatabase::create().await;
    let (viewed, working) = tokio::join!(
        Server::start_with(&db, |args| args.process.role = oms::config::Role::Api),
        Server::start_with(&db, |args| args.process.role = oms::config::Role::Runner),
    );
    let client = viewed.client();
    let placed = client.place(order("elsewhere", [("SKU-1", 1)]).card("tok_slow")).await;
    for updates in join_all(BOTH.map(|over| watch_all(over, &client, placed.id(), None))).await {
        assert_eq!(types(&updates), STORY_OF_SUCCESS);
    }
    tokio::join!(viewed.stop(), working.stop());
    db.close().await;
}

#[tokio::test]
async fn a_viewer_of_a_stopping_server_is_told_and_resumes_at_the_next() {
    let db = TestDatabase::create().await;
    let first = Server::start(&db).await;
    let placed = first.client().place(order("moved", [("SKU-1", 1)]).card("tok_capture_down")).await;
    let mut socket = Socket::connect(first.client().addr()).await;
    socket.subscribe("1", placed.id(), None).await;
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let mut message = socket.receive().await.expect("the first four events");
        seen.push(message["payload"]["data"]["orderStatus"].take());
    }
    let stopping = tokio::spawn(first.stop());
    // 1001: going away (RFC 6455, section 7.4.1).
    assert_eq!(socket.receive().await, Err(1001));
    within("the server has stopped", stopping.unwrap_or_else(|error| panic!("{error}"))).await;

    db.execute("UPDATE simulated_gateway_payments SET token = 'tok_approve'").await;
    db.fire_timers().await;
    let second = Server::start(&db).await;
    let after = seen.last().expect("four events")["sequence"].as_i64();
    seen.extend(watch_all(Over::WebSocket, &second.client(), placed.id(), after).await);
    assert_eq!(types(&seen), STORY_OF_SUCCESS);
    second.stop().await;
    db.close().await;
}

#[tokio::test]
async fn an_event_stream_goes_on_after_the_last_event_that_the_client_names() {
    let shop = Shop::open().await;
    let id = shop.place(order("a", [("SKU-1", 1)]).settled()).await.id().to_owned();
    let query = format!("subscription {{ story: orderStatus(id: \"{id}\") {{ sequence }} }}");
    let stream = async |last_event_id: Option<&str>| {
        let mut request = shop.post().header("accept", "text/event-stream").json(&json!({ "query": query }));
        if let Some(last_event_id) = last_event_id {
            request = request.header("last-event-id", last_event_id);
        }
        let response = within("an answer", request.send()).await.expect("the server answers");
        let status = response.status().as_u16();
        (status, within("the end of the stream", response.text()).await.expect("text"))
    };
    let ids = |text: &str| -> Vec<String> {
        text.lines().filter_map(|line| line.strip_prefix("id: ")).map(str::to_owned).collect()
    };
    let (_, whole) = stream(None).await;
    assert_eq!(ids(&whole), ["1", "2", "3", "4", "5", "6"]);
    let (_, rest) = stream(Some("4")).await;
    assert_eq!(ids(&rest), ["5", "6"], "{rest}");
    assert!(rest.contains("event: complete"), "{rest}");
    let (status, refused) = stream(Some("nonsense")).await;
    assert_eq!(status, 400, "{refused}");
    shop.close().await;
}
