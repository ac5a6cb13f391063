//! What happens to every request: a span for the log, a count, a deadline, and headers that keep browsers safe.

use super::Error;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use medley_protocol::error::Code;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tracing::Instrument;

/// Longest time until an answer begins.
const DEADLINE: Duration = Duration::from_secs(15);

/// Pages come from here alone and are shown nowhere else; images may also be made by the page itself.
const SAFETY: [(&str, &str); 6] = [
    (
        "content-security-policy",
        "default-src 'self'; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'; object-src 'none'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
];

/// Answered requests by status. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Requests(Arc<Mutex<BTreeMap<u16, u64>>>);

impl Requests {
    fn count(&self, status: StatusCode) {
        *self.lock().entry(status.as_u16()).or_default() += 1;
    }

    /// Statuses that occurred and how often.
    pub(super) fn by_status(&self) -> BTreeMap<u16, u64> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u16, u64>> {
        // A count is whole at any time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a request under its span and deadline, and counts its answer.
pub(super) async fn observe(State(requests): State<Requests>, request: Request, next: Next) -> Response {
    let since = Instant::now();
    // Only the path: nothing secret is ever in it.
    let span = tracing::info_span!("request", method = %request.method(), path = request.uri().path());
    let answer = async {
        let handled = AssertUnwindSafe(next.run(request)).catch_unwind();
        let response = match tokio::time::timeout(DEADLINE, handled).await {
            Ok(Ok(response)) => response,
            // The panic's own text is in the log already.
            Ok(Err(_)) => Error::internal("a handler panicked").into_response(),
            Err(_) => too_slow().into_response(),
        };
        tracing::debug!(status = response.status().as_u16(), elapsed = ?since.elapsed(), "answered");
        response
    };
    let response = answer.instrument(span).await;
    requests.count(response.status());
    response
}

fn too_slow() -> Error {
    let detail = format!("no answer within {} s; try again in a moment", DEADLINE.as_secs());
    Error::new(Code::Unavailable, detail)
}

/// Adds the headers that tell browsers what a page may do.
pub(super) async fn harden(mut response: Response) -> Response {
    for (name, value) in SAFETY {
        let headers = response.headers_mut();
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}
