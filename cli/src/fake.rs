//! A coordinator for tests: real HTTP, made-up jobs.

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use chrono::{DateTime, Utc};
use medley_protocol::client::Client;
use medley_protocol::error::{Code, ProblemBody};
use medley_protocol::ids::{CheckpointId, JobId, StageId};
use medley_protocol::ledger::LedgerEntry;
use medley_protocol::metrics::StepMetrics;
use medley_protocol::rest::{
    CheckpointView, DamageFound, DatasetView, EventView, JobDetail, JobView, LedgerPage, MetricsPage, NodeView, Page,
    StageView,
};
use medley_protocol::spec::{Kind, Spec};
use medley_protocol::stage::{JobState, StageKind, StageState};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// The token that the fake accepts.
pub(crate) const TOKEN: &str = "fake-token";

/// A fixed moment.
pub(crate) fn moment(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_790_000_000 + seconds, 0).unwrap()
}

/// A queued bootstrap job without stages.
pub(crate) fn job(name: &str) -> JobDetail {
    let document = json!({"name": name, "kind": "bootstrap", "preset": "tiny", "data": {"root": "/data"}});
    JobDetail {
        job: JobView {
            id: JobId::generate(),
            name: name.into(),
            kind: Kind::Bootstrap,
            state: JobState::Queued,
            reason: String::new(),
            submitted_at: moment(0),
            finished_at: None,
        },
        spec: Spec::from_document(&document).unwrap(),
        stages: Vec::new(),
        memory: Vec::new(),
    }
}

/// A stage that began at moment 10 and, where it is over, ended at moment 70.
pub(crate) fn stage(name: &str, kind: StageKind, state: StageState) -> StageView {
    StageView {
        id: StageId::generate(),
        name: name.into(),
        kind,
        state,
        reason: String::new(),
        needs: Vec::new(),
        generation: 1,
        world: 4,
        peak_rank_bytes: Some(300 << 20),
        done: 0,
        total: None,
        epochs: Vec::new(),
        evaluation: None,
        details: None,
        stragglers: Vec::new(),
        started_at: Some(moment(10)),
        finished_at: state.is_final().then(|| moment(70)),
    }
}

/// A checkpoint of a stage at this step, without parts.
pub(crate) fn checkpoint(stage: &StageView, step: u64) -> CheckpointView {
    CheckpointView {
        id: CheckpointId::generate(),
        stage: stage.id,
        stage_name: stage.name.clone(),
        step,
        state_bytes: 0,
        parts: Vec::new(),
        committed_at: moment(step as i64),
        damage: None,
    }
}

/// Metrics of a step.
pub(crate) fn metrics(step: u64, itc: f64, itm: f64, lm: f64) -> StepMetrics {
    StepMetrics {
        step,
        epoch: 0,
        itc,
        itm,
        lm,
        lr: 1e-3,
        alpha: 0.4,
        temperature: 0.07,
        grad_norm: 1.0,
    }
}

#[derive(Default)]
struct World {
    jobs: BTreeMap<JobId, JobDetail>,
    events: Vec<EventView>,
    rows: Vec<StepMetrics>,
    ledger: Vec<LedgerEntry>,
    datasets: Vec<DatasetView>,
    checkpoints: Vec<CheckpointView>,
    nodes: Vec<NodeView>,
    objects: BTreeMap<String, Vec<u8>>,
    reported: Vec<DamageFound>,
    keys: BTreeMap<String, JobId>,
    away: bool,
}

/// A running fake. Its world can be changed while it serves.
#[derive(Clone)]
pub(crate) struct Coordinator {
    url: String,
    world: Arc<Mutex<World>>,
}

type Shared = State<Arc<Mutex<World>>>;

impl Coordinator {
    /// Serves on a free port until the test's runtime ends.
    pub(crate) async fn start() -> Self {
        let world = Arc::new(Mutex::new(World::default()));
        let app = Router::new()
            .route("/jobs", get(list_jobs).post(submit))
            .route("/jobs/{job}", get(show_job))
            .route("/jobs/{job}/cancel", post(cancel))
            .route("/jobs/{job}/events", get(events))
            .route("/jobs/{job}/metrics", get(metrics_of))
            .route("/jobs/{job}/ledger", get(ledger_of))
            .route(
                "/jobs/{job}/datasets",
                get(|State(world): Shared| async move { Json(at(&world).datasets.clone()) }),
            )
            .route(
                "/jobs/{job}/checkpoints",
                get(|State(world): Shared| async move { Json(at(&world).checkpoints.clone()) }),
            )
            .route("/checkpoints/{checkpoint}/damage", post(report))
            .route(
                "/nodes",
                get(|State(world): Shared| async move { Json(at(&world).nodes.clone()) }),
            )
            .route("/objects/{*key}", get(object))
            .layer(axum::middleware::from_fn_with_state(world.clone(), guard))
            .with_state(world.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let served = Router::new().nest("/api/v1", app);
        tokio::spawn(async move { axum::serve(listener, served).await });
        Self { url, world }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.url, TOKEN)
    }

    pub(crate) fn put_job(&self, job: &JobDetail) {
        at(&self.world).jobs.insert(job.job.id, job.clone());
    }

    pub(crate) fn put_event(&self, id: i64, message: &str) {
        at(&self.world).events.push(EventView {
            id,
            at: moment(id),
            job: None,
            stage: None,
            node: None,
            kind: "test".into(),
            message: message.into(),
        });
    }

    pub(crate) fn put_metrics(&self, rows: Vec<StepMetrics>) {
        at(&self.world).rows = rows;
    }

    pub(crate) fn put_ledger(&self, entries: Vec<LedgerEntry>) {
        at(&self.world).ledger = entries;
    }

    pub(crate) fn put_dataset(&self, dataset: DatasetView) {
        at(&self.world).datasets.push(dataset);
    }

    pub(crate) fn put_checkpoint(&self, checkpoint: &CheckpointView) {
        at(&self.world).checkpoints.push(checkpoint.clone());
    }

    pub(crate) fn put_object(&self, key: &str, bytes: Vec<u8>) {
        at(&self.world).objects.insert(key.into(), bytes);
    }

    pub(crate) fn remove_object(&self, key: &str) {
        at(&self.world).objects.remove(key);
    }

    /// What was reported of damaged objects.
    pub(crate) fn reported(&self) -> Vec<DamageFound> {
        at(&self.world).reported.clone()
    }

    pub(crate) fn set_away(&self, away: bool) {
        at(&self.world).away = away;
    }
}

fn at(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().unwrap()
}

fn problem(code: Code, detail: &str) -> Response {
    let status = StatusCode::from_u16(code.status()).unwrap();
    (status, Json(ProblemBody::new(code, detail))).into_response()
}

async fn guard(State(world): Shared, request: axum::extract::Request, next: axum::middleware::Next) -> Response {
    if at(&world).away {
        return problem(Code::Unavailable, "away");
    }
    let token = request.headers().get("authorization").and_then(|v| v.to_str().ok());
    if token != Some(&format!("Bearer {TOKEN}")) {
        return problem(Code::Unauthorized, "this token is not known");
    }
    next.run(request).await
}

async fn list_jobs(State(world): Shared) -> Json<Page<JobView>> {
    let items = at(&world).jobs.values().rev().map(|job| job.job.clone()).collect();
    Json(Page { items, next: None })
}

async fn show_job(State(world): Shared, Path(job): Path<JobId>) -> Response {
    match at(&world).jobs.get(&job) {
        Some(job) => Json(job.clone()).into_response(),
        None => problem(Code::NotFound, &format!("no such job: {job}")),
    }
}

async fn submit(State(world): Shared, headers: HeaderMap, Json(document): Json<Value>) -> Response {
    let spec = match Spec::from_document(&document) {
        Ok(spec) => spec,
        Err(problems) => {
            let mut body = ProblemBody::new(Code::Invalid, "the spec is not valid");
            body.problems = problems.0;
            return (StatusCode::UNPROCESSABLE_ENTITY, Json(body)).into_response();
        }
    };
    let key = headers["Idempotency-Key"].to_str().unwrap().to_owned();
    let mut world = at(&world);
    if let Some(known) = world.keys.get(&key).and_then(|id| world.jobs.get(id)) {
        return Json(known.clone()).into_response();
    }
    let mut made = job(&spec.name);
    made.spec = spec;
    world.keys.insert(key, made.job.id);
    world.jobs.insert(made.job.id, made.clone());
    (StatusCode::CREATED, Json(made)).into_response()
}

async fn cancel(State(world): Shared, Path(job): Path<JobId>) -> Response {
    match at(&world).jobs.get_mut(&job) {
        Some(job) => {
            job.job.state = JobState::Cancelled;
            Json(job.job.clone()).into_response()
        }
        None => problem(Code::NotFound, &format!("no such job: {job}")),
    }
}

fn parameter(query: &BTreeMap<String, String>, name: &str) -> u64 {
    query.get(name).map_or(0, |value| value.parse().unwrap())
}

async fn events(State(world): Shared, Query(query): Query<BTreeMap<String, String>>) -> Json<Vec<EventView>> {
    let after = parameter(&query, "after") as i64;
    let newer = |event: &&EventView| event.id > after;
    Json(at(&world).events.iter().filter(newer).cloned().collect())
}

async fn metrics_of(State(world): Shared, Query(query): Query<BTreeMap<String, String>>) -> Json<MetricsPage> {
    let from = parameter(&query, "from_step");
    let wanted = |row: &&StepMetrics| row.step >= from && row.step < from + parameter(&query, "limit");
    let rows: Vec<StepMetrics> = at(&world).rows.iter().filter(wanted).copied().collect();
    Json(MetricsPage {
        stage: query["stage"].parse().unwrap(),
        next_step: from + rows.len() as u64,
        rows,
    })
}

async fn ledger_of(State(world): Shared, Query(query): Query<BTreeMap<String, String>>) -> Json<LedgerPage> {
    let (from, limit) = (parameter(&query, "from_step"), parameter(&query, "limit") as usize);
    let world = at(&world);
    let entries = world.ledger.iter().filter(|entry| entry.step >= from).take(limit);
    Json(LedgerPage {
        stage: query["stage"].parse().unwrap(),
        entries: entries.cloned().collect(),
        next_step: from,
    })
}

async fn report(State(world): Shared, Json(found): Json<DamageFound>) -> StatusCode {
    at(&world).reported.push(found);
    StatusCode::NO_CONTENT
}

async fn object(State(world): Shared, Path(key): Path<String>) -> Response {
    match at(&world).objects.get(&key) {
        Some(bytes) => bytes.clone().into_response(),
        None => problem(Code::NotFound, &format!("no such object: {key}")),
    }
}
