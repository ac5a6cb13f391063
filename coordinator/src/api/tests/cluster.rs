//! A coordinator on a fresh database, and a cluster of played nodes.

use super::node::Node;
use crate::api::{App, router};
use crate::reconcile::{Control, Leader, Settings};
use crate::store::Store;
use crate::test_database;
use crate::tokens::{Role, Token};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use medley_protocol::ids::JobId;
use medley_protocol::rest::{EventView, JobDetail, StageView};
use object_store::memory::InMemory;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sqlx::PgPool;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tower::ServiceExt;

/// Rounds in which a played job must come to its end.
const MAX_ROUNDS: u32 = 300;
/// Time between two rounds: a beat.
const ROUND_MS: u64 = 500;

/// The API, called with the token of a role.
#[derive(Clone)]
pub(super) struct Api {
    router: Router,
    tokens: Arc<Vec<(Role, Token)>>,
}

/// What came back.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Value,
}

impl Answer {
    pub(super) fn read<T: DeserializeOwned>(self) -> T {
        assert!(self.status.is_success(), "{} {}", self.status, self.body);
        serde_json::from_value(self.body).unwrap()
    }

    /// Status and code of a refusal.
    pub(super) fn refusal(&self) -> (u16, &str) {
        (self.status.as_u16(), self.body["code"].as_str().unwrap_or_default())
    }
}

impl Api {
    pub(super) async fn call(
        &self,
        role: Role,
        method: &str,
        path: &str,
        body: Option<&Value>,
        key: Option<&str>,
    ) -> Answer {
        let token = &self.tokens.iter().find(|(of, _)| *of == role).unwrap().1;
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/api/v1{path}"))
            .header("authorization", format!("Bearer {}", token.reveal()))
            .header("content-type", "application/json");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let response = self.router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let status = response.status();
        let bytes = to_bytes(response.into_body(), 64 << 20).await.unwrap();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answer { status, body }
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.call(Role::Viewer, "GET", path, None, None).await
    }

    pub(super) async fn post(&self, role: Role, path: &str, body: &impl Serialize) -> Answer {
        let body = serde_json::to_value(body).unwrap();
        self.call(role, "POST", path, Some(&body), None).await
    }
}

/// A coordinator and its nodes.
pub(super) struct Cluster {
    pub(super) api: Api,
    pub(super) leader: Leader,
    pub(super) nodes: Vec<Node>,
    pub(super) store: Store,
    pub(super) pool: PgPool,
    clock_ms: Arc<AtomicU64>,
    data: TempDir,
}

impl Cluster {
    /// A coordinator that leads, with data sets in place and no node.
    pub(super) async fn start() -> Self {
        let pool = test_database::fresh().await;
        let store = Store::new(pool.clone());
        let mut tokens = Vec::new();
        for role in [Role::Viewer, Role::Submitter, Role::Operator, Role::Node] {
            let token = Token::generate(role);
            store.add_token(token.hash(), role, role.name()).await.unwrap();
            tokens.push((role, token));
        }
        let clock_ms = Arc::new(AtomicU64::new(1_000_000));
        let data = tempfile::tempdir().unwrap();
        shards(data.path());
        let (router, leader) = coordinator(&store, &clock_ms);
        let mut cluster = Self {
            api: Api {
                router,
                tokens: Arc::new(tokens),
            },
            leader,
            nodes: Vec::new(),
            store,
            pool,
            clock_ms,
            data,
        };
        cluster.leader.tick().await.unwrap();
        cluster
    }

    /// A started cluster with nodes `n0`, `n1`, … of these many devices.
    pub(super) async fn with_nodes(devices: &[u32]) -> Self {
        let mut cluster = Self::start().await;
        for (i, devices) in devices.iter().enumerate() {
            let node = Node::register(cluster.api.clone(), &format!("n{i}"), *devices).await;
            cluster.nodes.push(node);
        }
        cluster.round().await;
        cluster
    }

    /// The coordinator ends, and another one begins on the same job table.
    pub(super) async fn replace_coordinator(&mut self) {
        self.leader.resign().await.unwrap();
        let (router, leader) = coordinator(&self.store, &self.clock_ms);
        self.leader = leader;
        self.api.router = router;
        for node in &mut self.nodes {
            node.api = self.api.clone();
        }
    }

    /// A document of this kind over the cluster's data.
    pub(super) fn document(&self, kind: &str) -> Value {
        json!({"name": "j", "kind": kind, "preset": "nano", "data": {"root": self.data.path()}})
    }

    pub(super) fn data_root(&self) -> &Path {
        self.data.path()
    }

    pub(super) async fn submit(&self, document: &Value) -> JobId {
        let detail: JobDetail = self.api.post(Role::Submitter, "/jobs", document).await.read();
        detail.job.id
    }

    /// One beat of every node that is alive, what its ranks then do, and a decision.
    pub(super) async fn round(&mut self) {
        self.clock_ms.fetch_add(ROUND_MS, Ordering::SeqCst);
        for node in self.nodes.iter_mut().filter(|node| node.is_alive) {
            node.beat().await;
        }
        self.decide().await;
        for node in self.nodes.iter_mut().filter(|node| node.is_alive) {
            node.work().await;
        }
    }

    /// Decides until nothing overtakes the decision.
    pub(super) async fn decide(&mut self) {
        while self.leader.tick().await.unwrap() {}
    }

    pub(super) async fn job(&self, job: JobId) -> JobDetail {
        self.api.get(&format!("/jobs/{job}")).await.read()
    }

    pub(super) async fn stage(&self, job: JobId, name: &str) -> StageView {
        let detail = self.job(job).await;
        detail.stages.into_iter().find(|stage| stage.name == name).unwrap()
    }

    pub(super) async fn events(&self, job: JobId) -> Vec<EventView> {
        self.api.get(&format!("/jobs/{job}/events?limit=1000")).await.read()
    }

    /// Plays rounds until `reached` holds for the job.
    pub(super) async fn until(&mut self, job: JobId, reached: impl Fn(&JobDetail) -> bool) -> JobDetail {
        for _ in 0..MAX_ROUNDS {
            let detail = Box::pin(self.job(job)).await;
            if reached(&detail) {
                return detail;
            }
            Box::pin(self.round()).await;
        }
        let events = self.events(job).await;
        let story: Vec<String> = events.into_iter().map(|event| event.message).collect();
        panic!(
            "not reached in {MAX_ROUNDS} rounds: {:#?}\n{}",
            self.job(job).await.stages,
            story.join("\n")
        );
    }

    /// Plays rounds to the job's end.
    pub(super) async fn finish(&mut self, job: JobId) -> JobDetail {
        self.until(job, |detail| detail.job.state.is_final()).await
    }
}

fn coordinator(store: &Store, clock_ms: &Arc<AtomicU64>) -> (Router, Leader) {
    let clock = Arc::clone(clock_ms);
    let now = move || Duration::from_millis(clock.load(Ordering::SeqCst));
    let control = Control::with_clock(Settings::default(), now);
    let url: Arc<str> = "memory:///".into();
    let app = App {
        store: store.clone(),
        objects: Arc::new(InMemory::new()),
        objects_url: Arc::clone(&url),
        control: control.clone(),
    };
    (router(app), Leader::new(store.clone(), control, url))
}

fn shards(root: &Path) {
    for (set, files) in [("human", 1), ("web", 2), ("test", 1)] {
        std::fs::create_dir(root.join(set)).unwrap();
        for i in 0..files {
            std::fs::write(root.join(set).join(format!("{i:06}.tar")), b"").unwrap();
        }
    }
}
