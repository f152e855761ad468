//! Who may do what.

use std::time::{Duration, Instant};

use domain::app::Scope;
use futures_util::future::join_all;
use oms::config::Role;
use oms_tests::{
    AppWithKey, Client, IdentityProvider, Shop, Socket, app_with_key, eventually, key_of, oms_command, order,
    seconds_since_1970, uuid_of, within,
};
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, WWW_AUTHENTICATE};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::OMS;

/// A shop that asks who calls.
async fn closed_shop() -> Shop {
    Shop::open_with(|args| args.access.dev_anonymous = false).await
}

async fn key(shop: &Shop, name: &str, scopes: &[Scope]) -> AppWithKey {
    app_with_key(&shop.db.connection(), name, scopes).await
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

fn code(answer: &Value) -> &str {
    answer["errors"][0]["extensions"]["code"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn whatever_is_wrong_with_a_credential_the_answer_is_the_same() {
    let shop = closed_shop().await;
    let good = key(&shop, "app", &[Scope::OrdersRead]).await;
    let (status, answer) = shop.with(&good.secret).send("{ __typename }", json!({})).await;
    assert_eq!((status, &answer["data"]["__typename"]), (StatusCode::OK, &json!("Query")));

    let revoked = key(&shop, "revoked", &[Scope::OrdersRead]).await;
    shop.db.execute(&format!("UPDATE api_keys SET revoked_at = now() WHERE id = '{}'", revoked.key_id)).await;
    let expired = key(&shop, "expired", &[Scope::OrdersRead]).await;
    shop.db.execute(&format!("UPDATE api_keys SET expires_at = now() WHERE id = '{}'", expired.key_id)).await;
    let mut forged = good.secret.clone();
    let last = if forged.pop() == Some('a') { 'b' } else { 'a' };
    forged.push(last);

    let mut answers = Vec::new();
    for credential in [
        revoked.secret.as_str(),
        &expired.secret,
        &forged,
        "nonsense",
        "oms_order_AAAA",
        "eyJhbGciOiJub25lIn0.e30.",
        &"x".repeat(9_000),
    ] {
        let response = shop.with(credential).try_send("{ __typename }", json!({})).await.expect("an answer");
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{credential}");
        assert_eq!(response.headers()[WWW_AUTHENTICATE], "Bearer");
        answers.push(response.text().await.expect("a body"));
    }
    let nothing = shop.try_send("{ __typename }", json!({})).await.expect("an answer");
    assert_eq!(nothing.status(), StatusCode::UNAUTHORIZED);
    answers.push(nothing.text().await.expect("a body"));
    let basic = shop.post().header("authorization", "Basic YTpi").json(&json!({ "query": "{ __typename }" }));
    answers.push(basic.send().await.expect("an answer").text().await.expect("a body"));
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
    shop.close().await;
}

#[tokio::test]
async fn a_key_is_taken_as_bearer_token_and_as_x_api_key() {
    let shop = closed_shop().await;
    let key = key(&shop, "app", &[Scope::OrdersRead]).await;
    let body = json!({ "query": "{ __typename }" });
    let response = shop.post().header("x-api-key", &key.secret).json(&body).send().await.expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    let get = shop.get_graphql(&[("query", "{ __typename }")]);
    assert_eq!(get.send().await.expect("an answer").status(), StatusCode::UNAUTHORIZED);
    let get = shop.with(&key.secret).get_graphql(&[("query", "{ __typename }")]);
    assert_eq!(get.send().await.expect("an answer").status(), StatusCode::OK);
    shop.close().await;
}

#[tokio::test]
async fn each_root_opens_with_its_scope_and_stays_shut_without() {
    let shop = closed_shop().await;
    let place = "mutation { placeOrder(input: { idempotencyKey: \"k\", lines: [{ sku: \"SKU-1\", quantity: 1 }] }) \
                 { order { id } } }";
    let requests = [
        ("{ getOrder(id: \"x\") { id } }", &[Scope::OrdersRead][..]),
        (place, &[Scope::OrdersWrite]),
        ("{ products(first: 1) { nodes { sku } } }", &[Scope::OrdersRead, Scope::CatalogWrite]),
        ("{ stock(skus: [\"SKU-1\"]) { sku } }", &[Scope::OrdersWrite, Scope::CatalogWrite]),
        (
            "mutation { upsertProducts(input: { products: [] }) { userErrors { code } } }",
            &[Scope::CatalogWrite],
        ),
        // No scope opens it alone.
        ("{ sagas(first: 1) { nodes { step } } }", &[]),
        ("{ apps { name } }", &[Scope::AppsManage]),
        ("mutation { createApp(input: { name: \"x\" }) { app { id } } }", &[Scope::AppsManage]),
        ("mutation { revokeApiKey(id: \"x\") { userErrors { code } } }", &[Scope::AppsManage]),
        (
            "mutation { addDocuments(input: { appId: \"x\", documents: [] }) { userErrors { code } } }",
            &[Scope::AppsManage],
        ),
        (
            "mutation { removeDocuments(input: { appId: \"x\", ids: [] }) { userErrors { code } } }",
            &[Scope::AppsManage],
        ),
        (
            "mutation { updateApp(input: { appId: \"x\", onlyRegisteredDocuments: true }) { userErrors { code } } }",
            &[Scope::AppsManage],
        ),
    ];
    for scope in Scope::ALL {
        let key = key(&shop, scope.name(), &[scope]).await;
        for (query, opens) in requests {
            let (_, answer) = shop.with(&key.secret).send(query, json!({})).await;
            let may =
                opens.contains(&scope) || (scope == Scope::OrdersWrite && opens.contains(&Scope::OrdersRead));
            assert_eq!(code(&answer) != "FORBIDDEN", may, "{scope}: {query}: {answer}");
        }
    }
    shop.close().await;
}

#[tokio::test]
async fn whoever_operates_sagas_sees_every_order() {
    let shop = closed_shop().await;
    let act = "filter: { stuck: true }, by: \"ada\", reason: \"the gateway is back\"";
    let resolve = "orderId: \"x\", refused: \"CARD_DECLINED\", by: \"ada\", evidence: \"its books\"";
    let mut requests =
        vec!["{ sagas { nodes { step } } }".to_owned(), "{ saga(orderId: \"x\") { step } }".to_owned()];
    for root in ["retrySagas", "resumeSagas", "abandonSagas"] {
        requests.push(format!("mutation {{ {root}(input: {{ {act} }}) {{ count }} }}"));
    }
    requests.push(format!("mutation {{ resolveSaga(input: {{ {resolve} }}) {{ userErrors {{ code }} }} }}"));
    for (name, scopes, may) in [
        ("half", &[Scope::SagasOperate, Scope::OrdersRead][..], false),
        ("other half", &[Scope::OrdersReadAll, Scope::OrdersWrite], false),
        ("operator", &[Scope::SagasOperate, Scope::OrdersReadAll], true),
    ] {
        let key = key(&shop, name, scopes).await;
        for query in &requests {
            let (_, answer) = shop.with(&key.secret).send(query, json!({})).await;
            assert_eq!(answer.get("errors").is_none(), may, "{name}: {query}: {answer}");
            if !may {
                assert_eq!(code(&answer), "FORBIDDEN", "{name}: {query}: {answer}");
                let message = answer["errors"][0]["message"].as_str().expect("a message");
                assert!(message.contains("sagas:operate and orders:read_all"), "{message}");
            }
        }
    }
    shop.close().await;
}

#[tokio::test]
async fn an_administrator_makes_rotates_and_revokes_keys() {
    let shop = closed_shop().await;
    let admin = shop.with(
        &key(&shop, "admin", &[Scope::AppsManage, Scope::OrdersRead, Scope::OrdersReadAll]).await.secret,
    );
    let app = admin
        .execute(
            "mutation { createApp(input: { name: \"partner\", pointsPerSecond: 0 }) { app { id } } }",
            json!({}),
        )
        .await;
    let app_id = &app["createApp"]["app"]["id"];
    let create = "mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) {
        apiKey { id prefix scopes lastUsedAt } secret userErrors { path message } } }";
    let input = json!({ "appId": app_id, "name": "first", "scopes": ["orders:read"] });
    let made = admin.execute(create, json!({ "input": input })).await["createApiKey"].take();
    let secret = made["secret"].as_str().expect("a secret");
    assert!(secret.starts_with(made["apiKey"]["prefix"].as_str().expect("a prefix")), "{made}");
    let stored = shop.db.texts("SELECT api_keys::text FROM api_keys").await.join("\n");
    assert!(!stored.contains(secret), "only its hash is kept");
    shop.with(secret).execute("{ getOrder(id: \"x\") { id } }", json!({})).await;

    // Nobody makes a key that opens more than their own.
    let input = json!({ "appId": app_id, "name": "more", "scopes": ["orders:read", "sagas:operate"] });
    let refused = admin.execute(create, json!({ "input": input })).await;
    assert_eq!(refused["createApiKey"]["userErrors"][0]["path"], json!(["input", "scopes"]), "{refused}");
    for (input, field) in [
        (json!({ "appId": "app_x", "name": "n", "scopes": ["orders:read"] }), "appId"),
        (json!({ "appId": app_id, "name": "", "scopes": ["orders:read"] }), "name"),
        (json!({ "appId": app_id, "name": "n", "scopes": [] }), "scopes"),
        (json!({ "appId": app_id, "name": "n", "scopes": ["everything"] }), "scopes"),
        (
            json!({ "appId": app_id, "name": "n", "scopes": ["orders:read"], "expiresAt": "2020-01-01T00:00:00Z" }),
            "expiresAt",
        ),
    ] {
        let refused = admin.execute(create, json!({ "input": input })).await;
        assert_eq!(refused["createApiKey"]["userErrors"][0]["path"][1], json!(field), "{input}: {refused}");
        assert_eq!(refused["createApiKey"]["secret"], Value::Null);
    }

    let rotate =
        "mutation ($input: RotateApiKeyInput!) { rotateApiKey(input: $input) { apiKey { id } secret } }";
    let input = json!({ "id": made["apiKey"]["id"], "graceSeconds": 0 });
    let rotated = admin.execute(rotate, json!({ "input": input })).await["rotateApiKey"].take();
    let successor = rotated["secret"].as_str().expect("a secret");
    assert_eq!(shop.with(secret).send("{ __typename }", json!({})).await.0, StatusCode::UNAUTHORIZED);
    shop.with(successor).execute("{ __typename }", json!({})).await;

    let revoke = "mutation ($id: ID!) { revokeApiKey(id: $id) { apiKey { revokedAt } userErrors { code } } }";
    for _ in 0..2 {
        let revoked = admin.execute(revoke, json!({ "id": rotated["apiKey"]["id"] })).await;
        assert!(revoked["revokeApiKey"]["apiKey"]["revokedAt"].is_string(), "{revoked}");
    }
    assert_eq!(shop.with(successor).send("{ __typename }", json!({})).await.0, StatusCode::UNAUTHORIZED);
    shop.close().await;
}

#[tokio::test]
async fn an_idempotency_key_belongs_to_its_app() {
    let shop = closed_shop().await;
    let (a, b) = (key(&shop, "a", &[Scope::OrdersWrite]).await, key(&shop, "b", &[Scope::OrdersWrite]).await);
    let place = "mutation ($input: PlaceOrderInput!) { placeOrder(input: $input) {
        order { id status } replayed userErrors { code } } }";
    let input = order("the same", [("SKU-1", 1)]).settled().into_value();
    let first = shop.with(&a.secret).execute(place, json!({ "input": input })).await["placeOrder"].take();
    let other = shop.with(&b.secret).execute(place, json!({ "input": input })).await["placeOrder"].take();
    assert_eq!((&other["replayed"], &other["userErrors"]), (&json!(false), &json!([])), "{other}");
    assert_ne!(first["order"]["id"], other["order"]["id"]);
    shop.close().await;
}

#[tokio::test]
async fn an_order_is_seen_by_its_app_and_by_those_it_is_granted_to() {
    let shop = closed_shop().await;
    let db = shop.db.connection();
    let a = key(&shop, "a", &[Scope::OrdersWrite]).await;
    let b = key(&shop, "b", &[Scope::OrdersWrite]).await;
    let granted = key_of(&db, b.app_id, &[Scope::OrdersRead], &[a.app_id]).await;
    let operator = key(&shop, "operator", &[Scope::OrdersRead, Scope::OrdersReadAll]).await;
    let place = "mutation ($input: PlaceOrderInput!) { placeOrder(input: $input) { order { id } } }";
    let input = order("one", [("SKU-1", 1)]).settled().into_value();
    let placed = shop.with(&a.secret).execute(place, json!({ "input": input })).await;
    let id = placed["placeOrder"]["order"]["id"].as_str().expect("an id");
    let read =
        "query ($id: ID!) { getOrder(id: $id) { id lines { sku } events { type } process { state } } }";
    for (caller, sees) in [(&a, true), (&b, false), (&granted, true), (&operator, true)] {
        let answer = shop.with(&caller.secret).execute(read, json!({ "id": id })).await;
        assert_eq!(answer["getOrder"].is_object(), sees, "{answer}");
    }
    shop.close().await;
}

#[tokio::test]
async fn an_order_token_opens_one_order_to_a_shopper_and_nothing_else() {
    let shop = closed_shop().await;
    let a = key(&shop, "a", &[Scope::OrdersWrite]).await;
    let place = "mutation ($input: PlaceOrderInput!) { placeOrder(input: $input) { order { id } accessToken replayed } }";
    let input = order("mine", [("SKU-1", 1)]).with("email", json!("ada@example.org")).settled().into_value();
    let placed = shop.with(&a.secret).execute(place, json!({ "input": input })).await["placeOrder"].take();
    let again = shop.with(&a.secret).execute(place, json!({ "input": input })).await["placeOrder"].take();
    assert_eq!((&again["replayed"], &again["accessToken"]), (&json!(true), &Value::Null), "returned once");
    let input = order("other", [("SKU-1", 1)]).settled().into_value();
    let other = shop.with(&a.secret).execute(place, json!({ "input": input })).await["placeOrder"].take();

    let token = placed["accessToken"].as_str().expect("a token");
    let shopper = shop.with(token);
    let read = "query ($id: ID!) { getOrder(id: $id) { id status email lines { name } } }";
    let seen = shopper.send(read, json!({ "id": placed["order"]["id"] })).await.1;
    assert_eq!(seen["data"]["getOrder"]["status"], "CONFIRMED", "{seen}");
    assert_eq!(seen["data"]["getOrder"]["email"], Value::Null, "a link may have been passed on");
    let unseen = shopper.send(read, json!({ "id": other["order"]["id"] })).await.1;
    assert_eq!(unseen["data"]["getOrder"], Value::Null, "{unseen}");
    for query in [
        "{ stock(skus: [\"SKU-1\"]) { sku } }",
        "mutation { placeOrder(input: { idempotencyKey: \"x\", \
                  lines: [{ sku: \"SKU-1\", quantity: 1 }] }) { replayed } }",
    ] {
        assert_eq!(code(&shopper.send(query, json!({})).await.1), "FORBIDDEN", "{query}");
    }

    let mut socket = Socket::open(shop.addr()).await;
    socket
        .send(json!({ "type": "connection_init", "payload": { "Authorization": format!("Bearer {token}") } }))
        .await;
    assert_eq!(socket.receive().await, Ok(json!({ "type": "connection_ack" })));
    socket.subscribe("1", placed["order"]["id"].as_str().expect("an id"), None).await;
    assert_eq!(socket.receive().await.expect("an event")["payload"]["data"]["orderStatus"]["sequence"], 1);
    socket.subscribe("2", other["order"]["id"].as_str().expect("an id"), None).await;
    let refused = loop {
        let message = socket.receive().await.expect("a message");
        if message["id"] == "2" {
            break message;
        }
    };
    assert_eq!(refused["type"], "error", "{refused}");

    let revoke = "mutation ($id: ID!) { revokeOrderAccessTokens(orderId: $id) { revoked } }";
    let revoked = shop.with(&a.secret).execute(revoke, json!({ "id": placed["order"]["id"] })).await;
    assert_eq!(revoked["revokeOrderAccessTokens"]["revoked"], true);
    assert_eq!(shopper.send("{ __typename }", json!({})).await.0, StatusCode::UNAUTHORIZED);
    shop.close().await;
}

#[tokio::test]
async fn a_token_that_was_made_by_a_fast_clock_is_taken_back_as_well() {
    let shop = closed_shop().await;
    let a = key(&shop, "a", &[Scope::OrdersWrite]).await;
    let place =
        "mutation ($input: PlaceOrderInput!) { placeOrder(input: $input) { order { id } accessToken } }";
    let mut tokens = Vec::new();
    for name in ["kept", "revoked"] {
        let input = order(name, [("SKU-1", 1)]).settled().into_value();
        let placed =
            shop.with(&a.secret).execute(place, json!({ "input": input })).await["placeOrder"].take();
        tokens.push((placed["accessToken"].clone(), uuid_of(placed["order"]["id"].as_str().expect("an id"))));
    }
    // By the database's clock the token is made an hour after it is taken back.
    let revoke = "INSERT INTO order_token_revocations (order_id, revoked_at)";
    shop.db.execute(&format!("{revoke} VALUES ('{}', now() - interval '1 hour')", tokens[1].1)).await;
    for ((token, _), status) in tokens.iter().zip([StatusCode::OK, StatusCode::UNAUTHORIZED]) {
        let shopper = shop.with(token.as_str().expect("a token"));
        assert_eq!(shopper.send("{ __typename }", json!({})).await.0, status);
    }
    shop.close().await;
}

#[tokio::test]
async fn a_socket_asks_who_calls_and_closes_when_the_key_is_revoked() {
    let shop = closed_shop().await;
    for payload in [json!({}), json!({ "x-api-key": "nonsense" }), json!({ "Authorization": 1 })] {
        let mut socket = Socket::open(shop.addr()).await;
        socket.send(json!({ "type": "connection_init", "payload": payload })).await;
        assert_eq!(socket.receive().await, Err(4403), "{payload}");
    }
    let admin = key(&shop, "admin", &[Scope::AppsManage]).await;
    let viewer = key(&shop, "viewer", &[Scope::OrdersRead]).await;
    let mut socket = Socket::open(shop.addr()).await;
    socket.send(json!({ "type": "connection_init", "payload": { "X-Api-Key": viewer.secret } })).await;
    assert_eq!(socket.receive().await, Ok(json!({ "type": "connection_ack" })));
    let revoke = "mutation ($id: ID!) { revokeApiKey(id: $id) { userErrors { code } } }";
    let key_id = domain::id::KeyId::from_uuid(viewer.key_id).to_string();
    shop.with(&admin.secret).execute(revoke, json!({ "id": key_id })).await;
    let revoked_at = Instant::now();
    let closed = tokio::time::timeout(Duration::from_secs(60), socket.receive());
    assert_eq!(closed.await, Ok(Err(4403)), "after {:?}", revoked_at.elapsed());
    shop.close().await;
}

/// Opens a socket with a credential and watches an order over it.
async fn watch(shop: &Shop, payload: Value, order_id: &str) -> Socket {
    let mut socket = Socket::open(shop.addr()).await;
    socket.send(json!({ "type": "connection_init", "payload": payload })).await;
    assert_eq!(socket.receive().await, Ok(json!({ "type": "connection_ack" })));
    socket.subscribe("1", order_id, None).await;
    assert_eq!(socket.receive().await.expect("an event")["payload"]["data"]["orderStatus"]["sequence"], 1);
    socket
}

/// Watches an order over server-sent events.
async fn stream(shop: &Shop, credential: &str, order_id: &str) -> reqwest::Response {
    let query = "subscription ($id: ID!) { orderStatus(id: $id) { sequence } }";
    let body = json!({ "query": query, "variables": { "id": order_id } });
    let request = shop.with(credential).post().header(ACCEPT, "text/event-stream").json(&body);
    let mut response = within("an answer", request.send()).await.expect("the server answers");
    let first = within("an event", response.chunk()).await.expect("the stream is open").expect("an event");
    assert!(String::from_utf8_lossy(&first).contains("\"sequence\":1"), "{first:?}");
    response
}

/// Returns what is still sent until the server ends the stream.
async fn rest_of(mut response: reqwest::Response) -> String {
    let mut rest = String::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        rest += &String::from_utf8_lossy(&chunk);
    }
    rest
}

#[tokio::test]
async fn whatever_is_open_closes_within_a_minute_once_its_credential_is_no_good() {
    // Nothing carries the order out, so that nothing ends by itself.
    let shop = Shop::open_with(|args| {
        args.access.dev_anonymous = false;
        args.process.role = Role::Api;
    })
    .await;
    let db = shop.db.connection();
    let seller = key(&shop, "seller", &[Scope::OrdersWrite]).await;
    let place =
        "mutation ($input: PlaceOrderInput!) { placeOrder(input: $input) { order { id } accessToken } }";
    let input = order("watched", [("SKU-1", 1)]).into_value();
    let placed =
        shop.with(&seller.secret).execute(place, json!({ "input": input })).await["placeOrder"].take();
    let (id, token) = (text(&placed["order"]["id"]), text(&placed["accessToken"]));
    let viewer = async || key_of(&db, seller.app_id, &[Scope::OrdersRead], &[]).await;
    let (streamed, watched, expiring, kept) =
        (viewer().await, viewer().await, viewer().await, viewer().await);

    let streams = [stream(&shop, &streamed.secret, id).await, stream(&shop, token, id).await];
    let by_key = |key: &AppWithKey| json!({ "x-api-key": key.secret });
    let mut sockets = [
        watch(&shop, by_key(&watched), id).await,
        watch(&shop, by_key(&expiring), id).await,
        watch(&shop, json!({ "Authorization": format!("Bearer {token}") }), id).await,
    ];
    let mut still_good = watch(&shop, by_key(&kept), id).await;

    for key in [&streamed, &watched] {
        let key_id = domain::id::KeyId::from_uuid(key.key_id).to_string();
        let mut command = oms_command(OMS, &shop.db, &["keys", "revoke", &key_id]);
        let revoked = within("the command has ended", command.output()).await.expect("oms-under-test runs");
        assert!(revoked.status.success(), "{revoked:?}");
    }
    shop.db
        .execute(&format!("UPDATE api_keys SET expires_at = now() WHERE id = '{}'", expiring.key_id))
        .await;
    // As another process would.
    let taken_back = "INSERT INTO order_token_revocations (order_id)";
    shop.db.execute(&format!("{taken_back} VALUES ('{}')", uuid_of(id))).await;

    let closed = join_all(sockets.iter_mut().map(Socket::receive));
    let ended = join_all(streams.map(rest_of));
    let all = tokio::time::timeout(Duration::from_secs(60), futures_util::future::join(closed, ended));
    let (closed, ended) = all.await.expect("all are closed within a minute");
    assert_eq!(closed, vec![Err(4403); 3]);
    for rest in ended {
        assert!(!rest.contains("complete"), "{rest}");
    }
    still_good.send(json!({ "type": "ping" })).await;
    assert_eq!(still_good.receive().await, Ok(json!({ "type": "pong" })));
    shop.close_with_pending_orders().await;
}

#[tokio::test]
async fn the_command_line_makes_lists_and_revokes_keys() {
    let shop = closed_shop().await;
    let run = async |arguments: &[&str]| {
        let mut command = oms_command(OMS, &shop.db, arguments);
        within("the command has ended", command.output()).await.expect("oms-under-test runs")
    };
    let created =
        run(&["keys", "create", "--app", "warehouse", "--scopes", "orders:read,orders:write", "--json"])
            .await;
    let key: Value = serde_json::from_slice(&created.stdout).expect("one JSON object");
    let secret = key["secret"].as_str().expect("a secret");
    shop.with(secret).execute("{ getOrder(id: \"x\") { id } }", json!({})).await;

    let all = run(&["keys", "create", "--scopes", "all"]).await;
    let all = String::from_utf8(all.stdout).expect("text");
    shop.with(all.lines().next().expect("the secret")).execute("{ apps { name } }", json!({})).await;

    let listed = String::from_utf8(run(&["keys", "list"]).await.stdout).expect("text");
    assert!(
        listed.contains(key["prefix"].as_str().expect("a prefix")) && listed.contains("warehouse"),
        "{listed}"
    );
    assert!(!listed.contains(secret), "{listed}");

    let revoked = run(&["keys", "revoke", key["prefix"].as_str().expect("a prefix")]).await;
    assert!(revoked.status.success(), "{revoked:?}");
    let listed = String::from_utf8(run(&["keys", "list", "--json"]).await.stdout).expect("text");
    assert!(listed.contains("\"state\":\"revoked\""), "{listed}");
    for bad in [
        &["keys", "create", "--scopes", "everything"][..],
        &["keys", "revoke", "oms_live_nothing"],
        &["keys", "create"],
    ] {
        assert!(!run(bad).await.status.success(), "{bad:?}");
    }
    shop.close().await;
}

#[tokio::test]
async fn a_shopper_cannot_use_up_what_the_shop_lives_on() {
    let shop = Shop::open_with(|args| {
        args.access.dev_anonymous = false;
        args.access.points_per_second = 1;
    })
    .await;
    let app =
        domain::app::store::create_app(&shop.db.connection(), "shop front", Some(100)).await.expect("an app");
    let app = shop.with(&key_of(&shop.db.connection(), app.id, &[Scope::OrdersWrite], &[]).await.secret);
    let place =
        "mutation ($input: PlaceOrderInput!) { placeOrder(input: $input) { order { id } accessToken } }";
    let input = order("a", [("SKU-1", 1)]).settled().into_value();
    let placed = app.execute(place, json!({ "input": input })).await["placeOrder"].take();
    let shopper = shop.with(placed["accessToken"].as_str().expect("a token"));
    let read = "query ($id: ID!) { getOrder(id: $id) { status totals { total { amount } } } }";
    let mut statuses = Vec::new();
    for _ in 0..10 {
        statuses.push(shopper.send(read, json!({ "id": placed["order"]["id"] })).await.0);
    }
    assert!(statuses.contains(&StatusCode::TOO_MANY_REQUESTS), "its own budget is spent: {statuses:?}");
    let input = order("b", [("SKU-1", 1)]).settled().into_value();
    app.execute(place, json!({ "input": input })).await;
    shop.close().await;
}

#[tokio::test]
async fn a_row_filter_lets_an_app_look_and_not_touch() {
    let shop = closed_shop().await;
    let db = shop.db.connection();
    let owner = key(&shop, "owner", &[Scope::OrdersWrite]).await;
    let partner = key(&shop, "partner", &[Scope::OrdersWrite]).await;
    let partner = key_of(&db, partner.app_id, &[Scope::OrdersWrite], &[owner.app_id]).await;
    let place =
        "mutation ($input: PlaceOrderInput!) { placeOrder(input: $input) { order { id } accessToken } }";
    let input = order("a", [("SKU-1", 1)]).settled().into_value();
    let placed =
        shop.with(&owner.secret).execute(place, json!({ "input": input })).await["placeOrder"].take();
    let id = json!({ "id": placed["order"]["id"] });
    let read = "query ($id: ID!) { getOrder(id: $id) { status } }";
    assert!(shop.with(&partner.secret).execute(read, id.clone()).await["getOrder"].is_object());
    let revoke =
        "mutation ($id: ID!) { revokeOrderAccessTokens(orderId: $id) { revoked userErrors { code } } }";
    let refused = shop.with(&partner.secret).execute(revoke, id.clone()).await;
    assert_eq!(refused["revokeOrderAccessTokens"]["revoked"], false, "{refused}");
    let shopper = shop.with(placed["accessToken"].as_str().expect("a token"));
    assert!(shopper.execute(read, id.clone()).await["getOrder"].is_object());
    let revoked = shop.with(&owner.secret).execute(revoke, id).await;
    assert_eq!(revoked["revokeOrderAccessTokens"]["revoked"], true);
    shop.close().await;
}

#[tokio::test]
async fn where_everybody_is_let_in_a_page_that_leads_its_own_name_here_is_not() {
    let shop = Shop::open().await;
    for (host, status) in [("evil.example", 403), ("localhost:1", 200), ("127.0.0.1", 200), ("[::1]:80", 200)]
    {
        let request = shop.post().header("host", host).json(&json!({ "query": "{ __typename }" }));
        assert_eq!(request.send().await.expect("an answer").status().as_u16(), status, "{host}");
    }
    shop.close().await;
}

#[tokio::test]
async fn who_manages_apps_gives_away_no_orders_that_it_does_not_see() {
    let shop = closed_shop().await;
    let victim = key(&shop, "victim", &[Scope::OrdersRead, Scope::OrdersReadPii]).await;
    let scopes = [Scope::AppsManage, Scope::OrdersRead, Scope::OrdersReadPii];
    let manager = key(&shop, "manager", &scopes).await;
    let id_of = |app: &AppWithKey| domain::id::AppId::from_uuid(app.app_id).to_string();
    let create = "mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) { secret userErrors { path } } }";
    let made = async |by: &AppWithKey, input: Value| {
        shop.with(&by.secret).execute(create, json!({ "input": input })).await["createApiKey"]["secret"]
            .take()
    };
    let key_for = |app: &AppWithKey, scopes: &[&str], granted: &[&AppWithKey]| {
        let granted: Vec<String> = granted.iter().map(|app| id_of(app)).collect();
        json!({ "appId": id_of(app), "name": "n", "scopes": scopes, "rowFilter": { "apps": granted } })
    };
    assert_eq!(made(&manager, key_for(&victim, &["orders:read"], &[])).await, Value::Null);
    assert_eq!(made(&manager, key_for(&manager, &["orders:read"], &[&victim])).await, Value::Null);
    let rotate = "mutation ($input: RotateApiKeyInput!) { rotateApiKey(input: $input) { secret } }";
    let key_id = domain::id::KeyId::from_uuid(victim.key_id).to_string();
    let rotated = shop.with(&manager.secret).execute(rotate, json!({ "input": { "id": key_id } })).await;
    assert_eq!(rotated["rotateApiKey"]["secret"], Value::Null);
    assert!(made(&manager, key_for(&manager, &["orders:read"], &[])).await.is_string());
    assert!(made(&manager, key_for(&victim, &["apps:manage"], &[])).await.is_string(), "it shows no order");

    let all = [Scope::AppsManage, Scope::OrdersRead, Scope::OrdersReadAll];
    let administrator = key(&shop, "administrator", &all).await;
    assert!(made(&administrator, key_for(&victim, &["orders:read"], &[&manager])).await.is_string());
    shop.close().await;
}

#[tokio::test]
async fn a_key_that_is_over_is_not_rotated() {
    let shop = closed_shop().await;
    let manager = shop.with(&key(&shop, "manager", &Scope::ALL).await.secret);
    let rotate = "mutation ($input: RotateApiKeyInput!) { rotateApiKey(input: $input) { secret userErrors { path } } }";
    for ended in ["revoked_at", "expires_at"] {
        let old = key(&shop, ended, &[Scope::OrdersRead]).await;
        shop.db.execute(&format!("UPDATE api_keys SET {ended} = now() WHERE id = '{}'", old.key_id)).await;
        let id = domain::id::KeyId::from_uuid(old.key_id).to_string();
        let rotated = manager.execute(rotate, json!({ "input": { "id": id } })).await["rotateApiKey"].take();
        assert_eq!(
            rotated,
            json!({ "secret": null, "userErrors": [{ "path": ["input", "id"] }] }),
            "{ended}"
        );
    }
    shop.close().await;
}

#[tokio::test]
async fn a_name_at_an_identity_provider_is_not_the_name_of_an_app_of_ours() {
    let shop = closed_shop().await;
    let db = shop.db.connection();
    let foreign = domain::app::store::app_of_client(&db, "https://login.example", "warehouse").await;
    let foreign = domain::id::AppId::from_uuid(foreign.expect("an app").id).to_string();
    let mut command = oms_command(
        OMS,
        &shop.db,
        &["keys", "create", "--app", "warehouse", "--scopes", "orders:read", "--json"],
    );
    let created = within("the command has ended", command.output()).await.expect("oms-under-test runs");
    let key: Value = serde_json::from_slice(&created.stdout).expect("one JSON object");
    assert_ne!(key["app"]["id"], json!(foreign));
    shop.close().await;
}

/// A shop that asks who calls, and takes the tokens of this provider.
async fn shop_with(provider: &IdentityProvider) -> Shop {
    Shop::open_with(|args| {
        args.access.dev_anonymous = false;
        args.access.points_per_second = 4;
        provider.set(args);
    })
    .await
}

async fn status_of(client: &Client) -> StatusCode {
    client.send("{ __typename }", json!({})).await.0
}

#[tokio::test]
async fn a_token_of_the_identity_provider_opens_what_its_scopes_say() {
    let provider = IdentityProvider::start().await;
    let shop = shop_with(&provider).await;
    let reader = shop.with(&provider.token(json!({ "azp": "partner" })));
    let writer = shop.with(&provider.token(json!({ "azp": "partner", "scope": "openid orders:write" })));
    let other = shop.with(&provider.token(json!({ "azp": "other" })));
    let place = "mutation ($input: PlaceOrderInput!) { placeOrder(input: $input) { order { id } } }";
    let input = json!({ "input": order("a", [("SKU-1", 1)]).settled().into_value() });
    assert_eq!(code(&reader.send(place, input.clone()).await.1), "FORBIDDEN");
    let placed = writer.execute(place, input).await["placeOrder"].take();
    let read = "query ($id: ID!) { getOrder(id: $id) { status } }";
    let id = json!({ "id": placed["order"]["id"] });
    assert_eq!(reader.execute(read, id.clone()).await["getOrder"]["status"], "CONFIRMED", "one app");
    assert_eq!(other.execute(read, id).await["getOrder"], Value::Null, "another app");
    let apps = shop.db.texts("SELECT name FROM apps WHERE name IN ('partner', 'other') ORDER BY 1").await;
    assert_eq!(apps, ["other", "partner"], "each is made once");

    // Forty points at once, and four a second.
    let mut statuses = Vec::new();
    for _ in 0..80 {
        statuses.push(status_of(&reader).await);
    }
    assert!(statuses.contains(&StatusCode::TOO_MANY_REQUESTS), "{statuses:?}");
    let manager = shop.with(&provider.token(json!({ "azp": "partner", "scope": "apps:manage" })));
    for _ in 0..40 {
        assert_eq!(status_of(&manager).await, StatusCode::OK, "whoever manages apps has no budget");
    }
    shop.close().await;
}

#[tokio::test]
async fn a_token_ends_by_itself_however_lately_it_was_seen() {
    let provider = IdentityProvider::start().await;
    let shop = shop_with(&provider).await;
    // Thirty seconds are forgiven, which leaves five; an answer is remembered for longer.
    let token = provider.token(json!({ "exp": seconds_since_1970() - 25, "scope": "apps:manage" }));
    let client = shop.with(&token);
    assert_eq!(status_of(&client).await, StatusCode::OK);
    eventually("it has ended", async || (status_of(&client).await == StatusCode::UNAUTHORIZED).then_some(()))
        .await;
    shop.close().await;
}

#[tokio::test]
async fn whatever_is_wrong_with_a_token_the_answer_is_that_to_a_bad_key() {
    let provider = IdentityProvider::start().await;
    let shop = shop_with(&provider).await;
    let good = provider.token(json!({}));
    assert_eq!(status_of(&shop.with(&good)).await, StatusCode::OK);
    let (signed, _) = good.rsplit_once('.').expect("three parts");
    let (_, other_signature) =
        provider.token(json!({ "azp": "other" })).rsplit_once('.').map(owned).expect("parts");
    let mut answers = Vec::new();
    for token in [
        "oms_live_nothing".to_owned(),
        "eyJhbGciOiJub25lIn0.e30.".to_owned(),
        format!("{signed}.{other_signature}"),
        provider.token_of_key("tomorrow", json!({})),
        provider.token(json!({ "exp": seconds_since_1970() - 3_600 })),
        provider.token(json!({ "exp": null })),
        provider.token(json!({ "iss": "https://login.example" })),
        provider.token(json!({ "aud": "another" })),
        provider.token(json!({ "nonce": "n" })),
        provider.token(json!({ "azp": null, "sub": null })),
    ] {
        let response = shop.with(&token).try_send("{ __typename }", json!({})).await.expect("an answer");
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{token}");
        assert_eq!(response.headers()[WWW_AUTHENTICATE], "Bearer");
        answers.push(response.text().await.expect("a body"));
        let mut socket = Socket::open(shop.addr()).await;
        socket.send(json!({ "type": "connection_init", "payload": { "x-api-key": token } })).await;
        assert_eq!(socket.receive().await, Err(4403), "{token}");
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
    shop.close().await;
}

fn owned((one, other): (&str, &str)) -> (String, String) {
    (one.to_owned(), other.to_owned())
}

#[tokio::test]
async fn a_provider_that_says_nothing_shuts_out_its_own_tokens_alone() {
    let provider = IdentityProvider::start_silent().await;
    let shop = shop_with(&provider).await;
    let app = key(&shop, "app", &[Scope::OrdersWrite]).await;
    let newcomer = key(&shop, "newcomer", &[Scope::OrdersRead]).await;
    // Anybody can make up tokens.
    let asking: Vec<_> = (0..8)
        .map(|n| {
            let client = shop.with(&provider.token_of_key(&format!("key {n}"), json!({})));
            tokio::spawn(async move { status_of(&client).await })
        })
        .collect();
    let begun = Instant::now();
    let place =
        "mutation ($input: PlaceOrderInput!) { placeOrder(input: $input) { order { id } accessToken } }";
    let input = json!({ "input": order("a", [("SKU-1", 1)]).into_value() });
    let placed = shop.with(&app.secret).execute(place, input).await["placeOrder"].take();
    assert_eq!(status_of(&shop.with(&newcomer.secret)).await, StatusCode::OK);
    let token = placed["accessToken"].as_str().expect("a token");
    assert_eq!(status_of(&shop.with(token)).await, StatusCode::OK);
    assert!(asking.iter().any(|asked| !asked.is_finished()), "answered within {:?}", begun.elapsed());
    for asked in asking {
        let status = within("an answer", asked).await.expect("no panic");
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "nobody can tell");
    }
    shop.close().await;
}

/// Starts `oms serve` on an embedded database in this folder, looks at it, and stops it; returns what it has printed.
async fn serve_in(folder: &std::path::Path, look: impl AsyncFnOnce(Client, Option<String>)) -> String {
    let mut command = tokio::process::Command::new(OMS);
    command.arg("serve").env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    for (name, value) in [("OMS_LISTEN", "127.0.0.1:0"), ("OMS_POOL_SIZE", "5"), ("OMS_LOG", "off")] {
        command.env(name, value);
    }
    if let Some(programs) = std::env::var_os("PG_BIN_DIR") {
        command.env("PG_BIN_DIR", programs);
    }
    command.env("OMS_DATA_DIR", folder).stdout(std::process::Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("oms-under-test starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut printed = String::new();
    let mut client = None;
    let mut secret = None;
    // Everything is printed before the first request is answered, and at once.
    while client.is_none() || secret.is_none() {
        let patience = if client.is_none() { Duration::from_secs(120) } else { Duration::from_secs(2) };
        let Ok(line) = tokio::time::timeout(patience, lines.next_line()).await else { break };
        let line = line.expect("text").expect("it runs");
        if let Some((_, rest)) = line.split_once("http://") {
            client = rest.split('/').next().and_then(|addr| addr.parse().ok()).map(Client::new);
        }
        if let Some((_, key)) = line.split_once("Administrator key, shown this once: ") {
            secret = Some(key.to_owned());
        }
        printed += &(line + "\n");
    }
    look(client.expect("it is ready"), secret).await;
    let id = child.id().and_then(|id| rustix::process::Pid::from_raw(id.try_into().ok()?));
    rustix::process::kill_process(id.expect("it runs"), rustix::process::Signal::TERM).expect("it runs");
    while let Some(line) = within("its end", lines.next_line()).await.expect("text") {
        printed += &(line + "\n");
    }
    assert!(within("its end", child.wait()).await.expect("our child").success());
    printed
}

#[tokio::test]
async fn the_first_start_on_an_embedded_database_prints_a_key_and_no_other_does() {
    let folder = std::env::temp_dir().join(format!("oms-first-key-{}", uuid::Uuid::now_v7()));
    let mut made = None;
    let printed = serve_in(&folder, async |client: Client, secret: Option<String>| {
        let secret = secret.expect("a key");
        assert_eq!(status_of(&client).await, StatusCode::UNAUTHORIZED);
        let apps = client.with(&secret).execute("{ apps { name } viewer { scopes } }", json!({})).await;
        assert_eq!(apps["viewer"]["scopes"].as_array().map(Vec::len), Some(Scope::ALL.len()), "{apps}");
        made = Some(secret);
    })
    .await;
    let made = made.expect("a key");
    assert_eq!(printed.matches(&made).count(), 1, "{printed}");
    let printed = serve_in(&folder, async |client: Client, secret: Option<String>| {
        assert_eq!(secret, None);
        assert_eq!(status_of(&client.with(&made)).await, StatusCode::OK, "it is still good");
    })
    .await;
    assert!(!printed.contains("oms_live_"), "{printed}");
    std::fs::remove_dir_all(&folder).expect("the folder of an embedded database");
}
