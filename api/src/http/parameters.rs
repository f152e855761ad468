//! What a request says, over every transport: a document or the name of one, and what goes with it.

use async_graphql::{Extensions, Request, Variables};
use domain::app::document::NoDocumentId;
use serde::Deserialize;

use crate::graphql::NamedDocument;

/// The parameters of a GraphQL request (GraphQL over HTTP, section 5.1 and the appendix on persisted documents).
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Parameters {
    pub(super) query: Option<String>,
    pub(super) document_id: Option<String>,
    pub(super) operation_name: Option<String>,
    #[serde(default)]
    pub(super) variables: Variables,
    #[serde(default)]
    pub(super) extensions: Extensions,
}

/// It is not clear what is to be executed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unclear {
    /// Neither a document nor the name of one.
    #[error("the request has no query and no documentId")]
    Nothing,
    /// More than one.
    #[error("the request has a documentId beside a query or a persistedQuery; send one of them")]
    Several,
    /// Not a name.
    #[error("documentId: {0}")]
    NoDocumentId(#[from] NoDocumentId),
}

impl Parameters {
    /// Whether it names no document, in whatever way.
    pub(super) fn is_blank(&self) -> bool {
        self.query.is_none() && self.document_id.is_none() && !self.extensions.contains_key("persistedQuery")
    }

    /// Makes a request of it.
    ///
    /// # Errors
    /// It is not clear which document is meant.
    pub(super) fn into_request(self) -> Result<Request, Unclear> {
        let has_query = self.query.as_ref().is_some_and(|query| !query.trim().is_empty());
        let is_automatic = self.extensions.contains_key("persistedQuery");
        let named = match &self.document_id {
            Some(_) if has_query || is_automatic => return Err(Unclear::Several),
            Some(id) => Some(NamedDocument(id.parse()?)),
            None if has_query || is_automatic => None,
            None => return Err(Unclear::Nothing),
        };
        let mut request = Request::new(self.query.filter(|_| named.is_none()).unwrap_or_default());
        request.operation_name = self.operation_name;
        request.variables = self.variables;
        request.extensions = self.extensions;
        Ok(match named {
            Some(named) => request.data(named),
            None => request,
        })
    }
}

#[cfg(test)]
mod tests {
    use domain::app::document::DocumentId;

    use super::*;

    fn read(body: &str) -> Result<Request, Unclear> {
        serde_json::from_str::<Parameters>(body).expect("well formed").into_request()
    }

    #[test]
    fn a_request_says_in_one_way_what_is_to_be_executed() {
        let id = DocumentId::of("{a}");
        assert_eq!(read(r#"{"query": "{a}", "operationName": null}"#).expect("clear").query, "{a}");
        assert!(read(r#"{"extensions": {"persistedQuery": {}}}"#).is_ok());
        assert_eq!(read(&format!(r#"{{"documentId": "{id}"}}"#)).expect("clear").query, "");
        assert!(read(&format!(r#"{{"documentId": "{id}", "query": null}}"#)).is_ok());
        let several = [
            format!(r#"{{"documentId": "{id}", "query": "{{a}}"}}"#),
            format!(r#"{{"documentId": "{id}", "extensions": {{"persistedQuery": {{}}}}}}"#),
        ];
        for body in several {
            assert_eq!(read(&body).err(), Some(Unclear::Several), "{body}");
        }
        for body in ["{}", r#"{"query": " "}"#] {
            assert_eq!(read(body).err(), Some(Unclear::Nothing), "{body}");
        }
        for body in [r#"{"documentId": ""}"#, r#"{"documentId": "md5:x"}"#] {
            assert_eq!(read(body).err(), Some(Unclear::NoDocumentId(NoDocumentId)), "{body}");
        }
    }
}
