//! Table `doubts`: states that differed between the ranks of a generation, and what is forgotten because of them.
//!
//! A doubt closes all generations of a stage that were made before it. What they have handed in for more steps than are proven
//! goes: checkpoints are given up as damaged ones are, parts and metrics are forgotten. What they hand in later is old news.

use super::value::{count, stored};
use super::{epochs, events, retention};
use crate::domain::Event;
use medley_protocol::doubt::Doubt;
use medley_protocol::ids::StageId;
use sqlx::PgConnection;
use std::collections::BTreeMap;
use uuid::Uuid;

/// Raises a doubt, which closes the generations up to this one. The event is added if a checkpoint is given up. Repeating it
/// changes nothing.
pub(super) async fn raise(
    connection: &mut PgConnection,
    (stage, generation): (StageId, u64),
    doubt: &Doubt,
    event: &Event,
) -> sqlx::Result<()> {
    // Whoever hands in something holds this row: it comes before the doubt, or finds it.
    sqlx::query("SELECT FROM stages WHERE id = $1 FOR NO KEY UPDATE")
        .bind(stage.as_uuid())
        .execute(&mut *connection)
        .await?;
    let raised = sqlx::query(
        "INSERT INTO doubts (stage, generation, proven, reason)
         VALUES ($1, $2, $3, $4)
         ON CONFLICT DO NOTHING",
    )
    .bind(stage.as_uuid())
    .bind(stored(generation))
    .bind(stored(doubt.proven))
    .bind(doubt.to_string())
    .execute(&mut *connection)
    .await?;
    if raised.rows_affected() == 0 {
        return Ok(());
    }
    if give_up_checkpoints(connection, (stage, generation), doubt).await? > 0 {
        events::add(connection, std::slice::from_ref(event)).await?;
    }
    retention::forget_parts(connection, stage, doubt.proven.saturating_add(1)..=u64::MAX).await?;
    forget_metrics(connection, stage, doubt.proven).await?;
    epochs::reopen_from(connection, stage, doubt.proven).await
}

/// Of how many steps at most a generation may hand something in; none if it is trusted.
pub(super) async fn limit(connection: &mut PgConnection, stage: StageId, generation: u64) -> sqlx::Result<Option<u64>> {
    let limit: Option<i64> = sqlx::query_scalar("SELECT min(proven) FROM doubts WHERE stage = $1 AND generation >= $2")
        .bind(stage.as_uuid())
        .bind(stored(generation))
        .fetch_one(connection)
        .await?;
    limit.map(count).transpose()
}

/// The last generation of each stage of these jobs that is not trusted.
pub(super) async fn of_jobs(connection: &mut PgConnection, jobs: &[Uuid]) -> sqlx::Result<BTreeMap<StageId, u64>> {
    let rows: Vec<(Uuid, i64)> = sqlx::query_as(
        "SELECT d.stage, max(d.generation)
         FROM doubts d
         JOIN stages s ON s.id = d.stage
         WHERE s.job = ANY($1)
         GROUP BY d.stage",
    )
    .bind(jobs)
    .fetch_all(connection)
    .await?;
    let doubted = |(stage, generation)| Ok((StageId::from_uuid(stage), count(generation)?));
    rows.into_iter().map(doubted).collect()
}

async fn give_up_checkpoints(
    connection: &mut PgConnection,
    (stage, generation): (StageId, u64),
    doubt: &Doubt,
) -> sqlx::Result<u64> {
    sqlx::query(
        "UPDATE checkpoints
         SET damaged_at = now(),
             damage = format('the checkpoint at step %s is doubtful: %s', step, $4),
             closed_in = $3
         WHERE stage = $1 AND step > $2 AND damaged_at IS NULL AND dropped_at IS NULL",
    )
    .bind(stage.as_uuid())
    .bind(stored(doubt.proven))
    .bind(stored(generation))
    .bind(doubt.to_string())
    .execute(connection)
    .await
    .map(|done| done.rows_affected())
}

/// The rows of a step that led to a doubtful state, with what it has read.
async fn forget_metrics(connection: &mut PgConnection, stage: StageId, proven: u64) -> sqlx::Result<()> {
    sqlx::query(
        "WITH metrics AS (DELETE FROM metrics WHERE stage = $1 AND step >= $2),
              ledger AS (DELETE FROM ledger WHERE stage = $1 AND step >= $2)
         UPDATE stages SET metrics_through_step = least(metrics_through_step, $2) WHERE id = $1",
    )
    .bind(stage.as_uuid())
    .bind(stored(proven))
    .execute(connection)
    .await
    .map(drop)
}
