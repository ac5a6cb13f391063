//! Tables `checkpoints`, `checkpoint_parts` and `checkpoint_requests`.
//!
//! A part is a fact about a committed step: it is taken whatever became of the generation that wrote it. The part that
//! makes a checkpoint whole commits its manifest in the same transaction.

use super::value::{count, json, read, stored};
use super::{Store, events, stages};
use crate::domain::Event;
use chrono::{DateTime, Utc};
use medley_protocol::agent::CheckpointWanted;
use medley_protocol::checkpoint::{CheckpointPart, Manifest};
use medley_protocol::ids::{CheckpointId, CheckpointRequestId, JobId, StageId};
use medley_protocol::rest::{CheckpointView, PartHandedIn};
use serde_json::Value;
use sqlx::PgConnection;
use std::collections::BTreeMap;
use uuid::Uuid;

/// What became of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartOutcome {
    /// It is stored; others are missing.
    Stored,
    /// It made its checkpoint whole.
    Committed,
    /// No such stage.
    NoStage,
}

impl Store {
    /// Takes in a part; commits the manifest if it is the last. Repeating it changes nothing.
    ///
    /// # Errors
    /// Those of the database, as every method here.
    pub async fn add_part(&self, stage: StageId, handed: &PartHandedIn) -> sqlx::Result<PartOutcome> {
        let PartHandedIn {
            generation,
            part,
            peak_bytes,
        } = handed;
        let mut transaction = self.pool.begin().await?;
        // Two last parts at once must see each other: the stage's row is the lock.
        let owner: Option<(Uuid, String)> =
            sqlx::query_as("SELECT job, name FROM stages WHERE id = $1 FOR NO KEY UPDATE")
                .bind(stage.as_uuid())
                .fetch_optional(&mut *transaction)
                .await?;
        let Some((job, name)) = owner else {
            return Ok(PartOutcome::NoStage);
        };
        stages::note_peak(&mut transaction, stage.as_uuid(), *peak_bytes).await?;
        insert_part(&mut transaction, stage, *generation, part).await?;
        let committed = match whole(&mut transaction, stage, part).await? {
            Some(manifest) => insert_manifest(&mut transaction, &manifest).await?,
            None => false,
        };
        if committed {
            let message = format!(
                "{name}: checkpoint at step {} is whole, in {} parts",
                part.step, part.parts
            );
            let event = Event {
                job: Some(JobId::from_uuid(job)),
                stage: Some(stage),
                node: None,
                kind: "checkpoint-committed",
                message,
            };
            events::add(&mut transaction, &[event]).await?;
            answer_requests(&mut transaction, stage, part.step).await?;
            drop_oldest(&mut transaction, stage).await?;
        }
        transaction.commit().await?;
        Ok(if committed {
            PartOutcome::Committed
        } else {
            PartOutcome::Stored
        })
    }

    /// Asks a stage for a checkpoint; gives the open request if there is one already.
    pub async fn request_checkpoint(&self, job: JobId, stage: StageId, step: u64) -> sqlx::Result<CheckpointWanted> {
        let mut transaction = self.pool.begin().await?;
        let inserted = sqlx::query(
            "INSERT INTO checkpoint_requests (id, stage, step)
             VALUES ($1, $2, $3)
             ON CONFLICT (stage) WHERE answered_at IS NULL DO NOTHING",
        )
        .bind(CheckpointRequestId::generate().as_uuid())
        .bind(stage.as_uuid())
        .bind(stored(step))
        .execute(&mut *transaction)
        .await?;
        if inserted.rows_affected() == 1 {
            let event = Event {
                job: Some(job),
                stage: Some(stage),
                node: None,
                kind: "checkpoint-requested",
                message: format!("a checkpoint was asked for, after step {step}"),
            };
            events::add(&mut transaction, &[event]).await?;
        }
        let (id, step): (Uuid, i64) =
            sqlx::query_as("SELECT id, step FROM checkpoint_requests WHERE stage = $1 AND answered_at IS NULL")
                .bind(stage.as_uuid())
                .fetch_one(&mut *transaction)
                .await?;
        transaction.commit().await?;
        Ok(CheckpointWanted {
            request: CheckpointRequestId::from_uuid(id),
            step: count(step)?,
        })
    }

    /// The checkpoints of a job that are kept, newest first.
    pub async fn list_checkpoints(&self, job: JobId) -> sqlx::Result<Vec<CheckpointView>> {
        let rows: Vec<(String, Value, DateTime<Utc>)> = sqlx::query_as(
            "SELECT s.name, c.manifest, c.committed_at
             FROM checkpoints c
             JOIN stages s ON s.id = c.stage
             WHERE s.job = $1 AND c.dropped_at IS NULL
             ORDER BY c.committed_at DESC, c.id DESC",
        )
        .bind(job.as_uuid())
        .fetch_all(&self.pool)
        .await?;
        let view = |(stage_name, manifest, committed_at)| {
            let manifest: Manifest = read(manifest)?;
            Ok(CheckpointView {
                id: manifest.id,
                stage: manifest.stage,
                stage_name,
                step: manifest.step,
                state_bytes: manifest.state_bytes,
                parts: manifest.parts,
                committed_at,
            })
        };
        rows.into_iter().map(view).collect()
    }
}

async fn insert_part(
    connection: &mut PgConnection,
    stage: StageId,
    generation: u64,
    part: &CheckpointPart,
) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO checkpoint_parts (stage, step, parts, state_bytes, part, offset_bytes, generation, object)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT DO NOTHING",
    )
    .bind(stage.as_uuid())
    .bind(stored(part.step))
    .bind(part.parts as i32)
    .bind(stored(part.state_bytes))
    .bind(part.part as i32)
    .bind(stored(part.offset_bytes))
    .bind(stored(generation))
    .bind(json(&part.object)?)
    .execute(connection)
    .await
    .map(drop)
}

/// The manifest that `part` belongs to, if all its parts are there and follow each other without gap or overlap.
async fn whole(connection: &mut PgConnection, stage: StageId, part: &CheckpointPart) -> sqlx::Result<Option<Manifest>> {
    let rows: Vec<(i32, i64, Value)> = sqlx::query_as(
        "SELECT part, offset_bytes, object
         FROM checkpoint_parts
         WHERE stage = $1 AND step = $2 AND parts = $3 AND state_bytes = $4
         ORDER BY part",
    )
    .bind(stage.as_uuid())
    .bind(stored(part.step))
    .bind(part.parts as i32)
    .bind(stored(part.state_bytes))
    .fetch_all(connection)
    .await?;
    if rows.len() != part.parts as usize {
        return Ok(None);
    }
    let (mut parts, mut end_bytes) = (Vec::new(), 0);
    for (index, offset_bytes, object) in rows {
        let found = CheckpointPart {
            part: index.unsigned_abs(),
            offset_bytes: count(offset_bytes)?,
            object: read(object)?,
            ..part.clone()
        };
        if found.offset_bytes != end_bytes {
            return Ok(None);
        }
        end_bytes += found.object.size_bytes;
        parts.push(found);
    }
    Ok((end_bytes == part.state_bytes).then(|| Manifest {
        id: CheckpointId::generate(),
        stage,
        step: part.step,
        state_bytes: part.state_bytes,
        parts,
    }))
}

/// False if the step has a checkpoint already.
async fn insert_manifest(connection: &mut PgConnection, manifest: &Manifest) -> sqlx::Result<bool> {
    sqlx::query(
        "INSERT INTO checkpoints (id, stage, step, manifest)
         VALUES ($1, $2, $3, $4)
         ON CONFLICT DO NOTHING",
    )
    .bind(manifest.id.as_uuid())
    .bind(manifest.stage.as_uuid())
    .bind(stored(manifest.step))
    .bind(json(manifest)?)
    .execute(connection)
    .await
    .map(|done| done.rows_affected() == 1)
}

async fn answer_requests(connection: &mut PgConnection, stage: StageId, step: u64) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE checkpoint_requests SET answered_at = now()
         WHERE stage = $1 AND answered_at IS NULL AND step <= $2",
    )
    .bind(stage.as_uuid())
    .bind(stored(step))
    .execute(connection)
    .await
    .map(drop)
}

/// Retention: keeps the last checkpoints, as many as the spec says, and those that the present generation started from and
/// the following one would, which slow ranks may still be reading.
async fn drop_oldest(connection: &mut PgConnection, stage: StageId) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE checkpoints SET dropped_at = now()
         WHERE stage = $1 AND dropped_at IS NULL
           AND step < (SELECT min(step)
                       FROM (SELECT c.step
                             FROM checkpoints c
                             WHERE c.stage = $1
                             ORDER BY c.step DESC
                             LIMIT (SELECT (j.spec #>> '{checkpoint,keep}')::bigint
                                    FROM jobs j JOIN stages s ON s.job = j.id
                                    WHERE s.id = $1)) AS kept)
           AND id::text IS DISTINCT FROM (SELECT membership #>> '{generation,resume,id}' FROM stages WHERE id = $1)
           AND id::text IS DISTINCT FROM (SELECT membership #>> '{next,resume,id}' FROM stages WHERE id = $1)",
    )
    .bind(stage.as_uuid())
    .execute(connection)
    .await
    .map(drop)
}

/// The last checkpoint of each stage of these jobs.
pub(super) async fn last_of_jobs(
    connection: &mut PgConnection,
    jobs: &[Uuid],
) -> sqlx::Result<BTreeMap<StageId, Manifest>> {
    let rows: Vec<(Uuid, Value)> = sqlx::query_as(
        "SELECT DISTINCT ON (c.stage) c.stage, c.manifest
         FROM checkpoints c
         JOIN stages s ON s.id = c.stage
         WHERE s.job = ANY($1) AND c.dropped_at IS NULL
         ORDER BY c.stage, c.step DESC",
    )
    .bind(jobs)
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|(stage, manifest)| Ok((StageId::from_uuid(stage), read(manifest)?)))
        .collect()
}

/// The open request of each stage of these jobs.
pub(super) async fn wanted_of_jobs(
    connection: &mut PgConnection,
    jobs: &[Uuid],
) -> sqlx::Result<BTreeMap<StageId, CheckpointWanted>> {
    let rows: Vec<(Uuid, Uuid, i64)> = sqlx::query_as(
        "SELECT r.stage, r.id, r.step
         FROM checkpoint_requests r
         JOIN stages s ON s.id = r.stage
         WHERE s.job = ANY($1) AND r.answered_at IS NULL",
    )
    .bind(jobs)
    .fetch_all(connection)
    .await?;
    let wanted = |(stage, request, step)| {
        let wanted = CheckpointWanted {
            request: CheckpointRequestId::from_uuid(request),
            step: count(step)?,
        };
        Ok((StageId::from_uuid(stage), wanted))
    };
    rows.into_iter().map(wanted).collect()
}
