//! GraphQL requests over plain HTTP, after the GraphQL-over-HTTP specification.

use std::collections::BTreeMap;
use std::time::Duration;

use async_graphql::http::GraphiQLSource;
use async_graphql::parser::types::{DocumentOperations, OperationType};
use async_graphql::{Request, ServerError, Value};
use axum::Extension;
use axum::body::Body;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Query, State};
use axum::http::header::{ACCEPT, ALLOW, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, UPGRADE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::{caller, sse, ws};
use crate::access::Caller;
use crate::app::App;
use crate::graphql::error::{OVERLOADED, RequestId, UNAVAILABLE};
use crate::graphql::{QUERY_TOO_COSTLY, RATE_LIMITED};

/// The largest body, in bytes. An order of 250 lines needs a fifth of it.
const MAX_BODY: usize = 100_000;

/// The most errors of one answer.
const MAX_ERRORS: usize = 20;

/// The longest message of an error, in characters.
const MAX_ERROR_CHARS: usize = 1_000;

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Seconds after which a client that was sent away may come back.
const RETRY_AFTER_SECONDS: &str = "1";

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const GRAPHQL_RESPONSE: HeaderValue =
    HeaderValue::from_static("application/graphql-response+json; charset=utf-8");

/// Answers `POST /graphql`.
pub(super) async fn post(
    State(app): State<App>,
    Extension(request_id): Extension<RequestId>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let caller = match caller::identify(&app, &headers).await {
        Ok(caller) => caller,
        Err(denied) => return denied.into_response(),
    };
    let request = match read_request(&headers, body).await {
        Ok(request) => request.data(request_id),
        Err(refused) => return refused.into_response(),
    };
    if accepts(&headers, "text/event-stream") {
        return sse::respond(&app, caller, request);
    }
    execute(&app, caller, request, &headers).await
}

/// Answers `GET /graphql`: a WebSocket, a query, or GraphiQL.
pub(super) async fn get(
    State(app): State<App>,
    Extension(request_id): Extension<RequestId>,
    Query(query): Query<GetQuery>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    headers: HeaderMap,
) -> Response {
    match upgrade {
        Ok(upgrade) => return ws::upgrade(app, upgrade, &headers, request_id),
        Err(rejection) if headers.contains_key(UPGRADE) => return rejection.into_response(),
        Err(_) => {}
    }
    if query.query.is_some() {
        let caller = match caller::identify(&app, &headers).await {
            Ok(caller) => caller,
            Err(denied) => return denied.into_response(),
        };
        return match query.into_request() {
            Ok(request) => execute(&app, caller, request.data(request_id), &headers).await,
            Err(refused) => refused.into_response(),
        };
    }
    if accepts(&headers, "text/html") {
        return Html(GraphiQLSource::build().endpoint("/graphql").subscription_endpoint("/graphql").finish())
            .into_response();
    }
    Refused::bad_request("send a query as JSON with POST, or as ?query= with GET").into_response()
}

/// A query in a URL.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct GetQuery {
    query: Option<String>,
    operation_name: Option<String>,
    variables: Option<String>,
}

impl GetQuery {
    /// Makes a request of it. GET is for queries only: links are followed by crawlers, and pages of others can make a
    /// browser follow them.
    fn into_request(self) -> Result<Request, Refused> {
        let mut request = Request::new(self.query.unwrap_or_default());
        if let Some(variables) = self.variables.filter(|variables| !variables.is_empty()) {
            request.variables = serde_json::from_str(&variables)
                .map_err(|_| Refused::bad_request("variables must be a JSON object"))?;
        }
        request.operation_name = self.operation_name.filter(|name| !name.is_empty());
        let name = request.operation_name.clone();
        // What cannot be parsed is refused by the execution, in its own words.
        let is_query = request.parsed_query().map_or(true, |document| match &document.operations {
            DocumentOperations::Single(operation) => operation.node.ty == OperationType::Query,
            DocumentOperations::Multiple(operations) => operations
                .iter()
                .filter(|(operation, _)| name.as_ref().is_none_or(|name| operation.as_str() == name))
                .all(|(_, operation)| operation.node.ty == OperationType::Query),
        });
        if is_query {
            return Ok(request);
        }
        let message = "only queries may be sent with GET; use POST";
        Err(Refused::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", message))
    }
}

async fn read_request(headers: &HeaderMap, body: Body) -> Result<Request, Refused> {
    // A form or plain text can be sent from any page of the web without asking us first; JSON cannot.
    if media_type(headers.get(CONTENT_TYPE)).is_none_or(|found| found != "application/json") {
        let message = "the body must be JSON, with content-type: application/json";
        return Err(Refused::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE", message));
    }
    let announced =
        headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > MAX_BODY) {
        return Err(Refused::too_large());
    }
    match tokio::time::timeout(BODY_TIMEOUT, axum::body::to_bytes(body, MAX_BODY)).await {
        Ok(Ok(body)) => parse_body(&body).map_err(Refused::bad_request),
        Ok(Err(_)) => Err(Refused::too_large()),
        Err(_) => {
            let message = "the body took too long to arrive";
            Err(Refused::new(StatusCode::REQUEST_TIMEOUT, "REQUEST_TIMEOUT", message))
        }
    }
}

fn parse_body(body: &[u8]) -> Result<Request, String> {
    if body.trim_ascii_start().starts_with(b"[") {
        return Err("a batch is not accepted; send one request at a time".to_owned());
    }
    let request: Request = serde_json::from_slice(body).map_err(|error| {
        format!("the body is not a JSON object with query, variables and operationName: {error}")
    })?;
    if request.query.trim().is_empty() {
        return Err("the body has no query".to_owned());
    }
    Ok(request)
}

async fn execute(app: &App, caller: Caller, request: Request, headers: &HeaderMap) -> Response {
    let mut response = app.graphql().execute(caller, request).await;
    bound_errors(&mut response.errors);
    let prefers_graphql = accepts(headers, "application/graphql-response+json");
    let is_request_error = is_request_error(&response);
    let body = Answer {
        errors: &response.errors,
        // A request that was never executed has no data, not even null (GraphQL specification, section 7.1).
        data: (!is_request_error).then_some(&response.data),
        extensions: &response.extensions,
    };
    let status = if response.errors.iter().any(means_later) {
        StatusCode::SERVICE_UNAVAILABLE
    } else if response.errors.iter().any(|error| code_of(error) == Some(RATE_LIMITED)) {
        StatusCode::TOO_MANY_REQUESTS
    } else if response.errors.iter().any(|error| code_of(error) == Some(QUERY_TOO_COSTLY)) {
        StatusCode::BAD_REQUEST
    } else if is_request_error && prefers_graphql {
        StatusCode::BAD_REQUEST
    } else {
        // With application/json the status speaks of the HTTP exchange alone; older clients rely on it.
        StatusCode::OK
    };
    let content_type = if prefers_graphql { GRAPHQL_RESPONSE } else { JSON };
    let mut answer = respond(status, content_type, &body);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
    }
    if let Some(seconds) = response.errors.iter().find_map(retry_after_seconds) {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer
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

/// Keeps an answer from being larger than its question: a query of ten thousand mistakes has as many errors, and a
/// syntax error quotes the line it is in.
fn bound_errors(errors: &mut Vec<ServerError>) {
    errors.truncate(MAX_ERRORS);
    for error in errors {
        if let Some((end, _)) = error.message.char_indices().nth(MAX_ERROR_CHARS) {
            error.message.truncate(end);
        }
    }
}

/// Whether the request was refused before any field was executed: then no error has a path.
fn is_request_error(response: &async_graphql::Response) -> bool {
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
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Refused {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BAD_REQUEST", message)
    }

    fn too_large() -> Self {
        let message = format!("the body must not be larger than {MAX_BODY} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "PAYLOAD_TOO_LARGE", message)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let body = serde_json::json!({
            "errors": [{ "message": self.message, "extensions": { "code": self.code } }]
        });
        let mut response = (self.status, [(CONTENT_TYPE, JSON)], body.to_string()).into_response();
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        }
        response
    }
}

/// Returns a header's media type without its parameters.
fn media_type(value: Option<&HeaderValue>) -> Option<String> {
    let value = value?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

/// Whether `Accept` names the media type; a wildcard does not count, since each answer has a default.
fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .any(|range| range.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(media_type))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    fn headers(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    async fn status_of_post(content_type: &'static str, body: impl Into<Body>) -> StatusCode {
        let read = read_request(&headers(CONTENT_TYPE, content_type), body.into()).await;
        read.err().map_or(StatusCode::OK, |refused| refused.status)
    }

    #[tokio::test]
    async fn a_body_must_be_one_json_object_of_bounded_size() {
        let json = "application/json; charset=utf-8";
        assert_eq!(status_of_post(json, r#"{"query": "{ __typename }"}"#).await, StatusCode::OK);
        assert_eq!(
            status_of_post("text/plain", r#"{"query": "{ __typename }"}"#).await,
            StatusCode::UNSUPPORTED_MEDIA_TYPE
        );
        for bad in ["", "{", "{}", "null", r#"["{ __typename }"]"#, r#" [{"query": "{ __typename }"}]"#] {
            assert_eq!(status_of_post(json, bad).await, StatusCode::BAD_REQUEST, "{bad}");
        }
        assert_eq!(status_of_post(json, " ".repeat(MAX_BODY + 1)).await, StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[test]
    fn get_is_for_queries_only() {
        let status = |query: &str, operation_name: Option<&str>| {
            let query = GetQuery {
                query: Some(query.to_owned()),
                operation_name: operation_name.map(str::to_owned),
                variables: None,
            };
            query.into_request().err().map_or(StatusCode::OK, |refused| refused.status)
        };
        let both = "query Q { __typename } mutation M { __typename }";
        assert_eq!(status("{ __typename }", None), StatusCode::OK);
        assert_eq!(status(both, Some("Q")), StatusCode::OK);
        for (query, name) in [("mutation { __typename }", None), (both, Some("M")), (both, None)] {
            assert_eq!(status(query, name), StatusCode::METHOD_NOT_ALLOWED, "{query}");
        }
        assert_eq!(
            status("subscription { orderStatus(id: 1) { sequence } }", None),
            StatusCode::METHOD_NOT_ALLOWED
        );
    }

    #[test]
    fn accept_is_read_range_by_range() {
        let browser = headers(ACCEPT, "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8");
        assert!(accepts(&browser, "text/html"));
        assert!(!accepts(&browser, "text/event-stream"));
        assert!(accepts(
            &headers(ACCEPT, "Application/GraphQL-Response+JSON; q=1"),
            "application/graphql-response+json"
        ));
    }
}
