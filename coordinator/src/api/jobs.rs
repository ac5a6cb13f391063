//! Endpoints for what people do with jobs.

use super::App;
use axum::Router;

/// The endpoints of this file.
pub(super) fn routes() -> Router<App> {
    Router::new()
}
