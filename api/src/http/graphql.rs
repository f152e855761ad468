//! GraphQL requests over plain HTTP, after the GraphQL-over-HTTP specification.

use std::net::IpAddr;
use std::time::Duration;

use async_graphql::Request;
use async_graphql::http::GraphiQLSource;
use async_graphql::parser::types::{DocumentOperations, ExecutableDocument, OperationType};
use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Query, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, UPGRADE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use super::accept::{self, Format};
use super::answer::{Refused, answer, refusal_in};
use super::connections::Connection;
use super::parameters::{Parameters, Unclear};
use super::{caller, sse, ws};
use crate::access::Caller;
use crate::access::door::Credential;
use crate::app::App;
use crate::graphql::ResumeAfter;
use crate::graphql::error::RequestId;

/// `extensions.code` of a stream beyond those that an app may have open.
const TOO_MANY_STREAMS: &str = "TOO_MANY_STREAMS";

/// Seconds after which a client that was refused a stream may try again. Streams last, so that a second is too soon.
const STREAM_RETRY_SECONDS: u32 = 10;

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The page loads GraphiQL from where the library's template says; nothing else of ours runs scripts.
const GRAPHIQL_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'self'; script-src 'self' 'unsafe-inline' https://unpkg.com https://esm.sh; \
     style-src 'self' 'unsafe-inline' https://unpkg.com https://esm.sh; font-src 'self' data: https://unpkg.com https://esm.sh; \
     connect-src 'self' ws: wss: https://esm.sh; worker-src 'self' blob:; img-src 'self' data:; frame-ancestors 'none'",
);

/// Answers `POST /graphql`.
pub(super) async fn post(
    State(app): State<App>,
    Extension(request_id): Extension<RequestId>,
    Extension(connection): Extension<Connection>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let format = Format::of(&headers);
    let of_refusals = of_refusals(&format);
    let answered = async {
        let format = format?;
        let (caller, credential) = caller::identify(&app, &headers, &connection).await?;
        let max_bytes = app.settings().connections.max_body_bytes as usize;
        let request = read_request(&headers, body, max_bytes).await?.data(request_id);
        Ok::<_, Response>(
            respond_in(format, &app, caller, (credential, connection.peer), request, &headers).await,
        )
    };
    answered.await.unwrap_or_else(|refused| refusal_in(of_refusals, refused))
}

/// Answers `GET /graphql`: a WebSocket, a query, or GraphiQL.
pub(super) async fn get(
    State(app): State<App>,
    Extension(request_id): Extension<RequestId>,
    Extension(connection): Extension<Connection>,
    query: Result<Query<GetQuery>, QueryRejection>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    headers: HeaderMap,
) -> Response {
    match upgrade {
        Ok(upgrade) => return ws::upgrade(app, upgrade, &headers, connection.peer, request_id),
        Err(rejection) if headers.contains_key(UPGRADE) => {
            return Refused::new(rejection.status(), "BAD_REQUEST", rejection.body_text()).into_response();
        }
        Err(_) => {}
    }
    let format = Format::of(&headers);
    let of_refusals = of_refusals(&format);
    let answered = async {
        let Query(query) = query.map_err(|error| Refused::bad_request(error.body_text()))?;
        let parameters = query.into_parameters()?;
        if parameters.is_blank() && accept::names(&headers, "text", "html") {
            return Ok(graphiql());
        }
        let format = format?;
        let (caller, credential) = caller::identify(&app, &headers, &connection).await?;
        if parameters.is_blank() {
            let message = "send a query as JSON with POST, or as ?query= with GET";
            return Err(Refused::unprocessable(message).into_response());
        }
        let mut request = parameters.into_request().map_err(Refused::from)?.data(request_id);
        // No stream begins where the request is refused.
        let refuse = |refused: Box<async_graphql::Response>| {
            let format = if format == Format::EventStream { Format::GraphqlResponse } else { format };
            answer(&refused, format, app.sends_294())
        };
        app.graphql().settle(&caller, &mut request).await.map_err(refuse)?;
        // What is named by a hash has its text by now: what it does is not told by what was sent.
        let document = app.graphql().parse(&caller, &mut request).map_err(refuse)?;
        refuse_changes(&document, request.operation_name.as_deref(), format == Format::EventStream)?;
        Ok::<_, Response>(
            respond_in(format, &app, caller, (credential, connection.peer), request, &headers).await,
        )
    };
    answered.await.unwrap_or_else(|refused| refusal_in(of_refusals, refused))
}

/// The format that a refusal has: the one that the client takes, plain JSON where it takes none of ours.
fn of_refusals(format: &Result<Format, Refused>) -> Format {
    format.as_ref().map_or(Format::Json, |format| *format)
}

/// Answers every other method.
pub(super) async fn other_method() -> Response {
    let message = "this path does not take the method; see the header allow";
    // The router adds which methods the path has.
    Refused::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", message).into_response()
}

/// Answers every path that is not there.
pub(super) async fn other_path() -> Response {
    Refused::new(StatusCode::NOT_FOUND, "NOT_FOUND", "there is nothing here; GraphQL is at /graphql")
        .into_response()
}

fn graphiql() -> Response {
    let page = GraphiQLSource::build().endpoint("/graphql").subscription_endpoint("/graphql").finish();
    ([(CONTENT_SECURITY_POLICY, GRAPHIQL_POLICY)], Html(page)).into_response()
}

async fn respond_in(
    format: Format,
    app: &App,
    caller: Caller,
    shown: (Option<Credential>, IpAddr),
    mut request: Request,
    headers: &HeaderMap,
) -> Response {
    if format != Format::EventStream {
        return execute(app, caller, request, format).await;
    }
    match resume_after(headers) {
        Ok(Some(after)) => request = request.data(after),
        Ok(None) => {}
        Err(refused) => return refused.into_response(),
    }
    match app.streams().open(&caller) {
        Ok(stream) => sse::respond(app, caller, shown, request, stream),
        Err(too_many) => {
            let refused = Refused::new(StatusCode::TOO_MANY_REQUESTS, TOO_MANY_STREAMS, too_many.to_string());
            refused.until(STREAM_RETRY_SECONDS).into_response()
        }
    }
}

/// Reads `Last-Event-ID`, which a client that has lost its stream sends: the sequence that it has seen last.
fn resume_after(headers: &HeaderMap) -> Result<Option<ResumeAfter>, Refused> {
    let Some(id) = headers.get("last-event-id") else { return Ok(None) };
    let sequence = id.to_str().ok().and_then(|id| id.parse().ok()).filter(|sequence| *sequence >= 0);
    match sequence {
        Some(sequence) => Ok(Some(ResumeAfter(sequence))),
        None => Err(Refused::bad_request("last-event-id must be the sequence of an event, such as 3")),
    }
}

/// A request in a URL.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct GetQuery {
    query: Option<String>,
    document_id: Option<String>,
    operation_name: Option<String>,
    variables: Option<String>,
    extensions: Option<String>,
}

impl GetQuery {
    fn into_parameters(self) -> Result<Parameters, Refused> {
        Ok(Parameters {
            query: self.query,
            document_id: self.document_id,
            operation_name: self.operation_name.filter(|name| !name.is_empty()),
            variables: object_of("variables", self.variables)?,
            extensions: object_of("extensions", self.extensions)?,
        })
    }
}

/// Reads a parameter that is a JSON object; an empty one where it is not given.
fn object_of<T: DeserializeOwned + Default>(name: &str, text: Option<String>) -> Result<T, Refused> {
    match text.filter(|text| !text.is_empty()) {
        Some(text) => serde_json::from_str(&text)
            .map_err(|_| Refused::bad_request(format!("{name} must be a JSON object"))),
        None => Ok(T::default()),
    }
}

/// Refuses what GET must not do. It is for queries only: links are followed by crawlers, and pages of others can make a
/// browser follow them.
fn refuse_changes(
    document: &ExecutableDocument,
    operation_name: Option<&str>,
    is_stream: bool,
) -> Result<(), Refused> {
    // A stream changes nothing either.
    let fits =
        |ty: OperationType| ty == OperationType::Query || (is_stream && ty == OperationType::Subscription);
    let is_query = match &document.operations {
        DocumentOperations::Single(operation) => fits(operation.node.ty),
        DocumentOperations::Multiple(operations) => operations
            .iter()
            .filter(|(operation, _)| operation_name.is_none_or(|name| operation.as_str() == name))
            .all(|(_, operation)| fits(operation.node.ty)),
    };
    if is_query {
        return Ok(());
    }
    let message = "only queries may be sent with GET; use POST";
    Err(Refused::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", message).allowing("POST"))
}

async fn read_request(headers: &HeaderMap, body: Body, max_bytes: usize) -> Result<Request, Refused> {
    // A form or plain text can be sent from any page of the web without asking us first; JSON cannot.
    if !is_json(headers.get(CONTENT_TYPE)) {
        let message = "the body must be JSON, with content-type: application/json";
        return Err(Refused::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE", message));
    }
    let announced =
        headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > max_bytes) {
        return Err(too_large(max_bytes));
    }
    match tokio::time::timeout(BODY_TIMEOUT, axum::body::to_bytes(body, max_bytes)).await {
        Ok(Ok(body)) => parse_body(&body),
        Ok(Err(_)) => Err(too_large(max_bytes)),
        Err(_) => {
            let message = "the body took too long to arrive";
            Err(Refused::new(StatusCode::REQUEST_TIMEOUT, "REQUEST_TIMEOUT", message))
        }
    }
}

impl From<Unclear> for Refused {
    fn from(unclear: Unclear) -> Self {
        match unclear {
            Unclear::Nothing => Self::unprocessable(unclear.to_string()),
            Unclear::Several | Unclear::NoDocumentId(_) => Self::bad_request(unclear.to_string()),
        }
    }
}

fn too_large(max_bytes: usize) -> Refused {
    let message = format!("the body must not be larger than {max_bytes} bytes");
    Refused::new(StatusCode::PAYLOAD_TOO_LARGE, "PAYLOAD_TOO_LARGE", message)
}

fn parse_body(body: &[u8]) -> Result<Request, Refused> {
    if body.trim_ascii_start().starts_with(b"[") {
        return Err(Refused::unprocessable("a batch is not accepted; send one request at a time"));
    }
    let parameters: Parameters = serde_json::from_slice(body).map_err(|error| match error.classify() {
        Category::Data => Refused::unprocessable(format!(
            "the body is not an object with query, variables and operationName: {error}"
        )),
        _ => Refused::bad_request(format!("the body is not JSON: {error}")),
    })?;
    Ok(parameters.into_request()?)
}

async fn execute(app: &App, caller: Caller, request: Request, format: Format) -> Response {
    let response = app.graphql().execute(caller, request).await;
    answer(&response, format, app.sends_294())
}

/// Whether a content type is JSON in UTF-8, which JSON is unless somebody says otherwise.
fn is_json(value: Option<&HeaderValue>) -> bool {
    let Some(Ok(value)) = value.map(HeaderValue::to_str) else { return false };
    let mut parts = value.split(';').map(str::trim);
    parts.next().is_some_and(|ty| ty.eq_ignore_ascii_case("application/json"))
        && parts.all(|part| match part.split_once('=') {
            Some((name, value)) if name.eq_ignore_ascii_case("charset") => {
                ["utf-8", "utf8"].iter().any(|utf8| value.trim_matches('"').eq_ignore_ascii_case(utf8))
            }
            _ => true,
        })
}

#[cfg(test)]
mod tests {
    use async_graphql::parser::parse_query;
    use axum::http::HeaderName;

    use super::*;

    fn headers(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    const MAX_BYTES: usize = 1_000;

    async fn status_of_post(content_type: &'static str, body: impl Into<Body>) -> StatusCode {
        let read = read_request(&headers(CONTENT_TYPE, content_type), body.into(), MAX_BYTES).await;
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
        for bad in ["", "{", "nonsense", r#"{"query": "{ __typename }"#] {
            assert_eq!(status_of_post(json, bad).await, StatusCode::BAD_REQUEST, "{bad}");
        }
        for bad in [
            "{}",
            "null",
            r#"{"query": 1}"#,
            r#"{"query": "{ __typename }", "variables": 1}"#,
            r#"["{ __typename }"]"#,
            r#" [{"query": "{ __typename }"}]"#,
        ] {
            assert_eq!(status_of_post(json, bad).await, StatusCode::UNPROCESSABLE_ENTITY, "{bad}");
        }
        for charset in ["latin1", "utf-16"] {
            let headers = format!("application/json; charset={charset}");
            let value = HeaderValue::from_str(&headers).expect("a header value");
            assert!(!is_json(Some(&value)), "{charset}");
        }
        assert_eq!(status_of_post(json, " ".repeat(MAX_BYTES + 1)).await, StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[test]
    fn get_is_for_queries_only() {
        let status = |query: &str, operation_name: Option<&str>| {
            let document = parse_query(query).expect("a query");
            let refused = refuse_changes(&document, operation_name, false).err();
            refused.map_or(StatusCode::OK, |refused| refused.status)
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
}
