//! Table `metrics`, and how far each stage's are stored.
//!
//! Exactly once: the rows of a chunk that are stored already are skipped, and a chunk that would leave a gap is refused
//! with the step that is wanted. One gap is accepted: up to the step that the present generation went on from, because the
//! rows before it are gone with the nodes that held them; the node of longest standing reports. Rows of a time that is
//! doubtful are not taken: they are computed again.

use super::value::{count, read, stored};
use super::{Store, doubts, epochs, events, ledger};
use crate::domain::Event;
use medley_protocol::ids::{JobId, StageId};
use medley_protocol::metrics::{MetricsChunk, StepMetrics};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

/// What became of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsOutcome {
    /// Its rows are stored; the next one wanted has this step.
    Stored(u64),
    /// Rows before it are missing; the next one wanted has this step.
    Gap(u64),
    /// No such stage.
    NoStage,
}

#[derive(sqlx::FromRow)]
struct Row {
    step: i64,
    epoch: i64,
    itc: f64,
    itm: f64,
    lm: f64,
    lr: f64,
    alpha: f64,
    temperature: f64,
    grad_norm: f64,
}

impl Row {
    fn metrics(&self) -> sqlx::Result<StepMetrics> {
        Ok(StepMetrics {
            step: count(self.step)?,
            epoch: count(self.epoch)?,
            itc: self.itc,
            itm: self.itm,
            lm: self.lm,
            lr: self.lr,
            alpha: self.alpha,
            temperature: self.temperature,
            grad_norm: self.grad_norm,
        })
    }
}

impl Store {
    /// How many steps of a stage are stored; none if there is no such stage.
    ///
    /// # Errors
    /// Those of the database, as every method here.
    pub async fn metrics_through(&self, stage: StageId) -> sqlx::Result<Option<u64>> {
        let through: Option<i64> = sqlx::query_scalar("SELECT metrics_through_step FROM stages WHERE id = $1")
            .bind(stage.as_uuid())
            .fetch_optional(&self.pool)
            .await?;
        through.map(count).transpose()
    }

    /// Stores what is new of consecutive rows and of their entries in the ledger, for good: agents forget what is stored.
    pub async fn add_metrics(&self, stage: StageId, chunk: &MetricsChunk) -> sqlx::Result<MetricsOutcome> {
        let mut transaction = self.pool.begin().await?;
        let Some((job, through, went_on_from)) = lock(&mut transaction, stage).await? else {
            return Ok(MetricsOutcome::NoStage);
        };
        let job = JobId::from_uuid(job);
        let limit = doubts::limit(&mut transaction, stage, chunk.generation).await?;
        let Some(chunk) = trusted(chunk, limit.unwrap_or(u64::MAX)) else {
            return Ok(MetricsOutcome::Gap(through));
        };
        let new: Vec<&StepMetrics> = chunk.rows.iter().filter(|row| row.step >= through).collect();
        let (Some(first), Some(last)) = (new.first(), new.last()) else {
            ledger::add(&mut transaction, (job, stage), &chunk.ledger, through).await?;
            transaction.commit().await?;
            return Ok(MetricsOutcome::Stored(through));
        };
        if first.step > through {
            if went_on_from.is_none_or(|from| first.step > from) {
                return Ok(MetricsOutcome::Gap(through));
            }
            let message = format!(
                "metrics of steps {through} to {} are lost with their node",
                first.step - 1
            );
            let event = Event {
                job: Some(job),
                stage: Some(stage),
                node: None,
                kind: "metrics-lost",
                message,
            };
            events::add(&mut transaction, &[event]).await?;
        }
        let next = last.step + 1;
        insert(&mut transaction, stage, &new).await?;
        ledger::add(&mut transaction, (job, stage), &chunk.ledger, through).await?;
        sqlx::query("UPDATE stages SET metrics_through_step = $2 WHERE id = $1")
            .bind(stage.as_uuid())
            .bind(stored(next))
            .execute(&mut *transaction)
            .await?;
        epochs::close_through(&mut transaction, stage, stored(next)).await?;
        transaction.commit().await?;
        Ok(MetricsOutcome::Stored(next))
    }

    /// Stored rows of a stage from a step on, in order.
    pub async fn list_metrics(&self, stage: StageId, from_step: u64, limit: i64) -> sqlx::Result<Vec<StepMetrics>> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT step, epoch, itc, itm, lm, lr, alpha, temperature, grad_norm
             FROM metrics
             WHERE stage = $1 AND step >= $2
             ORDER BY step
             LIMIT $3",
        )
        .bind(stage.as_uuid())
        .bind(stored(from_step))
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(Row::metrics).collect()
    }
}

/// What a chunk says of the first `limit` steps, if it says anything of them.
fn trusted(chunk: &MetricsChunk, limit: u64) -> Option<MetricsChunk> {
    let mut chunk = chunk.clone();
    chunk.rows.retain(|row| row.step < limit);
    chunk.ledger.retain(|entry| entry.step < limit);
    (!chunk.rows.is_empty()).then_some(chunk)
}

/// Locks the stage's row; its job, stored steps, and the step that its present generation went on from.
async fn lock(connection: &mut PgConnection, stage: StageId) -> sqlx::Result<Option<(Uuid, u64, Option<u64>)>> {
    let row: Option<(Uuid, i64, Option<Value>)> = sqlx::query_as(
        "SELECT job, metrics_through_step, membership -> 'from'
         FROM stages
         WHERE id = $1
         FOR NO KEY UPDATE",
    )
    .bind(stage.as_uuid())
    .fetch_optional(connection)
    .await?;
    let Some((job, through, went_on_from)) = row else {
        return Ok(None);
    };
    Ok(Some((job, count(through)?, went_on_from.map(read).transpose()?)))
}

async fn insert(connection: &mut PgConnection, stage: StageId, rows: &[&StepMetrics]) -> sqlx::Result<()> {
    let floats = |value: fn(&StepMetrics) -> f64| -> Vec<f64> { rows.iter().map(|row| value(row)).collect() };
    let counts = |value: fn(&StepMetrics) -> u64| -> Vec<i64> { rows.iter().map(|row| stored(value(row))).collect() };
    sqlx::query(
        "INSERT INTO metrics (stage, step, epoch, itc, itm, lm, lr, alpha, temperature, grad_norm)
         SELECT $1, * FROM unnest($2::bigint[], $3::bigint[], $4::float8[], $5::float8[], $6::float8[], $7::float8[],
                                  $8::float8[], $9::float8[], $10::float8[])",
    )
    .bind(stage.as_uuid())
    .bind(counts(|row| row.step))
    .bind(counts(|row| row.epoch))
    .bind(floats(|row| row.itc))
    .bind(floats(|row| row.itm))
    .bind(floats(|row| row.lm))
    .bind(floats(|row| row.lr))
    .bind(floats(|row| row.alpha))
    .bind(floats(|row| row.temperature))
    .bind(floats(|row| row.grad_norm))
    .execute(connection)
    .await
    .map(drop)
}
