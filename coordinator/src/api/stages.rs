//! Endpoints for facts about stages that agents hand in.

use super::auth::NodeToken;
use super::extract::{Body, Path};
use super::{App, Error, MAX_COUNT, Result};
use crate::store::{MetricsOutcome, PartOutcome};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use medley_protocol::checkpoint::{CheckpointPart, ObjectRef, folder};
use medley_protocol::ids::StageId;
use medley_protocol::metrics::{MetricsChunk, MetricsThrough, StepMetrics};
use medley_protocol::rest::{PartHandedIn, PartRefused};
use medley_protocol::text::{MAX_REASON, plain};

/// Most rows of a chunk.
const MAX_ROWS: usize = 10_000;
/// Most parts of a checkpoint.
const MAX_PARTS: u32 = 4096;

/// The endpoints of this file.
pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/stages/{stage}/metrics/through", get(metrics_through))
        .route("/stages/{stage}/metrics", post(add_metrics))
        .route("/stages/{stage}/checkpoints/parts", post(hand_in_part))
        .route("/stages/{stage}/checkpoints/refused", post(note_refusal))
}

async fn metrics_through(
    _: NodeToken,
    State(app): State<App>,
    Path(stage): Path<StageId>,
) -> Result<Json<MetricsThrough>> {
    let next_step = app.store.metrics_through(stage).await?.ok_or_else(no_stage)?;
    Ok(Json(MetricsThrough { next_step }))
}

async fn add_metrics(
    _: NodeToken,
    State(app): State<App>,
    Path(stage): Path<StageId>,
    Body(chunk): Body<MetricsChunk>,
) -> Result<Json<MetricsThrough>> {
    check_rows(&chunk.rows)?;
    check_ledger(&chunk)?;
    match app.store.add_metrics(stage, &chunk).await? {
        MetricsOutcome::Stored(next_step) => Ok(Json(MetricsThrough { next_step })),
        MetricsOutcome::Gap(next_step) => Err(Error::conflict(format!(
            "the rows would leave a gap: the next one wanted has step {next_step}"
        ))),
        MetricsOutcome::NoStage => Err(no_stage()),
    }
}

fn check_rows(rows: &[StepMetrics]) -> Result<()> {
    if rows.is_empty() || rows.len() > MAX_ROWS {
        return Err(Error::invalid("rows", format!("send 1 to {MAX_ROWS} rows")));
    }
    if rows.iter().any(|row| row.step >= MAX_COUNT || row.epoch >= MAX_COUNT) {
        return Err(Error::invalid("rows", "a step or epoch is larger than any real one"));
    }
    let first = rows[0].step;
    let consecutive = rows.iter().zip(first..).all(|(row, step)| row.step == step);
    if !consecutive {
        return Err(Error::invalid("rows", "the steps of the rows must be consecutive"));
    }
    Ok(())
}

/// A step has one entry, or none does.
fn check_ledger(chunk: &MetricsChunk) -> Result<()> {
    let steps = chunk.rows.iter().map(|row| row.step);
    if chunk.ledger.is_empty() || chunk.ledger.iter().map(|entry| entry.step).eq(steps) {
        return Ok(());
    }
    Err(Error::invalid("ledger", "send an entry for each of the rows, or none"))
}

async fn hand_in_part(
    _: NodeToken,
    State(app): State<App>,
    Path(stage): Path<StageId>,
    Body(handed): Body<PartHandedIn>,
) -> Result<StatusCode> {
    check_part(stage, &handed.part)?;
    match app.store.add_part(stage, &handed).await? {
        PartOutcome::Stored => {}
        PartOutcome::Committed => app.control.wake(),
        PartOutcome::NoStage => return Err(no_stage()),
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn note_refusal(
    _: NodeToken,
    State(app): State<App>,
    Path(stage): Path<StageId>,
    Body(mut refused): Body<PartRefused>,
) -> Result<StatusCode> {
    if refused.step > MAX_COUNT {
        return Err(Error::invalid("step", "is larger than any real one"));
    }
    refused.reason = plain(&refused.reason, MAX_REASON);
    if app.store.note_refusal(stage, &refused).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(no_stage())
    }
}

fn check_part(stage: StageId, part: &CheckpointPart) -> Result<()> {
    if !(1..=MAX_PARTS).contains(&part.parts) {
        return Err(Error::invalid(
            "part.parts",
            format!("use a number from 1 to {MAX_PARTS}"),
        ));
    }
    if part.part >= part.parts {
        return Err(Error::invalid("part.part", "must be less than part.parts"));
    }
    if part.step == 0 || part.step > MAX_COUNT {
        return Err(Error::invalid(
            "part.step",
            "must be the number of a committed step, from 1",
        ));
    }
    if part.state_bytes == 0 || part.state_bytes > MAX_COUNT {
        return Err(Error::invalid(
            "part.state_bytes",
            "must be the size of the whole state",
        ));
    }
    let end_bytes = part.offset_bytes.checked_add(part.object.size_bytes);
    if end_bytes.is_none_or(|end| end > part.state_bytes) {
        return Err(Error::invalid(
            "part.offset_bytes",
            "the part reaches beyond part.state_bytes",
        ));
    }
    let tensors = part.tensors.iter().map(|tensors| ("part.tensors", tensors));
    for (path, object) in tensors.chain([("part.object", &part.object)]) {
        check_object(path, object)?;
        if !object.key.starts_with(&folder(stage)) {
            // What is given up is deleted, so nobody may give up what is not the stage's own.
            let rule = format!("must lie under {}", folder(stage));
            return Err(Error::invalid(format!("{path}.key"), rule));
        }
    }
    Ok(())
}

/// Refuses objects whose key could lead out of the store, or whose hash is none.
pub(super) fn check_object(path: &str, object: &ObjectRef) -> Result<()> {
    if !ObjectRef::is_valid_key(&object.key) {
        return Err(Error::invalid(
            format!("{path}.key"),
            "must be a key of the store, of a-z, 0-9, and . _ - /",
        ));
    }
    if object.blake3.len() != 64 || !object.blake3.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Error::invalid(
            format!("{path}.blake3"),
            "must have 64 hexadecimal digits",
        ));
    }
    if object.size_bytes > MAX_COUNT {
        return Err(Error::invalid(
            format!("{path}.size_bytes"),
            "is larger than any real object",
        ));
    }
    Ok(())
}

fn no_stage() -> Error {
    Error::not_found("there is no stage of this id")
}
