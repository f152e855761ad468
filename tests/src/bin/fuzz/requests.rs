//! Puts requests together from the server's own schema, and from what is hard to bear.

use std::fmt::Write as _;

use oms_tests::Client;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};

/// A request as it goes out.
pub(crate) struct Request {
    pub(crate) accept: &'static str,
    pub(crate) content_type: &'static str,
    pub(crate) body: Vec<u8>,
    /// What the body says, before anything was scrambled.
    pub(crate) query: String,
}

impl Request {
    pub(crate) fn describe(&self) -> String {
        let body = String::from_utf8_lossy(&self.body);
        format!("{} {} {body:.2000}", self.accept, self.content_type)
    }
}

/// What there is to ask for.
#[derive(Clone)]
pub(crate) struct Schema {
    types: serde_json::Map<String, Value>,
}

const INTROSPECTION: &str = "{ __schema { types { kind name enumValues { name } possibleTypes { name }
    inputFields { name type { ...Type } } fields { name args { name type { ...Type } } type { ...Type } } } } }
    fragment Type on __Type { kind name ofType { kind name ofType { kind name ofType { kind name } } } }";

impl Schema {
    pub(crate) async fn of(client: &Client) -> Self {
        let answer = client.execute(INTROSPECTION, json!({})).await;
        let types = answer["__schema"]["types"].as_array().expect("types").iter();
        let types = types.map(|ty| (ty["name"].as_str().expect("a name").to_owned(), ty.clone())).collect();
        Self { types }
    }

    /// Puts a request together.
    pub(crate) fn request(&self, random: &mut StdRng, id: &str) -> Request {
        let roots = ["Query", "Query", "Query", "Mutation", "Subscription"];
        let root = *roots.choose(random).expect("some");
        let mut query = root.to_lowercase();
        match random.random_range(0..8) {
            0 => spread(root, random, &mut query),
            1 => nest(root, random, &mut query),
            _ => self.selection(root, 1, random, id, &mut query),
        }
        if random.random_bool(0.05) {
            let _ = write!(query, " fragment F on Order {{ id ...F }}");
        }
        let mut body = match random.random_range(0..10) {
            0 => json!({ "query": query, "variables": { "a": random.random::<i64>(), "": null } }),
            1 => json!({ "query": query, "operationName": "Nothing" }),
            2 => json!({ "query": query, "extensions": { "persistedQuery": { "version": 1, "sha256Hash": "00" } } }),
            3 => json!({ "documentId": "sha256:00", "query": query }),
            _ => json!({ "query": query }),
        }
        .to_string()
        .into_bytes();
        if random.random_bool(0.3) {
            scramble(&mut body, random);
        }
        let accepts = ["application/json", "application/graphql-response+json", "text/event-stream", "*/*"];
        Request {
            accept: accepts.choose(random).expect("some"),
            content_type: if random.random_bool(0.95) { "application/json" } else { "text/plain" },
            body,
            query,
        }
    }

    fn selection(&self, ty: &str, depth: usize, random: &mut StdRng, id: &str, query: &mut String) {
        let ty = &self.types[ty];
        let possible = ty["possibleTypes"].as_array().filter(|_| ty["kind"] != "OBJECT");
        let fields = ty["fields"].as_array().filter(|fields| !fields.is_empty());
        query.push_str(" { __typename ");
        if let Some(one) = possible.and_then(|possible| possible.choose(random)) {
            let name = one["name"].as_str().expect("a name");
            let _ = write!(query, "... on {name}");
            self.selection(name, depth + 1, random, id, query);
        }
        for _ in 0..random.random_range(1..5) {
            let Some(field) = fields.and_then(|fields| fields.choose(random)) else { break };
            if random.random_bool(0.1) {
                let _ = write!(query, "a{}: ", random.random_range(0..100));
            }
            query.push_str(field["name"].as_str().expect("a name"));
            let arguments = field["args"].as_array().expect("arguments");
            let given = self.filled(arguments, 0, random, id);
            if !given.is_empty() {
                let _ = write!(query, "({})", given.join(", "));
            }
            let inner = named(&field["type"]);
            let is_leaf = matches!(self.types[inner]["kind"].as_str(), Some("SCALAR" | "ENUM"));
            if is_leaf == random.random_bool(0.02) && depth < 8 {
                self.selection(if is_leaf { "Order" } else { inner }, depth + 1, random, id, query);
            }
            query.push(' ');
        }
        query.push_str("} ");
    }

    /// Gives values to what needs one, and to some of the rest.
    fn filled(&self, inputs: &[Value], depth: usize, random: &mut StdRng, id: &str) -> Vec<String> {
        let mut given = Vec::new();
        for input in inputs {
            let name = input["name"].as_str().expect("a name");
            // Nobody waits for an order here.
            if name != "waitMs" && (input["type"]["kind"] == "NON_NULL" || random.random_bool(0.4)) {
                given.push(format!("{name}: {}", self.value(&input["type"], depth, random, id)));
            }
        }
        given
    }

    fn value(&self, ty: &Value, depth: usize, random: &mut StdRng, id: &str) -> String {
        if random.random_bool(0.05) {
            return odd_value(random).to_owned();
        }
        match ty["kind"].as_str().expect("a kind") {
            "NON_NULL" => self.value(&ty["ofType"], depth, random, id),
            "LIST" => {
                let items =
                    (0..random.random_range(0..4)).map(|_| self.value(&ty["ofType"], depth, random, id));
                format!("[{}]", items.collect::<Vec<_>>().join(", "))
            }
            "ENUM" => {
                let values = self.types[named(ty)]["enumValues"].as_array().expect("values");
                values.choose(random).expect("some")["name"].as_str().expect("a name").to_owned()
            }
            "INPUT_OBJECT" if depth < 4 => {
                let fields = self.types[named(ty)]["inputFields"].as_array().expect("fields");
                let given = self.filled(fields, depth + 1, random, id);
                format!("{{ {} }}", given.join(", "))
            }
            _ => match named(ty) {
                "Int" => random.random_range(-2..200).to_string(),
                "Boolean" => random.random::<bool>().to_string(),
                "ID" => {
                    json!(*[id, "order_", "app_00000000000000000000000000"].choose(random).expect("some"))
                        .to_string()
                }
                "_Any" => format!("{{ __typename: \"Order\", id: {} }}", json!(id)),
                _ => json!(
                    *["SKU-1", "known", "", "1.50", "2026-11-25T10:00:00Z", "ä\u{0}\n", "orders:read"]
                        .choose(random)
                        .expect("some")
                )
                .to_string(),
            },
        }
    }
}

/// Spreads fragments that spread fragments, over and over, to a leaf that may cost nothing, or not exist.
fn spread(root: &str, random: &mut StdRng, query: &mut String) {
    let leaves =
        ["__typename", "...Missing", "... @skip(if: true) { __typename }", "... on Order { id }", "x", ""];
    let (levels, width) = (random.random_range(1..25), random.random_range(1..6));
    query.push_str(" { ...F0 }");
    for level in 0..levels {
        let spreads = format!("...F{} ", level + 1).repeat(width);
        let _ = write!(query, " fragment F{level} on {root} {{ {spreads} }}");
    }
    let leaf = leaves.choose(random).expect("some");
    let _ = write!(query, " fragment F{levels} on {root} {{ {leaf} }}");
}

/// Nests selections, inline fragments, lists or objects as deep as a body can hold.
fn nest(root: &str, random: &mut StdRng, query: &mut String) {
    let levels = random.random_range(1..20_000);
    let inline = format!("... on {root} {{ ");
    let (open, close) =
        *[("[", "]"), ("{ a: ", "}"), ("{ a ", "}"), (inline.as_str(), "}")].choose(random).expect("some");
    let (open, leaf, close) = (open.repeat(levels), "__typename", close.repeat(levels));
    let _ = match random.random_bool(0.5) {
        true => write!(query, " {{ getOrder(id: {open} 1 {close}) {{ id }} }}"),
        false => write!(query, " {{ {open} {leaf} {close} }}"),
    };
}

fn odd_value(random: &mut StdRng) -> &'static str {
    let odd = [
        "null",
        "{}",
        "[]",
        "[[[]]]",
        "\"\"",
        "-1",
        "1e400",
        "99999999999999999999",
        "0.1",
        "$missing",
        "ENUM",
        "{ a: { b: 1 } }",
        "\"\\u0000\"",
        "\"\\ud800\"",
        "true",
    ];
    odd.choose(random).copied().expect("some")
}

fn named(ty: &Value) -> &str {
    let mut ty = ty;
    while !ty["ofType"].is_null() {
        ty = &ty["ofType"];
    }
    ty["name"].as_str().expect("a name")
}

/// Cuts, doubles and changes bytes.
fn scramble(body: &mut Vec<u8>, random: &mut StdRng) {
    for _ in 0..random.random_range(1..6) {
        let at = random.random_range(0..=body.len());
        match random.random_range(0..5) {
            0 => body.truncate(at),
            1 => {
                let piece = body[at..(at + 40).min(body.len())].to_vec();
                let times = random.random_range(1..50);
                let repeated: Vec<u8> = piece.iter().copied().cycle().take(piece.len() * times).collect();
                body.splice(at..at, repeated);
            }
            2 if at < body.len() => body[at] = random.random(),
            3 => body.splice(at..at, b"{\"[(}])".choose(random).copied()).for_each(drop),
            _ if at < body.len() => drop(body.remove(at)),
            _ => {}
        }
    }
}
