//! `GET /objects/{key}`: what the object store holds, streamed.

use super::auth::Viewer;
use super::extract::Path;
use super::{App, Error, Result};
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use futures_util::StreamExt;
use medley_protocol::checkpoint::ObjectRef;
use medley_protocol::error::Code;
use medley_protocol::store;
use object_store::ObjectStoreExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Bytes of an object that are asked of the store at a time. Some such pieces are held for whoever reads slowly.
const PIECE: usize = 1 << 20;
/// Downloads at a time: with the pieces this bounds the memory that they take.
const DOWNLOADS: usize = 64;
/// Longest wait for another download to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// The endpoints of this file.
pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/objects/{*key}", get(get_object))
        .layer(Extension(Arc::new(Semaphore::new(DOWNLOADS))))
}

async fn get_object(
    _: Viewer,
    State(app): State<App>,
    Extension(downloads): Extension<Arc<Semaphore>>,
    Path(key): Path<String>,
) -> Result<Response> {
    if !ObjectRef::is_valid_key(&key) {
        let rule = "a key has the form a/b/c, of the characters a-z, 0-9, '.', '_' and '-'";
        return Err(Error::new(Code::BadRequest, rule));
    }
    let path = object_store::path::Path::from(key.as_str());
    let size = match app.objects.head(&path).await {
        Ok(object) => object.size,
        Err(object_store::Error::NotFound { .. }) => {
            return Err(Error::not_found(format!("the object store has no object {key}")));
        }
        Err(e) => return Err(Error::new(Code::Unavailable, "the object store does not answer").caused_by(e)),
    };
    let Ok(Ok(place)) = tokio::time::timeout(PATIENCE, downloads.acquire_owned()).await else {
        let detail = format!("{DOWNLOADS} objects are being downloaded, and none was done in time: try again");
        return Err(Error::new(Code::Unavailable, detail));
    };
    let headers = [
        (CONTENT_TYPE, content_type(&key).to_owned()),
        (CONTENT_LENGTH, size.to_string()),
        // Objects are named by content: one that was read never changes.
        (CACHE_CONTROL, "private, max-age=31536000, immutable".into()),
    ];
    let pieces = store::read(app.objects, path, size, PIECE).map(move |piece| {
        // Given up with the last piece, or when nobody reads on.
        let _place = &place;
        piece
    });
    Ok((headers, Body::from_stream(pieces)).into_response())
}

/// The type by the key's suffix; types that a browser would run are not among them. Objects named `{name}-{BLAKE3}` keep
/// the suffix of their name.
fn content_type(key: &str) -> &'static str {
    let suffix = key.rsplit_once('.').map_or("", |(_, suffix)| suffix);
    match suffix.split('-').next().unwrap_or_default() {
        "json" => "application/json",
        "jpg" | "jpeg" => "image/jpeg",
        "png" => "image/png",
        "webp" => "image/webp",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::content_type;

    #[test]
    fn nothing_that_a_browser_would_run_is_announced() {
        for key in ["a/b.html", "a.svg", "a/b", "json", "a.b/c", "a.js"] {
            assert_eq!(content_type(key), "application/octet-stream", "{key}");
        }
        assert_eq!(content_type("a/b.json"), "application/json");
        assert_eq!(content_type("a/b.json-0123abcd"), "application/json");
        assert_eq!(content_type("a/b.png"), "image/png");
    }
}
