//! Table `checkpoint_requests`: checkpoints that somebody has asked for. A stage has one open request at most.

use super::value::{count, stored};
use super::{Store, events};
use crate::domain::Event;
use medley_protocol::agent::CheckpointWanted;
use medley_protocol::ids::{CheckpointRequestId, JobId, StageId};
use sqlx::PgConnection;
use std::collections::BTreeMap;
use uuid::Uuid;

impl Store {
    /// Asks a stage for a checkpoint; gives the open request if there is one already.
    ///
    /// # Errors
    /// Those of the database.
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
}

/// A checkpoint of this step answers what was asked for by then.
pub(super) async fn answer(connection: &mut PgConnection, stage: StageId, step: u64) -> sqlx::Result<()> {
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

/// The open request of each stage of these jobs.
pub(super) async fn open_of_jobs(
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
