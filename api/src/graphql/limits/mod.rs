//! Bounds on queries, checked before anything walks them.
//!
//! The library's own limits measure the tree with its fragments put in their places, and its validation walks that tree as
//! well: sixteen small fragments, each spread twice in the next, are half a kilobyte that stands for 65,536 fields. Here
//! the text is [counted](lexer) before it is parsed, and the parsed document is measured with each fragment looked at once,
//! so that a refusal takes no longer than reading the query. Whatever the library walks counts, however little it stands for:
//! a spread by itself, an inline fragment, the values of arguments, what is skipped. Then the [price](prices) of the operation
//! is known before it runs.

use std::collections::HashMap;

use async_graphql::parser::types::{Directive, ExecutableDocument, OperationType, Selection, SelectionSet};
use async_graphql::{ErrorExtensionValues, Name, Positioned, ServerError};
use async_graphql_value::Value;

mod introspection;
mod lexer;
pub(super) mod prices;

pub(super) use self::prices::Prices;
use super::documents::VALIDATION_FAILED;
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

/// Why a parsed document is not looked at any further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refused {
    /// It goes beyond a bound.
    TooMuch(TooMuch),
    /// It spreads a fragment that is not there: the walk would end in nothing, which weighs nothing.
    MissingFragment(String),
}

impl From<TooMuch> for Refused {
    fn from(too_much: TooMuch) -> Self {
        Self::TooMuch(too_much)
    }
}

impl From<Refused> for ServerError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::TooMuch(too_much) => too_much.into(),
            Refused::MissingFragment(name) => {
                coded(VALIDATION_FAILED, format!("there is no fragment {name:?}"))
            }
        }
    }
}

fn coded(code: &str, message: String) -> ServerError {
    let mut error = ServerError::new(message, None);
    error.extensions.get_or_insert_with(ErrorExtensionValues::default).set("code", code);
    error
}

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
        coded(QUERY_TOO_COMPLEX, message)
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
/// The first bound that it goes beyond, a fragment that contains itself, or one that is not there.
pub(super) fn check(document: &ExecutableDocument, limits: &LimitArgs) -> Result<(), Refused> {
    let mut measuring = Measuring {
        document,
        nested: 0,
        max_spreads: limits.max_spreads as usize,
        of_fragments: HashMap::new(),
        counts: Counts::default(),
    };
    let (mut fields, mut values) = (0_usize, 0_usize);
    for (_, operation) in document.operations.iter() {
        let operation = &operation.node;
        values = values.saturating_add(measuring.directives(&operation.directives));
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
        // All operations are validated, whichever is to run.
        fields = fields.saturating_add(whole.fields);
        values = values.saturating_add(whole.values);
        TooMuch::check("fields once its fragments are expanded", fields, limits.max_fields as usize)?;
        TooMuch::check("values once its fragments are expanded", values, max_values(limits))?;
    }
    // Fragments that no operation spreads are walked by the validation all the same.
    for name in document.fragments.keys() {
        measuring.fragment(name)?;
    }
    let Counts { aliases, directives, .. } = measuring.counts;
    TooMuch::check("aliases", aliases, limits.max_aliases as usize)?;
    TooMuch::check("directives", directives, limits.max_directives as usize)?;
    Ok(())
}

/// How many directives and values of arguments the operations may have with fragments in their places. Each takes a token
/// where it is written, so that whatever has no fragments is within it.
fn max_values(limits: &LimitArgs) -> usize {
    limits.max_tokens as usize + limits.max_fields as usize
}

/// What a selection set amounts to with its fragments in their places.
#[derive(Debug, Clone, Copy)]
struct Size {
    /// Selections in one another.
    nested: usize,
    /// Fields, fragment spreads and inline fragments.
    fields: usize,
    /// Directives, and values of arguments with those within them.
    values: usize,
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
        values: 0,
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
    fn selections(&mut self, selections: &'a SelectionSet) -> Result<Size, Refused> {
        self.check_nested(1)?;
        self.nested += 1;
        check_repetitions(selections)?;
        let mut sum = Size::NOTHING;
        for selection in &selections.items {
            let mut size = match &selection.node {
                Selection::Field(field) => {
                    let field = &field.node;
                    self.counts.aliases += usize::from(field.alias.is_some());
                    let below = self.selections(&field.selection_set.node)?;
                    let arguments = field.arguments.iter().map(|(_, value)| size_of(&value.node));
                    Size {
                        nested: below.nested,
                        fields: below.fields,
                        values: below.values.saturating_add(arguments.sum()),
                        depth: below.depth + 1,
                        root_fields: 1,
                        only_introspection: field.name.node.starts_with("__"),
                        introspection_lists: below.introspection_lists
                            + usize::from(INTROSPECTION_LISTS.contains(&field.name.node.as_str())),
                    }
                }
                Selection::InlineFragment(fragment) => self.selections(&fragment.node.selection_set.node)?,
                Selection::FragmentSpread(spread) => {
                    self.counts.spreads += 1;
                    // At once: each may lead a level deeper into the recursion.
                    TooMuch::check("fragment spreads", self.counts.spreads, self.max_spreads)?;
                    self.fragment(&spread.node.fragment_name.node)?
                }
            };
            size.fields = size.fields.saturating_add(1);
            size.values = size.values.saturating_add(self.directives(selection.node.directives()));
            sum = Size {
                nested: sum.nested.max(size.nested),
                fields: sum.fields.saturating_add(size.fields),
                values: sum.values.saturating_add(size.values),
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

    fn fragment(&mut self, name: &'a Name) -> Result<Size, Refused> {
        match self.of_fragments.get(name.as_str()) {
            Some(Some(size)) => {
                let size = *size;
                self.check_nested(size.nested)?;
                return Ok(size);
            }
            Some(None) => return Err(TooMuch::new(format!("the fragment {name:?} contains itself")).into()),
            None => {}
        }
        let Some(fragment) = self.document.fragments.get(name) else {
            return Err(Refused::MissingFragment(name.to_string()));
        };
        self.of_fragments.insert(name, None);
        // Those of the definition itself are looked at where it stands, and nowhere else.
        self.directives(&fragment.node.directives);
        let size = self.selections(&fragment.node.selection_set.node)?;
        self.of_fragments.insert(name, Some(size));
        Ok(size)
    }

    /// Counts the directives, and returns how many there are with the values of their arguments.
    fn directives(&mut self, directives: &[Positioned<Directive>]) -> usize {
        self.counts.directives += directives.len();
        let arguments = directives.iter().flat_map(|directive| &directive.node.arguments);
        directives.len() + arguments.map(|(_, value)| size_of(&value.node)).sum::<usize>()
    }
}

/// Counts a value with those within it. They lie as deep in one another as the brackets of the text.
fn size_of(value: &Value) -> usize {
    1 + match value {
        Value::List(items) => items.iter().map(size_of).sum(),
        Value::Object(fields) => fields.values().map(size_of).sum(),
        _ => 0,
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
    use proptest::prelude::*;

    use super::*;

    fn verdict(query: &str) -> Result<(), String> {
        let limits = LimitArgs::default();
        check_text(query, &limits).map_err(|TooMuch(message)| message)?;
        check(&parse_query(query).expect("a well-formed query"), &limits).map_err(|refused| match refused {
            Refused::TooMuch(TooMuch(message)) => message,
            Refused::MissingFragment(name) => format!("{name} is missing"),
        })
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
    fn fragments_that_multiply_nothing_are_refused() {
        for last in [
            "...Missing",
            "__typename @skip(if: true)",
            "... on Query @include(if: false) { __typename }",
            "... on Nothing { __typename }",
            "... { ... { ...Missing } }",
        ] {
            assert!(verdict(&bomb(40, last)).is_err(), "{last}");
        }
        assert_eq!(verdict("{ a { ...Missing } }"), Err("Missing is missing".to_owned()));
        assert_eq!(
            verdict("{ a } fragment F on Query { ...Missing }"),
            Err("Missing is missing".to_owned()),
            "even where nobody spreads it"
        );
    }

    #[test]
    fn values_that_fragments_multiply_are_refused() {
        let bomb = |values: usize| {
            bomb(9, &format!("a(x: [{}])", "1 ".repeat(values))).replacen("...f0", "a { ...f0 }", 1)
        };
        assert_eq!(verdict(&bomb(5)), Ok(()));
        assert_eq!(
            verdict(&bomb(10)),
            Err("the query has more than 4000 values once its fragments are expanded".to_owned())
        );
        let plain = format!("{{ a(x: [{}]) }}", "1 ".repeat(990));
        assert_eq!(verdict(&plain), Ok(()), "as many as there are tokens");
    }

    #[test]
    fn all_operations_of_a_document_are_measured_together() {
        let operations = |count: usize| {
            (0..count).map(|n| format!("query Q{n} {{ a {{ ...f0 }} }} ")).collect::<String>()
                + bomb(9, "a").trim_start_matches("query { ...f0 }")
        };
        assert_eq!(verdict(&operations(1)), Ok(()));
        assert!(verdict(&operations(3)).is_err());
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

    /// Walks as the library does: every path to its end. Returns how many selections and values it has met; stops beyond `most`.
    fn walk(document: &ExecutableDocument, selections: &SelectionSet, most: usize, met: &mut (usize, usize)) {
        for selection in &selections.items {
            if met.0 > most || met.1 > most {
                return;
            }
            met.0 += 1;
            met.1 += selection.node.directives().len();
            match &selection.node {
                Selection::Field(field) => {
                    met.1 +=
                        field.node.arguments.iter().map(|(_, value)| size_of(&value.node)).sum::<usize>();
                    walk(document, &field.node.selection_set.node, most, met);
                }
                Selection::InlineFragment(fragment) => {
                    walk(document, &fragment.node.selection_set.node, most, met);
                }
                Selection::FragmentSpread(spread) => {
                    if let Some(fragment) = document.fragments.get(&spread.node.fragment_name.node) {
                        walk(document, &fragment.node.selection_set.node, most, met);
                    }
                }
            }
        }
    }

    /// Documents of fragments that spread later ones, up to five times each, and end in this and that or in nothing.
    fn spreads() -> impl Strategy<Value = String> {
        let leaf = prop::sample::select(vec![
            "a",
            "a",
            "b(x: [1 2 3])",
            "... { a }",
            "c @skip(if: true)",
            "d { a }",
            "...Missing",
        ]);
        // How far ahead the fragment is that is spread.
        let selections = prop::collection::vec((1..4_usize, 1..5_usize, leaf, any::<bool>()), 1..4);
        let kind = prop::sample::select(vec!["query", "mutation", "subscription"]);
        (kind, prop::collection::vec(selections, 1..14), 1..3_usize).prop_map(
            |(kind, fragments, operations)| {
                let mut text: String = (0..operations).map(|n| format!("{kind} O{n} {{ ...f0 }} ")).collect();
                let last = fragments.len() - 1;
                for (n, selections) in fragments.into_iter().enumerate() {
                    text += &format!("fragment f{n} on T {{ ");
                    for (ahead, times, leaf, is_leaf) in selections {
                        let name = format!("...f{} ", n + ahead);
                        let is_leaf = is_leaf || n + ahead > last;
                        text += &if is_leaf { format!("{leaf} ") } else { name.repeat(times) };
                    }
                    text += "} ";
                }
                text
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        #[test]
        fn whatever_is_let_in_is_walked_within_the_limits(text in spreads()) {
            let limits = LimitArgs { max_fields: 300, ..LimitArgs::default() };
            let document = parse_query(&text).expect("a well-formed document");
            let most = max_values(&limits);
            let mut met = (0, 0);
            for (_, operation) in document.operations.iter() {
                walk(&document, &operation.node.selection_set.node, most, &mut met);
            }
            if check(&document, &limits).is_ok() {
                prop_assert!(met.0 <= limits.max_fields as usize && met.1 <= most, "{met:?}: {text}");
            }
        }
    }
}
