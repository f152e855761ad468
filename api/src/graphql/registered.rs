//! Requests that name a document which is registered for their app, and apps that execute nothing else.
//!
//! Decided by the hash of the text alone, before anything is parsed. A name that belongs to another app is a name that
//! nobody has.

use async_graphql::{Request, Value};
use domain::app::document::DocumentId;
use sea_orm::DbErr;

use super::documents;
use crate::access::Caller;
use crate::access::budget::{Budgets, Exhausted};
use crate::access::documents::{Found, RegisteredDocuments};

/// `extensions.code` of a name that no document of the app has.
pub const DOCUMENT_NOT_FOUND: &str = "PERSISTED_DOCUMENT_NOT_FOUND";

/// `extensions.code` of a document that is not registered, from an app that executes nothing else.
pub const DOCUMENT_NOT_ALLOWED: &str = "DOCUMENT_NOT_ALLOWED";

/// The registered document that a request names instead of sending one: among the data of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NamedDocument(pub(crate) DocumentId);

/// Points of a look-up that costs a statement, so that whoever names unknown documents uses up what is its own.
const LOOK_UP: u32 = 1;

/// Why a request is not parsed.
#[derive(Debug)]
pub(super) enum Unsettled {
    /// It names a document that the app does not have.
    NotFound,
    /// Its text is not registered, and the app executes nothing else.
    NotAllowed,
    /// The app has no points left for looking it up.
    Exhausted(Exhausted),
    /// Nobody can tell now.
    Unavailable(DbErr),
}

/// Gives a request that names a document its text, and lets through what its app may execute. Notes whose request it is,
/// for what is found by its hash alone.
///
/// # Errors
/// [`Unsettled`].
pub(super) async fn settle(
    registered: &RegisteredDocuments,
    budgets: &Budgets,
    caller: &Caller,
    request: &mut Request,
) -> Result<(), Unsettled> {
    documents::note_sender(request, caller.app_id());
    let (id, otherwise) = match named(request) {
        Some(id) => (id, Unsettled::NotFound),
        None if !caller.only_registered_documents() => return Ok(()),
        None => (sent(request).ok_or(Unsettled::NotAllowed)?, Unsettled::NotAllowed),
    };
    let text = find(registered, budgets, caller, id).await?.ok_or(otherwise)?;
    // Text that was sent is the text of this hash already; a hash that was sent without its text gets it here, and never
    // out of what others have sent.
    request.query = text.as_ref().to_owned();
    Ok(())
}

async fn find(
    documents: &RegisteredDocuments,
    budgets: &Budgets,
    caller: &Caller,
    id: DocumentId,
) -> Result<Found, Unsettled> {
    if let Some(found) = documents.recall(caller.app_id(), id) {
        return Ok(found);
    }
    budgets.take(caller, LOOK_UP).map_err(Unsettled::Exhausted)?;
    documents.look_up(caller.app_id(), id).await.map_err(Unsettled::Unavailable)
}

/// The document that the request names.
fn named(request: &Request) -> Option<DocumentId> {
    let named = request.data.get(&std::any::TypeId::of::<NamedDocument>());
    named.and_then(|named| named.downcast_ref::<NamedDocument>()).map(|NamedDocument(id)| *id)
}

/// The document that the request sends, or whose hash it sends as automatic persisted queries do.
fn sent(request: &Request) -> Option<DocumentId> {
    if !request.query.is_empty() {
        return Some(DocumentId::of(&request.query));
    }
    match request.extensions.get("persistedQuery") {
        Some(Value::Object(named)) => match named.get("sha256Hash") {
            Some(Value::String(hash)) => DocumentId::from_digits(&hash.to_ascii_lowercase()).ok(),
            _ => None,
        },
        _ => None,
    }
}
