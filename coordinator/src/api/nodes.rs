//! Endpoints for what people see of nodes.

use super::auth::Viewer;
use super::{App, Result};
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use medley_protocol::rest::NodeView;

/// The endpoints of this file.
pub(super) fn routes() -> Router<App> {
    Router::new().route("/nodes", get(list_nodes))
}

async fn list_nodes(_: Viewer, State(app): State<App>) -> Result<Json<Vec<NodeView>>> {
    let mut nodes = app.store.list_nodes().await?;
    let stragglers = app.control.stragglers();
    for node in &mut nodes {
        let pulse = app.control.pulse(node.id);
        node.alive = pulse.alive;
        node.busy = pulse.busy;
        let own = stragglers.iter().filter(|straggler| straggler.node == node.id);
        node.stragglers = own.cloned().collect();
    }
    Ok(Json(nodes))
}
