//! Reads what is left of a request that was answered without being read, so that its client gets to see why.
//!
//! A refusal may come before the body has arrived: a bad credential, a body that is too large. A connection that is closed with
//! bytes unread is reset, which takes the answer from the client while it still writes; one that is used again unread would
//! take the rest of a body for a head. So some of the rest is read and dropped, and a client with more to say is told that
//! the connection ends.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::HeaderValue;
use axum::http::header::{CONNECTION, EXPECT};
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};

/// The most bytes that are read and dropped: ten bodies of the greatest size that is taken by default.
const MAX_BYTES: usize = 1_000_000;

/// The longest that an answer waits for them.
const LONGEST: Duration = Duration::from_secs(1);

/// A body that can still be read when whoever it was given to has left it.
#[derive(Debug, Clone)]
struct Shared(Arc<Mutex<Body>>);

impl Shared {
    fn with<T>(&self, work: impl FnOnce(Pin<&mut Body>) -> T) -> T {
        // Held for a poll; nobody else reads meanwhile.
        let mut body = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        work(Pin::new(&mut body))
    }
}

impl HttpBody for Shared {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.with(|body| body.poll_frame(context))
    }

    fn is_end_stream(&self) -> bool {
        self.with(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.with(|body| body.size_hint())
    }
}

/// Reads up to the bounds, and returns whether that was all.
async fn is_read_up(mut body: Shared) -> bool {
    let mut left = MAX_BYTES;
    let rest = async {
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return false };
            match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                Some(less) => left = less,
                None => return false,
            }
        }
        true
    };
    tokio::time::timeout(LONGEST, rest).await.unwrap_or(false)
}

/// Answers, and sees to what the answer has left unread.
pub(super) async fn read_up(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    if body.is_end_stream() {
        return next.run(Request::from_parts(parts, body)).await;
    }
    // Whoever asks first whether to send the body need not send it.
    let is_asking = parts.headers.contains_key(EXPECT);
    let body = Shared(Arc::new(Mutex::new(body)));
    let mut response = next.run(Request::from_parts(parts, Body::new(body.clone()))).await;
    if !body.is_end_stream() && (is_asking || !is_read_up(body).await) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
