//! Endpoints for registration and heartbeats of agents.

use super::App;
use axum::Router;

/// The endpoints of this file.
pub(super) fn routes() -> Router<App> {
    Router::new()
}
