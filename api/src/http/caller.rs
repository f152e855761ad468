//! Who sends a request, told from its headers.

use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use super::graphql::Refused;
use crate::access::door::{Credential, Denied};
use crate::access::{Caller, UNAUTHENTICATED};
use crate::app::App;
use crate::graphql::error::UNAVAILABLE;

/// What a client without a good credential is told, whatever is wrong with the one it has.
pub(super) const NO_CREDENTIAL: &str = "this needs a credential that is good: send an API key or an access token as \
                                        Authorization: Bearer ..., or an API key as x-api-key";

/// Tells who sends a request with these headers, and by what.
///
/// # Errors
/// 401 without a credential that is good, 503 where nobody can tell.
pub(super) async fn identify(
    app: &App,
    headers: &HeaderMap,
) -> Result<(Caller, Option<Credential>), Response> {
    let credential = Credential::of_headers(headers).map_err(IntoResponse::into_response)?;
    let caller = app.door().identify(credential.as_ref()).await.map_err(IntoResponse::into_response)?;
    Ok((caller, credential))
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
