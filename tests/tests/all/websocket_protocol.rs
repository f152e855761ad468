//! The rules of `graphql-transport-ws`, each breach with its close code.

use oms_tests::{Shop, Socket, order};
use serde_json::json;

#[tokio::test]
async fn each_breach_of_the_protocol_has_its_close_code() {
    let shop = Shop::open().await;
    let subscribe = json!({ "id": "1", "type": "subscribe", "payload": { "query": "{ __typename }" } });

    let mut unintroduced = Socket::open(shop.addr()).await;
    unintroduced.send(subscribe).await;
    assert_eq!(unintroduced.receive().await, Err(4401));

    let mut eager = Socket::connect(shop.addr()).await;
    eager.send(json!({ "type": "connection_init" })).await;
    assert_eq!(eager.receive().await, Err(4429));

    let mut confused = Socket::connect(shop.addr()).await;
    confused.send(json!({ "type": "start", "id": "1" })).await;
    assert_eq!(confused.receive().await, Err(4400));

    let mut silent = Socket::open(shop.addr()).await;
    assert_eq!(silent.receive().await, Err(4408), "three seconds to introduce oneself");
    shop.close().await;
}

#[tokio::test]
async fn an_id_that_is_in_use_closes_the_socket_and_a_free_one_is_used_again() {
    let shop = Shop::open().await;
    let placed = shop.place(order("slow", [("SKU-1", 1)]).card("tok_slow")).await;
    let mut socket = Socket::connect(shop.addr()).await;
    socket.subscribe("1", placed.id(), None).await;
    assert_eq!(socket.receive().await.expect("an update")["type"], "next");
    socket.send(json!({ "id": "1", "type": "complete" })).await;
    socket.subscribe("1", placed.id(), Some(2)).await;
    socket.subscribe("1", placed.id(), None).await;
    let code = loop {
        if let Err(code) = socket.receive().await {
            break code;
        }
    };
    assert_eq!(code, 4409);
    shop.close().await;
}

#[tokio::test]
async fn a_ping_is_answered_and_queries_work_as_well() {
    let shop = Shop::open().await;
    let mut socket = Socket::connect(shop.addr()).await;
    socket.send(json!({ "type": "ping", "payload": { "n": 1 } })).await;
    assert_eq!(socket.receive().await, Ok(json!({ "type": "pong", "payload": { "n": 1 } })));
    socket.send(json!({ "id": "q", "type": "subscribe", "payload": { "query": "{ __typename }" } })).await;
    let answer = socket.receive().await.expect("an answer");
    assert_eq!((&answer["id"], &answer["type"]), (&json!("q"), &json!("next")));
    assert_eq!(answer["payload"]["data"], json!({ "__typename": "Query" }));
    assert!(answer["payload"].get("errors").is_none(), "{answer}");
    assert_eq!(socket.receive().await, Ok(json!({ "id": "q", "type": "complete" })));
    shop.close().await;
}

#[tokio::test]
async fn watching_an_order_that_is_not_there_is_an_error_and_the_socket_lives_on() {
    let shop = Shop::open().await;
    let mut socket = Socket::connect(shop.addr()).await;
    for id in ["order_01jx2v3q8kf0v8c9m5w6r7t2ab", "nonsense", ""] {
        socket.subscribe("1", id, None).await;
        let answer = socket.receive().await.expect("the socket stays open");
        let errors =
            if answer["type"] == "error" { &answer["payload"] } else { &answer["payload"]["errors"] };
        assert_eq!(errors[0]["extensions"]["code"], "NOT_FOUND", "{answer}");
        if answer["type"] == "next" {
            assert_eq!(socket.receive().await, Ok(json!({ "id": "1", "type": "complete" })));
        }
    }
    socket.send(json!({ "id": "2", "type": "subscribe", "payload": { "query": "{ __typename " } })).await;
    assert_eq!(socket.receive().await.expect("the socket stays open")["type"], "error");
    shop.close().await;
}

#[tokio::test]
async fn a_socket_without_our_subprotocol_is_closed_with_4406_and_a_page_of_another_origin_is_not_let_in() {
    let shop = Shop::open().await;
    let mut socket = Socket::open_as(shop.addr(), None, None).await.expect("it is accepted first");
    assert_eq!(socket.receive().await, Err(4406));
    let protocol = Some("graphql-transport-ws");
    assert_eq!(Socket::open_as(shop.addr(), protocol, Some("https://evil.example")).await.err(), Some(403));
    let own = format!("http://{}", shop.addr());
    assert!(Socket::open_as(shop.addr(), protocol, Some(&own)).await.is_ok());
    shop.close().await;
}

#[tokio::test]
async fn a_socket_carries_a_hundred_operations_and_messages_of_64_kilobytes() {
    let shop = Shop::open().await;
    // Its card never answers, so that its story does not end.
    let id = shop.place(order("open", [("SKU-1", 1)]).card("tok_down")).await.id().to_owned();
    let mut socket = Socket::connect(shop.addr()).await;
    for n in 0..100 {
        socket.subscribe(&n.to_string(), &id, Some(1_000)).await;
    }
    socket.subscribe("one more", &id, Some(1_000)).await;
    let refused = loop {
        let message = socket.receive().await.expect("the socket stays open");
        if message["id"] == "one more" {
            break message;
        }
    };
    assert_eq!(refused["type"], "error", "{refused}");
    assert!(refused["payload"][0]["message"].to_string().contains("100"), "{refused}");
    socket.send(json!({ "type": "ping", "payload": { "long": "x".repeat(64 * 1024) } })).await;
    assert_eq!(socket.receive().await, Err(1009));
    shop.close_with_pending_orders().await;
}

#[tokio::test]
async fn messages_that_are_none_close_the_socket() {
    let shop = Shop::open().await;
    for first in [json!({ "type": "connection_init", "payload": [] }), json!({ "type": "start" })] {
        let mut socket = Socket::open(shop.addr()).await;
        socket.send(first).await;
        assert_eq!(socket.receive().await, Err(4400));
    }
    let mut socket = Socket::connect(shop.addr()).await;
    socket.send(json!({ "id": "1", "type": "subscribe", "payload": {} })).await;
    assert_eq!(socket.receive().await, Err(4400));
    shop.close().await;
}

#[tokio::test]
async fn what_a_socket_carries_and_how_long_it_waits_are_settings() {
    let shop = Shop::open_with(|args| {
        args.connections.max_message_bytes = 1_000;
        args.connections.max_operations = 1;
        args.connections.init_timeout_ms = 200;
    })
    .await;
    let begun = std::time::Instant::now();
    let mut silent = Socket::open(shop.addr()).await;
    assert_eq!(silent.receive().await, Err(4408));
    assert!(begun.elapsed() < std::time::Duration::from_secs(3), "{:?}", begun.elapsed());

    let id = shop.place(order("open", [("SKU-1", 1)]).card("tok_down")).await.id().to_owned();
    let mut socket = Socket::connect(shop.addr()).await;
    for operation in ["1", "2"] {
        socket.subscribe(operation, &id, Some(1_000)).await;
    }
    let refused = socket.receive().await.expect("the socket stays open");
    assert_eq!((&refused["id"], &refused["type"]), (&json!("2"), &json!("error")), "{refused}");
    assert_eq!(refused["payload"][0]["extensions"]["code"], "TOO_MANY_OPERATIONS", "{refused}");
    socket.send(json!({ "type": "ping", "payload": { "long": "x".repeat(1_000) } })).await;
    assert_eq!(socket.receive().await, Err(1009));
    shop.close_with_pending_orders().await;
}
