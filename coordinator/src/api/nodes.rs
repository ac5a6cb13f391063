//! Endpoints for what people see of nodes.

use super::App;
use axum::Router;

/// The endpoints of this file.
pub(super) fn routes() -> Router<App> {
    Router::new()
}
