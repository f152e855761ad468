//! How many fields a look at the schema resolves, before it runs.
//!
//! What the schema's lists hold is known: under `types`, all fields of all types together; under a type that was reached in
//! another way, at most as many as the largest type has.

use std::collections::HashMap;

use async_graphql::parser::types::{
    ExecutableDocument, Field, Selection, SelectionSet, ServiceDocument, TypeDefinition, TypeKind,
    TypeSystemDefinition,
};

/// What the library adds to the schema that its schema definition language does not tell: types such as `__Type` and `Int`,
/// and their fields. A test compares the sums with what the schema answers.
const BUILT_IN: Lists =
    Lists { fields: 50, arguments: 10, input_fields: 0, interfaces: 0, possible_types: 4, enum_values: 40 };

/// Types among those.
const BUILT_IN_TYPES: u64 = 20;

/// Directives of the schema; they are the library's.
const DIRECTIVES: u64 = 16;

/// Lengths of the lists of the schema.
#[derive(Debug, Clone, Copy, Default)]
struct Lists {
    fields: u64,
    arguments: u64,
    input_fields: u64,
    interfaces: u64,
    possible_types: u64,
    enum_values: u64,
}

impl Lists {
    fn of(definition: &TypeDefinition) -> Self {
        let nothing = Self::default();
        match &definition.kind {
            TypeKind::Object(object) => Self {
                fields: object.fields.len() as u64,
                arguments: object.fields.iter().map(|field| field.node.arguments.len() as u64).sum(),
                interfaces: object.implements.len() as u64,
                ..nothing
            },
            TypeKind::Interface(interface) => Self {
                fields: interface.fields.len() as u64,
                arguments: interface.fields.iter().map(|field| field.node.arguments.len() as u64).sum(),
                interfaces: interface.implements.len() as u64,
                ..nothing
            },
            TypeKind::Union(union) => Self { possible_types: union.members.len() as u64, ..nothing },
            TypeKind::Enum(values) => Self { enum_values: values.values.len() as u64, ..nothing },
            TypeKind::InputObject(input) => Self { input_fields: input.fields.len() as u64, ..nothing },
            TypeKind::Scalar => nothing,
        }
    }

    fn combine(self, other: Self, of: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            fields: of(self.fields, other.fields),
            arguments: of(self.arguments, other.arguments),
            input_fields: of(self.input_fields, other.input_fields),
            interfaces: of(self.interfaces, other.interfaces),
            possible_types: of(self.possible_types, other.possible_types),
            enum_values: of(self.enum_values, other.enum_values),
        }
    }

    fn length(&self, list: &str) -> Option<u64> {
        match list {
            "fields" => Some(self.fields),
            "args" => Some(self.arguments),
            "inputFields" => Some(self.input_fields),
            "interfaces" => Some(self.interfaces),
            "possibleTypes" => Some(self.possible_types),
            "enumValues" => Some(self.enum_values),
            _ => None,
        }
    }
}

/// How large the schema is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SchemaSize {
    types: u64,
    /// The lists of all types together.
    total: Lists,
    /// The longest of each.
    longest: Lists,
}

impl SchemaSize {
    pub(super) fn of(schema: &ServiceDocument) -> Self {
        let types = schema.definitions.iter().filter_map(|definition| match definition {
            TypeSystemDefinition::Type(ty) => Some(&ty.node),
            _ => None,
        });
        let mut size = Self { types: BUILT_IN_TYPES, total: BUILT_IN, longest: BUILT_IN };
        for ty in types {
            let lists = Lists::of(ty);
            size.types += 1;
            size.total = size.total.combine(lists, |total, more| total + more);
            size.longest = size.longest.combine(lists, u64::max);
        }
        // Whatever implements an interface is a possible type of it. One interface may have them all.
        size.total.possible_types += size.total.interfaces;
        size.longest.possible_types = size.total.possible_types;
        size
    }

    /// How many items the list has, among how many that have such a list.
    fn list(&self, name: &str, place: Place) -> Option<(u64, u64)> {
        match (name, place) {
            ("types", _) => Some((self.types, 1)),
            ("directives", _) => Some((DIRECTIVES, 1)),
            ("args", Place::Everywhere) => Some((self.total.arguments, self.total.fields)),
            (_, Place::Everywhere) => Some((self.total.length(name)?, self.types)),
            (_, Place::Somewhere) => Some((self.longest.length(name)?, 1)),
        }
    }
}

/// Where in the schema a selection looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Place {
    /// At each type once, or at each field of each type once.
    Everywhere,
    /// At any part, and maybe at the largest each time.
    Somewhere,
}

/// Reckons what a look at the schema resolves.
pub(super) struct Look<'a> {
    size: SchemaSize,
    document: &'a ExecutableDocument,
    of_fragments: HashMap<(&'a str, Place), u64>,
}

impl<'a> Look<'a> {
    pub(super) fn new(size: SchemaSize, document: &'a ExecutableDocument) -> Self {
        Self { size, document, of_fragments: HashMap::new() }
    }

    /// How many fields are resolved for the field, itself among them.
    pub(super) fn resolutions(&mut self, field: &'a Field) -> u64 {
        self.field(field, Place::Somewhere)
    }

    fn field(&mut self, field: &'a Field, place: Place) -> u64 {
        let name = field.name.node.as_str();
        let below = match (name, place) {
            ("types", _) | ("fields", Place::Everywhere) => Place::Everywhere,
            _ => Place::Somewhere,
        };
        let (items, among) = self.size.list(name, place).unwrap_or((1, 1));
        let each = self.selections(&field.selection_set.node, below);
        each.saturating_mul(items).div_ceil(among.max(1)).saturating_add(1)
    }

    fn selections(&mut self, selections: &'a SelectionSet, place: Place) -> u64 {
        selections.items.iter().fold(0, |sum: u64, selection| {
            sum.saturating_add(match &selection.node {
                Selection::Field(field) => self.field(&field.node, place),
                Selection::InlineFragment(fragment) => {
                    self.selections(&fragment.node.selection_set.node, place)
                }
                Selection::FragmentSpread(spread) => {
                    self.fragment(spread.node.fragment_name.node.as_str(), place)
                }
            })
        })
    }

    fn fragment(&mut self, name: &'a str, place: Place) -> u64 {
        if let Some(known) = self.of_fragments.get(&(name, place)) {
            return *known;
        }
        let Some(fragment) = self.document.fragments.get(name) else { return 0 };
        let resolutions = self.selections(&fragment.node.selection_set.node, place);
        self.of_fragments.insert((name, place), resolutions);
        resolutions
    }
}
