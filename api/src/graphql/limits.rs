//! Refuses a query whose fragments multiply, before anything walks it.
//!
//! Sixteen small fragments, each spread twice in the next, are half a kilobyte that stands for 65,536 fields. The
//! library's own limits walk the expanded tree to measure it, and so are the victims. Counting each fragment once
//! and multiplying takes no longer than reading the query.

use std::collections::HashMap;

use async_graphql::parser::types::{ExecutableDocument, Selection, SelectionSet};
use async_graphql::{ServerError, ServerResult};

/// The most fields of a query once its fragments are put in their places. The standard introspection query has about
/// 150.
const MAX_FIELDS: usize = 3_000;

/// Counts the fields of a document.
///
/// # Errors
/// There are too many, or a fragment contains itself.
pub(super) fn check(document: &ExecutableDocument) -> ServerResult<()> {
    let mut counter = Counter { document, of_fragments: HashMap::new() };
    let mut fields = 0_usize;
    for (_, operation) in document.operations.iter() {
        fields = fields.saturating_add(counter.count(&operation.node.selection_set.node)?);
    }
    if fields > MAX_FIELDS {
        let message = format!("the query has more than {MAX_FIELDS} fields once its fragments are expanded");
        return Err(ServerError::new(message, None));
    }
    Ok(())
}

struct Counter<'a> {
    document: &'a ExecutableDocument,
    /// `None` while the fragment is being counted.
    of_fragments: HashMap<&'a str, Option<usize>>,
}

impl<'a> Counter<'a> {
    fn count(&mut self, selections: &'a SelectionSet) -> ServerResult<usize> {
        let mut fields = 0_usize;
        for selection in &selections.items {
            let more = match &selection.node {
                Selection::Field(field) => self.count(&field.node.selection_set.node)?.saturating_add(1),
                Selection::InlineFragment(fragment) => self.count(&fragment.node.selection_set.node)?,
                Selection::FragmentSpread(spread) => self.count_fragment(&spread.node.fragment_name.node)?,
            };
            fields = fields.saturating_add(more);
        }
        Ok(fields)
    }

    fn count_fragment(&mut self, name: &'a str) -> ServerResult<usize> {
        match self.of_fragments.get(name) {
            Some(Some(fields)) => return Ok(*fields),
            Some(None) => {
                return Err(ServerError::new(format!("the fragment {name:?} contains itself"), None));
            }
            None => {}
        }
        // Validation reports a fragment that is missing.
        let Some(fragment) = self.document.fragments.get(name) else { return Ok(0) };
        self.of_fragments.insert(name, None);
        let fields = self.count(&fragment.node.selection_set.node)?;
        self.of_fragments.insert(name, Some(fields));
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use async_graphql::parser::parse_query;

    use super::*;

    fn bomb(fragments: usize, last: &str) -> ExecutableDocument {
        let mut query = "query { ...f0 }".to_owned();
        for n in 0..fragments {
            query += &format!(" fragment f{n} on Query {{ ...f{0} ...f{0} }}", n + 1);
        }
        query += &format!(" fragment f{fragments} on Query {{ {last} }}");
        parse_query(query).expect("a well-formed query")
    }

    #[test]
    fn fragments_that_multiply_are_refused() {
        assert!(check(&bomb(3, "__typename")).is_ok());
        assert!(check(&bomb(60, "__typename")).is_err(), "2^60 fields, counted in no time");
    }

    #[test]
    fn a_fragment_that_contains_itself_is_refused() {
        assert!(check(&bomb(3, "...f0")).is_err());
    }
}
