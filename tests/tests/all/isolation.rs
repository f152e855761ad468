//! App B walks every field and every root of the schema with what belongs to app A, and finds nothing.
//!
//! The walk is made from the schema's own introspection, so that a field, an argument or a root that is added is walked
//! without a word here. What is asked is asked twice: before A has done anything, with values that nobody has, and
//! afterwards, with values of A (ids, numbers, references, keys, cursors, documents). *Not yours*, *unknown* and *not
//! there yet* have to be the same answer down to every count, and none may hold anything of A's. Mutations, which change
//! what B has, are asked twice in a row.

use std::collections::BTreeSet;

use domain::app::document::DocumentId;
use domain::app::{Scope, store};
use domain::id::{AppId, OrderId};
use oms::config::Role;
use oms_tests::schema_walk::{Root, Schema, Values};
use oms_tests::{AppWithKey, Client, Server, Shop, TestDatabase, app_with_key, order, within};
use reqwest::header::ACCEPT;
use serde_json::{Value, json};
use uuid::Uuid;

/// What differs between any two answers, or is the shop's and not an app's, by the end of the path to it.
const VARIES: [&str; 6] = [
    "requestId",
    // One stock for all.
    "stock.onHand",
    "stock.reserved",
    "stock.available",
    "stock.updatedAt",
    // One sequence for all.
    "placeOrder.order.number",
];

/// Cursors that are sealed anew in each answer, by the end of the path to them: nothing of them is to be told but their length.
const SEALED: [&str; 2] = ["changes.endCursor", "changes.nodes.cursor"];

/// Roots that show orders to those who may see them.
const SHOW_ORDERS: [&str; 6] = ["getOrder", "orders", "order", "changes", "node", "_entities"];

/// A document that is registered for A alone.
const DOCUMENT: &str = "query OfA { viewer { app { name } } }";

const PLACE: &str = "mutation ($input: PlaceOrderInput!) { placeOrder(input: $input) {
    order { id number } accessToken userErrors { message } } }";

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A server that carries out nothing by itself, so that nothing moves between two questions.
struct Scene {
    db: TestDatabase,
    server: Server,
    a: AppWithKey,
    b: AppWithKey,
}

/// What A has.
struct Belongings {
    values: Values,
    secrets: Vec<String>,
}

impl Scene {
    async fn open(b_scopes: &[Scope]) -> Self {
        let db = TestDatabase::create().await;
        let server = Server::start_with(&db, |args| {
            args.process.role = Role::Api;
            args.access.dev_anonymous = false;
            // Whoever selects everything there is has many fields resolved.
            args.limits.max_resolutions = 1_000_000;
            args.limits.max_cost = 10_000;
        });
        let server = server.await;
        // Numbers that no other number in an answer is taken for.
        db.execute("ALTER TABLE orders ALTER COLUMN number RESTART WITH 470011").await;
        let connection = db.connection();
        let a_scopes = [Scope::OrdersWrite, Scope::OrdersReadPii];
        let a = app_with_key(&connection, "app-of-a", &a_scopes).await;
        let b = app_with_key(&connection, "app-of-b", b_scopes).await;
        Self { db, server, a, b }
    }

    fn client(&self, app: &AppWithKey) -> Client {
        self.server.client().with(&app.secret)
    }

    /// Carries out every order that was placed, until the feed of changes shows all of it.
    async fn carry_out(&self) {
        let runner = Server::start_with(&self.db, |args| args.process.role = Role::Runner).await;
        self.db.wait_until_settled().await;
        runner.stop().await;
        self.db.wait_until_feed_is_complete().await;
    }

    /// Places two orders of A, one of which fails, and registers a document for it.
    async fn let_a_act(&self) -> Belongings {
        let client = self.client(&self.a);
        let mut secrets: Vec<String> =
            ["Secret Name", "Secret Street", "Secretville", "app-of-a", "secret-key-", DOCUMENT]
                .map(str::to_owned)
                .into();
        let (mut ids, mut numbers) = (Vec::new(), Vec::new());
        for (n, card) in ["tok_approve", "tok_decline"].into_iter().enumerate() {
            let input = order(&format!("secret-key-{n}"), [("SKU-1", 3)])
                .card(card)
                .with("email", json!(format!("secret-{n}@a.example")))
                .with("externalReference", json!(format!("secret-reference-{n}")))
                .with(
                    "shippingAddress",
                    json!({ "name": "Secret Name", "line1": "Secret Street 1", "city": "Secretville", "country": "US" }),
                );
            let placed =
                client.execute(PLACE, json!({ "input": input.into_value() })).await["placeOrder"].take();
            let id = text(&placed["order"]["id"]).to_owned();
            secrets.extend([format!("secret-{n}@a.example"), format!("secret-reference-{n}"), id.clone()]);
            secrets.push(text(&placed["accessToken"]).to_owned());
            secrets.push(placed["order"]["number"].to_string());
            ids.push(id);
            numbers.push(placed["order"]["number"].as_i64().expect("a number"));
        }
        self.carry_out().await;
        let documents = [DOCUMENT.to_owned()];
        let added = store::add_documents(&self.db.connection(), self.a.app_id, &documents).await;
        added.expect("the database answers").expect("there is room");
        let [of_orders, of_changes] = cursors(&client).await;
        ids.extend([AppId::from_uuid(self.a.app_id).to_string(), DocumentId::of(DOCUMENT).to_string()]);
        let strings = vec![
            "secret-reference-0".to_owned(),
            "secret-key-0".to_owned(),
            ids[0].clone(),
            of_orders,
            of_changes,
            encode("SKU-1"),
            DocumentId::of(DOCUMENT).to_string(),
        ];
        Belongings { values: Values { ids, strings, numbers: vec![numbers[0], 3] }, secrets }
    }

    /// Values of the same kinds, in the same places, that nobody has: near what B has.
    async fn what_nobody_has(&self) -> Values {
        let [of_orders, of_changes] = cursors(&self.client(&self.b)).await;
        let of_orders = decode(&of_orders);
        let [tag, micros, _] = parts(&of_orders);
        let later = micros.parse::<i64>().expect("microseconds") + 1;
        let of_orders = format!("{tag}:{later}:{}", nobody(1));
        // One of B's own is B's.
        let of_changes = "A".repeat(of_changes.len());
        let ids = [nobody(1), nobody(2)].map(|id| OrderId::from_uuid(id).to_string());
        let document = DocumentId::of("query OfNobody { viewer { app { name } } }").to_string();
        let app = AppId::from_uuid(nobody(3)).to_string();
        let strings = vec![
            "nobody-reference".to_owned(),
            "nobody-key".to_owned(),
            ids[0].clone(),
            encode(&of_orders),
            of_changes,
            // At the same place of the catalog, which is everybody's.
            encode("SKU-1A"),
            document.clone(),
        ];
        let ids = ids.into_iter().chain([app, document]).collect();
        Values { ids, strings, numbers: vec![999_888, 3] }
    }

    async fn close(self) {
        self.carry_out().await;
        self.server.stop().await;
        self.db.close().await;
    }
}

/// The newest cursors of an app's lists: of its orders and of what has happened to them.
async fn cursors(client: &Client) -> [String; 2] {
    let query = "{ orders(first: 1) { edges { cursor } } changes { nodes { cursor } } }";
    let lists = client.execute(query, json!({})).await;
    let nodes = lists["changes"]["nodes"].as_array().expect("a list");
    let newest = nodes.last().expect("something has happened");
    [&lists["orders"]["edges"][0]["cursor"], &newest["cursor"]].map(|cursor| text(cursor).to_owned())
}

fn encode(key: &str) -> String {
    key.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn decode(cursor: &str) -> String {
    let pairs = cursor.as_bytes().chunks(2).map(|pair| str::from_utf8(pair).expect("hexadecimal digits"));
    let bytes = pairs.map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal digits")).collect();
    String::from_utf8(bytes).expect("text")
}

fn parts(key: &str) -> [&str; 3] {
    let parts: Vec<&str> = key.splitn(3, ':').collect();
    parts.try_into().expect("three parts")
}

/// What nobody's id is made of.
fn nobody(n: u128) -> Uuid {
    Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + n)
}

/// Sends a body and returns the whole answer as text.
async fn post(client: &Client, kind: &str, body: &Value) -> String {
    let accept = if kind == "subscription" { "text/event-stream" } else { "application/json" };
    let response = within("an answer", client.post().header(ACCEPT, accept).json(body).send()).await;
    let response = response.expect("the server answers");
    let status = response.status();
    assert!(!status.is_server_error(), "{body}: {status}");
    // A subscription to what is not there ends at once.
    let answer = within("the end of the answer", response.text()).await.expect("a body");
    format!("{status}\n{answer}")
}

async fn ask(client: &Client, kind: &str, query: &str) -> String {
    post(client, kind, &json!({ "query": query })).await
}

/// Asks B's question with values of A and looks for A in the answer.
async fn ask_for(client: &Client, kind: &str, query: &str, secrets: &[String]) -> String {
    let answer = ask(client, kind, query).await;
    for code in ["QUERY_TOO_COMPLEX", "QUERY_TOO_COSTLY", "RATE_LIMITED"] {
        assert!(!answer.contains(code), "{query}: {answer}");
    }
    for secret in secrets.iter().filter(|secret| !query.contains(secret.as_str())) {
        assert!(!answer.contains(secret.as_str()), "{query}\nshows {secret}:\n{answer}");
    }
    answer
}

/// A question, and the values that it may have been asked with.
struct Asked<'a> {
    query: &'a str,
    values: &'a Values,
    /// Its answer then holds ids and times of what it has made.
    is_mutation: bool,
}

impl Asked<'_> {
    /// Marks in an answer the values of the question, and what [varies](VARIES).
    fn steady(&self, answer: &str) -> String {
        let steady = |line: &str| {
            let json = line.strip_prefix("data:").unwrap_or(line);
            match serde_json::from_str::<Value>(json) {
                Ok(mut value) => {
                    self.mark(&mut value, "");
                    value.to_string()
                }
                Err(_) => line.to_owned(),
            }
        };
        let lines: Vec<String> = answer.lines().map(steady).collect();
        lines.join("\n")
    }

    fn mark(&self, value: &mut Value, path: &str) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    self.mark(value, &format!("{path}.{name}"));
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.mark(item, path)),
            Value::Null | Value::Bool(_) => {}
            _ if VARIES.iter().any(|end| path.ends_with(&format!(".{end}"))) => *value = json!("varies"),
            Value::String(text) if SEALED.iter().any(|end| path.ends_with(end)) => {
                *value = json!(format!("{} characters", text.len()));
            }
            Value::String(text) if self.is_mutation && is_fresh(text) => *value = json!("fresh"),
            Value::String(text) => *text = self.values.blank(self.query, text),
            Value::Number(_) => {
                if self.values.blank(self.query, &value.to_string()) == "..." {
                    *value = json!("...");
                }
            }
        }
    }
}

/// Whether the text is an id, a secret or a time.
fn is_fresh(text: &str) -> bool {
    let is_id =
        ["order_", "app_", "key_", "oms_live_", "oms_order_"].iter().any(|mark| text.starts_with(mark));
    is_id || (text.len() > 20 && text.starts_with("20") && text.contains('T'))
}

/// Walks from every root as B, before and after A acts.
async fn walk(b_scopes: &[Scope]) {
    let scene = Scene::open(b_scopes).await;
    let (of_a, of_b) = (scene.client(&scene.a), scene.client(&scene.b));
    let input = order("key-of-b", [("SKU-1", 1)]).with("email", json!("b@b.example")).into_value();
    of_b.execute(PLACE, json!({ "input": input })).await;
    scene.carry_out().await;
    let nobodys = scene.what_nobody_has().await;
    let schema = Schema::of(&of_b).await;
    let (reads, mutations): (Vec<Root<'_>>, Vec<_>) =
        schema.roots().partition(|root| root.kind != "mutation");

    let mut expected = Vec::new();
    for root in &reads {
        for control in schema.requests(*root, &nobodys).texts {
            let answer = ask(&of_b, root.kind, &control).await;
            let asked = Asked { query: &control, values: &nobodys, is_mutation: false };
            expected.push((asked.steady(&answer), control));
        }
    }
    let Belongings { values, secrets } = scene.let_a_act().await;

    let mut expected = expected.into_iter();
    for root in &reads {
        let requests = schema.requests(*root, &values);
        assert_eq!(requests.visited, schema.reachable(*root), "everything below {} is visited", root.name);
        for (n, query) in requests.texts.iter().enumerate() {
            let answer = ask_for(&of_b, root.kind, query, &secrets).await;
            assert!(n >= requests.whole || is_valid(&answer), "{query}: {answer}");
            let (expected, control) = expected.next().expect("as many as before");
            let asked = Asked { query, values: &values, is_mutation: false };
            assert_eq!(asked.steady(&answer), expected, "A is noticed:\n{query}\n{control}");
        }
    }
    for root in &mutations {
        let (requests, controls) = (schema.requests(*root, &values), schema.requests(*root, &nobodys));
        assert_eq!(requests.visited, schema.reachable(*root), "everything below {} is visited", root.name);
        for (n, (query, control)) in requests.texts.iter().zip(&controls.texts).enumerate() {
            let answer = ask_for(&of_b, root.kind, query, &secrets).await;
            assert!(n >= requests.whole || is_valid(&answer), "{query}: {answer}");
            let expected = ask(&of_b, root.kind, control).await;
            let [asked, control_asked] = [(query, &values), (control, &nobodys)]
                .map(|(query, values)| Asked { query, values, is_mutation: true });
            assert_eq!(
                asked.steady(&answer),
                control_asked.steady(&expected),
                "A is noticed:\n{query}\n{control}"
            );
        }
    }
    documents_of_others_are_nobodys(&of_b).await;

    // The walk would have found it: A sees what B must not.
    for root in reads.iter().filter(|root| SHOW_ORDERS.contains(&root.name)) {
        let mut seen = String::new();
        for query in schema.requests(*root, &values).texts {
            seen += &ask(&of_a, root.kind, &query).await;
        }
        for secret in ["secret-0@a.example", "Secretville", "StockReserved", "37.50"] {
            assert!(seen.contains(secret), "{}: {secret}", root.name);
        }
    }
    scene.close().await;
}

fn is_valid(answer: &str) -> bool {
    !["GRAPHQL_VALIDATION_FAILED", "GRAPHQL_PARSE_FAILED"].iter().any(|code| answer.contains(code))
}

async fn documents_of_others_are_nobodys(client: &Client) {
    let unknown = "query OfNobody { viewer { app { name } } }";
    let mut answers = BTreeSet::new();
    for text in [DOCUMENT, unknown] {
        let answer = post(client, "query", &json!({ "documentId": DocumentId::of(text).to_string() })).await;
        assert!(answer.contains("PERSISTED_DOCUMENT_NOT_FOUND"), "{answer}");
        answers.insert(answer);
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
}

#[tokio::test]
async fn what_belongs_to_another_app_does_not_exist_anywhere_in_the_schema() {
    let scopes = [Scope::OrdersWrite, Scope::OrdersReadPii, Scope::OrdersRead, Scope::CatalogWrite];
    walk(&scopes).await;
}

#[tokio::test]
async fn no_scope_but_those_of_all_orders_and_apps_opens_what_belongs_to_another_app() {
    let opens_all = |scope: &Scope| matches!(scope, Scope::OrdersReadAll | Scope::AppsManage);
    let scopes: Vec<Scope> = Scope::ALL.into_iter().filter(|scope| !opens_all(scope)).collect();
    walk(&scopes).await;
}

#[tokio::test]
async fn the_token_of_an_order_opens_two_fields_of_the_schema() {
    let shop = Shop::open_with(|args| {
        args.access.dev_anonymous = false;
        // The walk asks for more than a shopper does.
        args.access.points_per_second = 0;
        args.limits.max_resolutions = 1_000_000;
        args.limits.max_cost = 10_000;
        args.access.shopper_points_per_second = 0;
    })
    .await;
    let app = app_with_key(&shop.db.connection(), "app", &[Scope::OrdersWrite]).await;
    let app = shop.with(&app.secret);
    let mut placed = Vec::new();
    for key in ["own", "other"] {
        let input = order(key, [("SKU-1", 1)]).with("email", json!(format!("{key}@a.example"))).settled();
        placed.push(app.execute(PLACE, json!({ "input": input.into_value() })).await["placeOrder"].take());
    }
    let values = Values {
        ids: placed.iter().map(|placed| text(&placed["order"]["id"]).to_owned()).collect(),
        strings: vec!["own".to_owned(), "SKU-1".to_owned()],
        numbers: vec![placed[0]["order"]["number"].as_i64().expect("a number")],
    };
    let (schema, shopper) = (Schema::of(&app).await, shop.with(text(&placed[0]["accessToken"])));
    let mut opened = Vec::new();
    for root in schema.roots() {
        for query in schema.requests(root, &values).texts {
            let answer = ask(&shopper, root.kind, &query).await;
            assert!(!answer.contains("@a.example"), "{query}: {answer}");
            // A value that is none is refused before anybody asks whether the field is open.
            let codes = ["FORBIDDEN", "GRAPHQL_VALIDATION_FAILED", "INVALID_INPUT"];
            if codes.iter().any(|code| answer.contains(code)) && !answer.contains("\"data\":{") {
                continue;
            }
            opened.push(root.name.to_owned());
            // Of the two orders it is told of its own.
            let is_of_other = query.contains(&values.ids[1]);
            assert_eq!(answer.contains("\"sequence\":"), !is_of_other, "{query}: {answer}");
        }
    }
    opened.dedup();
    assert_eq!(opened, ["getOrder", "orderStatus"]);
    shop.close().await;
}
