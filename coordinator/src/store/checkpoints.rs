//! Tables `checkpoints`, `checkpoint_parts` and `checkpoint_requests`.
//!
//! A part is a fact about a committed step: it is taken whatever became of the generation that wrote it. The part that
//! makes a checkpoint whole commits its manifest in the same transaction.

use super::value::{count, json, read, stored};
use super::{Store, doubts, events, retention, stages};
use crate::domain::Event;
use chrono::{DateTime, Utc};
use medley_protocol::agent::CheckpointWanted;
use medley_protocol::checkpoint::{CheckpointPart, Damage, Manifest};
use medley_protocol::ids::{CheckpointId, CheckpointRequestId, JobId, StageId};
use medley_protocol::rest::{CheckpointView, DamageFound, PartHandedIn, PartRefused};
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

/// What became of a report of damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DamageOutcome {
    /// The checkpoint is given up.
    Marked,
    /// It was before.
    Known,
    /// No such checkpoint is kept.
    NoCheckpoint,
    /// It has no such object.
    NoObject,
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
        if is_old_news(&mut transaction, stage, part.step, *generation).await? {
            return Ok(PartOutcome::Stored);
        }
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
            retention::note_loss(&mut transaction, stage, part.step).await?;
            retention::drop_surplus(&mut transaction, stage).await?;
        }
        transaction.commit().await?;
        Ok(if committed {
            PartOutcome::Committed
        } else {
            PartOutcome::Stored
        })
    }

    /// Makes it known, once for each step and node, that a part cannot be written. False if there is no such stage.
    pub async fn note_refusal(&self, stage: StageId, refused: &PartRefused) -> sqlx::Result<bool> {
        let PartRefused { node, step, reason } = refused;
        let done = sqlx::query(
            "INSERT INTO events (job, stage, node, kind, message)
             SELECT s.job, s.id, n.id, 'checkpoint-not-written',
                    format('%s: the checkpoint at step %s cannot be written on %s, which goes on and tries again: %s',
                           s.name, $2, n.name, $4)
             FROM stages s, nodes n
             WHERE s.id = $1 AND n.id = $3
               AND NOT EXISTS (SELECT FROM events e
                               WHERE e.stage = s.id AND e.node = n.id AND e.kind = 'checkpoint-not-written'
                                 AND starts_with(e.message, format('%s: the checkpoint at step %s cannot', s.name, $2)))",
        )
        .bind(stage.as_uuid())
        .bind(stored(*step))
        .bind(node.as_uuid())
        .bind(reason)
        .execute(&self.pool)
        .await?;
        if done.rows_affected() == 1 {
            return Ok(true);
        }
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM stages WHERE id = $1)")
            .bind(stage.as_uuid())
            .fetch_one(&self.pool)
            .await
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

    /// Gives up a checkpoint that somebody found damaged.
    pub async fn report_damage(
        &self,
        checkpoint: CheckpointId,
        found: &DamageFound,
        by: &str,
    ) -> sqlx::Result<DamageOutcome> {
        let mut transaction = self.pool.begin().await?;
        let row: Option<(Uuid, Uuid, String, Value)> = sqlx::query_as(
            "SELECT s.job, s.id, s.name, c.manifest
             FROM checkpoints c
             JOIN stages s ON s.id = c.stage
             WHERE c.id = $1 AND c.dropped_at IS NULL",
        )
        .bind(checkpoint.as_uuid())
        .fetch_optional(&mut *transaction)
        .await?;
        let Some((job, stage, name, manifest)) = row else {
            return Ok(DamageOutcome::NoCheckpoint);
        };
        let manifest: Manifest = read(manifest)?;
        if !manifest.parts.iter().any(|part| part.object.key == found.object) {
            return Ok(DamageOutcome::NoObject);
        }
        let damage = Damage {
            checkpoint,
            step: manifest.step,
            object: Some(found.object.clone()),
            cause: found.cause.clone(),
        };
        let event = Event {
            job: Some(JobId::from_uuid(job)),
            stage: Some(StageId::from_uuid(stage)),
            node: None,
            kind: "checkpoint-damaged",
            message: format!("{name}: {by} found that {damage}; that checkpoint is not used any more"),
        };
        let is_new = mark_damaged(&mut transaction, &damage, &event).await?;
        transaction.commit().await?;
        Ok(if is_new {
            DamageOutcome::Marked
        } else {
            DamageOutcome::Known
        })
    }

    /// The checkpoints of a job that are kept, newest first; `damaged` ones too, if asked for.
    pub async fn list_checkpoints(&self, job: JobId, damaged: bool) -> sqlx::Result<Vec<CheckpointView>> {
        let rows: Vec<(String, Value, DateTime<Utc>, Option<String>)> = sqlx::query_as(
            "SELECT s.name, c.manifest, c.committed_at, c.damage
             FROM checkpoints c
             JOIN stages s ON s.id = c.stage
             WHERE s.job = $1 AND c.dropped_at IS NULL AND ($2 OR c.damaged_at IS NULL)
             ORDER BY c.committed_at DESC, c.id DESC",
        )
        .bind(job.as_uuid())
        .bind(damaged)
        .fetch_all(&self.pool)
        .await?;
        let view = |(stage_name, manifest, committed_at, damage)| {
            let manifest: Manifest = read(manifest)?;
            Ok(CheckpointView {
                id: manifest.id,
                stage: manifest.stage,
                stage_name,
                step: manifest.step,
                state_bytes: manifest.state_bytes,
                parts: manifest.parts,
                committed_at,
                damage,
            })
        };
        rows.into_iter().map(view).collect()
    }
}

/// Whether a part is of a checkpoint, or of a time, that was given up since: its generation wrote it before.
async fn is_old_news(connection: &mut PgConnection, stage: StageId, step: u64, generation: u64) -> sqlx::Result<bool> {
    let limit = doubts::limit(connection, stage, generation).await?;
    if limit.is_some_and(|limit| step > limit) {
        return Ok(true);
    }
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM checkpoints WHERE stage = $1 AND step = $2 AND closed_in >= $3)")
        .bind(stage.as_uuid())
        .bind(stored(step))
        .bind(stored(generation))
        .fetch_one(connection)
        .await
}

/// Gives a checkpoint up that cannot be loaded. False if it was before. Its step may have another one, of parts that a later
/// generation writes.
pub(super) async fn mark_damaged(connection: &mut PgConnection, damage: &Damage, event: &Event) -> sqlx::Result<bool> {
    let marked = sqlx::query(
        "WITH marked AS (
            UPDATE checkpoints c
            SET damaged_at = now(), damage = $2, closed_in = (SELECT generation FROM stages WHERE id = c.stage)
            WHERE c.id = $1 AND c.damaged_at IS NULL
            RETURNING c.stage, c.step
         ), forgotten AS (
            DELETE FROM checkpoint_parts p USING marked m WHERE p.stage = m.stage AND p.step = m.step
         )
         SELECT FROM marked",
    )
    .bind(damage.checkpoint.as_uuid())
    .bind(damage.to_string())
    .fetch_optional(&mut *connection)
    .await?;
    if marked.is_some() {
        events::add(connection, std::slice::from_ref(event)).await?;
    }
    Ok(marked.is_some())
}

async fn insert_part(
    connection: &mut PgConnection,
    stage: StageId,
    generation: u64,
    part: &CheckpointPart,
) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO checkpoint_parts (stage, step, parts, state_bytes, part, offset_bytes, generation, object, tensors)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
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
    .bind(part.tensors.as_ref().map(json).transpose()?)
    .execute(connection)
    .await
    .map(drop)
}

/// The manifest that `part` belongs to, if all its parts are there and follow each other without gap or overlap.
async fn whole(connection: &mut PgConnection, stage: StageId, part: &CheckpointPart) -> sqlx::Result<Option<Manifest>> {
    let rows: Vec<(i32, i64, Value, Option<Value>)> = sqlx::query_as(
        "SELECT part, offset_bytes, object, tensors
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
    for (index, offset_bytes, object, tensors) in rows {
        let found = CheckpointPart {
            part: index.unsigned_abs(),
            offset_bytes: count(offset_bytes)?,
            object: read(object)?,
            tensors: tensors.map(read).transpose()?,
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

/// The last good checkpoint of each stage of these jobs.
pub(super) async fn last_of_jobs(
    connection: &mut PgConnection,
    jobs: &[Uuid],
) -> sqlx::Result<BTreeMap<StageId, Manifest>> {
    let rows: Vec<(Uuid, Value)> = sqlx::query_as(
        "SELECT DISTINCT ON (c.stage) c.stage, c.manifest
         FROM checkpoints c
         JOIN stages s ON s.id = c.stage
         WHERE s.job = ANY($1) AND c.dropped_at IS NULL AND c.damaged_at IS NULL
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
