//! The dashboard, embedded into the coordinator when it is compiled.
//!
//! Paths without a file are the dashboard's own pages and get `index.html`. Files under `assets/` have a hash of their
//! content in their names, so browsers keep them for ever.

use super::Error;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use rust_embed::{EmbeddedFile, RustEmbed};
use std::fmt::Write;

#[derive(RustEmbed)]
#[folder = "../dashboard/dist"]
#[allow_missing = true]
struct Dashboard;

const INDEX: &str = "index.html";

const NOT_BUILT: &str = "The dashboard was not built when this coordinator was compiled.\n\
    Build it with `npm ci && npm run build` in the folder dashboard, and the coordinator again.\n\
    The API is under /api/v1.\n";

/// Answers what no other route does.
pub(super) async fn dashboard(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    if method != Method::GET && method != Method::HEAD {
        let detail = format!(
            "there is no endpoint {method} {}; those of the API are under /api/v1",
            uri.path()
        );
        return Error::not_found(detail).into_response();
    }
    match find(uri.path(), |name| {
        Dashboard::get(name).map(|file| (name.to_owned(), file))
    }) {
        Found::File((name, file)) => send(&name, file, &headers),
        Found::Nothing => Error::not_found(format!("there is no page {}", uri.path())).into_response(),
        Found::NotBuilt => (StatusCode::NOT_FOUND, NOT_BUILT).into_response(),
    }
}

enum Found<T> {
    File(T),
    Nothing,
    NotBuilt,
}

/// The file for a path, by `lookup` of file names.
fn find<T>(path: &str, lookup: impl Fn(&str) -> Option<T>) -> Found<T> {
    let name = path.trim_start_matches('/');
    if let Some(file) = lookup(name) {
        return Found::File(file);
    }
    let Some(index) = lookup(INDEX) else {
        return Found::NotBuilt;
    };
    let last = name.rsplit('/').next().unwrap_or_default();
    // Whoever asks for a file does not want a page instead.
    if name.starts_with("api/") || last.contains('.') {
        Found::Nothing
    } else {
        Found::File(index)
    }
}

fn send(name: &str, file: EmbeddedFile, headers: &HeaderMap) -> Response {
    let mut tag = String::from("\"");
    for byte in &file.metadata.sha256_hash()[..16] {
        // Writing to a string does not fail.
        let _ = write!(tag, "{byte:02x}");
    }
    tag.push('"');
    let caching = if name.starts_with("assets/") {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    };
    let known = headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let common = [(CACHE_CONTROL, caching.to_owned()), (ETAG, tag.clone())];
    if known.is_some_and(|known| known.split(',').any(|one| one.trim().trim_start_matches("W/") == tag)) {
        return (StatusCode::NOT_MODIFIED, common).into_response();
    }
    let content_type = [(CONTENT_TYPE, file.metadata.mimetype().to_owned())];
    (common, content_type, file.data).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, files: &[&'static str]) -> Option<&'static str> {
        match find(path, |name| files.iter().copied().find(|file| *file == name)) {
            Found::File(file) => Some(file),
            Found::Nothing => None,
            Found::NotBuilt => Some("not built"),
        }
    }

    #[test]
    fn pages_of_the_dashboard_get_the_index_and_missing_files_nothing() {
        let files = ["index.html", "assets/main-1a2b.js"];
        assert_eq!(found("/", &files), Some("index.html"));
        assert_eq!(found("/jobs/0197", &files), Some("index.html"));
        assert_eq!(found("/assets/main-1a2b.js", &files), Some("assets/main-1a2b.js"));
        assert_eq!(found("/assets/main-old.js", &files), None);
        assert_eq!(found("/api/v2/jobs", &files), None);
    }

    #[test]
    fn a_coordinator_without_dashboard_says_so() {
        assert_eq!(found("/", &[]), Some("not built"));
    }
}
