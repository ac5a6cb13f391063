//! Table `checkpoint_parts`: what ranks have written of checkpoints.
//!
//! A part is a fact about a committed step: it is taken whatever became of the generation that wrote it. The part that
//! makes a checkpoint whole commits its manifest in the same transaction.

use super::value::{count, json, read, stored};
use super::{Store, checkpoint_requests, checkpoints, doubts, events, retention, stages};
use crate::domain::Event;
use medley_protocol::checkpoint::{CheckpointPart, Manifest};
use medley_protocol::ids::{CheckpointId, JobId, StageId};
use medley_protocol::rest::{PartHandedIn, PartRefused};
use serde_json::Value;
use sqlx::PgConnection;
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
        if is_old_news(&mut transaction, stage, part.step, *generation).await? {
            return Ok(PartOutcome::Stored);
        }
        stages::note_peak(&mut transaction, stage.as_uuid(), *peak_bytes).await?;
        insert(&mut transaction, stage, *generation, part).await?;
        let committed = match whole(&mut transaction, stage, part).await? {
            Some(manifest) => checkpoints::insert(&mut transaction, &manifest).await?,
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
            checkpoint_requests::answer(&mut transaction, stage, part.step).await?;
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
        let mut transaction = self.pool.begin().await?;
        // Of two at once the second one sees what the first has said.
        let owner: Option<(Uuid, String)> =
            sqlx::query_as("SELECT job, name FROM stages WHERE id = $1 FOR NO KEY UPDATE")
                .bind(stage.as_uuid())
                .fetch_optional(&mut *transaction)
                .await?;
        let Some((job, stage_name)) = owner else {
            return Ok(false);
        };
        let node_name: Option<String> = sqlx::query_scalar("SELECT name FROM nodes WHERE id = $1")
            .bind(node.as_uuid())
            .fetch_optional(&mut *transaction)
            .await?;
        let Some(node_name) = node_name else {
            return Ok(true);
        };
        let what = format!("{stage_name}: the checkpoint at step {step} cannot be written on {node_name}, ");
        let is_known: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM events
                            WHERE stage = $1 AND node = $2 AND kind = 'checkpoint-not-written'
                              AND starts_with(message, $3))",
        )
        .bind(stage.as_uuid())
        .bind(node.as_uuid())
        .bind(&what)
        .fetch_one(&mut *transaction)
        .await?;
        if !is_known {
            let event = Event {
                job: Some(JobId::from_uuid(job)),
                stage: Some(stage),
                node: Some(*node),
                kind: "checkpoint-not-written",
                message: format!("{what}which goes on and tries again: {reason}"),
            };
            events::add(&mut transaction, &[event]).await?;
        }
        transaction.commit().await?;
        Ok(true)
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

async fn insert(
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
