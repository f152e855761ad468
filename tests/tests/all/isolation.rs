//! App B walks every field and every root of the schema with what belongs to app A, and finds nothing.
//!
//! The walk is made from the schema's own introspection, so that a field, an argument or a root that is added is walked
//! without a word here. What is asked is asked twice: with values of A (ids, numbers, references, keys, cursors), and with
//! values that nobody has. *Not yours* and *unknown* have to be the same answer, and neither may hold anything of A's.

use std::collections::{BTreeMap, HashMap};

use domain::app::Scope;
use oms_tests::{Client, Shop, app_with_key, order, within};
use reqwest::header::ACCEPT;
use serde_json::{Value, json};

const INTROSPECTION: &str = "{ __schema { queryType { name } mutationType { name } subscriptionType { name }
    types { kind name enumValues { name } possibleTypes { name }
        inputFields { name defaultValue type { ...Type } }
        fields { name args { name defaultValue type { ...Type } } type { ...Type } } } } }
    fragment Type on __Type { kind name ofType { kind name ofType { kind name ofType { kind name } } } }";

/// How deep selections go: a list of orders, an order, what it has, and what that has.
const DEPTH: usize = 4;

/// The most values that are tried for one argument.
const MAX_VALUES: usize = 12;

/// The schema as introspection tells it.
struct Schema {
    types: HashMap<String, Value>,
    roots: Vec<(&'static str, String)>,
}

impl Schema {
    async fn of(client: &Client) -> Self {
        let mut answer = client.execute(INTROSPECTION, json!({})).await;
        let schema = answer["__schema"].take();
        let root = |name: &str| schema[name]["name"].as_str().map(str::to_owned);
        let roots =
            [("query", "queryType"), ("mutation", "mutationType"), ("subscription", "subscriptionType")];
        let roots = roots.into_iter().filter_map(|(kind, name)| Some((kind, root(name)?))).collect();
        let types = schema["types"].as_array().expect("types").iter();
        let types = types.map(|ty| (ty["name"].as_str().expect("a name").to_owned(), ty.clone())).collect();
        Self { types, roots }
    }

    fn fields(&self, ty: &str) -> &[Value] {
        self.types[ty]["fields"].as_array().map_or(&[], Vec::as_slice)
    }

    /// Everything that can be selected of a type, down to a depth: scalars, and objects with at least one field.
    fn selection(&self, ty: &str, depth: usize, path: &mut Vec<String>) -> Option<String> {
        let kind = self.types[ty]["kind"].as_str().expect("a kind");
        if matches!(kind, "SCALAR" | "ENUM") {
            return Some(String::new());
        }
        if depth == 0 || path.iter().any(|seen| seen == ty) {
            return None;
        }
        path.push(ty.to_owned());
        let mut parts = vec!["__typename".to_owned()];
        for field in self.fields(ty) {
            let Some(arguments) = small_page(field) else { continue };
            let (name, inner) = (text(&field["name"]), named(&field["type"]));
            if let Some(selection) = self.selection(inner, depth - 1, path) {
                parts.push(format!("{name}{arguments}{selection}"));
            }
        }
        for possible in self.types[ty]["possibleTypes"].as_array().into_iter().flatten() {
            if kind != "OBJECT"
                && let Some(selection) = self.selection(text(&possible["name"]), depth, path)
            {
                parts.push(format!("... on {}{selection}", text(&possible["name"])));
            }
        }
        path.pop();
        Some(format!(" {{ {} }}", parts.join(" ")))
    }

    /// Literals for an argument: each value of its kind that `values` has, and every way to fill an input object.
    fn literals(&self, ty: &Value, name: &str, values: &Values, depth: usize) -> Vec<String> {
        match text(&ty["kind"]) {
            "NON_NULL" => self.literals(&ty["ofType"], name, values, depth),
            "LIST" => {
                let items = self.literals(&ty["ofType"], name, values, depth);
                items.into_iter().map(|item| format!("[{item}]")).collect()
            }
            "ENUM" => {
                let names = self.types[text(&ty["name"])]["enumValues"].as_array().into_iter().flatten();
                names.map(|value| text(&value["name"]).to_owned()).collect()
            }
            "INPUT_OBJECT" => self.objects(text(&ty["name"]), values, depth),
            _ => values.of(text(&ty["name"]), name),
        }
    }

    /// One object for each optional field with each of its values, the required ones filled beside it.
    fn objects(&self, ty: &str, values: &Values, depth: usize) -> Vec<String> {
        if depth == 0 {
            return Vec::new();
        }
        let fields = self.types[ty]["inputFields"].as_array().expect("an input object has fields");
        let choices: Vec<(&str, bool, Vec<String>)> = fields
            .iter()
            .map(|field| {
                let literals = self.literals(&field["type"], text(&field["name"]), values, depth - 1);
                (text(&field["name"]), is_required(field), literals)
            })
            .collect();
        let required: BTreeMap<&str, &str> = choices
            .iter()
            .filter(|(_, required, literals)| *required && !literals.is_empty())
            .map(|(name, _, literals)| (*name, literals[0].as_str()))
            .collect();
        let mut objects = Vec::new();
        for (name, _, literals) in &choices {
            for literal in literals.iter().take(MAX_VALUES) {
                let mut object = required.clone();
                object.insert(name, literal);
                let fields: Vec<String> =
                    object.iter().map(|(name, value)| format!("{name}: {value}")).collect();
                objects.push(format!("{{ {} }}", fields.join(", ")));
            }
        }
        objects
    }

    /// Every request on a root field: each argument with each of its values, the required ones filled beside it.
    fn requests(&self, kind: &str, field: &Value, values: &Values) -> Vec<String> {
        let selection = self.selection(named(&field["type"]), DEPTH, &mut Vec::new()).unwrap_or_default();
        let arguments: Vec<(&str, bool, Vec<String>)> = field["args"]
            .as_array()
            .expect("a field has arguments")
            .iter()
            .map(|argument| {
                let name = text(&argument["name"]);
                (name, is_required(argument), self.literals(&argument["type"], name, values, 4))
            })
            .collect();
        let required: BTreeMap<&str, &str> = arguments
            .iter()
            .filter(|(name, required, literals)| (*required || *name == "first") && !literals.is_empty())
            .map(|(name, _, literals)| (*name, literals[0].as_str()))
            .collect();
        let request = |arguments: &BTreeMap<&str, &str>| {
            let arguments: Vec<String> =
                arguments.iter().map(|(name, value)| format!("{name}: {value}")).collect();
            let arguments =
                if arguments.is_empty() { String::new() } else { format!("({})", arguments.join(", ")) };
            format!("{kind} {{ {}{arguments}{selection} }}", text(&field["name"]))
        };
        let mut requests = vec![request(&required)];
        for (name, _, literals) in &arguments {
            for literal in literals {
                let mut arguments = required.clone();
                arguments.insert(name, literal);
                if *name == "last" {
                    arguments.remove("first");
                }
                requests.push(request(&arguments));
            }
        }
        requests
    }
}

/// The arguments of a nested field: a short page where it has pages; `None` where it needs something.
fn small_page(field: &Value) -> Option<&'static str> {
    let arguments = field["args"].as_array().map_or(&[][..], Vec::as_slice);
    if arguments.iter().any(|argument| argument["name"] != "first" && is_required(argument)) {
        return None;
    }
    Some(if arguments.iter().any(|argument| argument["name"] == "first") { "(first: 2)" } else { "" })
}

fn is_required(argument: &Value) -> bool {
    argument["type"]["kind"] == "NON_NULL" && argument["defaultValue"].is_null()
}

fn named(ty: &Value) -> &str {
    let mut ty = ty;
    while !ty["ofType"].is_null() {
        ty = &ty["ofType"];
    }
    text(&ty["name"])
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// What B puts into arguments.
struct Values {
    ids: Vec<String>,
    strings: Vec<String>,
    numbers: Vec<i64>,
}

impl Values {
    fn of(&self, scalar: &str, name: &str) -> Vec<String> {
        let quoted = |texts: &[String]| texts.iter().map(|text| json!(text).to_string()).collect();
        match (scalar, name) {
            ("Int", "first" | "last") => vec!["2".to_owned()],
            ("Int" | "Int64" | "Long", _) => self.numbers.iter().map(i64::to_string).collect(),
            ("Boolean", _) => vec!["false".to_owned(), "true".to_owned()],
            ("ID", _) => quoted(&self.ids),
            ("DateTime", _) => vec!["\"2020-01-01T00:00:00Z\"".to_owned()],
            ("_Any", _) => {
                let of = |id| format!("{{ __typename: \"Order\", id: {} }}", json!(id));
                self.ids.iter().map(of).collect()
            }
            // A scalar of some other name takes a string, or says what it takes instead: the same to both.
            _ => quoted(&self.strings),
        }
    }

    /// Puts a mark in the place of every value, so that an answer that quotes its question is the same for both.
    fn blank(&self, answer: &str) -> String {
        let mut texts: Vec<String> = self.ids.iter().chain(&self.strings).cloned().collect();
        texts.extend(self.numbers.iter().filter(|number| **number > 100).map(i64::to_string));
        texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
        texts.iter().fold(answer.to_owned(), |answer, text| answer.replace(text.as_str(), "..."))
    }
}

/// Sends a request and returns the whole answer as text.
async fn ask(client: &Client, kind: &str, query: &str) -> String {
    let accept = if kind == "subscription" { "text/event-stream" } else { "application/json" };
    let request = client.post().header(ACCEPT, accept).json(&json!({ "query": query }));
    let response = within("an answer", request.send()).await.expect("the server answers");
    let status = response.status();
    assert!(!status.is_server_error(), "{query}: {status}");
    // A subscription to what is not there ends at once.
    let body = within("the end of the answer", response.text()).await.expect("a body");
    format!("{status} {body}")
}

/// Takes out what differs between any two answers: request ids, times, and fresh ids of what B itself has made.
fn steady(answer: &str) -> String {
    let mut kept = Vec::new();
    for part in answer.split_inclusive(['"', ',', ':', ' ', '}', '\n']) {
        let core = part.trim_end_matches(['"', ',', ':', ' ', '}', '\n']);
        let is_id =
            ["order_", "app_", "key_", "oms_live_", "oms_order_"].iter().any(|mark| core.starts_with(mark));
        let is_number = !core.is_empty() && core.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let is_time = core.len() > 10 && core.starts_with("20") && core.contains('-');
        let is_request_id =
            core.len() >= 32 && core.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        if !(is_id || is_number || is_time || is_request_id) {
            kept.push(part);
        }
    }
    kept.concat()
}

#[tokio::test]
async fn what_belongs_to_another_app_does_not_exist_anywhere_in_the_schema() {
    let shop = Shop::open_with(|args| args.access.dev_anonymous = false).await;
    let db = shop.db.connection();
    let a = app_with_key(&db, "app-of-a", &[Scope::OrdersWrite, Scope::OrdersReadPii]).await;
    let b_scopes = [Scope::OrdersWrite, Scope::OrdersReadPii, Scope::OrdersRead, Scope::CatalogWrite];
    let b = app_with_key(&db, "app-of-b", &b_scopes).await;
    let (of_a, of_b) = (shop.with(&a.secret), shop.with(&b.secret));

    let place = "mutation ($input: PlaceOrderInput!) { placeOrder(input: $input) {
        order { id number lines { sku } } accessToken userErrors { message } } }";
    let mut secrets = Vec::new();
    let mut ids = Vec::new();
    let mut numbers = Vec::new();
    for (n, card) in ["tok_approve", "tok_decline"].into_iter().enumerate() {
        let input = order(&format!("secret-key-{n}"), [("SKU-1", 3)])
            .card(card)
            .settled()
            .with("email", json!(format!("secret-{n}@a.example")))
            .with("externalReference", json!(format!("secret-reference-{n}")))
            .with(
                "shippingAddress",
                json!({ "name": "Secret Name", "line1": "Secret Street 1", "city": "Secretville", "country": "US" }),
            );
        let placed = of_a.execute(place, json!({ "input": input.into_value() })).await["placeOrder"].take();
        let id = text(&placed["order"]["id"]).to_owned();
        secrets.extend([format!("secret-{n}@a.example"), format!("secret-reference-{n}"), id.clone()]);
        secrets.push(text(&placed["accessToken"]).to_owned());
        ids.push(id);
        numbers.push(placed["order"]["number"].as_i64().expect("a number"));
    }
    secrets.extend(
        ["Secret Name", "Secret Street", "Secretville", "app-of-a", "secret-key-"].map(str::to_owned),
    );
    let own = Values {
        ids: ids.clone(),
        strings: vec!["secret-reference-0".to_owned(), "secret-key-0".to_owned(), ids[0].clone()],
        numbers: vec![numbers[0], 3],
    };
    let nobodys = Values {
        ids: vec![oms_tests_id(1), oms_tests_id(2)],
        strings: vec!["nobody-reference".to_owned(), "nobody-key".to_owned(), oms_tests_id(1)],
        numbers: vec![numbers[0] + 76, 3],
    };

    let schema = Schema::of(&of_b).await;
    let mut asked = 0;
    for (kind, root) in &schema.roots {
        for field in schema.fields(root) {
            let (with_own, with_nobodys) =
                (schema.requests(kind, field, &own), schema.requests(kind, field, &nobodys));
            assert_eq!(with_own.len(), with_nobodys.len());
            for (query, control) in with_own.iter().zip(&with_nobodys) {
                let answer = ask(&of_b, kind, query).await;
                for secret in secrets.iter().filter(|secret| !query.contains(secret.as_str())) {
                    assert!(!answer.contains(secret.as_str()), "{query}\nshows {secret}:\n{answer}");
                }
                let expected = ask(&of_b, kind, control).await;
                assert_eq!(
                    steady(&own.blank(&answer)),
                    steady(&nobodys.blank(&expected)),
                    "not yours is told from unknown:\n{query}\n{control}"
                );
                asked += 1;
            }
        }
    }
    assert!(asked > 50, "only {asked} requests");

    // The walk would have found it: A sees what B must not.
    let seen = ask(&of_a, "query", &schema.requests("query", field_of(&schema, "getOrder"), &own)[0]).await;
    assert!(
        ["secret-0@a.example", "Secretville", "StockReserved"].iter().all(|text| seen.contains(text)),
        "{seen}"
    );
    shop.db.wait_until_settled().await;
    shop.close().await;
}

#[tokio::test]
async fn the_token_of_an_order_opens_two_fields_of_the_schema() {
    let shop = Shop::open_with(|args| {
        args.access.dev_anonymous = false;
        // The walk asks for more than a shopper does.
        args.access.points_per_second = 0;
        args.limits.max_resolutions = 1_000_000;
    })
    .await;
    let app = app_with_key(&shop.db.connection(), "app", &[Scope::OrdersWrite]).await;
    let app = shop.with(&app.secret);
    let place = "mutation ($input: PlaceOrderInput!) { placeOrder(input: $input) { order { id number } accessToken } }";
    let mut placed = Vec::new();
    for key in ["own", "other"] {
        let input = order(key, [("SKU-1", 1)]).with("email", json!(format!("{key}@a.example"))).settled();
        placed.push(app.execute(place, json!({ "input": input.into_value() })).await["placeOrder"].take());
    }
    let values = Values {
        ids: placed.iter().map(|placed| text(&placed["order"]["id"]).to_owned()).collect(),
        strings: vec!["own".to_owned(), "SKU-1".to_owned()],
        numbers: vec![placed[0]["order"]["number"].as_i64().expect("a number")],
    };
    let (schema, shopper) = (Schema::of(&app).await, shop.with(text(&placed[0]["accessToken"])));
    let mut opened = Vec::new();
    for (kind, root) in &schema.roots {
        for field in schema.fields(root) {
            let name = text(&field["name"]);
            for query in schema.requests(kind, field, &values) {
                let answer = ask(&shopper, kind, &query).await;
                assert!(!answer.contains("@a.example"), "{query}: {answer}");
                // A value that is none is refused before anybody asks whether the field is open.
                let codes = ["FORBIDDEN", "GRAPHQL_VALIDATION_FAILED", "INVALID_INPUT"];
                if codes.iter().any(|code| answer.contains(code)) && !answer.contains("\"data\":{") {
                    continue;
                }
                opened.push(name.to_owned());
                // Of the two orders it is told of its own.
                let is_of_other = query.contains(&values.ids[1]);
                assert_eq!(answer.contains("\"sequence\":"), !is_of_other, "{query}: {answer}");
            }
        }
    }
    opened.dedup();
    assert_eq!(opened, ["getOrder", "orderStatus"]);
    shop.close().await;
}

fn field_of<'a>(schema: &'a Schema, name: &str) -> &'a Value {
    schema.fields("Query").iter().find(|field| field["name"] == name).expect("a root")
}

/// An id that nobody has.
fn oms_tests_id(n: u128) -> String {
    let id = uuid::Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + n);
    domain::id::OrderId::from_uuid(id).to_string()
}
