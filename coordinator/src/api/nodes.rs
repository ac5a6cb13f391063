//! Endpoints for what people see of nodes, and do with them.

use super::agent::check_name;
use super::auth::{Operator, Viewer};
use super::extract::{Body, Path};
use super::{App, Error, Result};
use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use medley_protocol::rest::{Duty, DutyChange, NodeView};

/// The endpoints of this file.
pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/nodes", get(list_nodes))
        .route("/nodes/{name}/duty", post(change_duty))
}

async fn list_nodes(_: Viewer, State(app): State<App>) -> Result<Json<Vec<NodeView>>> {
    let mut nodes = app.store.list_nodes().await?;
    let stragglers = app.control.stragglers();
    for node in &mut nodes {
        feel(&app, node);
        let own = stragglers.iter().filter(|straggler| straggler.node == node.id);
        node.stragglers = own.cloned().collect();
    }
    Ok(Json(nodes))
}

async fn change_duty(
    _: Operator,
    State(app): State<App>,
    Path(name): Path<String>,
    Body(change): Body<DutyChange>,
) -> Result<Json<NodeView>> {
    check_name(&name)?;
    if change.deadline_s.is_some() && change.duty != Duty::Draining {
        return Err(Error::invalid(
            "deadline_s",
            "only a node that is drained has a deadline",
        ));
    }
    let node = app.store.change_duty(&name, change).await?;
    let mut node = node.ok_or_else(|| {
        Error::not_found(format!(
            "no node {name} has registered: `medley nodes` lists those that have"
        ))
    })?;
    app.control.wake();
    feel(&app, &mut node);
    Ok(Json(node))
}

/// Adds what is in memory alone.
fn feel(app: &App, node: &mut NodeView) {
    let pulse = app.control.pulse(node.id);
    node.alive = pulse.alive;
    node.busy = pulse.busy;
    node.hardware = pulse.hardware;
    if pulse.leaves {
        node.duty = Duty::Draining;
    }
}
