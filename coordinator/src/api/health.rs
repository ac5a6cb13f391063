//! Health for supervisors and figures for Prometheus, without a token: they tell nothing that needs one.

use super::observe::Requests;
use super::{App, Error, Result};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Extension, Router};
use medley_protocol::error::Code;
use std::fmt::Write;
use std::time::Duration;

/// Longest wait for the database.
const PATIENCE: Duration = Duration::from_secs(2);

/// The endpoints of this file.
pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
}

/// The process runs.
async fn healthz() -> &'static str {
    "ok\n"
}

/// The process can serve: the database answers.
async fn readyz(State(app): State<App>) -> Result<&'static str> {
    tokio::time::timeout(PATIENCE, app.store.ping())
        .await
        .map_err(|_| Error::new(Code::Unavailable, "the database does not answer"))??;
    Ok("ready\n")
}

async fn metrics(State(app): State<App>, Extension(requests): Extension<Requests>) -> Result<impl IntoResponse> {
    let jobs = app.store.count_jobs().await?;
    let nodes = app.store.list_nodes().await?;
    let alive = nodes.iter().filter(|node| app.control.pulse(node.id).alive).count();
    let (open, idle) = app.store.connections();
    let requests = requests.by_status();

    let mut text = Exposition::default();
    text.gauge(
        "medley_leader",
        "whether this coordinator schedules",
        [("", u8::from(app.control.leads()))],
    );
    let jobs = jobs.iter().map(|(state, count)| (format!("state=\"{state}\""), count));
    text.gauge("medley_jobs", "jobs by state", jobs);
    let by_life = [("alive=\"true\"", alive), ("alive=\"false\"", nodes.len() - alive)];
    text.gauge(
        "medley_nodes",
        "nodes by whether their agents beat, as the leader sees it",
        by_life,
    );
    let connections = [
        ("use=\"busy\"", (open as usize).saturating_sub(idle)),
        ("use=\"idle\"", idle),
    ];
    text.gauge(
        "medley_database_connections",
        "connections to the database",
        connections,
    );
    let requests = requests
        .iter()
        .map(|(status, count)| (format!("status=\"{status}\""), count));
    text.counter("medley_http_requests_total", "answered requests", requests);
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text.0))
}

/// Text in the format that Prometheus reads.
#[derive(Default)]
struct Exposition(String);

impl Exposition {
    fn gauge<L: AsRef<str>, V: ToString>(&mut self, name: &str, help: &str, rows: impl IntoIterator<Item = (L, V)>) {
        self.family("gauge", name, help, rows);
    }

    fn counter<L: AsRef<str>, V: ToString>(&mut self, name: &str, help: &str, rows: impl IntoIterator<Item = (L, V)>) {
        self.family("counter", name, help, rows);
    }

    fn family<L: AsRef<str>, V: ToString>(
        &mut self,
        kind: &str,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (L, V)>,
    ) {
        // Writing to a string does not fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for (labels, value) in rows {
            let labels = labels.as_ref();
            let labels = if labels.is_empty() {
                String::new()
            } else {
                format!("{{{labels}}}")
            };
            let _ = writeln!(self.0, "{name}{labels} {}", value.to_string());
        }
    }
}
