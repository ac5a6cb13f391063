//! Giving checkpoints up, and deleting what only they needed: table `doomed_objects`.
//!
//! Objects are named by their content, so an object may be wanted again by the time it is to go. It is deleted in three
//! steps. The transaction that gives a checkpoint up notes its objects. After a grace, in which whoever still reads them can
//! end, [`Store::ripe_objects`] looks whether anything that is kept, or handed in, names them. It holds the row of the stage
//! meanwhile: neither a part nor a new generation can come in between. And it waits as long as the stage might train the
//! step again, because a rank that finds an object in place does not write it.
//!
//! Only objects in the stage's own [`folder`] are ever deleted. No other part may lie there, and no result of a task: what
//! dataset versions and evaluations name is out of reach.

use super::Store;
use super::value::{count, read, stored};
use crate::domain::retention::{Held, surplus};
use medley_protocol::checkpoint::folder;
use medley_protocol::ids::{CheckpointId, StageId};
use medley_protocol::spec::CheckpointSpec;
use serde_json::Value;
use sqlx::{PgConnection, Postgres, Transaction};
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;
use uuid::Uuid;

/// Most objects of one transaction: a stage cannot be placed meanwhile.
const BATCH: i64 = 64;

/// Objects of a stage that may be deleted now. As long as this is held nobody can begin to need them, and the stage cannot be
/// placed.
#[derive(Debug)]
pub struct Ripe {
    transaction: Transaction<'static, Postgres>,
    stage: Uuid,
    /// Keys that nothing names any more.
    pub keys: Vec<String>,
    /// Keys that something names again, or that are not the stage's own.
    named: Vec<String>,
}

impl Store {
    /// The next objects that may be deleted; none if there are none.
    ///
    /// # Errors
    /// Those of the database, as every method here.
    pub async fn ripe_objects(&self, grace: Duration) -> sqlx::Result<Option<Ripe>> {
        let mut transaction = self.pool.begin().await?;
        let Some(stage) = ripe_stage(&mut transaction, grace).await? else {
            return Ok(None);
        };
        sqlx::query("SELECT FROM stages WHERE id = $1 FOR NO KEY UPDATE")
            .bind(stage)
            .execute(&mut *transaction)
            .await?;
        let objects = ripe_objects(&mut transaction, stage, grace).await?;
        let (named, free): (Vec<_>, Vec<_>) = objects.into_iter().partition(|(_, is_named)| *is_named);
        let keys = |objects: Vec<(String, bool)>| objects.into_iter().map(|(key, _)| key).collect();
        Ok(Some(Ripe {
            transaction,
            stage,
            keys: keys(free),
            named: keys(named),
        }))
    }
}

impl Ripe {
    /// These of the objects are gone. Returns how many, with those that are named again, need no more attention.
    pub async fn settle(mut self, deleted: &[String]) -> sqlx::Result<usize> {
        let settled = sqlx::query("DELETE FROM doomed_objects WHERE stage = $1 AND (key = ANY($2) OR key = ANY($3))")
            .bind(self.stage)
            .bind(deleted)
            .bind(&self.named)
            .execute(&mut *self.transaction)
            .await?;
        self.transaction.commit().await?;
        Ok(settled.rows_affected() as usize)
    }
}

/// A stage with objects that are ripe: their grace is over, and it cannot train their step again.
async fn ripe_stage(connection: &mut PgConnection, grace: Duration) -> sqlx::Result<Option<Uuid>> {
    sqlx::query_scalar(
        "SELECT stage FROM ripe_objects
         WHERE since <= now() - make_interval(secs => $1)
         ORDER BY since
         LIMIT 1",
    )
    .bind(grace.as_secs_f64())
    .fetch_optional(connection)
    .await
}

/// Ripe objects of a stage, and whether they stay: something that is kept names them, or they are not the stage's own.
async fn ripe_objects(
    connection: &mut PgConnection,
    stage: Uuid,
    grace: Duration,
) -> sqlx::Result<Vec<(String, bool)>> {
    sqlx::query_as(
        "SELECT r.key,
                EXISTS (SELECT FROM checkpoints c, unnest(ARRAY['object', 'tensors']) AS kind
                        WHERE c.dropped_at IS NULL
                          AND c.manifest @> jsonb_build_object('parts', jsonb_build_array(
                                  jsonb_build_object(kind, jsonb_build_object('key', r.key)))))
                OR EXISTS (SELECT FROM checkpoint_parts p WHERE r.key IN (p.object ->> 'key', p.tensors ->> 'key'))
                OR NOT starts_with(r.key, $4)
         FROM ripe_objects r
         WHERE r.stage = $2 AND r.since <= now() - make_interval(secs => $1)
         ORDER BY r.since
         LIMIT $3",
    )
    .bind(grace.as_secs_f64())
    .bind(stage)
    .bind(BATCH)
    .bind(folder(StageId::from_uuid(stage)))
    .fetch_all(connection)
    .await
}

/// Retention: gives up what the spec does not keep, but for what the present generation started from and the following one
/// would, which slow ranks may still be reading.
pub(super) async fn drop_surplus(connection: &mut PgConnection, stage: StageId) -> sqlx::Result<()> {
    let (spec, resumed, next, is_done): (Value, Option<String>, Option<String>, bool) = sqlx::query_as(
        "SELECT j.spec -> 'checkpoint', s.membership #>> '{generation,resume,id}', s.membership #>> '{next,resume,id}',
                s.state = 'done'
         FROM stages s
         JOIN jobs j ON j.id = s.job
         WHERE s.id = $1",
    )
    .bind(stage.as_uuid())
    .fetch_one(&mut *connection)
    .await?;
    let spec: CheckpointSpec = read(spec)?;
    let pinned = [resumed, next]
        .into_iter()
        .flatten()
        .filter_map(|id| id.parse().ok())
        .collect();
    let held = held(connection, stage).await?;
    let gone: BTreeSet<CheckpointId> = surplus(spec, &held, &pinned, !is_done);
    let gone: Vec<Uuid> = gone.into_iter().map(CheckpointId::as_uuid).collect();
    sqlx::query(
        "WITH dropped AS (
            UPDATE checkpoints
            SET dropped_at = now(), closed_in = (SELECT generation FROM stages WHERE id = $1)
            WHERE id = ANY($2) AND dropped_at IS NULL
            RETURNING step, manifest
         )
         INSERT INTO doomed_objects (stage, step, key)
         SELECT $1, max(d.step), key
         FROM dropped d,
              jsonb_array_elements(d.manifest -> 'parts') AS part,
              unnest(ARRAY[part #>> '{object,key}', part #>> '{tensors,key}']) AS key
         WHERE key IS NOT NULL
         GROUP BY key
         ON CONFLICT (stage, key) DO UPDATE SET since = now(), step = greatest(doomed_objects.step, excluded.step)",
    )
    .bind(stage.as_uuid())
    .bind(gone)
    .execute(&mut *connection)
    .await?;
    // Parts up to the last whole checkpoint, which always stays, have served, or will never make a whole one.
    match held.iter().filter(|one| !one.damaged).map(|one| one.step).max() {
        Some(last) => forget_parts(connection, stage, 0..=last).await,
        None => Ok(()),
    }
}

/// Forgets the parts of these steps. What no manifest names of them goes, once the stage cannot train their step again.
pub(super) async fn forget_parts(
    connection: &mut PgConnection,
    stage: StageId,
    steps: RangeInclusive<u64>,
) -> sqlx::Result<()> {
    sqlx::query(
        "WITH forgotten AS (
            DELETE FROM checkpoint_parts
            WHERE stage = $1 AND step BETWEEN $2 AND $3
            RETURNING step, object ->> 'key' AS object, tensors ->> 'key' AS tensors
         )
         INSERT INTO doomed_objects (stage, step, key)
         SELECT $1, max(step), key
         FROM forgotten, unnest(ARRAY[object, tensors]) AS key
         WHERE key IS NOT NULL
         GROUP BY key
         ON CONFLICT (stage, key) DO UPDATE SET since = now(), step = greatest(doomed_objects.step, excluded.step)",
    )
    .bind(stage.as_uuid())
    .bind(stored(*steps.start()))
    .bind(stored(*steps.end()))
    .execute(connection)
    .await
    .map(drop)
}

async fn held(connection: &mut PgConnection, stage: StageId) -> sqlx::Result<Vec<Held>> {
    let rows: Vec<(Uuid, i64, bool, Option<f64>)> = sqlx::query_as(
        "SELECT id, step, damaged_at IS NOT NULL, mean_loss
         FROM checkpoints
         WHERE stage = $1 AND dropped_at IS NULL",
    )
    .bind(stage.as_uuid())
    .fetch_all(connection)
    .await?;
    let held = |(id, step, damaged, mean_loss)| {
        Ok(Held {
            id: CheckpointId::from_uuid(id),
            step: count(step)?,
            damaged,
            mean_loss,
        })
    };
    rows.into_iter().map(held).collect()
}

/// Notes the mean loss over the steps since the checkpoint before this one.
pub(super) async fn note_loss(connection: &mut PgConnection, stage: StageId, step: u64) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE checkpoints
         SET mean_loss = (SELECT avg(m.itc + m.itm + m.lm)
                          FROM metrics m
                          WHERE m.stage = $1 AND m.step < $2
                            AND m.step >= coalesce((SELECT max(c.step) FROM checkpoints c
                                                    WHERE c.stage = $1 AND c.step < $2), 0))
         WHERE stage = $1 AND step = $2 AND dropped_at IS NULL AND damaged_at IS NULL",
    )
    .bind(stage.as_uuid())
    .bind(stored(step))
    .execute(connection)
    .await
    .map(drop)
}
