//! A coordinator that does as a test tells it and remembers what it was told.

use super::LONG;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use medley_protocol::agent::{Assignment, Beat, Member, Orders, Register, Registered, StageInputs};
use medley_protocol::error::{Code, ProblemBody};
use medley_protocol::metrics::{MetricsChunk, MetricsThrough, StepMetrics};
use medley_protocol::rest::{LeaseAnswer, PartHandedIn, TaskFinished};
use medley_protocol::spec::Spec;
use medley_protocol::stage::StageKind;
use medley_protocol::tasks::{Lease, TaskWork};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::watch;

/// What it was told, and how it answers.
#[derive(Default)]
pub(super) struct Told {
    pub(super) registrations: Vec<Register>,
    pub(super) beats: Vec<Beat>,
    pub(super) rows: Vec<StepMetrics>,
    pub(super) parts: Vec<PartHandedIn>,
    pub(super) finished: Vec<TaskFinished>,
    pub(super) lease_requests: u32,
    pub(super) turned_away: u32,
    orders: Option<Orders>,
    /// Granted once.
    pub(super) lease: Option<Lease>,
    pub(super) away: bool,
    pub(super) redirect_to: Option<String>,
    pub(super) refuse_beats: Option<Code>,
    pub(super) refuse_registration: Option<Code>,
    pub(super) beats_before_finish: usize,
}

type Shared = Arc<watch::Sender<Told>>;

pub(super) struct Coordinator {
    pub(super) url: String,
    told: Shared,
}

impl Coordinator {
    pub(super) async fn start() -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into()).await
    }

    pub(super) async fn start_at(address: SocketAddr) -> Self {
        let told = Arc::new(watch::channel(Told::default()).0);
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = router(Arc::clone(&told));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, told }
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Told)) {
        self.told.send_modify(change);
    }

    pub(super) fn order(&self, orders: Orders) {
        self.change(|told| told.orders = Some(orders));
    }

    /// Waits until `found` finds something in what was told.
    pub(super) async fn until<T>(&self, found: impl Fn(&Told) -> Option<T>) -> T {
        let mut changes = self.told.subscribe();
        let wait = changes.wait_for(|told| found(told).is_some());
        let told = tokio::time::timeout(LONG, wait).await.expect("in time").unwrap();
        found(&told).unwrap()
    }
}

fn router(told: Shared) -> Router {
    let api = Router::new()
        .route("/agent/register", post(register))
        .route("/agent/beat", post(beat))
        .route("/stages/{stage}/metrics/through", get(through))
        .route("/stages/{stage}/metrics", post(metrics))
        .route("/stages/{stage}/checkpoints/parts", post(part))
        .route("/stages/{stage}/tasks/lease", post(grant))
        .route("/tasks/{task}/finish", post(finish));
    let gate = middleware::from_fn_with_state(Arc::clone(&told), gate);
    Router::new().nest("/api/v1", api).layer(gate).with_state(told)
}

/// Turns everything away while the coordinator is away, or sends it elsewhere.
async fn gate(State(told): State<Shared>, request: axum::extract::Request, next: middleware::Next) -> Response {
    let (away, elsewhere) = {
        let told = told.borrow();
        (told.away, told.redirect_to.clone())
    };
    if away || elsewhere.is_some() {
        told.send_modify(|told| told.turned_away += 1);
    }
    match elsewhere {
        _ if away => refusal(Code::Unavailable),
        Some(url) => Redirect::temporary(&format!("{url}{}", request.uri())).into_response(),
        None => next.run(request).await,
    }
}

fn refusal(code: Code) -> Response {
    let status = StatusCode::from_u16(code.status()).unwrap();
    (status, Json(ProblemBody::new(code, "because"))).into_response()
}

async fn register(State(told): State<Shared>, Json(body): Json<Register>) -> Response {
    if let Some(code) = told.borrow().refuse_registration {
        return refusal(code);
    }
    told.send_modify(|told| told.registrations.push(body));
    let answer = Registered {
        node: id(1),
        beat_ms: 50,
        silence_ms: 20_000,
    };
    Json(answer).into_response()
}

async fn beat(State(told): State<Shared>, Json(body): Json<Beat>) -> Response {
    if let Some(code) = told.borrow().refuse_beats {
        return refusal(code);
    }
    told.send_modify(|told| told.beats.push(body));
    let nothing = || orders(0, Vec::new());
    let orders = told.borrow().orders.clone().unwrap_or_else(nothing);
    Json(orders).into_response()
}

async fn through(State(told): State<Shared>) -> Json<MetricsThrough> {
    let next_step = told.borrow().rows.len() as u64;
    Json(MetricsThrough { next_step })
}

async fn metrics(State(told): State<Shared>, Json(body): Json<MetricsChunk>) -> Response {
    let stored = told.borrow().rows.len() as u64;
    if body.rows.first().is_none_or(|row| row.step > stored) {
        return refusal(Code::Conflict);
    }
    told.send_modify(|told| told.rows.extend(body.rows.into_iter().filter(|row| row.step >= stored)));
    through(State(told)).await.into_response()
}

async fn part(State(told): State<Shared>, Json(body): Json<PartHandedIn>) -> StatusCode {
    told.send_modify(|told| told.parts.push(body));
    StatusCode::NO_CONTENT
}

async fn grant(State(told): State<Shared>) -> Json<LeaseAnswer> {
    let mut lease = None;
    told.send_modify(|told| {
        told.lease_requests += 1;
        lease = told.lease.take();
    });
    Json(LeaseAnswer { lease })
}

async fn finish(State(told): State<Shared>, Json(body): Json<TaskFinished>) -> StatusCode {
    let beats = { told.borrow().beats.len() + told.borrow().beats_before_finish };
    let mut changes = told.subscribe();
    let enough = changes.wait_for(|told| told.beats.len() >= beats);
    let enough = tokio::time::timeout(LONG, enough)
        .await
        .is_ok_and(|waited| waited.is_ok());
    assert!(enough, "beats go on");
    told.send_modify(|told| told.finished.push(body));
    StatusCode::NO_CONTENT
}

/// An id made of a number.
pub(super) fn id<T: std::str::FromStr<Err: std::fmt::Debug>>(number: u64) -> T {
    format!("00000000-0000-7000-8000-{number:012}").parse().unwrap()
}

pub(super) fn orders(revision: u64, assignments: Vec<Assignment>) -> Orders {
    Orders {
        revision,
        assignments,
        probes: Vec::new(),
    }
}

pub(super) fn members(world: u32) -> Vec<Member> {
    let member = |rank| Member {
        rank,
        node: id(1),
        address: "127.0.0.1:9".into(),
    };
    (0..world).map(member).collect()
}

pub(super) fn lease(number: u64) -> Lease {
    Lease {
        task: id(number),
        token: id(number),
        lease_ms: 30_000,
        work: TaskWork::Evaluate,
    }
}

pub(super) fn assignment(stage: u64, generation: u64, ranks: &[u32], kind: StageKind) -> Assignment {
    let document = serde_json::json!({
        "name": "t", "kind": "bootstrap", "preset": "nano", "data": {"root": "/data"},
    });
    Assignment {
        job: id(1),
        stage: id(stage),
        stage_name: format!("{kind}-0"),
        kind,
        generation,
        ranks: ranks.to_vec(),
        world: 1,
        members: Vec::new(),
        secret: "secret".into(),
        spec: Spec::from_document(&document).unwrap(),
        store: "file:///store".into(),
        inputs: StageInputs::default(),
        checkpoint_after: None,
        without: Vec::new(),
        distrusts: 0,
        parting: None,
    }
}
