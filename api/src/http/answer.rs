//! What goes back over HTTP: the body of a response, its status, and refusals of requests that never came to execution.
//!
//! The statuses are those of the GraphQL-over-HTTP specification. Its appendix on `application/json` has 200 for whatever is
//! wrong with a well-formed request, and leaves it to a server to turn requests away: that is what limits and budgets do, with
//! the same status in either media type.

use std::collections::BTreeMap;

use async_graphql::{ServerError, Value};
use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::accept::Format;
use crate::access::FORBIDDEN;
use crate::graphql::error::{INTERNAL, OVERLOADED, UNAVAILABLE};
use crate::graphql::{
    DOCUMENT_NOT_ALLOWED, PARSE_FAILED, QUERY_TOO_COMPLEX, QUERY_TOO_COSTLY, RATE_LIMITED, TIMEOUT,
};

/// Data and errors: what a draft of the GraphQL-over-HTTP specification proposes for a partial success.
const PARTIAL_SUCCESS: u16 = 294;

/// Seconds after which a client that was sent away may come back.
const RETRY_AFTER_SECONDS: &str = "1";

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const GRAPHQL_RESPONSE: HeaderValue =
    HeaderValue::from_static("application/graphql-response+json; charset=utf-8");

/// Writes an answer.
pub(super) fn answer(response: &async_graphql::Response, format: Format, sends_294: bool) -> Response {
    let is_request_error = is_request_error(response);
    let body = Answer {
        errors: &response.errors,
        // A request that was never executed has no data, not even null (GraphQL specification, section 7.1).
        data: (!is_request_error).then_some(&response.data),
        extensions: &response.extensions,
    };
    let status = status_of(response, is_request_error, format, sends_294);
    let content_type = if format == Format::GraphqlResponse { GRAPHQL_RESPONSE } else { JSON };
    let mut answer = respond(status, content_type, &body);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
    }
    if let Some(seconds) = response.errors.iter().find_map(retry_after_seconds) {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer
}

/// The status of an answer.
fn status_of(
    response: &async_graphql::Response,
    is_request_error: bool,
    format: Format,
    sends_294: bool,
) -> StatusCode {
    let has = |code: &str| response.errors.iter().any(|error| code_of(error) == Some(code));
    if response.data == Value::Null && response.errors.iter().any(means_later) {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    if has(RATE_LIMITED) {
        return StatusCode::TOO_MANY_REQUESTS;
    }
    if has(QUERY_TOO_COSTLY) || has(QUERY_TOO_COMPLEX) {
        return StatusCode::BAD_REQUEST;
    }
    if format != Format::GraphqlResponse || response.is_ok() {
        return StatusCode::OK;
    }
    if response.data != Value::Null {
        // Partial success, as the draft of the specification numbers it.
        return match StatusCode::from_u16(PARTIAL_SUCCESS) {
            Ok(status) if sends_294 => status,
            _ => StatusCode::OK,
        };
    }
    if has(PARSE_FAILED) {
        StatusCode::BAD_REQUEST
    } else if has(FORBIDDEN) || has(DOCUMENT_NOT_ALLOWED) {
        StatusCode::FORBIDDEN
    } else if has(INTERNAL) || has(TIMEOUT) {
        StatusCode::INTERNAL_SERVER_ERROR
    } else if is_request_error {
        // It was parsed, and does not fit the schema or its variables.
        StatusCode::UNPROCESSABLE_ENTITY
    } else {
        StatusCode::OK
    }
}

/// The seconds after which a request that was sent away for lack of points may come back.
fn retry_after_seconds(error: &ServerError) -> Option<u64> {
    match error.extensions.as_ref()?.get("retryAfterSeconds") {
        Some(Value::Number(seconds)) => seconds.as_u64(),
        _ => None,
    }
}

fn code_of(error: &ServerError) -> Option<&str> {
    match error.extensions.as_ref()?.get("code") {
        Some(Value::String(code)) => Some(code),
        _ => None,
    }
}

/// Whether the request was refused before any field was executed: then no error has a path.
pub(super) fn is_request_error(response: &async_graphql::Response) -> bool {
    response.data == Value::Null
        && response.errors.iter().all(|error| error.path.is_empty())
        && response.is_err()
}

/// Whether there is nothing but errors.
pub(super) fn has_no_data(response: &async_graphql::Response) -> bool {
    response.is_err() && response.data == Value::Null
}

fn means_later(error: &ServerError) -> bool {
    matches!(code_of(error), Some(UNAVAILABLE | OVERLOADED))
}

/// A GraphQL response, errors first, so that whoever reads a long one sees them.
#[derive(Serialize)]
struct Answer<'a> {
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [ServerError],
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a Value>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    extensions: &'a BTreeMap<String, Value>,
}

fn respond(status: StatusCode, content_type: HeaderValue, body: &Answer<'_>) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => (status, [(CONTENT_TYPE, content_type)], body).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// A request that does not come to execution. The answer is a GraphQL response with one error.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    code: &'static str,
    message: String,
    allow: Option<&'static str>,
    retry_after_seconds: Option<u32>,
}

impl Refused {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), allow: None, retry_after_seconds: None }
    }

    /// Names the methods that would do.
    pub(super) fn allowing(self, methods: &'static str) -> Self {
        Self { allow: Some(methods), ..self }
    }

    /// Says after how many seconds it may be otherwise.
    pub(super) fn until(self, seconds: u32) -> Self {
        Self { retry_after_seconds: Some(seconds), ..self }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BAD_REQUEST", message)
    }

    pub(super) fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "BAD_REQUEST", message)
    }
}

impl From<Refused> for Response {
    fn from(refused: Refused) -> Self {
        refused.into_response()
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let body = serde_json::json!({
            "errors": [{ "message": self.message, "extensions": { "code": self.code } }]
        });
        let mut response = (self.status, [(CONTENT_TYPE, JSON)], body.to_string()).into_response();
        if let Some(methods) = self.allow {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
        }
        if let Some(seconds) = self.retry_after_seconds {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// Names the media type that the client takes; a refusal is the same in each, and is no event of a stream.
pub(super) fn refusal_in(format: Format, mut refused: Response) -> Response {
    if format == Format::GraphqlResponse {
        refused.headers_mut().insert(CONTENT_TYPE, GRAPHQL_RESPONSE);
    }
    refused
}

#[cfg(test)]
mod tests {
    use async_graphql::{ErrorExtensionValues, PathSegment, value};

    use super::*;

    fn error(code: &str, path: &[&str]) -> ServerError {
        let mut error = ServerError::new("wrong", None);
        error.path = path.iter().map(|&field| PathSegment::Field(field.to_owned())).collect();
        error.extensions.get_or_insert_with(ErrorExtensionValues::default).set("code", code);
        error
    }

    fn status(data: Value, errors: Vec<ServerError>, format: Format, sends_294: bool) -> u16 {
        let mut response = async_graphql::Response::new(data);
        response.errors = errors;
        answer(&response, format, sends_294).status().as_u16()
    }

    #[test]
    fn the_status_says_what_became_of_the_request() {
        use Format::{GraphqlResponse, Json};
        let data = || value!({ "a": 1, "b": null });
        for (code, path, graphql, json) in [
            ("GRAPHQL_PARSE_FAILED", &[][..], 400, 200),
            ("QUERY_TOO_COMPLEX", &[], 400, 400),
            ("QUERY_TOO_COSTLY", &[], 400, 400),
            ("GRAPHQL_VALIDATION_FAILED", &[], 422, 200),
            ("RATE_LIMITED", &[], 429, 429),
            ("FORBIDDEN", &["a"], 403, 200),
            ("DOCUMENT_NOT_ALLOWED", &[], 403, 200),
            ("PERSISTED_DOCUMENT_NOT_FOUND", &[], 422, 200),
            ("INTERNAL", &["a"], 500, 200),
            ("TIMEOUT", &[], 500, 200),
            ("UNAVAILABLE", &["a"], 503, 503),
        ] {
            let errors = || vec![error(code, path)];
            assert_eq!(status(Value::Null, errors(), GraphqlResponse, false), graphql, "{code}");
            assert_eq!(status(Value::Null, errors(), Json, false), json, "{code}");
        }
        // Whatever went wrong beside it, data is a success.
        for code in ["INTERNAL", "UNAVAILABLE"] {
            let errors = || vec![error(code, &["b"])];
            assert_eq!(status(data(), errors(), GraphqlResponse, false), 200, "{code}");
            assert_eq!(status(data(), errors(), GraphqlResponse, true), 294, "{code}");
            assert_eq!(status(data(), errors(), Json, true), 200, "{code}");
        }
        assert_eq!(status(data(), Vec::new(), GraphqlResponse, true), 200);
    }
}
