//! The HTTP interface: REST under `/api/v1`, health, metrics and the dashboard.
//!
//! One file per part of the endpoint table in [`medley_protocol::rest`]; each gives its `routes()`. A handler takes the
//! role it needs as its first argument (see [`auth`]), reads its input through [`extract`], and returns [`Error`].

pub mod auth;
pub mod error;
pub mod extract;

mod agent;
mod assets;
mod beats;
mod dry_run;
mod health;
mod jobs;
mod nodes;
mod objects;
mod observe;
mod stages;
mod submission;
mod tasks;

use crate::reconcile::Control;
use crate::store::Store;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, Uri};
use axum::middleware::{from_fn_with_state, map_response};
use axum::{Extension, Router};
use object_store::ObjectStore;
use observe::Requests;
use std::sync::Arc;
use tower_http::compression::CompressionLayer;

pub use error::{Error, Result};

/// Largest body that is read.
pub const MAX_BODY_BYTES: usize = 4 << 20;
/// Largest count that is taken in: sums of several fit in a column of the database, and each is exact in a dashboard.
const MAX_COUNT: u64 = 1 << 53;

/// What every handler can reach. Cheap to clone.
#[derive(Clone)]
pub struct App {
    /// The job table.
    pub store: Store,
    /// Datasets, checkpoints and results.
    pub objects: Arc<dyn ObjectStore>,
    /// URL of `objects`, as agents are told it.
    pub objects_url: Arc<str>,
    /// What nodes say and are told.
    pub control: Control,
}

/// The whole interface.
pub fn router(app: App) -> Router {
    let requests = Requests::default();
    let api = Router::new()
        .merge(jobs::routes())
        .merge(dry_run::routes())
        .merge(nodes::routes())
        .merge(agent::routes())
        .merge(stages::routes())
        .merge(tasks::routes())
        .fallback(no_endpoint)
        .method_not_allowed_fallback(no_endpoint)
        .layer(CompressionLayer::new())
        // Not compressed: objects are large and mostly random.
        .merge(objects::routes());
    let pages = Router::new().fallback(assets::dashboard).layer(CompressionLayer::new());
    Router::new()
        .merge(health::routes())
        .nest("/api/v1", api)
        .fallback_service(pages)
        .layer(Extension(requests.clone()))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn_with_state(requests, observe::observe))
        .layer(map_response(observe::harden))
        .with_state(app)
}

async fn no_endpoint(method: Method, uri: Uri) -> Error {
    // The path as it is seen below the prefix.
    Error::not_found(format!("there is no endpoint {method} /api/v1{}", uri.path()))
}

#[cfg(test)]
mod tests;
