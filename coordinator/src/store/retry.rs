//! Jobs that failed and go on where they did.
//!
//! Nothing that they need is gone by then: a stage that is not done keeps its checkpoints as while it trains, one that is done its
//! last ones, and dataset versions and what was made of shards are never deleted.

use super::{Saved, Store, events, jobs};
use crate::domain::{Event, Job};
use medley_protocol::ids::JobId;
use sqlx::PgConnection;
use std::collections::BTreeMap;

impl Store {
    /// Writes a job that is retried over the version that it was loaded from, with its event. The tasks of its stages begin anew.
    ///
    /// # Errors
    /// Those of the database; nothing is written then.
    pub async fn save_retried(&self, job: &Job, event: &Event) -> sqlx::Result<Saved> {
        let mut transaction = self.pool.begin().await?;
        if !jobs::update(&mut transaction, job).await? {
            transaction.rollback().await?;
            return Ok(Saved::Outdated);
        }
        begin_anew(&mut transaction, job.id).await?;
        events::add(&mut transaction, std::slice::from_ref(event)).await?;
        transaction.commit().await?;
        Ok(Saved::Written {
            revisions: BTreeMap::new(),
        })
    }
}

/// A job is retried: its tasks that are not done are open, as if they had never been tried. Where indexes could not be merged
/// their shards are read again as well: what was wrong with them may have been put right.
async fn begin_anew(connection: &mut PgConnection, job: JobId) -> sqlx::Result<()> {
    sqlx::query(
        "WITH merges AS (
            DELETE FROM tasks t USING stages s
            WHERE s.id = t.stage AND s.job = $1 AND t.state = 'failed' AND t.work ->> 'task' = 'index-merge'
            RETURNING t.stage
         )
         UPDATE tasks SET state = 'open', output = NULL, finished_at = NULL, attempts = 0
         WHERE state = 'done' AND stage IN (SELECT stage FROM merges)",
    )
    .bind(job.as_uuid())
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "UPDATE tasks t
         SET state = 'open', attempts = 0, token = NULL, lease_until = NULL, reason = '', finished_at = NULL
         FROM stages s
         WHERE s.id = t.stage AND s.job = $1 AND t.state <> 'done'",
    )
    .bind(job.as_uuid())
    .execute(connection)
    .await
    .map(drop)
}
