//! What a query costs, before it runs.
//!
//! An object costs a point and its scalars nothing; a mutation or a subscription costs ten. A page costs its size times
//! what one item costs, other lists are taken for ten items long, but for `userErrors`; what searches
//! costs ten more. Prices come from our own schema, so that a new field has
//! one without a word here.

use std::collections::HashMap;

use async_graphql::Variables;
use async_graphql::parser::parse_schema;
use async_graphql::parser::types::{
    BaseType, DocumentOperations, ExecutableDocument, Field, OperationDefinition, OperationType, Selection,
    SelectionSet, TypeDefinition, TypeKind, TypeSystemDefinition,
};
use async_graphql_value::{ConstValue, Value};

/// Points of a root field that changes something or stays open.
const ACTION: u64 = 10;

/// Points of a look at the schema, which is put together once.
const INTROSPECTION: u64 = 10;

/// Points of fields that look at far more rows than they return, beyond what they return.
const SEARCHES: [(&str, u64); 2] = [("totalCount", 10), ("changes", 10)];

/// Items that a list without pages is taken for.
const LIST_ITEMS: u64 = 10;

/// The largest page (`page::MAX_PAGE`); a larger one is refused when it runs.
const MAX_PAGE: u64 = 100;

/// What a field is.
#[derive(Debug, Clone)]
struct FieldPrice {
    /// Name of the type it has, without lists.
    ty: String,
    is_list: bool,
    /// The size of a page that the query does not name; `None` where there are no pages.
    default_page: Option<u64>,
}

/// The price of every field of the schema.
#[derive(Debug, Clone, Default)]
pub(in crate::graphql) struct Prices {
    fields: HashMap<String, HashMap<String, FieldPrice>>,
}

impl Prices {
    /// Reads the prices from a schema in GraphQL's schema definition language.
    pub(in crate::graphql) fn of_schema(sdl: &str) -> Self {
        let mut fields = HashMap::new();
        // Our own schema, which the library has written; a test shows that it is read.
        for definition in parse_schema(sdl).map(|document| document.definitions).unwrap_or_default() {
            if let TypeSystemDefinition::Type(ty) = definition {
                let of_type: HashMap<String, FieldPrice> = prices_of(&ty.node).collect();
                fields.insert(ty.node.name.node.to_string(), of_type);
            }
        }
        Self { fields }
    }

    /// Returns what the operation costs that would run, at least a point.
    pub(in crate::graphql) fn cost(
        &self,
        document: &ExecutableDocument,
        operation_name: Option<&str>,
        variables: &Variables,
    ) -> u64 {
        let Some(operation) = operation(document, operation_name) else { return 1 };
        let (root, base) = match operation.ty {
            OperationType::Query => ("Query", 0),
            OperationType::Mutation => ("Mutation", ACTION - 1),
            OperationType::Subscription => ("Subscription", ACTION - 1),
        };
        let mut reckoning =
            Reckoning { prices: self, document, operation, variables, of_fragments: HashMap::new() };
        reckoning.selections(&operation.selection_set.node, root, 1, base).max(1)
    }
}

/// Returns the operation that would run, if there is one.
pub(in crate::graphql) fn operation<'a>(
    document: &'a ExecutableDocument,
    operation_name: Option<&str>,
) -> Option<&'a OperationDefinition> {
    match (&document.operations, operation_name) {
        (DocumentOperations::Single(operation), _) => Some(&operation.node),
        (DocumentOperations::Multiple(operations), Some(name)) => {
            operations.get(name).map(|operation| &operation.node)
        }
        (DocumentOperations::Multiple(operations), None) => {
            operations.values().next().filter(|_| operations.len() == 1).map(|operation| &operation.node)
        }
    }
}

fn prices_of(ty: &TypeDefinition) -> impl Iterator<Item = (String, FieldPrice)> + '_ {
    let fields = match &ty.kind {
        TypeKind::Object(object) => &object.fields[..],
        TypeKind::Interface(interface) => &interface.fields[..],
        _ => &[],
    };
    fields.iter().map(|field| {
        let field = &field.node;
        let (mut base, mut is_list) = (&field.ty.node.base, false);
        while let BaseType::List(item) = base {
            (base, is_list) = (&item.base, true);
        }
        let ty = match base {
            BaseType::Named(name) => name.to_string(),
            BaseType::List(_) => String::new(),
        };
        let is_size = |name: &str| matches!(name, "first" | "last");
        let first = field.arguments.iter().find(|argument| is_size(argument.node.name.node.as_str()));
        let default_page = first.map(|first| {
            let default = first.node.default_value.as_ref().and_then(|value| size(&value.node));
            default.unwrap_or(MAX_PAGE / 2)
        });
        (field.name.node.to_string(), FieldPrice { ty, is_list, default_page })
    })
}

fn size(value: &ConstValue) -> Option<u64> {
    match value {
        ConstValue::Number(number) => Some(number.as_u64().unwrap_or(0).min(MAX_PAGE)),
        _ => None,
    }
}

struct Reckoning<'a> {
    prices: &'a Prices,
    document: &'a ExecutableDocument,
    operation: &'a OperationDefinition,
    variables: &'a Variables,
    /// By name, and whether it stands in a page. `None` while it is being reckoned.
    of_fragments: HashMap<(&'a str, u64), Option<u64>>,
}

impl<'a> Reckoning<'a> {
    /// What these selections cost once, on an object of this type. Lists among them have `items` items each where they are
    /// the items of a page.
    fn selections(&mut self, selections: &'a SelectionSet, ty: &str, page: u64, base: u64) -> u64 {
        let mut points = 0_u64;
        for selection in &selections.items {
            let more = match &selection.node {
                Selection::Field(field) => self.field(&field.node, ty, page, base),
                Selection::InlineFragment(fragment) => {
                    let condition = fragment.node.type_condition.as_ref().map(|on| on.node.on.node.as_str());
                    self.selections(&fragment.node.selection_set.node, condition.unwrap_or(ty), page, base)
                }
                Selection::FragmentSpread(spread) => {
                    self.fragment(spread.node.fragment_name.node.as_str(), page, base)
                }
            };
            points = points.saturating_add(more);
        }
        points
    }

    fn field(&mut self, field: &'a Field, ty: &str, page: u64, base: u64) -> u64 {
        let name = field.name.node.as_str();
        if matches!(name, "__schema" | "__type" | "_service") {
            return INTROSPECTION;
        }
        if name == "_entities" {
            // Of several types; each fragment names its own.
            let each = self.selections(&field.selection_set.node, "_Entity", 1, 0).saturating_add(1);
            return each.saturating_mul(self.longest_list(field).unwrap_or(1)).saturating_add(base);
        }
        let base =
            base + SEARCHES.iter().find(|(search, _)| *search == name).map_or(0, |(_, points)| *points);
        let prices = self.prices;
        let Some(price) = prices.fields.get(ty).and_then(|fields| fields.get(name)) else { return 0 };
        if prices.fields.get(&price.ty).is_none_or(HashMap::is_empty) {
            return base;
        }
        let children = &field.selection_set.node;
        let items = match price.default_page {
            Some(default) => self.page_size(field).unwrap_or(default),
            // The items of a page were asked for by the page.
            None if price.is_list && page > 1 => page,
            // Empty unless something is wrong.
            None if name == "userErrors" => 1,
            None if price.is_list => self.longest_list(field).unwrap_or(LIST_ITEMS),
            None => 1,
        };
        let is_connection = price.default_page.is_some() && !price.is_list;
        let below = if is_connection {
            self.selections(children, &price.ty, items.max(2), 0)
        } else {
            self.selections(children, &price.ty, 1, 0).saturating_add(1).saturating_mul(items)
        };
        below.saturating_add(if is_connection { 1 } else { 0 }).saturating_add(base)
    }

    fn fragment(&mut self, name: &'a str, page: u64, base: u64) -> u64 {
        if let Some(known) = self.of_fragments.get(&(name, page)) {
            return known.unwrap_or(0);
        }
        let Some(fragment) = self.document.fragments.get(name) else { return 0 };
        self.of_fragments.insert((name, page), None);
        let ty = fragment.node.type_condition.node.on.node.as_str();
        let points = self.selections(&fragment.node.selection_set.node, ty, page, base);
        self.of_fragments.insert((name, page), Some(points));
        points
    }

    /// How many things the field is asked for by name, if it is.
    fn longest_list(&self, field: &Field) -> Option<u64> {
        let lists = field.arguments.iter().filter_map(|(_, value)| match &value.node {
            Value::List(items) => Some(items.len() as u64),
            Value::Variable(name) => match self.variable(name)? {
                ConstValue::List(items) => Some(items.len() as u64),
                _ => None,
            },
            _ => None,
        });
        lists.max()
    }

    /// The value of a variable, its default where the request gives none.
    fn variable(&self, name: &str) -> Option<&ConstValue> {
        self.variables.get(name).or_else(|| {
            let mut definitions = self.operation.variable_definitions.iter();
            let definition = definitions.find(|definition| definition.node.name.node == name)?;
            Some(&definition.node.default_value.as_ref()?.node)
        })
    }

    /// The size of the page that the query asks for.
    fn page_size(&self, field: &Field) -> Option<u64> {
        let sizes = field.arguments.iter().filter(|(name, _)| matches!(name.node.as_str(), "first" | "last"));
        sizes.filter_map(|(_, value)| self.number(&value.node)).max()
    }

    fn number(&self, value: &Value) -> Option<u64> {
        match value {
            Value::Number(number) => Some(number.as_u64().unwrap_or(0).min(MAX_PAGE)),
            Value::Variable(name) => self.variable(name).and_then(size),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use async_graphql::parser::parse_query;
    use serde_json::json;

    use super::*;

    const SDL: &str = "type Query { one(id: ID!): Order many(first: Int! = 50, last: Int): Orders! }
        type Mutation { place: Payload! } type Payload { order: Order ok: Boolean! }
        type Orders { edges: [Edge!]! nodes: [Order!]! info: Info! } type Edge { node: Order! cursor: ID! }
        type Info { more: Boolean! } type Order { id: ID! lines: [Line!]! events(first: Int! = 20): [Event!]! total: Money }
        type Line { sku: String! price: Money! } type Money { minor: Int! } type Event { at: String! }";

    fn cost(query: &str, variables: serde_json::Value) -> u64 {
        let document = parse_query(query).expect("a query");
        Prices::of_schema(SDL).cost(&document, None, &Variables::from_json(variables))
    }

    #[test]
    fn objects_cost_a_point_and_scalars_nothing() {
        assert_eq!(cost("{ __typename }", json!({})), 1);
        assert_eq!(cost("{ one(id: 1) { id } }", json!({})), 1);
        assert_eq!(cost("{ one(id: 1) { id total { minor } } }", json!({})), 2);
        assert_eq!(cost("{ one(id: 1) { lines { sku price { minor } } } }", json!({})), 1 + 10 * 2);
        assert_eq!(cost("mutation { place { ok order { id } } }", json!({})), 10 + 1);
        assert_eq!(cost("{ __schema { types { name } } }", json!({})), 10);
    }

    #[test]
    fn a_page_costs_its_size() {
        assert_eq!(cost("{ many(first: 5) { nodes { id } } }", json!({})), 1 + 5);
        assert_eq!(
            cost("{ many(first: 5) { edges { node { id } } info { more } } }", json!({})),
            1 + 5 * 2 + 1
        );
        assert_eq!(cost("{ many { nodes { id } } }", json!({})), 1 + 50, "the default");
        let query = "query ($n: Int = 7) { many(first: $n) { nodes { events(first: 3) { at } } } }";
        assert_eq!(cost(query, json!({ "n": 4 })), 1 + 4 * (1 + 3));
        assert_eq!(cost(query, json!({})), 1 + 7 * (1 + 3));
        assert_eq!(cost(query, json!({ "n": 1_000_000 })), 1 + 100 * (1 + 3), "more is refused when it runs");
    }

    #[test]
    fn fragments_cost_what_they_hold_each_time() {
        let query = "{ a: one(id: 1) { ...F } b: one(id: 2) { ...F ... on Order { ...F } } } fragment F on Order { total { minor } }";
        assert_eq!(cost(query, json!({})), (1 + 1) + (1 + 2));
    }

    #[test]
    fn the_whole_schema_has_prices() {
        let prices = Prices::of_schema(&crate::graphql::sdl());
        assert!(prices.fields["Query"].contains_key("getOrder"));
        assert!(prices.fields["Query"]["products"].default_page.is_some());
    }
}
