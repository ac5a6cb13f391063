//! Endpoints for facts about stages that agents hand in.

use super::App;
use axum::Router;

/// The endpoints of this file.
pub(super) fn routes() -> Router<App> {
    Router::new()
}
