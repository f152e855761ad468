//! Requests that ask for too much are refused quickly, and nobody else notices.

use std::time::{Duration, Instant};

use domain::app::{Scope, store};
use oms_tests::{Client, Shop, Socket, app_with_key, eventually, key_of, order, within};
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use serde_json::{Value, json};

/// How long a refusal may take on a busy machine in a debug build. One that is exponential takes minutes.
const QUICKLY: Duration = Duration::from_secs(2);

fn code(answer: &Value) -> &str {
    answer["errors"][0]["extensions"]["code"].as_str().unwrap_or_default()
}

/// Sends a query that is too much, and returns the code of the refusal.
async fn refusal_of(client: &Client, query: &str) -> String {
    let begun = Instant::now();
    let (status, answer) = client.send(query, json!({})).await;
    assert!(begun.elapsed() < QUICKLY, "{:?} for {} bytes", begun.elapsed(), query.len());
    assert!(!status.is_server_error(), "{status} {answer}");
    assert!(answer["data"].is_null(), "it was executed: {answer}");
    code(&answer).to_owned()
}

fn fragment_bomb(fragments: usize) -> String {
    let spreads: String =
        (0..fragments).map(|n| format!(" fragment f{n} on Query {{ ...f{0} ...f{0} }}", n + 1)).collect();
    format!("{{ ...f0 }}{spreads} fragment f{fragments} on Query {{ __typename }}")
}

#[tokio::test]
async fn what_asks_for_too_much_is_refused_quickly_while_others_are_served() {
    let shop = Shop::open().await;
    let id = shop.place(order("a", [("SKU-1", 1)]).settled()).await.id().to_owned();
    let bombs = [
        ("aliases", format!("{{ {} }}", (0..16).map(|n| format!("a{n}: __typename ")).collect::<String>())),
        ("root fields", format!("{{ {} }}", "__typename ".repeat(11))),
        ("directives", format!("{{ __typename {} }}", "@skip(if: false) ".repeat(51))),
        ("tokens", format!("{{ {} }}", "a ".repeat(1_001))),
        ("depth", format!("{}{}", "{ a ".repeat(11), "}".repeat(11))),
        ("braces", "{".repeat(90_000)),
        ("brackets", format!("{{ a(x: {}", "[".repeat(90_000))),
        ("fragments", fragment_bomb(28)),
        ("many fragments", fragment_bomb(60)),
        ("a circle", "{ ...A } fragment A on Query { ...B } fragment B on Query { ...A }".to_owned()),
        ("a circle of one", "{ __typename } fragment A on Query { ...A }".to_owned()),
    ];
    let neighbor = async {
        let mut slowest = Duration::ZERO;
        for _ in 0..50 {
            let begun = Instant::now();
            assert_eq!(shop.order(&id).await["status"], "CONFIRMED");
            slowest = slowest.max(begun.elapsed());
        }
        assert!(slowest < QUICKLY, "{slowest:?}");
    };
    let attack = async {
        for (name, query) in &bombs {
            assert_eq!(refusal_of(&shop, query).await, "QUERY_TOO_COMPLEX", "{name}");
        }
    };
    tokio::join!(neighbor, attack);
    shop.close().await;
}

/// Five to the power of twenty ways to a fragment that says `last`, in 1.3 kB.
fn spread_bomb(kind: &str, ty: &str, last: &str) -> String {
    let spreads = |n| format!(" fragment f{n} on {ty} {{ {} }}", format!("...f{} ", n + 1).repeat(5));
    let spreads: String = (0..19).map(spreads).collect();
    format!("{kind} {{ ...f0 }}{spreads} fragment f19 on {ty} {{ {last} }}")
}

#[tokio::test]
async fn ways_that_lead_to_nothing_are_not_walked() {
    let shop = Shop::open().await;
    let kinds = [("query", "Query"), ("mutation", "Mutation"), ("subscription", "Subscription")];
    let lasts = [
        ("...Missing", "GRAPHQL_VALIDATION_FAILED"),
        ("__typename @skip(if: true)", "QUERY_TOO_COMPLEX"),
        ("... @include(if: false) { __typename }", "QUERY_TOO_COMPLEX"),
        ("... on Nothing { __typename }", "QUERY_TOO_COMPLEX"),
        ("... on Order { ... on Product { sku } }", "QUERY_TOO_COMPLEX"),
    ];
    for (kind, ty) in kinds {
        for (last, expected) in lasts {
            let bomb = spread_bomb(kind, ty, last);
            assert_eq!(refusal_of(&shop, &bomb).await, expected, "{kind} {last}");
            let begun = Instant::now();
            let stream = shop.post().header(ACCEPT, "text/event-stream").json(&json!({ "query": bomb }));
            let stream = within("an answer", stream.send()).await.expect("an answer");
            let text = within("its end", stream.text()).await.expect("text");
            assert!(text.contains(expected), "{kind} {last}: {text}");
            let mut socket = Socket::open(shop.addr()).await;
            socket.send(json!({ "type": "connection_init" })).await;
            assert_eq!(socket.receive().await, Ok(json!({ "type": "connection_ack" })));
            socket.send(json!({ "type": "subscribe", "id": "1", "payload": { "query": bomb } })).await;
            let refused = socket.receive().await.expect("an error");
            assert_eq!(refused["payload"][0]["extensions"]["code"], expected, "{kind} {last}: {refused}");
            let add = "mutation ($text: String!) { addDocuments(input: { appId: \"app_01jx2v3q8kf0v8c9m5w6r7t2ab\", \
                       documents: [$text] }) { userErrors { message } } }";
            shop.execute(add, json!({ "text": bomb })).await;
            assert!(begun.elapsed() < 2 * QUICKLY, "{:?}: {kind} {last}", begun.elapsed());
        }
        let small = format!("{kind} {{ ...F }} fragment F on {ty} {{ ...Missing }}");
        assert_eq!(refusal_of(&shop, &small).await, "GRAPHQL_VALIDATION_FAILED", "{kind}");
    }
    // Values within values, in the text and beside it.
    for (open, close) in [("[", "]"), ("{a:", "}")] {
        let deep = format!("{}1{}", open.repeat(100), close.repeat(100));
        let query = format!("query ($a: String = {deep}) {{ getOrder(id: $a) {{ id }} }}");
        assert_eq!(refusal_of(&shop, &query).await, "QUERY_TOO_COMPLEX");
    }
    let body = format!(
        "{{\"query\": \"{{ __typename }}\", \"variables\": {{\"a\": {}1{}}}}}",
        "[".repeat(9_000),
        "]".repeat(9_000)
    );
    let refused = shop.post().header(CONTENT_TYPE, "application/json").body(body).send().await;
    assert_eq!(refused.expect("an answer").status(), StatusCode::BAD_REQUEST);
    shop.close().await;
}

/// Repeats a field behind fragments, each of which has it as often as a selection may.
fn repeated(fragments: usize, field: &str, ty: &str) -> (String, String) {
    let spreads = (0..fragments).map(|n| format!("...f{n} ")).collect();
    let inline = format!("... {{ {} }} ", format!("{field} ").repeat(5)).repeat(18);
    let definitions =
        (0..fragments).map(|n| format!(" fragment f{n} on {ty} {{ ...G }}")).collect::<String>();
    (spreads, format!("{definitions} fragment G on {ty} {{ {inline} }}"))
}

#[tokio::test]
async fn what_resolves_one_field_over_and_over_is_refused_quickly() {
    let shop = Shop::open().await;
    for (path, close, ty, field) in [
        ("{ __schema { types { fields { type { fields { ", "} } } } } }", "__Field", "name"),
        ("{ orders(first: 90) { nodes { lines { ", "} } } }", "OrderLine", "sku"),
        ("{ products(first: 100) { nodes { ", "} } }", "Product", "sku"),
    ] {
        let plain = format!(
            "{path} {} {close} fragment F on {ty} {{ {} }}",
            "...F ".repeat(32),
            format!("{field} ").repeat(90)
        );
        assert_eq!(refusal_of(&shop, &plain).await, "QUERY_TOO_COMPLEX", "{ty}");
        let (spreads, fragments) = repeated(20, field, ty);
        let within = format!("{path} {spreads} {close} {fragments}");
        assert_eq!(refusal_of(&shop, &within).await, "QUERY_TOO_COSTLY", "{ty}");
    }
    // Scalars alone cost no points, and are bounded all the same.
    let (spreads, fragments) = repeated(5, "sku", "Product");
    let query =
        |first: usize| format!("{{ products(first: {first}) {{ nodes {{ {spreads} }} }} }} {fragments}");
    shop.execute(&query(100), json!({})).await;
    shop.close().await;
}

#[tokio::test]
async fn the_largest_query_that_is_let_in_does_not_stall_a_neighbor() {
    let shop = Shop::open().await;
    let id = shop.place(order("a", [("SKU-1", 1)]).settled()).await.id().to_owned();
    // Ninety times the name of each field of the schema.
    let query = |fragments: usize| {
        let (spreads, fragments) = repeated(fragments, "name", "__Field");
        format!("{{ __schema {{ types {{ fields {{ {spreads} }} }} }} }} {fragments}")
    };
    assert_eq!(refusal_of(&shop, &query(2)).await, "QUERY_TOO_COSTLY");
    let query = query(1);
    let large = async {
        for _ in 0..5 {
            let (_, answer) = shop.send(&query, json!({})).await;
            assert!(answer["data"].is_object(), "{:.300}", answer.to_string());
        }
    };
    let neighbor = async {
        for _ in 0..20 {
            let begun = Instant::now();
            assert_eq!(shop.order(&id).await["status"], "CONFIRMED");
            assert!(begun.elapsed() < QUICKLY, "{:?}", begun.elapsed());
        }
    };
    tokio::join!(large, neighbor);
    shop.close().await;
}

#[tokio::test]
async fn whoever_is_refused_before_all_is_read_reads_why_and_goes_on_over_the_same_connection() {
    let shop = Shop::open_with(|args| args.access.dev_anonymous = false).await;
    let app = app_with_key(&shop.db.connection(), "app", &[Scope::OrdersRead]).await;
    let (good, bad) = (shop.with(&app.secret), shop.with("oms_live_nonsense"));
    let too_large = format!("{{\"query\": \"{{ {} }}\"}}", "a ".repeat(400_000));
    for _ in 0..20 {
        let large = good.post().header(CONTENT_TYPE, "application/json").body(too_large.clone());
        assert_eq!(large.send().await.expect("an answer").status(), StatusCode::PAYLOAD_TOO_LARGE);
        let unknown = bad.post().header(CONTENT_TYPE, "application/json").body(too_large.clone());
        assert_eq!(unknown.send().await.expect("an answer").status(), StatusCode::UNAUTHORIZED);
        good.execute("{ __typename }", json!({})).await;
    }
    shop.close().await;
}

#[tokio::test]
async fn a_document_of_ten_megabytes_is_refused_before_it_is_read() {
    let shop = Shop::open().await;
    let begun = Instant::now();
    let body = format!("{{\"query\": \"{{ {} }}\"}}", "a ".repeat(5_000_000));
    let request = shop.post().header(CONTENT_TYPE, "application/json").body(body);
    // The server may hang up before it has been sent whole.
    if let Ok(response) = request.send().await {
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }
    assert!(begun.elapsed() < QUICKLY, "{:?}", begun.elapsed());
    shop.execute("{ __typename }", json!({})).await;
    shop.close().await;
}

#[tokio::test]
async fn each_answer_says_what_it_cost() {
    let shop = Shop::open().await;
    let (_, answer) = shop.send("{ products(first: 5) { nodes { sku price { amount } } } }", json!({})).await;
    let cost = &answer["extensions"]["cost"];
    assert_eq!((&cost["requested"], &cost["limit"]), (&json!(11), &json!(1000)), "{answer}");
    assert_eq!((&cost["actual"], &cost["throttle"]), (&json!(11), &Value::Null), "nobody is limited here");
    let query = "query ($n: Int!) { products(first: $n) { nodes { price { amount } stock { onHand } } edges { node { price { amount } \
                 stock { onHand } } } } more: products(first: $n) { nodes { price { amount } stock { onHand } } \
                 edges { node { price { amount } stock { onHand } } } } }";
    let (_, answer) = shop.send(query, json!({ "n": 100 })).await;
    assert_eq!(code(&answer), "QUERY_TOO_COSTLY", "{answer}");
    let (_, answer) = shop.send(query, json!({ "n": 1 })).await;
    assert!(answer["data"].is_object(), "{answer}");
    shop.close().await;
}

#[tokio::test]
async fn an_app_that_spends_its_budget_is_told_when_to_come_back_and_others_go_on() {
    let shop = Shop::open_with(|args| args.access.dev_anonymous = false).await;
    let db = shop.db.connection();
    let mut clients = Vec::new();
    for name in ["greedy", "modest"] {
        let app = store::create_app(&db, name, Some(1)).await.expect("an app");
        clients.push(shop.with(&key_of(&db, app.id, &[Scope::OrdersRead], &[]).await.secret));
    }
    let [greedy, modest] = &clients[..] else { panic!("two") };
    let query = "{ products(first: 8) { nodes { sku } } }";
    let (status, answer) = greedy.send(query, json!({})).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let throttle = &answer["extensions"]["cost"]["throttle"];
    assert_eq!(throttle, &json!({ "available": 1, "restoreRate": 1 }));
    let refused = greedy.try_send(query, json!({})).await.expect("an answer");
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    let wait: u64 = refused.headers()[RETRY_AFTER].to_str().expect("text").parse().expect("seconds");
    assert!((1..=10).contains(&wait), "{wait}");
    let answer: Value = refused.json().await.expect("JSON");
    assert_eq!(code(&answer), "RATE_LIMITED");
    assert_eq!(modest.send(query, json!({})).await.0, StatusCode::OK, "each app has its own budget");
    // More than the bucket ever holds is no matter of waiting.
    let (status, answer) = modest.send("{ products(first: 50) { nodes { sku } } }", json!({})).await;
    assert_eq!((status, code(&answer)), (StatusCode::BAD_REQUEST, "QUERY_TOO_COSTLY"));
    shop.close().await;
}

#[tokio::test]
async fn whoever_sends_what_is_refused_uses_up_its_own_budget() {
    let shop = Shop::open_with(|args| args.access.dev_anonymous = false).await;
    let db = shop.db.connection();
    for (number, (query, expected)) in [
        ("{ __typename", "GRAPHQL_PARSE_FAILED"),
        ("{ a(x: [[[[", "GRAPHQL_PARSE_FAILED"),
        ("{ a a a a a a }", "QUERY_TOO_COMPLEX"),
        ("{ nonsense }", "GRAPHQL_VALIDATION_FAILED"),
        ("query ($id: ID!) { getOrder(id: $id) { id } }", "VARIABLE_MISSING"),
        ("{ products(first: 100) { nodes { sku } } }", "QUERY_TOO_COSTLY"),
        ("subscription { __typename }", "GRAPHQL_VALIDATION_FAILED"),
    ]
    .into_iter()
    .enumerate()
    {
        let app = store::create_app(&db, &format!("app {number}"), Some(1)).await.expect("an app");
        let app = shop.with(&key_of(&db, app.id, &[Scope::OrdersRead], &[]).await.secret);
        let mut codes = Vec::new();
        for _ in 0..14 {
            codes.push(code(&app.send(query, json!({})).await.1).to_owned());
        }
        assert_eq!(codes[..10], [expected; 10], "{query}");
        assert!(codes.iter().any(|code| code == "RATE_LIMITED"), "{query}: {codes:?}");
        let mut statuses = Vec::new();
        for _ in 0..3 {
            statuses.push(app.get_graphql(&[("query", query)]).send().await.expect("an answer").status());
        }
        // A point may have flowed back in between.
        assert!(statuses.contains(&StatusCode::TOO_MANY_REQUESTS), "{query}: {statuses:?}");
    }
    shop.close().await;
}

#[tokio::test]
async fn a_request_costs_what_it_costs_however_it_is_sent() {
    let shop = Shop::open_with(|args| args.access.dev_anonymous = false).await;
    let db = shop.db.connection();
    let app = store::create_app(&db, "app", Some(1)).await.expect("an app");
    let app = shop.with(&key_of(&db, app.id, &[Scope::OrdersRead], &[]).await.secret);
    let query = "{ products(first: 2) { nodes { sku } } }";
    let answer = app.send(query, json!({})).await.1;
    assert_eq!(answer["extensions"]["cost"]["throttle"]["available"], 7, "{answer}");
    let answer = app.get_graphql(&[("query", query)]).send().await.expect("an answer");
    let answer: Value = answer.json().await.expect("JSON");
    assert_eq!(answer["extensions"]["cost"]["requested"], 3, "{answer}");
    let available = answer["extensions"]["cost"]["throttle"]["available"].as_u64();
    assert!((4..=6).contains(&available.expect("a number")), "{answer}");
    shop.close().await;
}

#[tokio::test]
async fn a_shopper_is_shown_no_schema() {
    let shop = Shop::open_with(|args| args.access.dev_anonymous = false).await;
    let db = shop.db.connection();
    let app = store::create_app(&db, "app", Some(0)).await.expect("an app");
    let app = shop.with(&key_of(&db, app.id, &[Scope::OrdersWrite], &[]).await.secret);
    let place = "mutation { placeOrder(input: { idempotencyKey: \"k\", lines: [{ sku: \"SKU-1\", quantity: 1 }], waitMs: 9000 }) \
                 { order { id } accessToken } }";
    let placed = app.execute(place, json!({})).await;
    let shopper = shop.with(placed["placeOrder"]["accessToken"].as_str().expect("a token"));
    for query in ["{ __schema { types { name } } }", "{ __type(name: \"Order\") { fields { name } } }"] {
        let (_, answer) = shopper.send(query, json!({})).await;
        assert!(
            !answer.to_string().contains("OrderLine") && !answer.to_string().contains("fulfillmentStatus"),
            "{answer}"
        );
        let shown = app.execute(query, json!({})).await.to_string();
        assert!(shown.contains("OrderLine") || shown.contains("fulfillmentStatus"), "{shown}");
    }
    for query in [
        "{ _service { sdl } }",
        "{ x: _service { sdl } }",
        "{ ...F } fragment F on Query { ... { _service { sdl } } }",
    ] {
        let (_, answer) = shopper.send(query, json!({})).await;
        assert_eq!(code(&answer), "FORBIDDEN", "{query}: {answer}");
    }
    let id = placed["placeOrder"]["order"]["id"].as_str().expect("an id");
    let named = format!("{{ id_service: getOrder(id: \"{id}\") {{ _service_id: id }} }} # _service");
    assert_eq!(shopper.execute(&named, json!({})).await["id_service"]["_service_id"], id);
    let (_, answer) = shopper.send("{ getOrdr(id: \"x\") { id } }", json!({})).await;
    assert!(!answer.to_string().contains("Did you mean"), "{answer}");
    shop.close().await;
}

#[tokio::test]
async fn a_look_at_the_schema_does_not_multiply_it() {
    let shop = Shop::open().await;
    let rounds = "interfaces { possibleTypes { ".repeat(4) + "name" + &"} }".repeat(4);
    let query = format!("{{ __schema {{ types {{ {rounds} }} }} }}");
    assert_eq!(refusal_of(&shop, &query).await, "QUERY_TOO_COMPLEX");
    shop.close().await;
}

#[tokio::test]
async fn a_mutation_is_not_sent_by_get_however_long_it_is() {
    let shop = Shop::open_with(|args| args.limits.max_tokens = 5_000).await;
    let census = shop.db.census().await;
    let fields = "... { __typename } ".repeat(1_000);
    let query = format!(
        "mutation {{ placeOrder(input: {{ idempotencyKey: \"k\", lines: [{{ sku: \"SKU-1\", quantity: 1 }}] }}) {{ {fields} }} }}"
    );
    let answer = shop.get_graphql(&[("query", &query)]).send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(shop.db.census().await, census);
    shop.close().await;
}

#[tokio::test]
async fn a_variable_that_may_be_left_out_may_be_left_out() {
    let shop = Shop::open().await;
    let query =
        "query ($first: Int, $after: String) { orders(first: $first, after: $after) { nodes { id } } }";
    assert_eq!(shop.execute(query, json!({})).await["orders"]["nodes"], json!([]));
    shop.close().await;
}

#[tokio::test]
async fn a_query_that_takes_too_long_is_told_so() {
    let shop = Shop::open_with(|args| args.limits.query_timeout_ms = 200).await;
    let mut lock = shop.db.pool().begin().await.expect("a transaction");
    sqlx::query("LOCK TABLE products").execute(&mut *lock).await.expect("the lock");
    let (_, answer) = shop.send("{ products(first: 1) { nodes { sku } } }", json!({})).await;
    assert_eq!(code(&answer), "TIMEOUT", "{answer}");
    lock.rollback().await.expect("the lock goes");
    shop.execute("{ products(first: 1) { nodes { sku } } }", json!({})).await;
    shop.close().await;
}

#[tokio::test]
async fn an_order_is_waited_for_longer_than_a_query_may_take() {
    let shop = Shop::open_with(|args| {
        args.limits.query_timeout_ms = 1_000;
        args.gateway.delay_ms = 4_000;
    })
    .await;
    let input = order("slow", [("SKU-1", 1)]).with("waitMs", json!(3_000)).into_value();
    let place = "mutation ($input: PlaceOrderInput!) { placeOrder(input: $input) { order { status } } }";
    let begun = Instant::now();
    let placed = shop.execute(place, json!({ "input": input })).await;
    assert_eq!(placed["placeOrder"]["order"]["status"], "PENDING", "{placed}");
    assert!(begun.elapsed() >= Duration::from_secs(3), "{:?}", begun.elapsed());
    shop.close_with_pending_orders().await;
}

#[tokio::test]
async fn each_error_has_a_code() {
    let shop = Shop::open().await;
    for (query, expected) in [
        ("{ nonsense }", "GRAPHQL_VALIDATION_FAILED"),
        ("{ __typename", "GRAPHQL_PARSE_FAILED"),
        ("query ($id: ID!) { getOrder(id: $id) { id } }", "VARIABLE_MISSING"),
        ("{ products(first: \"x\") { nodes { sku } } }", "GRAPHQL_VALIDATION_FAILED"),
        ("{ products(first: 0) { nodes { sku } } }", "INVALID_INPUT"),
        ("subscription { orderStatus(id: \"x\") { sequence } }", "SUBSCRIPTION_NEEDS_STREAM"),
    ] {
        let (_, answer) = shop.send(query, json!({})).await;
        assert_eq!(code(&answer), expected, "{query}: {answer}");
    }
    shop.close().await;
}

#[tokio::test]
async fn what_was_executed_has_data_in_an_event_stream_even_if_it_is_null() {
    let shop = Shop::open().await;
    for (query, has_data) in [("{ products(first: 0) { nodes { sku } } }", true), ("{ nonsense }", false)] {
        let request = shop.post().header(ACCEPT, "text/event-stream").json(&json!({ "query": query }));
        let text = within("an answer", request.send()).await.expect("an answer").text().await.expect("text");
        let data = text.lines().find_map(|line| line.strip_prefix("data:")).expect("an event");
        let answer: Value = serde_json::from_str(data.trim()).expect("JSON");
        assert_eq!(answer.get("data"), has_data.then_some(&Value::Null), "{query}: {answer}");
        assert!(answer["errors"].is_array(), "{query}: {answer}");
    }
    shop.close().await;
}

#[tokio::test]
async fn a_query_is_known_by_its_hash() {
    let shop = Shop::open().await;
    let hash = "ecf4edb46db40b5132295c0291d62fb65d6759a9eedfa4d5d612dd5ec54a6b38";
    let extensions = json!({ "persistedQuery": { "version": 1, "sha256Hash": hash } });
    let send = async |body: Value| {
        let answer = shop.post().json(&body).send().await.expect("an answer");
        answer.json::<Value>().await.expect("JSON")
    };
    let unknown = send(json!({ "extensions": extensions })).await;
    assert_eq!(code(&unknown), "PERSISTED_QUERY_NOT_FOUND");
    let told = send(json!({ "query": "{__typename}", "extensions": extensions })).await;
    assert_eq!(told["data"]["__typename"], "Query", "{told}");
    let known = send(json!({ "extensions": extensions })).await;
    assert_eq!(known["data"]["__typename"], "Query", "{known}");
    shop.close().await;
}

#[tokio::test]
async fn a_query_is_known_by_its_hash_over_get_and_a_mutation_is_refused_by_what_it_says() {
    let shop = Shop::open().await;
    let census = shop.db.census().await;
    // Of `{__typename}`, and of `mutation{__typename}`.
    let hash = "ecf4edb46db40b5132295c0291d62fb65d6759a9eedfa4d5d612dd5ec54a6b38";
    let of_mutation = "8381739c98af5c2efeb0ad7daa79712b40611c2ba297a5ef17e380ac90fb2154";
    let named = |hash: &str| json!({ "persistedQuery": { "version": 1, "sha256Hash": hash } }).to_string();
    let get = async |parameters: &[(&str, &str)]| {
        let answer = shop.get_graphql(parameters).send().await.expect("an answer");
        (answer.status().as_u16(), answer.json::<Value>().await.expect("JSON"))
    };
    let (_, unknown) = get(&[("extensions", &named(hash))]).await;
    assert_eq!(code(&unknown), "PERSISTED_QUERY_NOT_FOUND", "{unknown}");
    let (_, told) = get(&[("query", "{__typename}"), ("extensions", &named(hash))]).await;
    assert_eq!(told["data"]["__typename"], "Query", "{told}");
    let (_, known) = get(&[("extensions", &named(hash)), ("variables", "")]).await;
    assert_eq!(known["data"]["__typename"], "Query", "{known}");
    let (_, wrong) = get(&[("query", "{ __typename }"), ("extensions", &named(hash))]).await;
    assert_eq!(code(&wrong), "PERSISTED_QUERY_HASH_MISMATCH", "{wrong}");

    let extensions: Value = serde_json::from_str(&named(of_mutation)).expect("JSON");
    let body = json!({ "query": "mutation{__typename}", "extensions": extensions });
    let told: Value = shop.post().json(&body).send().await.expect("an answer").json().await.expect("JSON");
    assert_eq!(told["data"]["__typename"], "Mutation", "{told}");
    let (status, refused) = get(&[("extensions", &named(of_mutation))]).await;
    assert_eq!((status, code(&refused)), (405, "METHOD_NOT_ALLOWED"), "{refused}");

    for bad in ["{", "[]", "1"] {
        let (status, refused) = get(&[("query", "{__typename}"), ("extensions", bad)]).await;
        assert_eq!((status, code(&refused)), (400, "BAD_REQUEST"), "{bad}");
    }
    assert_eq!(shop.db.census().await, census);
    shop.close().await;
}

#[tokio::test]
async fn spreads_fields_and_the_burst_of_a_budget_are_settings() {
    let shop = Shop::open_with(|args| {
        args.access.dev_anonymous = false;
        args.access.burst_seconds = 3;
        args.limits.max_spreads = 2;
        args.limits.max_fields = 100;
    })
    .await;
    let db = shop.db.connection();
    let app = store::create_app(&db, "app", Some(10)).await.expect("an app");
    let app = shop.with(&key_of(&db, app.id, &[Scope::OrdersRead], &[]).await.secret);
    let fields = |count: usize| format!("{{ viewer {{ {} }} }}", "... { __typename } ".repeat(count));
    let spreads =
        |count: usize| format!("{{ {} }} fragment F on Query {{ __typename }}", "...F ".repeat(count));
    for (query, expected) in [
        (spreads(2), ""),
        (spreads(3), "QUERY_TOO_COMPLEX"),
        (fields(49), ""),
        (fields(50), "QUERY_TOO_COMPLEX"),
        ("{ products(first: 31) { nodes { sku } } }".to_owned(), "QUERY_TOO_COSTLY"),
    ] {
        let (_, answer) = app.send(&query, json!({})).await;
        assert_eq!(code(&answer), expected, "{query:.60}: {answer}");
    }
    shop.close().await;
}

#[tokio::test]
async fn an_app_holds_a_bounded_number_of_sockets_and_event_streams_open() {
    let shop = Shop::open_with(|args| {
        args.access.dev_anonymous = false;
        args.connections.max_streams = 2;
    })
    .await;
    let db = shop.db.connection();
    let one = shop.with(&app_with_key(&db, "one", &[Scope::OrdersWrite]).await.secret);
    let other = shop.with(&app_with_key(&db, "other", &[Scope::OrdersWrite]).await.secret);
    let place =
        "mutation ($input: PlaceOrderInput!) { placeOrder(input: $input) { order { id } accessToken } }";
    // Its card never answers, so that its story does not end.
    let input = order("open", [("SKU-1", 1)]).card("tok_down").into_value();
    let placed = one.execute(place, json!({ "input": input })).await["placeOrder"].take();
    let id = placed["order"]["id"].as_str().expect("an id").to_owned();
    let shopper = shop.with(placed["accessToken"].as_str().expect("a token"));
    let watch = async |client: &Client| {
        let query = format!("subscription {{ orderStatus(id: \"{id}\", after: 1000) {{ sequence }} }}");
        let request = client.post().header(ACCEPT, "text/event-stream").json(&json!({ "query": query }));
        within("an answer", request.send()).await.expect("an answer")
    };
    let introduce = async |client: &Client| {
        let mut socket = Socket::open(shop.addr()).await;
        let payload = json!({ "x-api-key": client.credential() });
        socket.send(json!({ "type": "connection_init", "payload": payload })).await;
        let answer = socket.receive().await;
        (socket, answer)
    };
    let (socket, answer) = introduce(&one).await;
    assert_eq!(answer, Ok(json!({ "type": "connection_ack" })));
    let stream = watch(&one).await;
    assert_eq!(stream.status(), StatusCode::OK);

    // Try again later: clients take 4429 for a mistake of theirs.
    assert_eq!(introduce(&one).await.1, Err(1013));
    let refused = watch(&one).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.headers().contains_key(RETRY_AFTER));
    assert_eq!(code(&refused.json().await.expect("JSON")), "TOO_MANY_STREAMS");
    // Others have their own, and what is no stream is none.
    assert_eq!(introduce(&other).await.1, Ok(json!({ "type": "connection_ack" })));
    assert_eq!(watch(&shopper).await.status(), StatusCode::OK);
    one.execute("{ __typename }", json!({})).await;

    drop(stream);
    let again = eventually("there is room again", async || {
        let stream = watch(&one).await;
        (stream.status() == StatusCode::OK).then_some(stream)
    });
    let again = again.await;
    drop((socket, again));
    for _ in 0..2 {
        let both = eventually("there is room for a socket", async || {
            let (socket, answer) = introduce(&one).await;
            answer.is_ok().then_some(socket)
        });
        drop(both.await);
    }
    shop.close_with_pending_orders().await;
}

#[tokio::test]
async fn whatever_the_settings_allow_fits_the_stack() {
    let shop = Shop::open_with(|args| {
        args.limits.max_tokens = 10_000;
        args.limits.max_spreads = 500;
        args.limits.max_fields = 100_000;
        args.limits.max_depth = 30;
    })
    .await;
    // Fragments that spread the next, each time within so many inline ones.
    let chain = |fragments: usize, inline: usize| {
        let (open, close) = ("... { ".repeat(inline), "}".repeat(inline));
        let fragment = |n| format!(" fragment f{n} on Query {{ {open} ...f{} {close} }}", n + 1);
        (1..fragments).map(fragment).collect::<String>()
    };
    for (count, inline) in [(500, 0), (54, 10), (90, 10), (45, 60), (100, 25)] {
        let last = format!(" fragment f{count} on Query {{ __typename }}");
        let forward = format!("{{ ...f1 }}{}{last}", chain(count, inline));
        // Measured from its end, each fragment is known when the next one asks.
        let backward = format!("{{ ...f{count} ...f1 }}{last}{}", chain(count, inline));
        for query in [forward, backward] {
            let (status, answer) = shop.send(&query, json!({})).await;
            assert!(!status.is_server_error(), "{count} {inline}: {status} {answer}");
            if count * (inline + 1) > 600 {
                assert_eq!(code(&answer), "QUERY_TOO_COMPLEX", "{count} {inline}: {answer}");
            }
        }
    }
    shop.execute("{ __typename }", json!({})).await;
    shop.close().await;
}
