//! Bounds on queries, checked before anything walks them.
//!
//! The library's own limits measure the tree with its fragments put in their places, and its validation walks that tree as
//! well: sixteen small fragments, each spread twice in the next, are half a kilobyte that stands for 65,536 fields. Here
//! the text is [counted](lexer) before it is parsed, and the parsed document is measured with each fragment looked at once,
//! so that a refusal takes no longer than reading the query. Then the [price](prices) of the operation is known before it
//! runs.

use std::collections::HashMap;

use async_graphql::parser::types::{Directive, ExecutableDocument, OperationType, Selection, SelectionSet};
use async_graphql::{ErrorExtensionValues, Positioned, ServerError};

mod introspection;
mod lexer;
pub(super) mod prices;

pub(super) use self::prices::Prices;
use crate::config::LimitArgs;

/// `extensions.code` of a query beyond a bound.
pub const QUERY_TOO_COMPLEX: &str = "QUERY_TOO_COMPLEX";

/// The deepest that selections may lie in one another with fragments in their places, fields or not: whoever walks them calls
/// itself for each, and four times as many fill the stack of a thread.
const MAX_NESTED_SELECTIONS: usize = 600;

/// The deepest look at the schema. GraphiQL's needs 13.
const MAX_INTROSPECTION_DEPTH: usize = 20;

/// How often a path of a look at the schema may go through a list of the schema's own. Each round multiplies the answer by
/// the size of the schema; GraphiQL's query has one.
const MAX_INTROSPECTION_LISTS: usize = 2;

/// How often a selection set may name the same field, or spread the same fragment. The library resolves each by itself, and no
/// client writes one more than twice on purpose.
const MAX_REPETITIONS: usize = 5;

/// Lists that lead from one part of the schema to many others.
const INTROSPECTION_LISTS: [&str; 4] = ["fields", "inputFields", "interfaces", "possibleTypes"];

/// A bound that a query goes beyond, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TooMuch(String);

impl TooMuch {
    fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    fn check(what: &str, count: usize, max: usize) -> Result<(), Self> {
        match count <= max {
            true => Ok(()),
            false => Err(Self::new(format!("the query has more than {max} {what}"))),
        }
    }
}

impl From<TooMuch> for ServerError {
    fn from(TooMuch(message): TooMuch) -> Self {
        let mut error = ServerError::new(message, None);
        error.extensions.get_or_insert_with(ErrorExtensionValues::default).set("code", QUERY_TOO_COMPLEX);
        error
    }
}

/// Checks a text that is going to be parsed.
///
/// # Errors
/// It has too many tokens, or its brackets nest too deep.
pub(super) fn check_text(query: &str, limits: &LimitArgs) -> Result<(), TooMuch> {
    lexer::count_tokens(query, limits.max_tokens as usize).map(drop)
}

/// Checks a parsed document.
///
/// # Errors
/// The first bound that it goes beyond, or a fragment that contains itself.
pub(super) fn check(document: &ExecutableDocument, limits: &LimitArgs) -> Result<(), TooMuch> {
    let mut measuring = Measuring {
        document,
        nested: 0,
        max_spreads: limits.max_spreads as usize,
        of_fragments: HashMap::new(),
        counts: Counts::default(),
    };
    for (_, operation) in document.operations.iter() {
        let operation = &operation.node;
        measuring.counts.directives += operation.directives.len();
        let whole = measuring.selections(&operation.selection_set.node)?;
        let max_depth = if whole.only_introspection && operation.ty == OperationType::Query {
            MAX_INTROSPECTION_DEPTH
        } else {
            limits.max_depth as usize
        };
        TooMuch::check("levels", whole.depth, max_depth)?;
        TooMuch::check(
            "lists of the schema in one another",
            whole.introspection_lists,
            MAX_INTROSPECTION_LISTS,
        )?;
        TooMuch::check("fields at its root", whole.root_fields, limits.max_root_fields as usize)?;
        TooMuch::check("fields once its fragments are expanded", whole.fields, limits.max_fields as usize)?;
    }
    // Fragments that no operation spreads are walked by the validation all the same.
    for name in document.fragments.keys() {
        measuring.fragment(name)?;
    }
    let Counts { aliases, directives, .. } = measuring.counts;
    TooMuch::check("aliases", aliases, limits.max_aliases as usize)?;
    TooMuch::check("directives", directives, limits.max_directives as usize)
}

/// What a selection set amounts to with its fragments in their places.
#[derive(Debug, Clone, Copy)]
struct Size {
    /// Selections in one another.
    nested: usize,
    fields: usize,
    depth: usize,
    root_fields: usize,
    only_introspection: bool,
    /// The most lists of the schema's own on one path.
    introspection_lists: usize,
}

impl Size {
    const NOTHING: Self = Self {
        nested: 0,
        fields: 0,
        depth: 0,
        root_fields: 0,
        only_introspection: true,
        introspection_lists: 0,
    };
}

/// What is counted as it is written.
#[derive(Debug, Default)]
struct Counts {
    aliases: usize,
    directives: usize,
    spreads: usize,
}

struct Measuring<'a> {
    document: &'a ExecutableDocument,
    /// How deep it is at the moment.
    nested: usize,
    max_spreads: usize,
    /// `None` while the fragment is being measured.
    of_fragments: HashMap<&'a str, Option<Size>>,
    counts: Counts,
}

impl<'a> Measuring<'a> {
    fn selections(&mut self, selections: &'a SelectionSet) -> Result<Size, TooMuch> {
        self.check_nested(1)?;
        self.nested += 1;
        check_repetitions(selections)?;
        let mut sum = Size::NOTHING;
        for selection in &selections.items {
            let size = match &selection.node {
                Selection::Field(field) => {
                    let field = &field.node;
                    self.counts.aliases += usize::from(field.alias.is_some());
                    self.directives(&field.directives);
                    let below = self.selections(&field.selection_set.node)?;
                    Size {
                        nested: below.nested,
                        fields: below.fields.saturating_add(1),
                        depth: below.depth + 1,
                        root_fields: 1,
                        only_introspection: field.name.node.starts_with("__"),
                        introspection_lists: below.introspection_lists
                            + usize::from(INTROSPECTION_LISTS.contains(&field.name.node.as_str())),
                    }
                }
                Selection::InlineFragment(fragment) => {
                    self.directives(&fragment.node.directives);
                    self.selections(&fragment.node.selection_set.node)?
                }
                Selection::FragmentSpread(spread) => {
                    self.counts.spreads += 1;
                    // At once: each may lead a level deeper into the recursion.
                    TooMuch::check("fragment spreads", self.counts.spreads, self.max_spreads)?;
                    self.directives(&spread.node.directives);
                    self.fragment(&spread.node.fragment_name.node)?
                }
            };
            sum = Size {
                nested: sum.nested.max(size.nested),
                fields: sum.fields.saturating_add(size.fields),
                depth: sum.depth.max(size.depth),
                root_fields: sum.root_fields.saturating_add(size.root_fields),
                only_introspection: sum.only_introspection && size.only_introspection,
                introspection_lists: sum.introspection_lists.max(size.introspection_lists),
            };
        }
        self.nested -= 1;
        sum.nested += 1;
        Ok(sum)
    }

    /// Checks that selections which lie so deep in one another fit in here.
    fn check_nested(&self, deeper: usize) -> Result<(), TooMuch> {
        TooMuch::check("selections in one another", self.nested + deeper, MAX_NESTED_SELECTIONS)
    }

    fn fragment(&mut self, name: &'a str) -> Result<Size, TooMuch> {
        match self.of_fragments.get(name) {
            Some(Some(size)) => {
                let size = *size;
                return self.check_nested(size.nested).map(|()| size);
            }
            Some(None) => return Err(TooMuch::new(format!("the fragment {name:?} contains itself"))),
            None => {}
        }
        // Validation reports a fragment that is missing.
        let Some(fragment) = self.document.fragments.get(name) else { return Ok(Size::NOTHING) };
        self.of_fragments.insert(name, None);
        self.directives(&fragment.node.directives);
        let size = self.selections(&fragment.node.selection_set.node)?;
        self.of_fragments.insert(name, Some(size));
        Ok(size)
    }

    fn directives(&mut self, directives: &[Positioned<Directive>]) {
        self.counts.directives += directives.len();
    }
}

/// Checks how often the same thing stands in a selection set.
fn check_repetitions(selections: &SelectionSet) -> Result<(), TooMuch> {
    if selections.items.len() <= MAX_REPETITIONS {
        return Ok(());
    }
    let mut counts: HashMap<(bool, &str), usize> = HashMap::new();
    for selection in &selections.items {
        let name = match &selection.node {
            Selection::Field(field) => (false, field.node.response_key().node.as_str()),
            Selection::FragmentSpread(spread) => (true, spread.node.fragment_name.node.as_str()),
            // What it holds is counted by itself.
            Selection::InlineFragment(_) => continue,
        };
        let count = counts.entry(name).or_default();
        *count += 1;
        if *count > MAX_REPETITIONS {
            let message = format!("a selection has {:?} more than {MAX_REPETITIONS} times", name.1);
            return Err(TooMuch::new(message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use async_graphql::parser::parse_query;

    use super::*;

    fn verdict(query: &str) -> Result<(), String> {
        let limits = LimitArgs::default();
        check_text(query, &limits).map_err(|TooMuch(message)| message)?;
        check(&parse_query(query).expect("a well-formed query"), &limits).map_err(|TooMuch(message)| message)
    }

    fn bomb(fragments: usize, last: &str) -> String {
        let mut query = "query { ...f0 }".to_owned();
        for n in 0..fragments {
            query += &format!(" fragment f{n} on Query {{ ...f{0} ...f{0} }}", n + 1);
        }
        query + &format!(" fragment f{fragments} on Query {{ {last} }}")
    }

    #[test]
    fn fragments_that_multiply_are_refused() {
        assert_eq!(verdict(&bomb(3, "__typename")), Ok(()));
        assert!(verdict(&bomb(40, "__typename")).is_err(), "2^40 fields, counted in no time");
    }

    #[test]
    fn a_fragment_that_contains_itself_is_refused() {
        assert!(verdict(&bomb(3, "...f0")).is_err());
        assert!(verdict("{ a } fragment F on Query { ...F }").is_err(), "even where nobody spreads it");
    }

    #[test]
    fn each_bound_holds_at_its_number_and_not_beyond() {
        let nested = |depth: usize| "{ a ".repeat(depth) + &"}".repeat(depth);
        let many = |count: usize, part: &dyn Fn(usize) -> String| {
            format!("{{ a {{ {} }} }}", (0..count).map(part).collect::<String>())
        };
        let field = |n: usize| format!("a{n} ");
        let roots = |count: usize| format!("{{ {} }}", (0..count).map(field).collect::<String>());
        for (good, bad) in [
            (nested(10), nested(11)),
            (many(15, &|n| format!("x{n}: a ")), many(16, &|n| format!("x{n}: a "))),
            (
                many(50, &|n| format!("a{n} @skip(if: true) ")),
                many(51, &|n| format!("a{n} @skip(if: true) ")),
            ),
            (roots(10), roots(11)),
            (many(995, &field), many(996, &field)),
            (many(5, &|_| "a ".to_owned()), many(6, &|_| "a ".to_owned())),
            (many(5, &|_| "x: a ".to_owned()), many(6, &|_| "x: a ".to_owned())),
            (many(9, &|_| "... { a } ".to_owned()), many(1, &|_| format!("... {{ {} }}", "a ".repeat(6)))),
            (
                many(5, &|_| "...F ".to_owned()) + " fragment F on Query { b }",
                many(6, &|_| "...F ".to_owned()) + " fragment F on Query { b }",
            ),
        ] {
            assert_eq!(verdict(&good), Ok(()), "{good}");
            assert!(verdict(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn as_many_spreads_as_the_settings_allow_are_walked_on_a_small_stack() {
        let limits = LimitArgs { max_spreads: 500, max_tokens: 10_000, ..LimitArgs::default() };
        let chain = |spreads: usize| {
            let spread = |n| format!(" fragment f{n} on Query {{ ...f{} }}", n + 1);
            let fragments: String = (1..spreads).map(spread).collect();
            format!("{{ ...f1 }}{fragments} fragment f{spreads} on Query {{ a }}")
        };
        for (spreads, is_good) in [(500, true), (501, false)] {
            let document = parse_query(chain(spreads)).expect("a well-formed query");
            assert_eq!(check(&document, &limits).is_ok(), is_good, "{spreads}");
        }
        let wide = LimitArgs { max_fields: 10, ..LimitArgs::default() };
        let document = parse_query("{ a { b c d e f g h i j k } }").expect("a well-formed query");
        assert!(check(&document, &wide).is_err(), "eleven fields");
    }

    #[test]
    fn a_look_at_the_schema_may_go_deeper() {
        let of_type = "ofType { name ".repeat(9) + &"}".repeat(9);
        assert_eq!(
            verdict(&format!("{{ __schema {{ types {{ fields {{ type {{ {of_type} }} }} }} }} }}")),
            Ok(())
        );
        assert!(
            verdict(&format!("{{ a __schema {{ types {{ fields {{ type {{ {of_type} }} }} }} }} }}"))
                .is_err()
        );
    }
}
