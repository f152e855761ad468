//! Parses queries, and remembers the last that it has parsed: a program sends the same few again and again, only with
//! other variables, and parsing is the most expensive part of answering them.
//!
//! What is parsed is shared by all apps: a parsed query says nothing about any of them. A text that a client names by its
//! hash is found by the apps that have sent it, and by no other. Whoever sends many that are never sent again puts out
//! nobody's that are.

use std::any::TypeId;
use std::sync::Arc;

use async_graphql::parser::types::ExecutableDocument;
use async_graphql::{ErrorExtensionValues, Request, ServerError, ServerResult, Value};
use domain::app::document::DocumentId;
use domain::id::AppId;
use moka::sync::Cache;
use uuid::Uuid;

use super::{limits, subscription_root};
use crate::config::LimitArgs;

/// `extensions.code` of a query that is not GraphQL.
pub const PARSE_FAILED: &str = "GRAPHQL_PARSE_FAILED";

/// `extensions.code` of a query that does not fit the schema.
pub(super) const VALIDATION_FAILED: &str = "GRAPHQL_VALIDATION_FAILED";

/// Bytes of memory for parsed queries.
const MAX_PARSED_BYTES: u64 = 32 * 1024 * 1024;

/// Bytes of memory for texts that are found by their hashes.
const MAX_TEXT_BYTES: u64 = 8 * 1024 * 1024;

/// The longest query remembered, in bytes.
const MAX_BYTES: usize = 4_000;

/// What a parsed query takes for each byte of its text, the text included.
const PARSED_BYTES_PER_BYTE: usize = 11;

/// Bytes that remembering takes beyond what is remembered.
const BYTES_OF_ENTRY: usize = 200;

/// Where a request has the hash of its query.
const PERSISTED_QUERY: &str = "persistedQuery";

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

/// The app on whose behalf a query is sent with its hash, or by it alone: among the data of the request.
#[derive(Debug, Clone, Copy)]
struct Sender(AppId);

/// Notes whose request this is, if it has the hash of its query.
pub(super) fn note_sender(request: &mut Request, app_id: AppId) {
    if request.extensions.contains_key(PERSISTED_QUERY) {
        request.data.insert(Sender(app_id));
    }
}

/// Queries that were parsed and found to be within the [limits].
#[derive(Debug)]
pub(super) struct Documents {
    limits: LimitArgs,
    parsed: Cache<String, Arc<ExecutableDocument>>,
    /// Texts by the apps that have sent them and by their hashes, for clients that send only that.
    by_hash: Cache<(Uuid, DocumentId), Arc<str>>,
}

impl Documents {
    /// Holds queries to these limits.
    pub(super) fn new(limits: LimitArgs) -> Self {
        let weigh = |bytes: usize| u32::try_from(bytes + BYTES_OF_ENTRY).unwrap_or(u32::MAX);
        let of_parsed =
            move |query: &String, _: &Arc<ExecutableDocument>| weigh(query.len() * PARSED_BYTES_PER_BYTE);
        let of_text = move |_: &(Uuid, DocumentId), text: &Arc<str>| weigh(text.len());
        Self {
            limits,
            parsed: Cache::builder().max_capacity(MAX_PARSED_BYTES).weigher(of_parsed).build(),
            by_hash: Cache::builder().max_capacity(MAX_TEXT_BYTES).weigher(of_text).build(),
        }
    }

    /// Gives the request its parsed query, and returns it.
    ///
    /// # Errors
    /// The query cannot be parsed, or goes beyond a bound.
    pub(super) fn prepare(&self, request: &mut Request) -> ServerResult<Arc<ExecutableDocument>> {
        let name = self.fill_in(request)?;
        let document = self.parse(request)?;
        if let Some(name) = name
            && request.query.len() <= MAX_BYTES
        {
            self.by_hash.insert(name, request.query.as_str().into());
        }
        Ok(document)
    }

    /// Fills in the text of a query that the client names by its hash alone (automatic persisted queries, as Apollo's
    /// clients send them). Returns the name of a text that comes with its hash, to be remembered once the text is found to
    /// be good.
    fn fill_in(&self, request: &mut Request) -> ServerResult<Option<(Uuid, DocumentId)>> {
        let Some(named) = request.extensions.get(PERSISTED_QUERY) else { return Ok(None) };
        let hash = match named {
            Value::Object(named) => match (named.get("version"), named.get("sha256Hash")) {
                (Some(Value::Number(version)), Some(Value::String(hash))) if version.as_u64() == Some(1) => {
                    hash.to_ascii_lowercase()
                }
                _ => return Err(refusal(NOT_SUPPORTED, "PersistedQueryNotSupported")),
            },
            _ => return Err(refusal(NOT_SUPPORTED, "PersistedQueryNotSupported")),
        };
        let id = DocumentId::from_digits(&hash).ok();
        let name = id.and_then(|id| Some((sender(request)?.uuid(), id)));
        if request.query.is_empty() {
            let known = name.and_then(|name| self.by_hash.get(&name));
            // The words that the clients look for; they send the text then.
            let known = known.ok_or_else(|| refusal(NOT_FOUND, "PersistedQueryNotFound"))?;
            request.query = known.as_ref().to_owned();
            return Ok(None);
        }
        match id == Some(DocumentId::of(&request.query)) {
            true => Ok(name),
            false => Err(refusal(HASH_MISMATCH, "sha256Hash is not the hash of the query")),
        }
    }

    fn parse(&self, request: &mut Request) -> ServerResult<Arc<ExecutableDocument>> {
        if let Some(document) = self.parsed.get(request.query.as_str()) {
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
            self.parsed.insert(query, Arc::clone(&document));
        }
        Ok(document)
    }
}

fn sender(request: &Request) -> Option<AppId> {
    let sender = request.data.get(&TypeId::of::<Sender>());
    sender.and_then(|sender| sender.downcast_ref::<Sender>()).map(|Sender(app_id)| *app_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `{__typename}`.
    const HASH: &str = "ecf4edb46db40b5132295c0291d62fb65d6759a9eedfa4d5d612dd5ec54a6b38";

    fn documents() -> Documents {
        Documents::new(LimitArgs::default())
    }

    #[test]
    fn a_query_is_parsed_once_and_a_bad_one_is_never_remembered() {
        let documents = documents();
        for _ in 0..2 {
            let mut request = Request::new("{ __typename }");
            documents.prepare(&mut request).expect("a good query");
            assert!(request.parsed_query().is_ok());
            assert!(documents.prepare(&mut Request::new("{ __typename")).is_err());
        }
        documents.parsed.run_pending_tasks();
        assert_eq!(documents.parsed.entry_count(), 1);
    }

    fn app(n: u128) -> AppId {
        AppId::from_uuid(Uuid::from_u128(n))
    }

    fn by_hash(query: &str, sender: AppId) -> Request {
        let mut request = Request::new(query);
        let named = async_graphql::value!({ "version": 1, "sha256Hash": HASH });
        request.extensions.insert(PERSISTED_QUERY.to_owned(), named);
        note_sender(&mut request, sender);
        request
    }

    fn code(result: ServerResult<Arc<ExecutableDocument>>) -> Option<Value> {
        result.err().and_then(|error| error.extensions?.get("code").cloned())
    }

    #[test]
    fn a_query_is_known_by_its_hash_once_it_was_sent_with_it() {
        let documents = documents();
        assert_eq!(code(documents.prepare(&mut by_hash("", app(1)))), Some(Value::from(NOT_FOUND)));
        let other = by_hash("{ other: __typename }", app(1));
        assert_eq!(code(documents.prepare(&mut { other })), Some(Value::from(HASH_MISMATCH)));
        assert_eq!(code(documents.prepare(&mut by_hash("{__typename}", app(1)))), None);
        let mut known = by_hash("", app(1));
        assert_eq!(code(documents.prepare(&mut known)), None);
        assert_eq!(known.query, "{__typename}");
    }

    #[test]
    fn what_an_app_has_sent_is_known_by_its_hash_to_that_app_alone() {
        let documents = documents();
        assert_eq!(code(documents.prepare(&mut by_hash("{__typename}", app(1)))), None);
        let mut of_another = by_hash("", app(2));
        assert_eq!(code(documents.prepare(&mut of_another)), Some(Value::from(NOT_FOUND)));
        assert_eq!(of_another.query, "");
        assert_eq!(code(documents.prepare(&mut by_hash("", app(1)))), None);
    }

    /// A query of nearly 4,000 bytes.
    fn long(n: usize) -> String {
        format!("{{ a{n}: __typename {} }}", " ".repeat(3_970))
    }

    #[test]
    fn memory_is_bounded() {
        let documents = documents();
        let too_long = format!("{{ __typename {} }}", " ".repeat(MAX_BYTES));
        documents.prepare(&mut Request::new(too_long)).expect("a good query");
        documents.parsed.run_pending_tasks();
        assert_eq!(documents.parsed.entry_count(), 0);
        for n in 0..1_000 {
            documents.prepare(&mut Request::new(long(n))).expect("a good query");
        }
        documents.parsed.run_pending_tasks();
        assert!(documents.parsed.weighted_size() <= MAX_PARSED_BYTES);
        assert!(documents.parsed.entry_count() > 500, "{}", documents.parsed.entry_count());
    }

    #[test]
    fn queries_that_are_sent_once_put_out_none_that_is_sent_again_and_again() {
        let documents = documents();
        let (used, mut kept) = ("{ used: __typename }", 0);
        for n in 0..2_000 {
            kept += usize::from(documents.parsed.contains_key(used));
            documents.prepare(&mut Request::new(used)).expect("a good query");
            documents.prepare(&mut Request::new(long(n))).expect("a good query");
        }
        assert_eq!(kept, 1_999);
    }
}
