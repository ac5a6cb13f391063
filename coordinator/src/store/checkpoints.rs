//! Table `checkpoints`: manifests of those that are whole, and what is wrong with the ones that were found damaged.

use super::value::{json, read, stored};
use super::{Store, events};
use crate::domain::Event;
use chrono::{DateTime, Utc};
use medley_protocol::checkpoint::{Damage, Manifest};
use medley_protocol::ids::{CheckpointId, JobId, StageId};
use medley_protocol::rest::{CheckpointView, DamageFound};
use serde_json::Value;
use sqlx::PgConnection;
use std::collections::BTreeMap;
use uuid::Uuid;

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
    /// Gives up a checkpoint that somebody found damaged.
    ///
    /// # Errors
    /// Those of the database, as every method here.
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

/// Commits a manifest. False if its step has a checkpoint already.
pub(super) async fn insert(connection: &mut PgConnection, manifest: &Manifest) -> sqlx::Result<bool> {
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
