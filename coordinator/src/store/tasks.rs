//! Table `tasks`: work leased by the database's clock.
//!
//! Finishing is one guarded UPDATE with the lease's token, so a lease that ran out is harmless: whoever finishes first
//! with a valid token counts.

use super::value::{count, json, read};
use super::{Store, datasets, events, stages};
use crate::domain::graph::NewTask;
use crate::domain::stage::Tasks;
use crate::domain::{Event, made};
use medley_protocol::ids::{JobId, LeaseToken, NodeId, StageId, TaskId};
use medley_protocol::rest::{LeaseRequest, TaskFinished};
use medley_protocol::tasks::{Lease, ShardObject, TaskOutput, TaskWork};
use serde_json::Value;
use sqlx::PgConnection;
use std::collections::BTreeMap;
use uuid::Uuid;

/// A task that its rank gives up has failed for good at this attempt.
pub const MAX_ATTEMPTS: i32 = 3;
/// A task is leased so often, if its ranks end without a word: that need not be its fault.
pub const MAX_LEASES: i32 = 8;
/// Length of a lease.
const LEASE_MS: u64 = 30_000;

/// Answer to a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// The lease; none if nothing is open.
    Granted(Option<Lease>),
    /// The claim names an old generation or life, or a rank that has no seat.
    Stale,
    /// No such stage.
    NoStage,
}

impl Store {
    /// Leases the next open task of a stage.
    ///
    /// # Errors
    /// Those of the database, as every method here.
    pub async fn claim_task(&self, stage: StageId, request: &LeaseRequest) -> sqlx::Result<Claim> {
        let mut transaction = self.pool.begin().await?;
        let known: Option<bool> = sqlx::query_scalar(
            "SELECT coalesce(
                 state = 'running' AND generation = $2
                 AND membership #> '{generation,seats}' @> jsonb_build_array(
                     jsonb_build_object('rank', $3::integer, 'node', $4::text, 'incarnation', $5::text)),
                 false)
             FROM stages
             WHERE id = $1
             FOR SHARE",
        )
        .bind(stage.as_uuid())
        .bind(super::value::stored(request.generation))
        .bind(request.rank as i32)
        .bind(request.node.to_string())
        .bind(request.incarnation.to_string())
        .fetch_optional(&mut *transaction)
        .await?;
        match known {
            None => return Ok(Claim::NoStage),
            Some(false) => return Ok(Claim::Stale),
            Some(true) => {}
        }
        let lease = lease_next(&mut transaction, stage, request.node, request.rank).await?;
        transaction.commit().await?;
        Ok(Claim::Granted(lease))
    }

    /// Keeps a lease alive; false if the token is not the present one.
    pub async fn renew_task(&self, task: TaskId, token: LeaseToken) -> sqlx::Result<bool> {
        sqlx::query(
            "UPDATE tasks SET lease_until = clock_timestamp() + $3 * interval '1 millisecond'
             WHERE id = $1 AND state = 'leased' AND token = $2",
        )
        .bind(task.as_uuid())
        .bind(token.as_uuid())
        .bind(LEASE_MS as f64)
        .execute(&self.pool)
        .await
        .map(|done| done.rows_affected() == 1)
    }

    /// What a task asks for.
    pub async fn task_work(&self, task: TaskId) -> sqlx::Result<Option<TaskWork>> {
        let work: Option<Value> = sqlx::query_scalar("SELECT work FROM tasks WHERE id = $1")
            .bind(task.as_uuid())
            .fetch_optional(&self.pool)
            .await?;
        work.map(read).transpose()
    }

    /// Records a task's result and what follows from it; false if the token is not the present one.
    pub async fn finish_task(&self, task: TaskId, finished: &TaskFinished) -> sqlx::Result<bool> {
        let TaskFinished {
            token,
            output,
            peak_bytes,
        } = finished;
        let mut transaction = self.pool.begin().await?;
        // The stage before its task, in the order in which the scheduler locks them.
        let of: Option<Uuid> = sqlx::query_scalar("SELECT stage FROM tasks WHERE id = $1")
            .bind(task.as_uuid())
            .fetch_optional(&mut *transaction)
            .await?;
        if let Some(stage) = of {
            stages::note_peak(&mut transaction, stage, *peak_bytes).await?;
        }
        let stage: Option<Uuid> = sqlx::query_scalar(
            "UPDATE tasks
             SET state = 'done', output = $3, token = NULL, lease_until = NULL, reason = '', finished_at = now()
             WHERE id = $1 AND state = 'leased' AND token = $2
             RETURNING stage",
        )
        .bind(task.as_uuid())
        .bind(token.as_uuid())
        .bind(json(output)?)
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(stage) = stage else { return Ok(false) };
        record(&mut transaction, stage, output).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Takes a given-up task back: open again, or failed for good. False if the token is not the present one.
    pub async fn give_up_task(&self, task: TaskId, token: LeaseToken, reason: &str, retry: bool) -> sqlx::Result<bool> {
        let mut transaction = self.pool.begin().await?;
        let row: Option<(Uuid, i32)> = sqlx::query_as(
            "UPDATE tasks
             SET state = CASE WHEN $4 AND attempts < $5 THEN 'open' ELSE 'failed' END,
                 finished_at = CASE WHEN $4 AND attempts < $5 THEN NULL ELSE now() END,
                 token = NULL, lease_until = NULL, reason = $3
             WHERE id = $1 AND state = 'leased' AND token = $2
             RETURNING stage, attempts",
        )
        .bind(task.as_uuid())
        .bind(token.as_uuid())
        .bind(reason)
        .bind(retry)
        .bind(MAX_ATTEMPTS)
        .fetch_optional(&mut *transaction)
        .await?;
        let Some((stage, attempts)) = row else { return Ok(false) };
        let job: Uuid = sqlx::query_scalar("SELECT job FROM stages WHERE id = $1")
            .bind(stage)
            .fetch_one(&mut *transaction)
            .await?;
        let event = Event {
            job: Some(JobId::from_uuid(job)),
            stage: Some(StageId::from_uuid(stage)),
            node: None,
            kind: "task-failed",
            message: format!("attempt {attempts} of a task failed: {reason}"),
        };
        events::add(&mut transaction, &[event]).await?;
        transaction.commit().await?;
        Ok(true)
    }
}

async fn lease_next(
    connection: &mut PgConnection,
    stage: StageId,
    node: NodeId,
    rank: u32,
) -> sqlx::Result<Option<Lease>> {
    let token = LeaseToken::generate();
    let row: Option<(Uuid, Value)> = sqlx::query_as(
        "UPDATE tasks
         SET state = 'leased', token = $2, attempts = attempts + 1, node = $3, rank = $4,
             lease_until = clock_timestamp() + $5 * interval '1 millisecond'
         WHERE id = (SELECT id
                     FROM tasks
                     WHERE stage = $1 AND attempts < $6
                       AND (state = 'open' OR (state = 'leased' AND lease_until < clock_timestamp()))
                     ORDER BY position
                     LIMIT 1
                     FOR UPDATE SKIP LOCKED)
         RETURNING id, work",
    )
    .bind(stage.as_uuid())
    .bind(token.as_uuid())
    .bind(node.as_uuid())
    .bind(rank as i32)
    .bind(LEASE_MS as f64)
    .bind(MAX_LEASES)
    .fetch_optional(connection)
    .await?;
    let lease = |(task, work)| {
        Ok(Lease {
            task: TaskId::from_uuid(task),
            token,
            lease_ms: LEASE_MS,
            work: read(work)?,
        })
    };
    row.map(lease).transpose()
}

/// What a result means beyond its task: a dataset version, or the figures of an evaluation.
async fn record(connection: &mut PgConnection, stage: Uuid, output: &TaskOutput) -> sqlx::Result<()> {
    match output {
        TaskOutput::Shard { .. } => Ok(()),
        TaskOutput::Dataset { dataset, vocab, counts } => {
            // The index makes version 0; CapFilt of round r makes r + 1.
            let (job, version, threshold): (Uuid, i32, f64) = sqlx::query_as(
                "SELECT s.job, CASE s.kind WHEN 'capfilt' THEN s.round + 1 ELSE s.round END,
                        (j.spec #>> '{capfilt,threshold}')::double precision
                 FROM stages s
                 JOIN jobs j ON j.id = s.job
                 WHERE s.id = $1",
            )
            .bind(stage)
            .fetch_one(&mut *connection)
            .await?;
            datasets::insert(&mut *connection, job, stage, version, dataset, vocab, counts).await?;
            let (job, stage) = (JobId::from_uuid(job), StageId::from_uuid(stage));
            let told = made::events(job, stage, version.unsigned_abs(), counts, threshold);
            events::add(connection, &told).await
        }
        TaskOutput::Evaluation { details, figures } => {
            sqlx::query("UPDATE stages SET evaluation = $2, details = $3 WHERE id = $1")
                .bind(stage)
                .bind(json(figures)?)
                .bind(json(details)?)
                .execute(connection)
                .await
                .map(drop)
        }
    }
}

/// Adds the tasks of a new job.
pub(super) async fn insert(connection: &mut PgConnection, tasks: &[NewTask]) -> sqlx::Result<()> {
    let ids: Vec<Uuid> = tasks.iter().map(|task| task.id.as_uuid()).collect();
    let stages: Vec<Uuid> = tasks.iter().map(|task| task.stage.as_uuid()).collect();
    let positions: Vec<i32> = tasks.iter().map(|task| task.position as i32).collect();
    let works: Vec<Value> = tasks.iter().map(|task| json(&task.work)).collect::<sqlx::Result<_>>()?;
    sqlx::query(
        "INSERT INTO tasks (id, stage, position, work)
         SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::integer[], $4::jsonb[])",
    )
    .bind(ids)
    .bind(stages)
    .bind(positions)
    .bind(works)
    .execute(connection)
    .await
    .map(drop)
}

/// Makes the task that merges a stage's shards, once.
pub(super) async fn add_merge(connection: &mut PgConnection, stage: StageId) -> sqlx::Result<()> {
    let rows: Vec<(Value, Value)> = sqlx::query_as(
        "SELECT work -> 'shard', output -> 'object'
         FROM tasks
         WHERE stage = $1 AND state = 'done' AND output ->> 'output' = 'shard'
         ORDER BY position",
    )
    .bind(stage.as_uuid())
    .fetch_all(&mut *connection)
    .await?;
    let merged = |(shard, object)| {
        Ok(ShardObject {
            shard: read(shard)?,
            object: read(object)?,
        })
    };
    let shards: Vec<ShardObject> = rows.into_iter().map(merged).collect::<sqlx::Result<_>>()?;
    let kind: String = sqlx::query_scalar("SELECT kind FROM stages WHERE id = $1")
        .bind(stage.as_uuid())
        .fetch_one(&mut *connection)
        .await?;
    let position = shards.len() as i32;
    let work = match kind.as_str() {
        "index" => TaskWork::IndexMerge { shards },
        _ => TaskWork::CapfiltMerge { overlays: shards },
    };
    sqlx::query(
        "INSERT INTO tasks (id, stage, position, work)
         VALUES ($1, $2, $3, $4)
         ON CONFLICT (stage, position) DO NOTHING",
    )
    .bind(TaskId::generate().as_uuid())
    .bind(stage.as_uuid())
    .bind(position)
    .bind(json(&work)?)
    .execute(connection)
    .await
    .map(drop)
}

/// Takes all leases of a stage back. Attempts count for the ranks that `failed`, not for those that were stopped with them.
pub(super) async fn release(connection: &mut PgConnection, stage: StageId, failed: &[u32]) -> sqlx::Result<()> {
    let failed: Vec<i32> = failed.iter().map(|rank| *rank as i32).collect();
    sqlx::query(
        "UPDATE tasks
         SET state = 'open', token = NULL, lease_until = NULL,
             attempts = attempts - CASE WHEN rank = ANY($2) THEN 0 ELSE 1 END
         WHERE stage = $1 AND state = 'leased' AND (attempts < $3 OR rank <> ALL($2))",
    )
    .bind(stage.as_uuid())
    .bind(failed)
    .bind(MAX_LEASES)
    .execute(connection)
    .await
    .map(drop)
}

#[derive(sqlx::FromRow)]
struct Row {
    stage: Uuid,
    unfinished: i64,
    done: i64,
    has_merge: bool,
}

/// What became of the tasks of each stage of these jobs.
pub(super) async fn of_jobs(connection: &mut PgConnection, jobs: &[Uuid]) -> sqlx::Result<BTreeMap<StageId, Tasks>> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT t.stage,
                count(*) FILTER (WHERE t.state IN ('open', 'leased')) AS unfinished,
                count(*) FILTER (WHERE t.state = 'done') AS done,
                bool_or(t.work ->> 'task' IN ('index-merge', 'capfilt-merge')) AS has_merge
         FROM tasks t
         JOIN stages s ON s.id = t.stage
         WHERE s.job = ANY($1)
         GROUP BY t.stage",
    )
    .bind(jobs)
    .fetch_all(&mut *connection)
    .await?;
    let mut failures = failures(connection, jobs).await?;
    let summary = |row: Row| {
        let stage = StageId::from_uuid(row.stage);
        let tasks = Tasks {
            unfinished: count(row.unfinished)?,
            done: count(row.done)?,
            has_merge: row.has_merge,
            failed: failures.remove(&stage),
        };
        Ok((stage, tasks))
    };
    rows.into_iter().map(summary).collect()
}

/// Why tasks failed for good, or ran out of attempts.
async fn failures(connection: &mut PgConnection, jobs: &[Uuid]) -> sqlx::Result<BTreeMap<StageId, String>> {
    let rows: Vec<(Uuid, Value, String, i32, String)> = sqlx::query_as(
        "SELECT t.stage, t.work, t.state, t.attempts, t.reason
         FROM tasks t
         JOIN stages s ON s.id = t.stage
         WHERE s.job = ANY($1)
           AND (t.state = 'failed'
                OR (t.state = 'leased' AND t.attempts >= $2 AND t.lease_until < clock_timestamp()))
         ORDER BY t.stage, t.position DESC",
    )
    .bind(jobs)
    .bind(MAX_LEASES)
    .fetch_all(connection)
    .await?;
    let failure = |(stage, work, state, attempts, reason): (Uuid, Value, String, i32, String)| {
        let what = label(&read(work)?);
        let text = if state == "failed" {
            format!("{what}: {reason}")
        } else {
            format!("{what} was tried {attempts} times, and its lease ran out at last")
        };
        Ok((StageId::from_uuid(stage), text))
    };
    rows.into_iter().map(failure).collect()
}

fn label(work: &TaskWork) -> String {
    match work {
        TaskWork::IndexShard { shard } => format!("indexing {}/{}", shard.set.name(), shard.file),
        TaskWork::IndexMerge { .. } => "merging the indexes".into(),
        TaskWork::CapfiltShard { shard } => format!("captioning and filtering {}/{}", shard.set.name(), shard.file),
        TaskWork::CapfiltMerge { .. } => "merging the overlays".into(),
        TaskWork::Evaluate => "evaluating".into(),
    }
}
