//! Parses queries, and remembers the last that it has parsed: a program sends the same few again and again, only with
//! other variables, and parsing is the most expensive part of answering them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_graphql::parser::types::ExecutableDocument;
use async_graphql::{ErrorExtensionValues, Request, ServerError, ServerResult, Value};

use sha2::{Digest, Sha256};

use super::{limits, subscription_root};
use crate::config::LimitArgs;

/// `extensions.code` of a query that is not GraphQL.
pub const PARSE_FAILED: &str = "GRAPHQL_PARSE_FAILED";

/// `extensions.code` of a query that does not fit the schema.
pub(super) const VALIDATION_FAILED: &str = "GRAPHQL_VALIDATION_FAILED";

/// The most queries remembered. One more makes all of them forgotten, which costs parsing them once.
const MAX_DOCUMENTS: usize = 500;

/// The longest query remembered, in bytes; with the number above a bound on the memory, some ten times its size.
const MAX_BYTES: usize = 4_000;

/// `extensions.code` of a hash whose text is not known: send both.
const NOT_FOUND: &str = "PERSISTED_QUERY_NOT_FOUND";

/// `extensions.code` of a hash of another version.
const NOT_SUPPORTED: &str = "PERSISTED_QUERY_NOT_SUPPORTED";

/// `extensions.code` of a hash that is not that of the text beside it.
const HASH_MISMATCH: &str = "PERSISTED_QUERY_HASH_MISMATCH";

fn refusal(code: &str, message: &str) -> ServerError {
    let mut error = ServerError::new(message, None);
    error.extensions.get_or_insert_with(ErrorExtensionValues::default).set("code", code);
    error
}

/// Queries that were parsed and found to be within the [limits].
#[derive(Debug, Default)]
pub(super) struct Documents {
    limits: LimitArgs,
    known: Mutex<HashMap<String, Arc<ExecutableDocument>>>,
    /// Texts by their SHA-256, for clients that send only that.
    by_hash: Mutex<HashMap<String, String>>,
}

impl Documents {
    /// Holds queries to these limits.
    pub(super) fn new(limits: LimitArgs) -> Self {
        Self { limits, known: Mutex::default(), by_hash: Mutex::default() }
    }

    /// Gives the request its parsed query, and returns it.
    ///
    /// # Errors
    /// The query cannot be parsed, or goes beyond a bound.
    pub(super) fn prepare(&self, request: &mut Request) -> ServerResult<Arc<ExecutableDocument>> {
        let hash = self.fill_in(request)?;
        let document = self.parse(request)?;
        if let Some(hash) = hash
            && request.query.len() <= MAX_BYTES
        {
            let mut by_hash = self.by_hash.lock().unwrap_or_else(PoisonError::into_inner);
            if by_hash.len() >= MAX_DOCUMENTS {
                by_hash.clear();
            }
            by_hash.insert(hash, request.query.clone());
        }
        Ok(document)
    }

    /// Fills in the text of a query that the client names by its hash alone (automatic persisted queries, as Apollo's
    /// clients send them). Returns the hash that comes with a text, to be remembered once the text is found to be good.
    fn fill_in(&self, request: &mut Request) -> ServerResult<Option<String>> {
        let Some(named) = request.extensions.get("persistedQuery") else { return Ok(None) };
        let hash = match named {
            Value::Object(named) => match (named.get("version"), named.get("sha256Hash")) {
                (Some(Value::Number(version)), Some(Value::String(hash))) if version.as_u64() == Some(1) => {
                    hash.to_ascii_lowercase()
                }
                _ => return Err(refusal(NOT_SUPPORTED, "PersistedQueryNotSupported")),
            },
            _ => return Err(refusal(NOT_SUPPORTED, "PersistedQueryNotSupported")),
        };
        if request.query.is_empty() {
            let by_hash = self.by_hash.lock().unwrap_or_else(PoisonError::into_inner);
            let known = by_hash.get(&hash).cloned();
            // The words that the clients look for; they send the text then.
            request.query = known.ok_or_else(|| refusal(NOT_FOUND, "PersistedQueryNotFound"))?;
            return Ok(None);
        }
        let actual: String =
            Sha256::digest(&request.query).iter().map(|byte| format!("{byte:02x}")).collect();
        match actual == hash {
            true => Ok(Some(hash)),
            false => Err(refusal(HASH_MISMATCH, "sha256Hash is not the hash of the query")),
        }
    }

    fn parse(&self, request: &mut Request) -> ServerResult<Arc<ExecutableDocument>> {
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
        let mut document = document.clone();
        subscription_root::settle(&mut document)
            .map_err(|error| refusal(VALIDATION_FAILED, &error.to_string()))?;
        request.set_parsed_query(document.clone());
        let document = Arc::new(document);
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

    fn by_hash(query: &str, hash: &str) -> Request {
        let mut request = Request::new(query);
        let named = async_graphql::value!({ "version": 1, "sha256Hash": hash });
        request.extensions.insert("persistedQuery".to_owned(), named);
        request
    }

    #[test]
    fn a_query_is_known_by_its_hash_once_it_was_sent_with_it() {
        let documents = Documents::default();
        let hash = "ecf4edb46db40b5132295c0291d62fb65d6759a9eedfa4d5d612dd5ec54a6b38";
        let code = |result: ServerResult<Arc<ExecutableDocument>>| {
            result.err().and_then(|error| error.extensions?.get("code").cloned())
        };
        assert_eq!(code(documents.prepare(&mut by_hash("", hash))), Some(Value::from(NOT_FOUND)));
        let other = by_hash("{ other: __typename }", hash);
        assert_eq!(code(documents.prepare(&mut { other })), Some(Value::from(HASH_MISMATCH)));
        assert_eq!(code(documents.prepare(&mut by_hash("{__typename}", hash))), None);
        let mut known = by_hash("", hash);
        assert_eq!(code(documents.prepare(&mut known)), None);
        assert_eq!(known.query, "{__typename}");
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
