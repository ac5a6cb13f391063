//! Table `jobs`: submissions, lists and transitions.

use super::idempotency::{self, Earlier};
use super::value::{json, named};
use super::{Saved, Store, events, stages, tasks};
use crate::domain::graph::NewTask;
use crate::domain::{Event, Job, job};
use chrono::{DateTime, Utc};
use medley_protocol::ids::JobId;
use medley_protocol::rest::JobView;
use serde_json::Value;
use sqlx::PgConnection;
use std::collections::BTreeMap;
use uuid::Uuid;

/// A new job with all that is stored with it.
#[derive(Debug)]
pub struct Submission<'a> {
    /// The job.
    pub job: &'a Job,
    /// Its tasks.
    pub tasks: &'a [NewTask],
    /// What happened.
    pub events: &'a [Event],
    /// The key that its client gave, and the BLAKE3 of the body.
    pub key: Option<(&'a str, [u8; 32])>,
}

/// A row of the table.
#[derive(sqlx::FromRow)]
pub(super) struct Row {
    pub id: Uuid,
    pub version: i64,
    pub name: String,
    pub kind: String,
    pub spec: Value,
    pub state: String,
    pub reason: String,
    pub submitted_at: DateTime<Utc>,
    pub finished_at: Option<DateTime<Utc>>,
}

impl Row {
    pub(super) fn view(&self) -> sqlx::Result<JobView> {
        Ok(JobView {
            id: JobId::from_uuid(self.id),
            name: self.name.clone(),
            kind: named(self.kind.clone())?,
            state: named(self.state.clone())?,
            reason: self.reason.clone(),
            submitted_at: self.submitted_at,
            finished_at: self.finished_at,
        })
    }
}

impl Store {
    /// Adds a job with its stages and tasks, unless its key was used before.
    ///
    /// # Errors
    /// Those of the database, as every method here.
    pub async fn submit(&self, submission: &Submission<'_>) -> sqlx::Result<Earlier> {
        let mut transaction = self.pool.begin().await?;
        let job = submission.job;
        insert(&mut transaction, job).await?;
        if let Some((key, body)) = &submission.key {
            let earlier = idempotency::claim(&mut transaction, key, body, job.id.as_uuid()).await?;
            if earlier != Earlier::Nothing {
                transaction.rollback().await?;
                return Ok(earlier);
            }
        }
        stages::insert(&mut transaction, job.id, &job.stages).await?;
        tasks::insert(&mut transaction, submission.tasks).await?;
        events::add(&mut transaction, submission.events).await?;
        transaction.commit().await?;
        Ok(Earlier::Nothing)
    }

    /// What an idempotency key has been used for.
    pub async fn earlier_submission(&self, key: &str, body: &[u8; 32]) -> sqlx::Result<Earlier> {
        let mut connection = self.pool.acquire().await?;
        idempotency::earlier(&mut connection, key, body).await
    }

    /// Jobs, newest first, that are older than `before`. A job that waits says why.
    pub async fn list_jobs(&self, before: Option<JobId>, limit: i64) -> sqlx::Result<Vec<JobView>> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT id, version, name, kind, '{}'::jsonb AS spec, state, reason, submitted_at, finished_at
             FROM jobs
             WHERE $1::uuid IS NULL OR id < $1
             ORDER BY id DESC
             LIMIT $2",
        )
        .bind(before.map(JobId::as_uuid))
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
        let mut waits = self.waits(&ids).await?;
        let view = |row: &Row| {
            let mut view = row.view()?;
            if let Some(reason) = waits.remove(&row.id) {
                view.waits(reason);
            }
            Ok(view)
        };
        rows.iter().map(view).collect()
    }

    /// Why active jobs wait of which no stage runs.
    async fn waits(&self, jobs: &[Uuid]) -> sqlx::Result<BTreeMap<Uuid, String>> {
        let rows: Vec<(Uuid, String)> = sqlx::query_as(
            "SELECT DISTINCT ON (s.job) s.job, s.name || ': ' || s.reason
             FROM stages s
             JOIN jobs j ON j.id = s.job
             WHERE s.job = ANY($1) AND s.state = 'waiting' AND j.state IN ('queued', 'running')
               AND NOT EXISTS (SELECT FROM stages o WHERE o.job = s.job AND o.state IN ('starting', 'running'))
             ORDER BY s.job, s.position",
        )
        .bind(jobs)
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().collect())
    }

    /// Writes a job over the version that it was loaded from, with its events: for what people decide.
    pub async fn save_job(&self, job: &Job, events: &[Event]) -> sqlx::Result<Saved> {
        let mut transaction = self.pool.begin().await?;
        if !update(&mut transaction, job).await? {
            transaction.rollback().await?;
            return Ok(Saved::Outdated);
        }
        events::add(&mut transaction, events).await?;
        transaction.commit().await?;
        Ok(Saved::Written {
            revisions: BTreeMap::new(),
        })
    }
}

async fn insert(connection: &mut PgConnection, job: &Job) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO jobs (id, version, name, kind, spec, priority, state, submitted_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(job.id.as_uuid())
    .bind(job.version)
    .bind(&job.spec.name)
    .bind(job.spec.kind.name())
    .bind(json(&*job.spec)?)
    .bind(job.spec.cluster.priority)
    .bind(job.state.label().name())
    .bind(job.submitted_at)
    .execute(connection)
    .await
    .map(drop)
}

/// Writes a job and its stages over the version that it was loaded from. False if there is a newer one.
pub(super) async fn update(connection: &mut PgConnection, job: &Job) -> sqlx::Result<bool> {
    let reason = match &job.state {
        job::State::Failed { reason } => reason.as_str(),
        _ => "",
    };
    let written = sqlx::query(
        "UPDATE jobs
         SET version = version + 1, state = $3, reason = $4,
             finished_at = CASE WHEN $3 IN ('succeeded', 'failed', 'cancelled') THEN coalesce(finished_at, now()) END
         WHERE id = $1 AND version = $2",
    )
    .bind(job.id.as_uuid())
    .bind(job.version)
    .bind(job.state.label().name())
    .bind(reason)
    .execute(&mut *connection)
    .await?;
    if written.rows_affected() != 1 {
        return Ok(false);
    }
    for stage in &job.stages {
        stages::update(connection, stage).await?;
    }
    Ok(true)
}

/// Active jobs, oldest first.
pub(super) async fn active_rows(connection: &mut PgConnection) -> sqlx::Result<Vec<Row>> {
    sqlx::query_as(
        "SELECT id, version, name, kind, spec, state, reason, submitted_at, finished_at
         FROM jobs
         WHERE state IN ('queued', 'running')
         ORDER BY submitted_at, id",
    )
    .fetch_all(connection)
    .await
}

/// One job.
pub(super) async fn row(connection: &mut PgConnection, job: JobId) -> sqlx::Result<Option<Row>> {
    sqlx::query_as(
        "SELECT id, version, name, kind, spec, state, reason, submitted_at, finished_at
         FROM jobs
         WHERE id = $1",
    )
    .bind(job.as_uuid())
    .fetch_optional(connection)
    .await
}
