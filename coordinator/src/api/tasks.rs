//! Endpoints for leases of tasks.

use super::auth::NodeToken;
use super::extract::{Body, Path};
use super::stages::check_object;
use super::{App, Error, MAX_COUNT, Result};
use crate::store::Claim;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use medley_protocol::checkpoint::{FOLDER, ObjectRef};
use medley_protocol::ids::{StageId, TaskId};
use medley_protocol::rest::{LeaseAnswer, LeaseRequest, TaskFinished, TaskGivenUp, TaskRenewal};
use medley_protocol::tasks::{Counts, TaskOutput, TaskWork};
use medley_protocol::text::{MAX_REASON, is_plain, plain};

/// Most counts of an output.
const MAX_COUNTS: usize = 1000;
/// Longest name of a count.
const MAX_COUNT_NAME: usize = 100;

/// The endpoints of this file.
pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/stages/{stage}/tasks/lease", post(lease_task))
        .route("/tasks/{task}/renew", post(renew_task))
        .route("/tasks/{task}/finish", post(finish_task))
        .route("/tasks/{task}/fail", post(fail_task))
}

async fn lease_task(
    _: NodeToken,
    State(app): State<App>,
    Path(stage): Path<StageId>,
    Body(request): Body<LeaseRequest>,
) -> Result<Json<LeaseAnswer>> {
    match app.store.claim_task(stage, &request).await? {
        Claim::Granted(lease) => Ok(Json(LeaseAnswer { lease })),
        Claim::Stale => Err(Error::stale(format!(
            "rank {} of generation {} is not a member of the stage's present generation",
            request.rank, request.generation
        ))),
        Claim::NoStage => Err(Error::not_found("there is no stage of this id")),
    }
}

async fn renew_task(
    _: NodeToken,
    State(app): State<App>,
    Path(task): Path<TaskId>,
    Body(renewal): Body<TaskRenewal>,
) -> Result<StatusCode> {
    let renewed = app.store.renew_task(task, renewal.token).await?;
    answer(renewed)
}

async fn finish_task(
    _: NodeToken,
    State(app): State<App>,
    Path(task): Path<TaskId>,
    Body(finished): Body<TaskFinished>,
) -> Result<StatusCode> {
    let work = app
        .store
        .task_work(task)
        .await?
        .ok_or_else(|| Error::not_found("there is no task of this id"))?;
    check_output(&work, &finished.output)?;
    let counted = app.store.finish_task(task, &finished).await?;
    app.control.wake();
    answer(counted)
}

async fn fail_task(
    _: NodeToken,
    State(app): State<App>,
    Path(task): Path<TaskId>,
    Body(given_up): Body<TaskGivenUp>,
) -> Result<StatusCode> {
    let reason = plain(&given_up.reason, MAX_REASON);
    let counted = app
        .store
        .give_up_task(task, given_up.token, &reason, given_up.retry)
        .await?;
    app.control.wake();
    answer(counted)
}

fn answer(counted: bool) -> Result<StatusCode> {
    if counted {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(Error::stale(
        "this lease is over: the task was given to another rank, or finished",
    ))
}

fn check_output(work: &TaskWork, output: &TaskOutput) -> Result<()> {
    match (work, output) {
        (TaskWork::IndexShard { .. } | TaskWork::CapfiltShard { .. }, TaskOutput::Shard { object, counts }) => {
            check_result("output.object", object)?;
            check_counts(counts)
        }
        (
            TaskWork::IndexMerge { .. } | TaskWork::CapfiltMerge { .. },
            TaskOutput::Dataset { dataset, vocab, counts },
        ) => {
            check_result("output.dataset", dataset)?;
            check_result("output.vocab", vocab)?;
            check_counts(counts)
        }
        (TaskWork::Evaluate, TaskOutput::Evaluation { details, .. }) => check_result("output.details", details),
        _ => Err(Error::invalid("output", "is not what this task asks for")),
    }
}

/// Results stay for good, so they lie where nothing is deleted.
fn check_result(path: &str, object: &ObjectRef) -> Result<()> {
    check_object(path, object)?;
    if object.key.starts_with(FOLDER) {
        let rule = format!("must not lie under {FOLDER}, whose objects are deleted with their checkpoints");
        return Err(Error::invalid(format!("{path}.key"), rule));
    }
    Ok(())
}

fn check_counts(counts: &Counts) -> Result<()> {
    let is_name = |name: &str| name.len() <= MAX_COUNT_NAME && is_plain(name);
    let are_real = counts.iter().all(|(name, count)| is_name(name) && *count <= MAX_COUNT);
    if are_real && counts.len() <= MAX_COUNTS {
        return Ok(());
    }
    Err(Error::invalid(
        "output.counts",
        format!(
            "at most {MAX_COUNTS} counts, with names of at most {MAX_COUNT_NAME} characters in one line, are possible"
        ),
    ))
}
