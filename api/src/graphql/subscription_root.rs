//! The one field at the root of a subscription.
//!
//! A subscription has exactly one (GraphQL specification, section 5.2.4.1), wherever fragments put it, and it cannot be
//! skipped. The library looks for it among the plain fields alone, and checks none of this; so it is checked here, and
//! put where the library looks.

use std::collections::HashSet;

use async_graphql::parser::types::{
    DocumentOperations, ExecutableDocument, Field, OperationDefinition, OperationType, Selection,
    SelectionSet,
};
use async_graphql::{Name, Positioned};

/// The type at the root of subscriptions.
const ROOT: &str = "Subscription";

/// Why a subscription cannot be executed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadRoot {
    /// More than one field.
    #[error("a subscription must have exactly one field at its root")]
    Several,
    /// A field that tells of the schema.
    #[error("a subscription must not ask for {0} at its root")]
    Introspection(Name),
    /// A field that may be left out.
    #[error("the root field of a subscription must not be skipped or included")]
    Directive,
    /// A fragment on something else.
    #[error("a fragment on {0:?} does not fit at the root of a subscription")]
    OtherType(Name),
    /// A fragment that is not there.
    #[error("there is no fragment {0:?}")]
    MissingFragment(Name),
}

/// Checks the subscriptions of a document, and takes their root fields out of the fragments. No fragment may contain itself.
///
/// Takes time linear in the document: each way down ends at a field, and the second field ends the search.
///
/// # Errors
/// [`BadRoot`], whether the subscription would be the one to run or not.
pub(super) fn settle(document: &mut ExecutableDocument) -> Result<(), BadRoot> {
    let mut roots = Vec::new();
    for (name, operation) in document.operations.iter() {
        if operation.node.ty == OperationType::Subscription {
            roots.push((name.cloned(), Root::of(document, &operation.node)?));
        }
    }
    let mut emptied: HashSet<Name> = HashSet::new();
    for (name, root) in roots {
        let Some(field) = root.field.filter(|_| root.is_in_a_fragment) else { continue };
        let operation = match (&mut document.operations, &name) {
            (DocumentOperations::Single(operation), _) => Some(operation),
            (DocumentOperations::Multiple(operations), Some(name)) => operations.get_mut(name),
            (DocumentOperations::Multiple(_), None) => None,
        };
        let Some(operation) = operation else { continue };
        let pos = field.pos;
        operation.node.selection_set.node.items = vec![Positioned::new(Selection::Field(field), pos)];
        emptied.extend(root.fragments);
    }
    // Validation complains of a fragment that nobody spreads; these were spread as the client has written it.
    document.fragments.retain(|name, _| !emptied.contains(name));
    Ok(())
}

/// What stands at the root of a subscription.
#[derive(Default)]
struct Root {
    field: Option<Positioned<Field>>,
    is_in_a_fragment: bool,
    /// The named fragments on the way to the field. They fit nowhere else but at the root of another subscription.
    fragments: Vec<Name>,
}

impl Root {
    fn of(document: &ExecutableDocument, operation: &OperationDefinition) -> Result<Self, BadRoot> {
        let mut root = Self::default();
        root.add(document, &operation.selection_set.node, false)?;
        Ok(root)
    }

    fn add(
        &mut self,
        document: &ExecutableDocument,
        selections: &SelectionSet,
        is_in_a_fragment: bool,
    ) -> Result<(), BadRoot> {
        for selection in &selections.items {
            if !selection.node.directives().is_empty() {
                return Err(BadRoot::Directive);
            }
            match &selection.node {
                Selection::Field(field) => self.set(field, is_in_a_fragment)?,
                Selection::InlineFragment(fragment) => {
                    if let Some(condition) = &fragment.node.type_condition {
                        check_type(&condition.node.on.node)?;
                    }
                    self.add(document, &fragment.node.selection_set.node, true)?;
                }
                Selection::FragmentSpread(spread) => {
                    let name = &spread.node.fragment_name.node;
                    let Some(fragment) = document.fragments.get(name) else {
                        return Err(BadRoot::MissingFragment(name.clone()));
                    };
                    check_type(&fragment.node.type_condition.node.on.node)?;
                    self.fragments.push(name.clone());
                    self.add(document, &fragment.node.selection_set.node, true)?;
                }
            }
        }
        Ok(())
    }

    fn set(&mut self, field: &Positioned<Field>, is_in_a_fragment: bool) -> Result<(), BadRoot> {
        if field.node.name.node.starts_with("__") {
            return Err(BadRoot::Introspection(field.node.name.node.clone()));
        }
        if self.field.is_some() {
            return Err(BadRoot::Several);
        }
        self.field = Some(field.clone());
        self.is_in_a_fragment = is_in_a_fragment;
        Ok(())
    }
}

fn check_type(name: &Name) -> Result<(), BadRoot> {
    if name == ROOT { Ok(()) } else { Err(BadRoot::OtherType(name.clone())) }
}

#[cfg(test)]
mod tests {
    use async_graphql::parser::parse_query;

    use super::*;

    fn settled(query: &str) -> Result<ExecutableDocument, BadRoot> {
        let mut document = parse_query(query).expect("a query");
        settle(&mut document).map(|()| document)
    }

    #[test]
    fn the_one_field_is_found_in_fragments_and_stands_at_the_root_then() {
        for query in [
            "subscription { a { b } }",
            "subscription { ... { a { b } } }",
            "subscription { ... on Subscription { ... { a { b } } } }",
            "subscription { ...F } fragment F on Subscription { ...G } fragment G on Subscription { a { b } }",
            "query Q { c } subscription S { ...F } subscription T { ...F } fragment F on Subscription { a { b } }",
        ] {
            let document = settled(query).expect("one field");
            assert!(document.fragments.is_empty(), "{query}");
            for (_, operation) in document.operations.iter() {
                let items = &operation.node.selection_set.node.items;
                assert!(matches!(&items[..], [item] if matches!(item.node, Selection::Field(_))), "{query}");
            }
        }
        let others = settled("subscription { ... { a { ...O } } } fragment O on Order { id }");
        assert_eq!(others.expect("one field").fragments.len(), 1);
    }

    #[test]
    fn anything_but_one_field_is_refused() {
        for (query, expected) in [
            ("subscription { a b }", BadRoot::Several),
            ("subscription { a { c } a { d } }", BadRoot::Several),
            ("subscription { a ...F } fragment F on Subscription { b }", BadRoot::Several),
            ("query Q { a } subscription S { ... { a b } }", BadRoot::Several),
            ("subscription { __typename }", BadRoot::Introspection(Name::new("__typename"))),
            ("subscription { a ... { __typename } }", BadRoot::Introspection(Name::new("__typename"))),
            ("subscription { a @skip(if: true) }", BadRoot::Directive),
            ("subscription { ... @include(if: $x) { a } }", BadRoot::Directive),
            ("subscription { ... on Query { a } }", BadRoot::OtherType(Name::new("Query"))),
            ("subscription { ...F } fragment F on Order { a }", BadRoot::OtherType(Name::new("Order"))),
        ] {
            assert_eq!(settled(query).err(), Some(expected), "{query}");
        }
        assert!(
            settled("{ a b ...F } fragment F on Query { c }").is_ok(),
            "queries have as many as they like"
        );
    }

    #[test]
    fn a_fragment_that_is_missing_ends_the_search() {
        let missing = Some(BadRoot::MissingFragment(Name::new("Missing")));
        let query = "subscription { ...F } fragment F on Subscription { a ...Missing }";
        assert_eq!(settled(query).err(), missing);
        // Five to the power of twenty ways lead to it.
        let spreads =
            |n| format!(" fragment f{n} on Subscription {{ {} }}", format!("...f{} ", n + 1).repeat(5));
        let bomb = "subscription { ...f0 }".to_owned() + &(0..20).map(spreads).collect::<String>();
        assert_eq!(settled(&(bomb.clone() + " fragment f20 on Subscription { ...Missing }")).err(), missing);
        assert_eq!(settled(&(bomb + " fragment f20 on Subscription { a }")).err(), Some(BadRoot::Several));
    }
}
