//! What a query costs, before it runs.
//!
//! An object costs a point and its scalars nothing; a mutation or a subscription costs ten. A page costs its size times
//! what one item costs, other lists are taken for ten items long, but for `userErrors` and `payments`; what searches
//! costs ten more. Prices come from our own schema, so that a new field has
//! one without a word here.
//!
//! Beside its points, each request has a number of resolutions: how often a field of it is resolved, scalars among them, with
//! every list as long as it can be. The library resolves a field as often as it is written, and nothing interrupts it where it
//! waits for nothing, so that a repeated name in a long list is work that points do not see.

use std::collections::HashMap;

use async_graphql::Variables;
use async_graphql::parser::parse_schema;
use async_graphql::parser::types::{
    BaseType, DocumentOperations, ExecutableDocument, Field, OperationDefinition, OperationType, Selection,
    SelectionSet, ServiceDocument, TypeDefinition, TypeKind, TypeSystemDefinition,
};
use async_graphql_value::{ConstValue, Value};

use super::introspection::{Look, SchemaSize};

/// Points of a root field that changes something or stays open.
const ACTION: u64 = 10;

/// Points of a look at the schema, which is put together once.
const INTROSPECTION: u64 = 10;

/// Points of fields that look at far more rows than they return, beyond what they return.
const SEARCHES: [(&str, u64); 2] = [("totalCount", 10), ("changes", 10)];

/// Items that a list without pages is taken for.
const LIST_ITEMS: u64 = 10;

/// The most items that lists without pages have: lines of an order, products and mistakes of a call, keys of an app, sagas of
/// a call. Where they are fewer as a rule, points go by the rule and resolutions by the most.
const LONGEST_LISTS: [(&str, u64); 5] =
    [("lines", 250), ("products", 250), ("userErrors", 250), ("keys", 100), ("sagas", 100)];

/// Resolutions that cost a point, beyond what the objects cost.
const RESOLUTIONS_OF_A_POINT: u64 = 1_000;

/// The largest page (`page::MAX_PAGE`); a larger one is refused when it runs.
const MAX_PAGE: u64 = 100;

/// What an operation takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::graphql) struct Price {
    /// What the caller pays.
    pub(in crate::graphql) points: u64,
    /// How often a field is resolved at most.
    pub(in crate::graphql) resolutions: u64,
}

impl Price {
    fn plus(self, other: Self) -> Self {
        Self {
            points: self.points.saturating_add(other.points),
            resolutions: self.resolutions.saturating_add(other.resolutions),
        }
    }
}

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
    schema: SchemaSize,
}

impl Prices {
    /// Reads the prices from a schema in GraphQL's schema definition language.
    pub(in crate::graphql) fn of_schema(sdl: &str) -> Self {
        let mut fields = HashMap::new();
        // Our own schema, which the library has written; a test shows that it is read.
        let document = parse_schema(sdl).unwrap_or_else(|_| ServiceDocument { definitions: Vec::new() });
        let schema = SchemaSize::of(&document);
        for definition in document.definitions {
            if let TypeSystemDefinition::Type(ty) = definition {
                let of_type: HashMap<String, FieldPrice> = prices_of(&ty.node).collect();
                fields.insert(ty.node.name.node.to_string(), of_type);
            }
        }
        Self { fields, schema }
    }

    /// Returns what the operation takes that would run, at least a point.
    pub(in crate::graphql) fn price(
        &self,
        document: &ExecutableDocument,
        operation_name: Option<&str>,
        variables: &Variables,
    ) -> Price {
        let Some(operation) = operation(document, operation_name) else {
            return Price { points: 1, resolutions: 0 };
        };
        let (root, base) = match operation.ty {
            OperationType::Query => ("Query", 0),
            OperationType::Mutation => ("Mutation", ACTION - 1),
            OperationType::Subscription => ("Subscription", ACTION - 1),
        };
        let look = Look::new(self.schema, document);
        let of_fragments = HashMap::new();
        let mut reckoning = Reckoning { prices: self, document, operation, variables, look, of_fragments };
        let Price { points, resolutions } =
            reckoning.selections(&operation.selection_set.node, root, 1, base);
        let points = points.saturating_add(resolutions / RESOLUTIONS_OF_A_POINT).max(1);
        Price { points, resolutions }
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

/// The price of a list: `items` of them cost points, up to `most` of them are resolved.
fn list(each: Price, items: u64, most: u64, base: u64) -> Price {
    Price {
        points: each.points.saturating_add(1).saturating_mul(items).saturating_add(base),
        resolutions: each.resolutions.saturating_mul(most).saturating_add(1),
    }
}

struct Reckoning<'a> {
    prices: &'a Prices,
    document: &'a ExecutableDocument,
    operation: &'a OperationDefinition,
    variables: &'a Variables,
    look: Look<'a>,
    /// By name, and whether it stands in a page. `None` while it is being reckoned.
    of_fragments: HashMap<(&'a str, u64), Option<Price>>,
}

impl<'a> Reckoning<'a> {
    /// What these selections cost once, on an object of this type. Lists among them have `items` items each where they are
    /// the items of a page.
    fn selections(&mut self, selections: &'a SelectionSet, ty: &str, page: u64, base: u64) -> Price {
        let mut sum = Price::default();
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
            sum = sum.plus(more);
        }
        sum
    }

    fn field(&mut self, field: &'a Field, ty: &str, page: u64, base: u64) -> Price {
        let name = field.name.node.as_str();
        if matches!(name, "__schema" | "__type" | "_service") {
            return Price { points: INTROSPECTION, resolutions: self.look.resolutions(field) };
        }
        let children = &field.selection_set.node;
        if name == "_entities" {
            // Of several types; each fragment names its own.
            let items = self.longest_list(field).unwrap_or(1);
            let each = self.selections(children, "_Entity", 1, 0);
            return list(each, items, items, base);
        }
        let base =
            base + SEARCHES.iter().find(|(search, _)| *search == name).map_or(0, |(_, points)| *points);
        let prices = self.prices;
        let Some(price) = prices.fields.get(ty).and_then(|fields| fields.get(name)) else {
            return Price { points: 0, resolutions: 1 };
        };
        if prices.fields.get(&price.ty).is_none_or(HashMap::is_empty) {
            return Price { points: base, resolutions: 1 };
        }
        let page_size = price.default_page.map(|default| self.page_size(field).unwrap_or(default));
        if let Some(items) = page_size.filter(|_| !price.is_list) {
            let connection = self.selections(children, &price.ty, items.max(2), 0);
            return connection.plus(Price { points: base + 1, resolutions: 1 });
        }
        let (items, most) = match page_size {
            Some(items) => (items, items),
            None if price.is_list => self.list_size(field, page),
            None => (1, 1),
        };
        let each = self.selections(children, &price.ty, 1, 0);
        list(each, items, most, base)
    }

    /// How many items a list without a size of its own is taken for, and how many it has at most.
    fn list_size(&self, field: &Field, page: u64) -> (u64, u64) {
        let name = field.name.node.as_str();
        if page > 1 {
            // The items of a page were asked for by the page.
            return (page, page);
        }
        let most = LONGEST_LISTS.iter().find(|(list, _)| *list == name).map(|(_, most)| *most);
        // No mistakes unless something is wrong, and an order is paid at once.
        let usual = if matches!(name, "userErrors" | "payments") { 1 } else { LIST_ITEMS };
        let items = self.longest_list(field).filter(|_| name != "userErrors").unwrap_or(usual);
        (items, most.unwrap_or(LIST_ITEMS).max(items))
    }

    fn fragment(&mut self, name: &'a str, page: u64, base: u64) -> Price {
        if let Some(known) = self.of_fragments.get(&(name, page)) {
            return known.unwrap_or_default();
        }
        let Some(fragment) = self.document.fragments.get(name) else { return Price::default() };
        self.of_fragments.insert((name, page), None);
        let ty = fragment.node.type_condition.node.on.node.as_str();
        let price = self.selections(&fragment.node.selection_set.node, ty, page, base);
        self.of_fragments.insert((name, page), Some(price));
        price
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
        Prices::of_schema(SDL).price(&document, None, &Variables::from_json(variables)).points
    }

    /// How many fields of our own schema the query resolves.
    fn resolutions(query: &str) -> u64 {
        let document = parse_query(query).expect("a query");
        let prices = Prices::of_schema(&crate::graphql::sdl());
        prices.price(&document, None, &Variables::default()).resolutions
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

    #[test]
    fn every_field_is_resolved_once_for_each_item_that_a_list_can_have() {
        for (query, expected) in [
            ("{ __typename }", 1),
            ("{ products(first: 7) { nodes { sku sku } } }", 1 + 1 + 7 * 2),
            (
                "{ orders(first: 3) { nodes { lines { ...F ...F } } } } fragment F on OrderLine { sku name }",
                2 + 3 * (1 + 250 * 4),
            ),
            ("{ _service { sdl } }", 2),
        ] {
            assert_eq!(resolutions(query), expected, "{query}");
        }
    }

    #[test]
    fn what_multiplies_is_reckoned_without_overflow() {
        let lines = format!("lines {{ {} }}", "sku ".repeat(900));
        let query = format!("{{ orders(first: 100) {{ {} }} }}", "nodes { ...F } ".repeat(30));
        let query = format!("{query} fragment F on Order {{ {lines} }}");
        assert_eq!(resolutions(&query), 1 + 30 * (1 + 100 * (1 + 250 * 900)));
    }

    const SPREAD_OF_A_TYPE: &str = "kind name ofType { kind name ofType { kind name ofType { kind name ofType { kind name ofType \
        { kind name ofType { kind name ofType { kind name ofType { kind name ofType { kind name } } } } } } } } }";

    /// What GraphiQL asks first, as graphql-js writes it.
    fn introspection() -> String {
        let type_reference = SPREAD_OF_A_TYPE.replace('\\', "");
        format!(
            "query IntrospectionQuery {{ __schema {{ description queryType {{ name kind }} mutationType {{ name kind }} \
             subscriptionType {{ name kind }} types {{ ...FullType }} directives {{ name description isRepeatable locations \
             args(includeDeprecated: true) {{ ...InputValue }} }} }} }} \
             fragment FullType on __Type {{ kind name description specifiedByURL isOneOf fields(includeDeprecated: true) {{ \
             name description args(includeDeprecated: true) {{ ...InputValue }} type {{ ...TypeRef }} isDeprecated \
             deprecationReason }} inputFields(includeDeprecated: true) {{ ...InputValue }} interfaces {{ ...TypeRef }} \
             enumValues(includeDeprecated: true) {{ name description isDeprecated deprecationReason }} possibleTypes {{ \
             ...TypeRef }} }} \
             fragment InputValue on __InputValue {{ name description type {{ ...TypeRef }} defaultValue isDeprecated \
             deprecationReason }} \
             fragment TypeRef on __Type {{ {type_reference} }}"
        )
    }

    /// Counts the fields of an answer.
    fn fields(answer: &serde_json::Value) -> u64 {
        match answer {
            serde_json::Value::Object(fields_of) => fields_of.values().map(|value| 1 + fields(value)).sum(),
            serde_json::Value::Array(items) => items.iter().map(fields).sum(),
            _ => 0,
        }
    }

    #[tokio::test]
    async fn a_look_at_the_schema_is_reckoned_by_what_the_schema_holds() {
        let schema = crate::graphql::builder().finish();
        for query in [
            &introspection(),
            "{ __schema { types { fields { name } } } }",
            "{ __schema { types { fields { args { name } } } } }",
            "{ __schema { types { inputFields { name } interfaces { name } } } }",
            "{ __schema { types { possibleTypes { name } enumValues { name } } } }",
            "{ __schema { types { possibleTypes { fields { name } } } } }",
            "{ __schema { types { fields { type { ofType { fields { name } } } } } } }",
            "{ __schema { queryType { fields { args { name } } } directives { name args { name } } } }",
            "{ __type(name: \"Order\") { fields { name } } }",
        ] {
            let answer = schema.execute(query).await.into_result().expect("an answer").data;
            let (actual, reckoned) = (fields(&answer.into_json().expect("JSON")), resolutions(query));
            assert!(actual <= reckoned, "{actual} > {reckoned}: {query}");
        }
        assert!(
            resolutions(&introspection()) <= u64::from(crate::config::LimitArgs::default().max_resolutions)
        );
        let name = "...F ".repeat(31);
        let query = format!(
            "{{ __schema {{ types {{ fields {{ type {{ fields {{ {name} }} }} }} }} }} }} fragment F on __Field {{ {} }}",
            "name ".repeat(90)
        );
        assert!(resolutions(&query) > 1_000_000);
    }
}
