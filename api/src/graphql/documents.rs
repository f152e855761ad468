//! Parses queries, and remembers the last that it has parsed: a program sends the same few again and again, only with
//! other variables, and parsing is the most expensive part of answering them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_graphql::parser::types::ExecutableDocument;
use async_graphql::{ErrorExtensionValues, Request, ServerResult};

use super::limits;
use crate::config::LimitArgs;

/// `extensions.code` of a query that is not GraphQL.
pub const PARSE_FAILED: &str = "GRAPHQL_PARSE_FAILED";

/// The most queries remembered. One more makes all of them forgotten, which costs parsing them once.
const MAX_DOCUMENTS: usize = 500;

/// The longest query remembered, in bytes; with the number above a bound on the memory, some ten times its size.
const MAX_BYTES: usize = 4_000;

/// Queries that were parsed and found to be within the [limits].
#[derive(Debug, Default)]
pub(super) struct Documents {
    limits: LimitArgs,
    known: Mutex<HashMap<String, Arc<ExecutableDocument>>>,
}

impl Documents {
    /// Holds queries to these limits.
    pub(super) fn new(limits: LimitArgs) -> Self {
        Self { limits, known: Mutex::default() }
    }

    /// Gives the request its parsed query, and returns it.
    ///
    /// # Errors
    /// The query cannot be parsed, or goes beyond a bound.
    pub(super) fn prepare(&self, request: &mut Request) -> ServerResult<Arc<ExecutableDocument>> {
        let known = self.lock().get(&request.query).cloned();
        if let Some(document) = known {
            request.set_parsed_query(ExecutableDocument::clone(&document));
            return Ok(document);
        }
        limits::check_text(&request.query, &self.limits)?;
        let query = request.query.clone();
        let document = request.parsed_query().map_err(|mut error| {
            error.extensions.get_or_insert_with(ErrorExtensionValues::default).set("code", PARSE_FAILED);
            error
        })?;
        limits::check(document, &self.limits)?;
        let document = Arc::new(document.clone());
        if query.len() <= MAX_BYTES {
            self.remember(query, Arc::clone(&document));
        }
        Ok(document)
    }

    fn remember(&self, query: String, document: Arc<ExecutableDocument>) {
        let mut documents = self.lock();
        if documents.len() >= MAX_DOCUMENTS {
            documents.clear();
        }
        documents.insert(query, document);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<ExecutableDocument>>> {
        // Held for a look or an insertion; a poisoned one still holds whole documents.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_parsed_once_and_a_bad_one_is_never_remembered() {
        let documents = Documents::default();
        for _ in 0..2 {
            let mut request = Request::new("{ __typename }");
            documents.prepare(&mut request).expect("a good query");
            assert!(request.parsed_query().is_ok());
            assert!(documents.prepare(&mut Request::new("{ __typename")).is_err());
        }
        assert_eq!(documents.lock().len(), 1);
    }

    #[test]
    fn memory_is_bounded() {
        let documents = Documents::default();
        let long = format!("{{ __typename {} }}", " ".repeat(MAX_BYTES));
        documents.prepare(&mut Request::new(long)).expect("a good query");
        assert_eq!(documents.lock().len(), 0);
        for n in 0..MAX_DOCUMENTS + 2 {
            documents.prepare(&mut Request::new(format!("{{ a{n}: __typename }}"))).expect("a good query");
        }
        assert_eq!(documents.lock().len(), 2);
    }
}
