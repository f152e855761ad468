//! Gives each request an id, which is in the answer's `x-request-id`, in every log line and in each internal error.

use std::time::Instant;

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use tracing::{Instrument, debug, info_span};
use uuid::Uuid;

use crate::graphql::error::RequestId;

pub(super) const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id that is taken over from a client.
const MAX_LENGTH: usize = 64;

/// Takes over the client's id, or makes one where the client has none that is fit for a log.
pub(super) async fn assign(mut request: Request, next: Next) -> Response {
    let id = request.headers().get(HEADER).and_then(taken_over).unwrap_or_else(|| Uuid::now_v7().to_string());
    request.extensions_mut().insert(RequestId(id.clone()));
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let span = info_span!("request", request.id = %id, %method, path);
    async move {
        let started = Instant::now();
        let mut response = next.run(request).await;
        metrics::histogram!("oms_http_request_seconds").record(started.elapsed().as_secs_f64());
        debug!(
            status = response.status().as_u16(),
            elapsed_ms = started.elapsed().as_millis() as u64,
            "answered"
        );
        // What `taken_over` lets through, and a UUID, are printable ASCII.
        if let Ok(value) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(HEADER, value);
        }
        response
    }
    .instrument(span)
    .await
}

fn taken_over(value: &HeaderValue) -> Option<String> {
    let id = value.to_str().ok()?;
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    ((1..=MAX_LENGTH).contains(&id.len()) && id.bytes().all(is_fit)).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_does_not_fit_a_log_is_replaced() {
        let taken_over = |text: &str| taken_over(&HeaderValue::from_str(text).expect("a header value"));
        assert_eq!(taken_over("order-7.web:1").as_deref(), Some("order-7.web:1"));
        for bad in ["", "a b", "a\tb", "a\"b", &"a".repeat(MAX_LENGTH + 1)] {
            assert_eq!(taken_over(bad), None, "{bad:?}");
        }
    }
}
