//! Registered documents: an app names them, executes nothing else where it is told so, and sees no other app's.

use std::time::{Duration, Instant};

use domain::app::document::DocumentId;
use domain::app::{Scope, store};
use domain::id::AppId;
use oms_tests::{Client, Shop, Socket, TestDatabase, app_with_key, key_of, oms_command, order, within};
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::OMS;

const VIEWER: &str = "query Viewer { viewer { app { name } } }";
const ORDER: &str = "query Status($id: ID!) { getOrder(id: $id) { status } }";
const WATCH: &str = "subscription ($id: ID!) { orderStatus(id: $id) { sequence status } }";
const PLACE: &str =
    "mutation ($input: PlaceOrderInput!) { placeOrder(input: $input) { order { id } accessToken } }";

const NOT_FOUND: &str = "PERSISTED_DOCUMENT_NOT_FOUND";
const NOT_ALLOWED: &str = "DOCUMENT_NOT_ALLOWED";

fn id_of(text: &str) -> String {
    DocumentId::of(text).to_string()
}

fn code(answer: &Value) -> &str {
    answer["errors"][0]["extensions"]["code"].as_str().unwrap_or_default()
}

/// A shop that asks who calls, with an administrator, and an app that places orders.
struct Scene {
    shop: Shop,
    admin: Client,
    app: Client,
    app_id: String,
    app_uuid: Uuid,
}

impl Scene {
    async fn open() -> Self {
        let shop = Shop::open_with(|args| args.access.dev_anonymous = false).await;
        let db = shop.db.connection();
        let admin = shop.with(&app_with_key(&db, "admin", &Scope::ALL).await.secret);
        let app = app_with_key(&db, "storefront", &[Scope::OrdersWrite]).await;
        let (client, app_id) = (shop.with(&app.secret), AppId::from_uuid(app.app_id).to_string());
        Self { shop, admin, app: client, app_id, app_uuid: app.app_id }
    }

    async fn add(&self, documents: &[&str]) -> Value {
        let add = "mutation ($input: AddDocumentsInput!) { addDocuments(input: $input) {
            documents { id text createdAt } userErrors { path message } } }";
        let input = json!({ "appId": self.app_id, "documents": documents });
        self.admin.execute(add, json!({ "input": input })).await["addDocuments"].take()
    }

    async fn remove(&self, ids: &[&str]) -> Value {
        let remove = "mutation ($input: RemoveDocumentsInput!) { removeDocuments(input: $input) {
            removedIds userErrors { path message } } }";
        let input = json!({ "appId": self.app_id, "ids": ids });
        self.admin.execute(remove, json!({ "input": input })).await["removeDocuments"].take()
    }

    async fn only(&self, only: bool) {
        let update = "mutation ($input: UpdateAppInput!) { updateApp(input: $input) {
            app { onlyRegisteredDocuments } userErrors { message } } }";
        let input = json!({ "appId": self.app_id, "onlyRegisteredDocuments": only });
        let updated = self.admin.execute(update, json!({ "input": input })).await["updateApp"].take();
        assert_eq!(updated, json!({ "app": { "onlyRegisteredDocuments": only }, "userErrors": [] }));
    }
}

/// Sends a body and returns the status and the answer.
async fn post(client: &Client, accept: &str, body: Value) -> (StatusCode, Value) {
    let sent = within("an answer", client.post().header(ACCEPT, accept).json(&body).send()).await;
    let sent = sent.expect("an answer");
    (sent.status(), sent.json().await.expect("JSON"))
}

async fn json(client: &Client, body: Value) -> Value {
    post(client, "application/json", body).await.1
}

/// Sends a body and returns the whole stream of events.
async fn stream(client: &Client, body: Value) -> String {
    let sent = client.post().header(ACCEPT, "text/event-stream").json(&body).send();
    let sent = within("an answer", sent).await.expect("an answer");
    within("the end of the stream", sent.text()).await.expect("text")
}

async fn place(client: &Client, key: &str) -> Value {
    let input = order(key, [("SKU-1", 1)]).settled().into_value();
    client.execute(PLACE, json!({ "input": input })).await["placeOrder"].take()
}

#[tokio::test]
async fn a_document_is_executed_by_its_name_over_every_transport() {
    let scene = Scene::open().await;
    let placed = place(&scene.app, "a").await;
    let order_id = placed["order"]["id"].as_str().expect("an id");
    let both = format!("{ORDER} {VIEWER}");
    let added = scene.add(&[ORDER, WATCH, &both, PLACE]).await;
    assert_eq!(added["documents"].as_array().map(Vec::len), Some(4), "{added}");
    let variables = json!({ "id": order_id });

    let answer =
        json(&scene.app, json!({ "documentId": id_of(ORDER), "variables": variables, "query": null })).await;
    assert_eq!(answer["data"]["getOrder"]["status"], "CONFIRMED", "{answer}");
    let answer =
        json(&scene.app, json!({ "documentId": id_of(&both), "operationName": "Viewer", "variables": {} }));
    assert_eq!(answer.await["data"]["viewer"]["app"]["name"], "storefront");

    let get = scene
        .app
        .get_graphql(&[("documentId", id_of(ORDER).as_str()), ("variables", variables.to_string().as_str())]);
    let answer = get.send().await.expect("an answer").json::<Value>().await.expect("JSON");
    assert_eq!(answer["data"]["getOrder"]["status"], "CONFIRMED", "{answer}");
    let census = scene.shop.db.census().await;
    let get = scene.app.get_graphql(&[("documentId", id_of(PLACE).as_str())]).send().await;
    assert_eq!(get.expect("an answer").status(), StatusCode::METHOD_NOT_ALLOWED, "it is a mutation");
    assert_eq!(scene.shop.db.census().await, census);

    let events = stream(&scene.app, json!({ "documentId": id_of(WATCH), "variables": variables })).await;
    assert!(events.contains("\"CONFIRMED\"") && events.contains("event: complete"), "{events}");

    let mut socket = connect(&scene, &scene.app).await;
    // Some clients insist on a query.
    let payload = json!({ "query": "", "documentId": id_of(WATCH), "variables": variables });
    socket.send(json!({ "id": "1", "type": "subscribe", "payload": payload })).await;
    let first = socket.receive().await.expect("an event");
    assert_eq!(first["payload"]["data"]["orderStatus"]["sequence"], 1, "{first}");

    // A shopper names what its shop has registered.
    let shopper = scene.shop.with(placed["accessToken"].as_str().expect("a token"));
    let answer = json(&shopper, json!({ "documentId": id_of(ORDER), "variables": variables })).await;
    assert_eq!(answer["data"]["getOrder"]["status"], "CONFIRMED", "{answer}");
    scene.shop.close().await;
}

async fn connect(scene: &Scene, client: &Client) -> Socket {
    let mut socket = Socket::open(scene.shop.addr()).await;
    let credential = client.credential().expect("a credential");
    socket.send(json!({ "type": "connection_init", "payload": { "x-api-key": credential } })).await;
    assert_eq!(socket.receive().await, Ok(json!({ "type": "connection_ack" })));
    socket
}

#[tokio::test]
async fn a_request_says_in_one_way_what_is_to_be_executed() {
    let scene = Scene::open().await;
    scene.add(&[VIEWER]).await;
    let id = id_of(VIEWER);
    let automatic = json!({ "persistedQuery": { "version": 1, "sha256Hash": &id[7..] } });
    for body in [
        json!({ "documentId": id, "query": VIEWER }),
        json!({ "documentId": id, "extensions": automatic }),
        json!({ "documentId": id.to_uppercase() }),
        json!({ "documentId": &id[7..] }),
        json!({ "documentId": "" }),
    ] {
        let (status, answer) = post(&scene.app, "application/json", body.clone()).await;
        assert_eq!((status, code(&answer)), (StatusCode::BAD_REQUEST, "BAD_REQUEST"), "{body}: {answer}");
        let mut socket = connect(&scene, &scene.app).await;
        socket.send(json!({ "id": "1", "type": "subscribe", "payload": body })).await;
        assert_eq!(socket.receive().await, Err(4400), "{body}");
    }
    let get = scene.app.get_graphql(&[("documentId", id.as_str()), ("query", VIEWER)]).send().await;
    assert_eq!(get.expect("an answer").status(), StatusCode::BAD_REQUEST);
    scene.shop.close().await;
}

#[tokio::test]
async fn the_document_of_another_app_is_a_document_of_nobody() {
    let scene = Scene::open().await;
    scene.add(&[VIEWER]).await;
    let other = app_with_key(&scene.shop.db.connection(), "other", &[Scope::OrdersWrite]).await;
    let other = scene.shop.with(&other.secret);
    let whole = async |client: &Client, accept: &str, id: &str| {
        let body = json!({ "documentId": id });
        let sent = client.post().header(ACCEPT, accept).json(&body).send().await.expect("an answer");
        (sent.status(), sent.headers()[CONTENT_TYPE].clone(), sent.text().await.expect("text"))
    };
    let nobodys = id_of("{ nobody has registered this }");
    for accept in ["application/json", "application/graphql-response+json", "text/event-stream"] {
        let unseen = whole(&other, accept, &id_of(VIEWER)).await;
        assert!(unseen.2.contains(NOT_FOUND), "{unseen:?}");
        assert_eq!(unseen, whole(&other, accept, &nobodys).await);
        // The second time, when it is remembered, as well.
        assert_eq!(unseen, whole(&other, accept, &id_of(VIEWER)).await);
    }
    // Nor is a text that the app has sent with its hash.
    let by_hash = |text: &str| json!({ "persistedQuery": { "version": 1, "sha256Hash": &id_of(text)[7..] } });
    let sent = json(&scene.app, json!({ "query": VIEWER, "extensions": by_hash(VIEWER) })).await;
    assert_eq!(sent["data"]["viewer"]["app"]["name"], "storefront", "{sent}");
    assert_eq!(json(&scene.app, json!({ "extensions": by_hash(VIEWER) })).await["data"], sent["data"]);
    let unseen = post(&other, "application/json", json!({ "extensions": by_hash(VIEWER) })).await;
    assert_eq!(code(&unseen.1), "PERSISTED_QUERY_NOT_FOUND", "{unseen:?}");
    let nobodys = json!({ "extensions": by_hash("{ nobody has sent this }") });
    assert_eq!(unseen, post(&other, "application/json", nobodys).await);
    let documents = "{ apps(first: 9) { name documents(first: 9) { id } } }";
    assert_eq!(code(&other.send(documents, json!({})).await.1), "FORBIDDEN");
    let seen = scene.admin.execute(documents, json!({})).await;
    let of = |name: &str| {
        let apps = seen["apps"].as_array().expect("apps").iter();
        apps.clone().find(|app| app["name"] == name).expect("the app")["documents"].clone()
    };
    assert_eq!(of("storefront"), json!([{ "id": id_of(VIEWER) }]));
    assert_eq!(of("other"), json!([]));
    scene.shop.close().await;
}

#[tokio::test]
async fn an_app_executes_nothing_but_registered_documents_where_it_is_told_so() {
    const RESPONSE: &str = "application/graphql-response+json";
    const SCHEMA: &str = "{ __schema { queryType { name } } }";
    const OTHER: &str = "{ viewer { app { id } } }";
    let scene = Scene::open().await;
    let placed = place(&scene.app, "a").await;
    let shopper = scene.shop.with(placed["accessToken"].as_str().expect("a token"));
    scene.add(&[VIEWER, WATCH]).await;
    scene.only(true).await;

    // By its name, and sent in full.
    for body in [json!({ "documentId": id_of(VIEWER) }), json!({ "query": VIEWER })] {
        let answer = json(&scene.app, body).await;
        assert_eq!(answer["data"]["viewer"]["app"]["name"], "storefront", "{answer}");
    }
    // Nothing else, whatever it is: it is not even parsed.
    for query in [OTHER, SCHEMA, &format!("{VIEWER} "), "{", "{ nonsense }", &"{".repeat(90_000)] {
        let (status, answer) = post(&scene.app, RESPONSE, json!({ "query": query })).await;
        assert_eq!((status, code(&answer)), (StatusCode::FORBIDDEN, NOT_ALLOWED), "{query:.50}: {answer}");
        assert!(answer["errors"][0]["message"].to_string().contains("addDocuments"), "{answer}");
        assert_eq!(post(&scene.app, "application/json", json!({ "query": query })).await.0, StatusCode::OK);
    }
    for query in [OTHER, "mutation { __typename }"] {
        let get = scene.app.get_graphql(&[("query", query)]).header(ACCEPT, RESPONSE).send().await;
        assert_eq!(get.expect("an answer").status(), StatusCode::FORBIDDEN, "{query}");
    }
    assert!(stream(&scene.app, json!({ "query": OTHER })).await.contains(NOT_ALLOWED));
    let mut socket = connect(&scene, &scene.app).await;
    socket.send(json!({ "id": "1", "type": "subscribe", "payload": { "query": OTHER } })).await;
    let refused = socket.receive().await.expect("the socket stays open");
    assert_eq!(
        (&refused["type"], &refused["payload"][0]["extensions"]["code"]),
        (&json!("error"), &json!(NOT_ALLOWED))
    );
    let payload = json!({ "query": WATCH, "variables": { "id": placed["order"]["id"] } });
    socket.send(json!({ "id": "2", "type": "subscribe", "payload": payload })).await;
    assert_eq!(socket.receive().await.expect("an event")["type"], "next");

    // The holder of a link to an order is no way around.
    assert_eq!(code(&json(&shopper, json!({ "query": ORDER, "variables": {} })).await), NOT_ALLOWED);
    // Others are not bound.
    scene.admin.execute(OTHER, json!({})).await;

    scene.add(&[SCHEMA]).await;
    assert!(scene.app.execute(SCHEMA, json!({})).await["__schema"].is_object());
    let removed = scene.remove(&[&id_of(SCHEMA), &id_of("{ never }")]).await;
    assert_eq!(removed, json!({ "removedIds": [id_of(SCHEMA)], "userErrors": [] }));
    assert_eq!(code(&scene.app.send(SCHEMA, json!({})).await.1), NOT_ALLOWED);
    assert_eq!(code(&json(&scene.app, json!({ "documentId": id_of(SCHEMA) })).await), NOT_FOUND);

    scene.only(false).await;
    scene.app.execute(OTHER, json!({})).await;
    scene.shop.close().await;
}

#[tokio::test]
async fn a_switch_reaches_sockets_that_are_open() {
    let scene = Scene::open().await;
    let mut socket = connect(&scene, &scene.app).await;
    let mut ask = async |n: u32| {
        let payload = json!({ "query": "{ viewer { app { id } } }" });
        socket.send(json!({ "id": n.to_string(), "type": "subscribe", "payload": payload })).await;
        let answer = socket.receive().await.expect("the socket stays open");
        if answer["type"] == "next" {
            assert_eq!(socket.receive().await.expect("the end")["type"], "complete");
        }
        answer["type"] == "next"
    };
    assert!(ask(0).await);
    scene.only(true).await;
    let switched_at = Instant::now();
    let mut n = 1;
    while ask(n).await {
        assert!(switched_at.elapsed() < Duration::from_secs(45), "it holds over open sockets");
        tokio::time::sleep(Duration::from_millis(200)).await;
        n += 1;
    }
    scene.shop.close().await;
}

#[tokio::test]
async fn automatic_persisted_queries_are_no_way_around() {
    let scene = Scene::open().await;
    let other = "{ viewer { app { id } } }";
    let automatic =
        |text: &str| json!({ "persistedQuery": { "version": 1, "sha256Hash": &id_of(text)[7..] } });
    // Everybody's by its hash, the app's own among them.
    for client in [&scene.admin, &scene.app] {
        let answer = json(client, json!({ "query": other, "extensions": automatic(other) })).await;
        assert!(answer["data"].is_object(), "{answer}");
    }
    scene.add(&[VIEWER]).await;
    scene.only(true).await;
    for body in [
        json!({ "extensions": automatic(other) }),
        json!({ "query": other, "extensions": automatic(other) }),
        json!({ "query": other, "extensions": automatic(VIEWER) }),
        json!({ "query": " ", "extensions": automatic(VIEWER) }),
        json!({ "extensions": { "persistedQuery": {} } }),
    ] {
        let answer = json(&scene.app, body.clone()).await;
        assert_eq!(code(&answer), NOT_ALLOWED, "{body}: {answer}");
    }
    // The hash of a registered document is as good as its name, though nobody has ever sent the text.
    for body in [
        json!({ "extensions": automatic(VIEWER) }),
        json!({ "query": VIEWER, "extensions": automatic(VIEWER) }),
    ] {
        let answer = json(&scene.app, body).await;
        assert_eq!(answer["data"]["viewer"]["app"]["name"], "storefront", "{answer}");
    }
    let answer = json(&scene.app, json!({ "query": VIEWER, "extensions": automatic(other) })).await;
    assert_eq!(code(&answer), "PERSISTED_QUERY_HASH_MISMATCH", "{answer}");
    scene.shop.close().await;
}

#[tokio::test]
async fn a_bad_document_is_refused_by_its_place_and_nothing_is_registered() {
    let scene = Scene::open().await;
    let long = format!("{VIEWER} #{}", "x".repeat(40_000));
    for bad in ["", "{", "{ nonsense }", "query ($id: Nope) { __typename }", &"{".repeat(5_000), "{ a }\0"] {
        let refused = scene.add(&[VIEWER, bad]).await;
        assert_eq!(refused["documents"], json!([]), "{bad:.50}");
        assert_eq!(refused["userErrors"].as_array().map(Vec::len), Some(1), "{refused}");
        assert_eq!(refused["userErrors"][0]["path"], json!(["input", "documents", "1"]), "{refused}");
    }
    for documents in [&[][..], &[VIEWER; 101]] {
        let refused = scene.add(documents).await;
        assert_eq!(refused["userErrors"][0]["path"], json!(["input", "documents"]), "{refused}");
    }
    let add = "mutation ($input: AddDocumentsInput!) { addDocuments(input: $input) { userErrors { path } } }";
    for app_id in ["nonsense", "app_01jx2v3q8kf0v8c9m5w6r7t2ab"] {
        let input = json!({ "appId": app_id, "documents": [VIEWER] });
        let refused = scene.admin.execute(add, json!({ "input": input })).await;
        assert_eq!(refused["addDocuments"]["userErrors"][0]["path"], json!(["input", "appId"]));
    }
    assert_eq!(scene.shop.db.texts("SELECT text FROM app_documents").await, [] as [&str; 0]);
    assert_eq!(scene.add(&[&long, &long, VIEWER]).await["documents"].as_array().map(Vec::len), Some(2));
    let refused = scene.remove(&[&id_of(VIEWER), "nonsense"]).await;
    assert_eq!(refused["userErrors"][0]["path"], json!(["input", "ids", "1"]), "{refused}");
    scene.shop.close().await;
}

#[tokio::test]
async fn an_app_has_at_most_a_thousand_documents() {
    let scene = Scene::open().await;
    let fill = format!(
        "INSERT INTO app_documents (app_id, hash, text)
         SELECT '{}', sha256(convert_to(text, 'UTF8')), text
         FROM (SELECT '{{ a' || n || ': __typename }}' AS text FROM generate_series(1, 999) AS n) AS texts",
        scene.app_uuid
    );
    scene.shop.db.execute(&fill).await;
    assert_eq!(scene.add(&[VIEWER]).await["userErrors"], json!([]));
    let refused = scene.add(&[ORDER]).await;
    assert_eq!(refused["userErrors"][0]["path"], json!(["input", "documents"]), "{refused}");
    assert!(refused["userErrors"][0]["message"].to_string().contains("1000"), "{refused}");
    assert_eq!(scene.add(&[VIEWER]).await["userErrors"], json!([]), "it is there already");
    scene.shop.close().await;
}

#[tokio::test]
async fn a_document_that_is_asked_for_again_costs_no_statement() {
    let scene = Scene::open().await;
    scene.add(&[VIEWER]).await;
    scene.only(true).await;
    let named = json!({ "documentId": id_of(VIEWER) });
    assert!(json(&scene.app, named.clone()).await["data"].is_object());
    // Nobody reads them now.
    let mut lock = scene.shop.db.pool().begin().await.expect("a transaction");
    sqlx::query("LOCK TABLE app_documents, apps, api_keys").execute(&mut *lock).await.expect("the lock");
    for body in [named, json!({ "query": VIEWER })] {
        assert!(json(&scene.app, body).await["data"].is_object());
    }
    lock.rollback().await.expect("the lock goes");
    scene.shop.close().await;
}

#[tokio::test]
async fn whoever_names_unknown_documents_uses_up_its_own_budget() {
    let scene = Scene::open().await;
    let db = scene.shop.db.connection();
    let curious = store::create_app(&db, "curious", Some(1)).await.expect("an app");
    let curious = scene.shop.with(&key_of(&db, curious.id, &[Scope::OrdersRead], &[]).await.secret);
    let mut statuses = Vec::new();
    for n in 0..15 {
        let body = json!({ "documentId": id_of(&n.to_string()) });
        let answer = curious.post().json(&body).send().await.expect("an answer");
        let is_told_when = answer.headers().contains_key(RETRY_AFTER);
        assert_eq!(answer.status() == StatusCode::TOO_MANY_REQUESTS, is_told_when);
        statuses.push(answer.status());
    }
    assert_eq!(statuses[0], StatusCode::OK);
    assert!(statuses.contains(&StatusCode::TOO_MANY_REQUESTS), "{statuses:?}");
    scene.shop.close().await;
}

#[tokio::test]
async fn the_command_line_registers_lists_and_removes_documents() {
    let scene = Scene::open().await;
    let run = async |arguments: &[&str]| {
        let mut command = oms_command(OMS, &scene.shop.db, arguments);
        let output = within("the command has ended", command.output()).await.expect("oms-under-test runs");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned(), output.stderr)
    };
    let folder = std::env::temp_dir().join(format!("oms-documents-{}", Uuid::now_v7()));
    std::fs::create_dir(&folder).expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("a file");
        path.to_str().expect("text").to_owned()
    };
    let viewer = file("viewer.graphql", VIEWER);
    let many = file("persisted.json", &json!({ "any key": ORDER, "other": WATCH }).to_string());
    let bad = file("bad.graphql", "{ nonsense }");

    // Who asked already is told within half a minute.
    assert_eq!(code(&json(&scene.app, json!({ "documentId": id_of(VIEWER) })).await), NOT_FOUND);
    let allowed = run(&["documents", "allow", "--app", "storefront", &viewer, &many]).await;
    let lines: Vec<&str> = allowed.1.lines().collect();
    assert!(
        allowed.0 && lines.len() == 3 && lines[0] == format!("{}  {viewer}", id_of(VIEWER)),
        "{allowed:?}"
    );
    let listed = run(&["documents", "list", "--app", "storefront"]).await;
    insta::assert_snapshot!(listed.1, @r#"
    The app "storefront" may name these, and executes others as well.
    DOCUMENT                                                                 TEXT
    sha256:19541d86177bbcb5150f4190ffb0d160a6ce15ecee314acfc49f94934f6988f3  subscription ($id: ID!) { orderStatus(id: $id) { sequence st...
    sha256:a8db40638aef265c94ca423ed416b4a0c4a286a895915e9b9a645985955c8c51  query Viewer { viewer { app { name } } }
    sha256:d22c6367a7bdc06df8ff49a8b7800b5e0b1c1f2963c1d14a24c5c55d2a0410cd  query Status($id: ID!) { getOrder(id: $id) { status } }
    "#);
    let refused = run(&["documents", "allow", "--app", "storefront", &viewer, &bad]).await;
    let error = String::from_utf8_lossy(&refused.2).into_owned();
    assert!(
        !refused.0 && error.contains("bad.graphql: ") && error.contains("nothing was registered"),
        "{error}"
    );

    let switched = run(&["documents", "only", "on", "--app", "storefront", "--json"]).await;
    let switched: Value = serde_json::from_str(&switched.1).expect("JSON");
    assert_eq!(
        switched,
        json!({ "id": scene.app_id, "name": "storefront", "onlyRegisteredDocuments": true })
    );
    let begun = Instant::now();
    while code(&scene.app.send("{ __typename }", json!({})).await.1) != NOT_ALLOWED {
        assert!(begun.elapsed() < Duration::from_secs(30), "it holds within half a minute");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(
        json(&scene.app, json!({ "documentId": id_of(ORDER), "variables": { "id": "x" } })).await["data"]
            .is_object()
    );

    let removed =
        run(&["documents", "remove", "--app", &scene.app_id, &id_of(WATCH), &viewer, "--json"]).await;
    let removed: Value = serde_json::from_str(&removed.1).expect("JSON");
    assert_eq!(removed["removed"].as_array().map(Vec::len), Some(2), "{removed}");
    let listed = run(&["documents", "list", "--app", "storefront", "--json"]).await;
    let listed: Value = serde_json::from_str(&listed.1).expect("JSON");
    assert_eq!(listed["documents"][0]["text"], ORDER, "{listed}");
    for wrong in [
        &["documents", "allow", "--app", "nobody", viewer.as_str()][..],
        &["documents", "allow", "--app", "storefront", "missing.graphql"],
        &["documents", "remove", "--app", "storefront", "sha256:1"],
        &["documents", "remove", "--app", "storefront", &id_of(WATCH)],
        &["documents", "only", "--app", "storefront"],
    ] {
        assert!(!run(wrong).await.0, "{wrong:?}");
    }
    std::fs::remove_dir_all(folder).expect("the folder goes");
    scene.shop.close().await;
}

#[tokio::test]
async fn the_command_line_teaches_what_a_document_is() {
    let db = TestDatabase::create().await;
    let mut command = oms_command(OMS, &db, &["documents", "--help"]);
    let output =
        within("the help", command.env("COLUMNS", "100").output()).await.expect("oms-under-test runs");
    let help = String::from_utf8_lossy(&output.stdout).into_owned();
    let (beginning, _) = help.split_once("Options:").expect("options");
    let (_, end) = help.split_once("[default: text]").expect("the last option");
    insta::assert_snapshot!(format!("{beginning}{end}"), @r#"
    Register the documents that an app may execute

    Usage: oms-under-test documents [OPTIONS] <COMMAND>

    Commands:
      allow   Register documents for an app; all or none, after each was checked against the schema and
              the limits
      list    List the documents of an app, in the order of their names
      remove  Remove documents of an app: they are refused within half a minute
      only    Say whether an app may execute nothing but its registered documents; it holds within half
              a minute, and within a minute over sockets that are open
      help    Print this message or the help of the given subcommand(s)



    A document is named by the SHA-256 of its text, byte by byte: sha256: and 64 digits. Clients send
    {"documentId": "sha256:...", "variables": {...}} in place of a query.

    Examples:
      oms documents allow --app storefront queries/*.graphql     each file is a document, as it is
      oms documents allow --app storefront persisted.json        the values of a JSON object
      oms documents list --app storefront                        what there is
      oms documents only --app storefront on                     from now on, nothing else is executed
      oms documents remove --app storefront sha256:71f7dc57...   by its name, or by a file with its text
    "#);
    db.close().await;
}
