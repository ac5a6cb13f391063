//! Table `ledger`: what every committed step has read.
//!
//! An entry is stored in the transaction that stores its step's metrics, so there is exactly one where there is a row of
//! metrics. An entry that arrives again, because a request was repeated or a step redone, must be the one that is stored: it
//! is compared, and an event names the steps where it differs.

use super::value::{read, stored};
use super::{Store, events};
use crate::domain::Event;
use medley_protocol::ids::{JobId, StageId};
use medley_protocol::ledger::LedgerEntry;
use serde_json::Value;
use sqlx::PgConnection;

impl Store {
    /// Stored entries of a stage from a step on, in order.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn list_ledger(&self, stage: StageId, from_step: u64, limit: i64) -> sqlx::Result<Vec<LedgerEntry>> {
        let entries: Vec<Value> = sqlx::query_scalar(
            "SELECT entry
             FROM ledger
             WHERE stage = $1 AND step >= $2
             ORDER BY step
             LIMIT $3",
        )
        .bind(stage.as_uuid())
        .bind(stored(from_step))
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        entries.into_iter().map(read).collect()
    }
}

/// Stores the entries of the steps from `through` on, and compares those before.
pub(super) async fn add(
    connection: &mut PgConnection,
    (job, stage): (JobId, StageId),
    entries: &[LedgerEntry],
    through: u64,
) -> sqlx::Result<()> {
    let (again, new): (Vec<&LedgerEntry>, Vec<&LedgerEntry>) = entries.iter().partition(|entry| entry.step < through);
    if !new.is_empty() {
        insert(connection, stage, &new).await?;
    }
    if again.is_empty() {
        return Ok(());
    }
    let differing = differing(connection, stage, &again).await?;
    let events: Vec<Event> = differing.into_iter().map(|step| differs(job, stage, step)).collect();
    events::add(connection, &events).await
}

async fn insert(connection: &mut PgConnection, stage: StageId, entries: &[&LedgerEntry]) -> sqlx::Result<()> {
    let (steps, texts) = columns(entries)?;
    sqlx::query(
        "INSERT INTO ledger (stage, step, entry)
         SELECT $1, new.step, new.entry::json
         FROM unnest($2::bigint[], $3::text[]) AS new (step, entry)",
    )
    .bind(stage.as_uuid())
    .bind(steps)
    .bind(texts)
    .execute(connection)
    .await
    .map(drop)
}

/// Steps whose stored entries are others. A column of type json keeps the text as it was sent.
async fn differing(connection: &mut PgConnection, stage: StageId, entries: &[&LedgerEntry]) -> sqlx::Result<Vec<i64>> {
    let (steps, texts) = columns(entries)?;
    sqlx::query_scalar(
        "SELECT ledger.step
         FROM ledger
         JOIN unnest($2::bigint[], $3::text[]) AS again (step, entry) ON again.step = ledger.step
         WHERE ledger.stage = $1 AND ledger.entry::text <> again.entry
         ORDER BY ledger.step",
    )
    .bind(stage.as_uuid())
    .bind(steps)
    .bind(texts)
    .fetch_all(connection)
    .await
}

fn columns(entries: &[&LedgerEntry]) -> sqlx::Result<(Vec<i64>, Vec<String>)> {
    let texts = entries.iter().map(serde_json::to_string).collect::<Result<_, _>>();
    let texts = texts.map_err(|e| sqlx::Error::Encode(e.into()))?;
    Ok((entries.iter().map(|entry| stored(entry.step)).collect(), texts))
}

fn differs(job: JobId, stage: StageId, step: i64) -> Event {
    Event {
        job: Some(job),
        stage: Some(stage),
        node: None,
        kind: "ledger-differs",
        message: format!("step {step} was reported again with other samples than those in the ledger"),
    }
}
