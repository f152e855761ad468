//! Requests that visit every field of a schema, made from its own introspection, so that a field, an argument or a root
//! that is added is visited without a word anywhere.
//!
//! What is visited are pairs of a type and one of its fields. From each root all of them that can be reached are, along
//! paths on which no type comes twice, in as many requests as the limits of a request make it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Value, json};

use crate::client::Client;

const INTROSPECTION: &str = "{ __schema { queryType { name } mutationType { name } subscriptionType { name }
    types { kind name enumValues { name } possibleTypes { name }
        inputFields { name defaultValue type { ...Type } }
        fields { name args { name defaultValue type { ...Type } } type { ...Type } } } } }
    fragment Type on __Type { kind name ofType { kind name ofType { kind name ofType { kind name } } } }";

/// Levels of a selection; with the root field what a query may have.
const MAX_LEVELS: usize = 9;

/// Words of a selection, which leaves tokens and points of a request for its arguments.
const MAX_WORDS: usize = 400;

/// The most values that are tried for one field of an input object.
const MAX_VALUES: usize = 12;

/// A type and the name of one of its fields.
pub type Pair = (String, String);

/// The schema as introspection tells it.
#[derive(Debug)]
pub struct Schema {
    types: HashMap<String, Value>,
    roots: Vec<(&'static str, String)>,
}

/// A field at the root of the schema.
#[derive(Debug, Clone, Copy)]
pub struct Root<'a> {
    /// `query`, `mutation` or `subscription`.
    pub kind: &'static str,
    /// The field's name.
    pub name: &'a str,
    field: &'a Value,
}

/// What is put into arguments.
#[derive(Debug)]
pub struct Values {
    /// Ids of things.
    pub ids: Vec<String>,
    /// References, keys, cursors and other texts.
    pub strings: Vec<String>,
    /// Whole numbers.
    pub numbers: Vec<i64>,
}

/// Requests on one root, and what they visit.
#[derive(Debug, Default)]
pub struct Requests {
    /// The texts; the first ones have required arguments only.
    pub texts: Vec<String>,
    /// How many of them differ in nothing but what they select: those visit everything.
    pub whole: usize,
    /// The pairs.
    pub visited: BTreeSet<Pair>,
}

impl Schema {
    /// Asks for the schema.
    pub async fn of(client: &Client) -> Self {
        let mut answer = client.execute(INTROSPECTION, json!({})).await;
        let schema = answer["__schema"].take();
        let root = |name: &str| schema[name]["name"].as_str().map(str::to_owned);
        let roots =
            [("query", "queryType"), ("mutation", "mutationType"), ("subscription", "subscriptionType")];
        let roots = roots.into_iter().filter_map(|(kind, name)| Some((kind, root(name)?))).collect();
        let types = schema["types"].as_array().expect("types").iter();
        let types = types.map(|ty| (text(&ty["name"]).to_owned(), ty.clone())).collect();
        Self { types, roots }
    }

    /// Every field at the root: queries, mutations, subscriptions.
    pub fn roots(&self) -> impl Iterator<Item = Root<'_>> {
        self.roots.iter().flat_map(|(kind, ty)| {
            self.fields(ty).iter().map(|field| Root { kind, name: text(&field["name"]), field })
        })
    }

    /// Every pair that can be reached from a root, found without any regard to paths.
    pub fn reachable(&self, root: Root<'_>) -> BTreeSet<Pair> {
        let (mut pairs, mut seen) = (BTreeSet::new(), BTreeSet::new());
        let mut todo = vec![named(&root.field["type"])];
        while let Some(ty) = todo.pop() {
            if !seen.insert(ty) {
                continue;
            }
            for field in self.fields(ty) {
                pairs.insert((ty.to_owned(), text(&field["name"]).to_owned()));
                todo.push(named(&field["type"]));
            }
            todo.extend(self.possible(ty));
        }
        pairs
    }

    /// Requests on a root field: each of its arguments with each of its values, the required ones filled beside it; then
    /// each nested argument with each of its values.
    pub fn requests(&self, root: Root<'_>, values: &Values) -> Requests {
        let mut visited = BTreeSet::new();
        let mut select = |variant: usize| {
            let mut walk = Walk { schema: self, values, variant, path: Vec::new(), visited: &mut visited };
            walk.selections(named(&root.field["type"]))
        };
        let whole = select(0);
        let base = self.required(&root.field["args"], values, 4);
        let request = |arguments: &BTreeMap<String, String>, selection: &String| {
            format!("{} {{ {}{}{selection} }}", root.kind, root.name, in_brackets(arguments))
        };
        let mut texts: Vec<String> = whole.iter().map(|selection| request(&base, selection)).collect();
        for argument in list(&root.field["args"]) {
            let name = text(&argument["name"]);
            for literal in self.literals(&argument["type"], name, values, 4) {
                let mut arguments = base.clone();
                if name == "last" {
                    arguments.remove("first");
                }
                arguments.insert(name.to_owned(), literal);
                texts.extend(whole.iter().map(|selection| request(&arguments, selection)));
            }
        }
        for variant in 1..=self.variants(root, values) {
            texts.extend(select(variant).iter().map(|selection| request(&base, selection)));
        }
        Requests { texts, whole: whole.len(), visited }
    }

    /// The most values that a nested argument may have.
    fn variants(&self, root: Root<'_>, values: &Values) -> usize {
        let pairs = self.reachable(root);
        let fields = pairs
            .iter()
            .filter_map(|(ty, name)| self.fields(ty).iter().find(|field| field["name"] == name.as_str()));
        let arguments = fields.flat_map(|field| list(&field["args"]));
        let counts = arguments
            .map(|argument| self.literals(&argument["type"], text(&argument["name"]), values, 4).len());
        counts.max().unwrap_or(0)
    }

    fn fields(&self, ty: &str) -> &[Value] {
        list(&self.types[ty]["fields"])
    }

    /// The types that an interface or a union may turn out to be.
    fn possible<'a>(&'a self, ty: &str) -> impl Iterator<Item = &'a str> {
        let is_abstract = matches!(text(&self.types[ty]["kind"]), "INTERFACE" | "UNION");
        let possible = list(&self.types[ty]["possibleTypes"]).iter().filter(move |_| is_abstract);
        possible.map(|possible| text(&possible["name"]))
    }

    /// A value for each argument that must be there, and a short page where there are pages.
    fn required(&self, arguments: &Value, values: &Values, depth: usize) -> BTreeMap<String, String> {
        let arguments = list(arguments).iter().filter_map(|argument| {
            let name = text(&argument["name"]);
            let is_needed = is_required(argument) || name == "first";
            let literal = self.literals(&argument["type"], name, values, depth).into_iter().next();
            is_needed.then_some((name.to_owned(), literal?))
        });
        arguments.collect()
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
                let names = list(&self.types[text(&ty["name"])]["enumValues"]).iter();
                names.map(|value| text(&value["name"]).to_owned()).collect()
            }
            "INPUT_OBJECT" => self.objects(text(&ty["name"]), values, depth),
            _ => values.of(text(&ty["name"]), name),
        }
    }

    /// One object for each field with each of its values, the required ones filled beside it.
    fn objects(&self, ty: &str, values: &Values, depth: usize) -> Vec<String> {
        if depth == 0 {
            return Vec::new();
        }
        let fields = &self.types[ty]["inputFields"];
        let required = self.required(fields, values, depth - 1);
        let mut objects = Vec::new();
        for field in list(fields) {
            let name = text(&field["name"]);
            for literal in self.literals(&field["type"], name, values, depth - 1).into_iter().take(MAX_VALUES)
            {
                let mut object = required.clone();
                object.insert(name.to_owned(), literal);
                objects.push(format!("{{ {} }}", pairs(&object)));
            }
        }
        objects
    }
}

/// A walk along the fields of types.
struct Walk<'a> {
    schema: &'a Schema,
    values: &'a Values,
    /// Which value nested arguments get, counted from 1; with 0 those that need none get none.
    variant: usize,
    path: Vec<&'a str>,
    visited: &'a mut BTreeSet<Pair>,
}

impl<'a> Walk<'a> {
    /// Selections that together hold everything below a type; nothing where there is no way on.
    fn selections(&mut self, ty: &'a str) -> Vec<String> {
        let schema = self.schema;
        if matches!(text(&schema.types[ty]["kind"]), "SCALAR" | "ENUM") {
            return vec![String::new()];
        }
        if self.path.len() == MAX_LEVELS || self.path.contains(&ty) {
            return Vec::new();
        }
        self.path.push(ty);
        let mut parts = self.parts(ty, &BTreeSet::new());
        let ambiguous = self.ambiguous(ty);
        for possible in schema.possible(ty) {
            let inner = self.parts(possible, &ambiguous);
            parts.extend(pack(inner).into_iter().map(|selection| format!("... on {possible}{selection}")));
        }
        self.path.pop();
        pack(parts)
    }

    /// The fields of a type with what they select; those that mean something else in a type beside it get a name of their
    /// own.
    fn parts(&mut self, ty: &'a str, ambiguous: &BTreeSet<&str>) -> Vec<String> {
        let mut parts = Vec::new();
        for field in self.schema.fields(ty) {
            let name = text(&field["name"]);
            let alias = if ambiguous.contains(name) { format!("{name}Of{ty}: ") } else { String::new() };
            let arguments = self.arguments(field);
            for selection in self.selections(named(&field["type"])) {
                self.visited.insert((ty.to_owned(), name.to_owned()));
                parts.push(format!("{alias}{name}{arguments}{selection}"));
            }
        }
        parts
    }

    /// Names that are not of one type in all the types that an abstract one may be.
    fn ambiguous(&self, ty: &str) -> BTreeSet<&'a str> {
        let mut types: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for possible in self.schema.possible(ty) {
            for field in self.schema.fields(possible) {
                types.entry(text(&field["name"])).or_default().insert(field["type"].to_string());
            }
        }
        types.into_iter().filter(|(_, types)| types.len() > 1).map(|(name, _)| name).collect()
    }

    /// The arguments of a nested field.
    fn arguments(&self, field: &Value) -> String {
        let mut arguments = self.schema.required(&field["args"], self.values, 4);
        for argument in list(&field["args"]).iter().filter(|_| self.variant > 0) {
            let name = text(&argument["name"]);
            let literals = self.schema.literals(&argument["type"], name, self.values, 4);
            if !literals.is_empty() {
                arguments.insert(name.to_owned(), literals[(self.variant - 1) % literals.len()].clone());
            }
        }
        in_brackets(&arguments)
    }
}

impl Values {
    fn of(&self, scalar: &str, name: &str) -> Vec<String> {
        let quoted = |texts: &[String]| texts.iter().map(|text| json!(text).to_string()).collect();
        match (scalar, name) {
            ("Int", "first" | "last") => vec!["2".to_owned()],
            ("Int", "waitMs") => vec!["0".to_owned()],
            // Nobody's number tells anything here, and every price depends on it.
            ("Int", "quantity") => vec!["1".to_owned()],
            ("Int" | "Int64" | "Long", _) => self.numbers.iter().map(i64::to_string).collect(),
            ("Boolean", _) => vec!["false".to_owned(), "true".to_owned()],
            ("ID", _) => quoted(&self.ids),
            ("DateTime", _) => vec!["\"2020-01-01T00:00:00Z\"".to_owned()],
            ("CurrencyCode", _) => vec!["\"USD\"".to_owned()],
            ("Decimal", _) => vec!["\"17.40\"".to_owned()],
            ("_Any", _) => {
                let of = |id| format!("{{ __typename: \"Order\", id: {} }}", json!(id));
                self.ids.iter().map(of).collect()
            }
            ("String", "sku" | "skus") => {
                std::iter::once("\"SKU-1\"".to_owned()).chain(quoted(&self.strings)).collect()
            }
            // A scalar of some other name takes a string, or says what it takes instead: the same to everybody.
            _ => quoted(&self.strings),
        }
    }

    /// Puts a mark in the place of every value that a question was asked with, so that an answer that quotes its question is
    /// the same for all.
    pub fn blank(&self, question: &str, answer: &str) -> String {
        let mut texts: Vec<String> = self.ids.iter().chain(&self.strings).cloned().collect();
        texts.extend(self.numbers.iter().filter(|number| **number > 1_000).map(i64::to_string));
        texts.retain(|text| question.contains(text.as_str()));
        texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
        texts.iter().fold(answer.to_owned(), |answer, text| answer.replace(text.as_str(), "..."))
    }
}

/// Puts parts into as few selections as they need.
fn pack(parts: Vec<String>) -> Vec<String> {
    let mut packed: Vec<(usize, String)> = Vec::new();
    for part in parts {
        let words = part.split_whitespace().count();
        match packed.last_mut().filter(|(taken, _)| taken + words <= MAX_WORDS) {
            Some((taken, selection)) => {
                *taken += words;
                selection.push(' ');
                selection.push_str(&part);
            }
            None => packed.push((words, format!("__typename {part}"))),
        }
    }
    packed.into_iter().map(|(_, selection)| format!(" {{ {selection} }}")).collect()
}

fn pairs(arguments: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = arguments.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    pairs.join(", ")
}

fn in_brackets(arguments: &BTreeMap<String, String>) -> String {
    if arguments.is_empty() { String::new() } else { format!("({})", pairs(arguments)) }
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

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
