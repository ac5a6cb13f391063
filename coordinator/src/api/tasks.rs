//! Endpoints for leases of tasks.

use super::App;
use axum::Router;

/// The endpoints of this file.
pub(super) fn routes() -> Router<App> {
    Router::new()
}
