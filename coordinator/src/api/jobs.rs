//! Endpoints for what people do with jobs.

use super::auth::{Operator, Submitter, Viewer};
use super::extract::{Body, Path, Query};
use super::{App, Error, Result, submission};
use crate::domain::{Event, Job, Stage};
use crate::store::{DamageOutcome, Saved};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use medley_protocol::ids::{CheckpointId, JobId, StageId};
use medley_protocol::rest::{
    CheckpointRequestView, CheckpointView, DamageFound, DatasetView, EventView, JobDetail, JobView, LedgerPage,
    MetricsPage, Page,
};
use medley_protocol::stage::{JobState, StageState};
use medley_protocol::text::{MAX_REASON, plain};
use serde::Deserialize;

/// Rows of a page when none are asked for.
const DEFAULT_LIMIT: i64 = 50;
/// Most jobs, or events, of a page.
const MAX_LIMIT: i64 = 1000;
/// Most rows of metrics of a page.
const MAX_METRICS: i64 = 10_000;
/// Most entries of the ledger of a page.
const MAX_LEDGER: i64 = 1000;
/// A transition that others keep overtaking is given up after so many tries.
const MAX_TRIES: u32 = 20;

/// The endpoints of this file.
pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/jobs", post(submit_job).get(list_jobs))
        .route("/jobs/{job}", get(show_job))
        .route("/jobs/{job}/cancel", post(cancel_job))
        .route("/jobs/{job}/retry", post(retry_job))
        .route("/jobs/{job}/metrics", get(list_metrics))
        .route("/jobs/{job}/ledger", get(list_ledger))
        .route(
            "/jobs/{job}/checkpoints",
            get(list_checkpoints).post(request_checkpoint),
        )
        .route("/checkpoints/{checkpoint}/damage", post(report_damage))
        .route("/jobs/{job}/datasets", get(list_datasets))
        .route("/jobs/{job}/events", get(list_events))
}

async fn submit_job(
    Submitter(holder): Submitter,
    State(app): State<App>,
    headers: HeaderMap,
    Body(document): Body<serde_json::Value>,
) -> Result<(StatusCode, Json<JobDetail>)> {
    let key = submission::idempotency_key(&headers, &holder.name)?;
    let (job, is_new) = submission::submit(&app, &document, key.as_deref()).await?;
    app.control.wake();
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(detail(&app, job).await?)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    limit: Option<i64>,
    cursor: Option<String>,
}

async fn list_jobs(_: Viewer, State(app): State<App>, Query(query): Query<ListQuery>) -> Result<Json<Page<JobView>>> {
    let limit = bounded(query.limit, DEFAULT_LIMIT, MAX_LIMIT)?;
    let before = query.cursor.as_deref().map(read_cursor).transpose()?;
    let mut items = app.store.list_jobs(before, limit + 1).await?;
    let more = items.len() as i64 > limit;
    items.truncate(limit as usize);
    let next = items
        .last()
        .filter(|_| more)
        .map(|last| last.id.as_uuid().simple().to_string());
    Ok(Json(Page { items, next }))
}

fn read_cursor(cursor: &str) -> Result<JobId> {
    let unknown = |_| Error::invalid("cursor", "is not one that this list has given; start again without it");
    cursor.parse().map_err(unknown)
}

async fn show_job(_: Viewer, State(app): State<App>, Path(job): Path<JobId>) -> Result<Json<JobDetail>> {
    detail(&app, job).await.map(Json)
}

async fn cancel_job(
    Submitter(holder): Submitter,
    State(app): State<App>,
    Path(id): Path<JobId>,
) -> Result<Json<JobView>> {
    for _ in 0..MAX_TRIES {
        let job = app.store.job(id).await?.ok_or_else(no_job)?;
        if job.state.label() == JobState::Cancelled {
            // Whoever did not hear the answer asks again.
            return Ok(Json(detail(&app, id).await?.job));
        }
        let job = job.cancel().map_err(|e| Error::conflict(e.to_string()))?;
        let event = Event::of_job(&job, "job-cancelled", format!("cancelled by {}", holder.name));
        if matches!(app.store.save_job(&job, &[event]).await?, Saved::Written { .. }) {
            app.control.wake();
            return Ok(Json(detail(&app, id).await?.job));
        }
    }
    Err(Error::conflict("the job changes too fast to be cancelled; try again"))
}

async fn retry_job(
    Submitter(holder): Submitter,
    State(app): State<App>,
    Path(id): Path<JobId>,
) -> Result<Json<JobView>> {
    for _ in 0..MAX_TRIES {
        let job = app.store.job(id).await?.ok_or_else(no_job)?;
        if !job.state.label().is_final() {
            // It goes on already: whoever did not hear the answer asks again.
            return Ok(Json(detail(&app, id).await?.job));
        }
        let only_failed = |error| Error::conflict(format!("{error}: only a job that failed can be retried"));
        let job = job.retry().map_err(only_failed)?;
        let event = Event::of_job(&job, "job-retried", format!("retried by {}", holder.name));
        if matches!(app.store.save_retried(&job, &event).await?, Saved::Written { .. }) {
            app.control.wake();
            return Ok(Json(detail(&app, id).await?.job));
        }
    }
    Err(Error::conflict("the job changes too fast to be retried; try again"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StepsQuery {
    stage: StageId,
    #[serde(default)]
    from_step: u64,
    limit: Option<i64>,
}

async fn list_metrics(
    _: Viewer,
    State(app): State<App>,
    Path(id): Path<JobId>,
    Query(query): Query<StepsQuery>,
) -> Result<Json<MetricsPage>> {
    let limit = bounded(query.limit, 1000, MAX_METRICS)?;
    must_have(&app, id, query.stage).await?;
    let rows = app.store.list_metrics(query.stage, query.from_step, limit).await?;
    let next_step = rows.last().map_or(query.from_step, |row| row.step + 1);
    Ok(Json(MetricsPage {
        stage: query.stage,
        rows,
        next_step,
    }))
}

async fn list_ledger(
    _: Viewer,
    State(app): State<App>,
    Path(id): Path<JobId>,
    Query(query): Query<StepsQuery>,
) -> Result<Json<LedgerPage>> {
    let limit = bounded(query.limit, 100, MAX_LEDGER)?;
    must_have(&app, id, query.stage).await?;
    let entries = app.store.list_ledger(query.stage, query.from_step, limit).await?;
    let next_step = entries.last().map_or(query.from_step, |entry| entry.step + 1);
    Ok(Json(LedgerPage {
        stage: query.stage,
        entries,
        next_step,
    }))
}

async fn must_have(app: &App, job: JobId, stage: StageId) -> Result<()> {
    let job = app.store.job(job).await?.ok_or_else(no_job)?;
    let stage = job.stage(stage).map(drop);
    stage.ok_or_else(|| Error::not_found("this job has no stage of this id"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckpointsQuery {
    #[serde(default)]
    damaged: bool,
}

async fn list_checkpoints(
    _: Viewer,
    State(app): State<App>,
    Path(job): Path<JobId>,
    Query(query): Query<CheckpointsQuery>,
) -> Result<Json<Vec<CheckpointView>>> {
    app.store.job(job).await?.ok_or_else(no_job)?;
    Ok(Json(app.store.list_checkpoints(job, query.damaged).await?))
}

async fn report_damage(
    Operator(holder): Operator,
    State(app): State<App>,
    Path(checkpoint): Path<CheckpointId>,
    Body(mut found): Body<DamageFound>,
) -> Result<StatusCode> {
    if found.cause.is_empty() {
        return Err(Error::invalid("cause", "say what is wrong"));
    }
    found.cause = plain(&found.cause, MAX_REASON);
    match app.store.report_damage(checkpoint, &found, &holder.name).await? {
        DamageOutcome::Marked => app.control.wake(),
        DamageOutcome::Known => {}
        DamageOutcome::NoCheckpoint => return Err(Error::not_found("there is no checkpoint of this id that is kept")),
        DamageOutcome::NoObject => {
            return Err(Error::invalid("object", "is the key of no object of this checkpoint"));
        }
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn request_checkpoint(
    _: Operator,
    State(app): State<App>,
    Path(id): Path<JobId>,
) -> Result<(StatusCode, Json<CheckpointRequestView>)> {
    let job = app.store.job(id).await?.ok_or_else(no_job)?;
    let stage = training(&job).ok_or_else(|| Error::conflict("no training stage of this job runs now"))?;
    // No rank is there yet when it hears of it, so that all take it after this very step.
    let done = stage.progress().max(app.control.committed_when_heard(stage));
    let total = stage.course.map_or(u64::MAX, |course| course.total_steps);
    let wanted = app
        .store
        .request_checkpoint(id, stage.id, (done + 1).min(total))
        .await?;
    app.control.wake();
    let view = CheckpointRequestView {
        id: wanted.request,
        stage: stage.id,
        step: wanted.step,
    };
    Ok((StatusCode::ACCEPTED, Json(view)))
}

fn training(job: &Job) -> Option<&Stage> {
    let runs = |stage: &&Stage| stage.kind.is_training() && stage.state.label() == StageState::Running;
    job.stages.iter().find(runs)
}

async fn list_datasets(_: Viewer, State(app): State<App>, Path(job): Path<JobId>) -> Result<Json<Vec<DatasetView>>> {
    app.store.job(job).await?.ok_or_else(no_job)?;
    Ok(Json(app.store.list_datasets(job).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventsQuery {
    #[serde(default)]
    after: i64,
    limit: Option<i64>,
}

async fn list_events(
    _: Viewer,
    State(app): State<App>,
    Path(job): Path<JobId>,
    Query(query): Query<EventsQuery>,
) -> Result<Json<Vec<EventView>>> {
    let limit = bounded(query.limit, 200, MAX_LIMIT)?;
    app.store.job(job).await?.ok_or_else(no_job)?;
    Ok(Json(app.store.events_of_job(job, query.after, limit).await?))
}

async fn detail(app: &App, job: JobId) -> Result<JobDetail> {
    let mut detail = app.store.job_detail(job).await?.ok_or_else(no_job)?;
    let stragglers = app.control.stragglers();
    for stage in &mut detail.stages {
        let own = stragglers.iter().filter(|straggler| straggler.stage == stage.id);
        stage.stragglers = own.cloned().collect();
    }
    Ok(detail)
}

fn bounded(asked: Option<i64>, default: i64, most: i64) -> Result<i64> {
    let limit = asked.unwrap_or(default);
    if (1..=most).contains(&limit) {
        return Ok(limit);
    }
    Err(Error::invalid(
        "limit",
        format!("is {limit}: use a number from 1 to {most}"),
    ))
}

fn no_job() -> Error {
    Error::not_found("there is no job of this id")
}
