//! Who sends a request, told from its headers.

use axum::extract::Request;
use axum::http::header::{HOST, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::answer::Refused;
use super::connections::Connection;
use crate::access::door::{Credential, Denied};
use crate::access::{Caller, FORBIDDEN, UNAUTHENTICATED};
use crate::app::App;
use crate::config::is_loopback;
use crate::graphql::error::UNAVAILABLE;

/// What a client without a good credential is told, whatever is wrong with the one it has.
pub(super) const NO_CREDENTIAL: &str = "this needs a credential that is good: send an API key or an access token as \
                                        Authorization: Bearer ..., or an API key as x-api-key";

/// Tells who sends a request with these headers over this connection, and by what.
///
/// # Errors
/// 401 without a credential that is good, 503 where nobody can tell.
pub(super) async fn identify(
    app: &App,
    headers: &HeaderMap,
    connection: &Connection,
) -> Result<(Caller, Option<Credential>), Response> {
    let credential = Credential::of_headers(headers).map_err(IntoResponse::into_response)?;
    let caller = app.identify(credential.as_ref(), connection.peer).await;
    let caller = caller.map_err(IntoResponse::into_response)?;
    connection.trust();
    Ok((caller, credential))
}

/// Refuses requests for another name than this machine's, where everybody is let in: a page from elsewhere can have its own
/// name lead here, and would be of our origin.
pub(super) async fn only_for_this_machine(request: Request, next: Next) -> Response {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    if host.is_some_and(is_loopback) {
        return next.run(request).await;
    }
    let message = "with --dev-anonymous, requests must be for localhost or a loopback address";
    Refused::new(StatusCode::FORBIDDEN, FORBIDDEN, message).into_response()
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        match self {
            Self::Unauthenticated => {
                let refused = Refused::new(StatusCode::UNAUTHORIZED, UNAUTHENTICATED, NO_CREDENTIAL);
                let mut response = refused.into_response();
                response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                response
            }
            Self::Unavailable => {
                let message = "nobody can tell now who you are; try again later";
                let refused = Refused::new(StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE, message);
                let mut response = refused.into_response();
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
                response
            }
        }
    }
}
