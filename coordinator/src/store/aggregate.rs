//! Jobs as aggregates: rows of many tables put together, as of one moment.

use super::value::{count, named, read};
use super::{Store, checkpoint_requests, checkpoints, datasets, doubts, epochs, jobs, stages, tasks};
use crate::domain::{Job, Stage, job};
use medley_protocol::estimate::Estimate;
use medley_protocol::ids::{JobId, StageId};
use medley_protocol::rest::{EpochView, JobDetail, StageView};
use medley_protocol::stage::JobState;
use sqlx::{PgConnection, Postgres, Transaction};
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

impl Store {
    /// All jobs that are not in a final state, oldest first.
    ///
    /// # Errors
    /// Those of the database, as every method here.
    pub async fn active_jobs(&self) -> sqlx::Result<Vec<Job>> {
        let mut moment = self.moment().await?;
        let rows = jobs::active_rows(&mut moment).await?;
        let jobs = load(&mut moment, rows).await?;
        moment.commit().await?;
        Ok(jobs.into_iter().map(|(job, _)| job).collect())
    }

    /// One job.
    pub async fn job(&self, job: JobId) -> sqlx::Result<Option<Job>> {
        let mut moment = self.moment().await?;
        let rows = jobs::row(&mut moment, job).await?;
        let jobs = load(&mut moment, rows.into_iter().collect()).await?;
        moment.commit().await?;
        Ok(jobs.into_iter().map(|(job, _)| job).next())
    }

    /// One job as people see it.
    pub async fn job_detail(&self, job: JobId) -> sqlx::Result<Option<JobDetail>> {
        let mut moment = self.moment().await?;
        let Some(row) = jobs::row(&mut moment, job).await? else {
            return Ok(None);
        };
        let mut view = row.view()?;
        let mut epochs = epochs::of_job(&mut moment, row.id).await?;
        let loaded = load(&mut moment, vec![row]).await?;
        moment.commit().await?;
        let Some((job, rows)) = loaded.into_iter().next() else {
            return Ok(None);
        };
        if !view.state.is_final() && job.stages.iter().all(|stage| stage.present().is_none()) {
            let waiting = job.stages.iter().find_map(|stage| match &stage.state {
                crate::domain::stage::State::Waiting { reason } => Some(format!("{}: {reason}", stage.name)),
                _ => None,
            });
            if let Some(reason) = waiting {
                view.waits(reason);
            }
        }
        let stage_view = |(stage, row): (&Stage, &stages::Row)| stage_view(stage, row, epochs.remove(&stage.id));
        let stages = job
            .stages
            .iter()
            .zip(&rows)
            .map(stage_view)
            .collect::<sqlx::Result<_>>()?;
        Ok(Some(JobDetail {
            job: view,
            memory: Estimate::of_job(&job.spec, job.spec.cluster.max_ranks),
            spec: (*job.spec).clone(),
            stages,
        }))
    }

    /// A transaction that sees the tables as of one moment and changes nothing.
    async fn moment(&self) -> sqlx::Result<Transaction<'static, Postgres>> {
        self.pool
            .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .await
    }
}

/// Puts the aggregates of these rows together, each with the rows of its stages.
async fn load(connection: &mut PgConnection, rows: Vec<jobs::Row>) -> sqlx::Result<Vec<(Job, Vec<stages::Row>)>> {
    let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut stage_rows: BTreeMap<Uuid, Vec<stages::Row>> = BTreeMap::new();
    for row in stages::rows_of_jobs(connection, &ids).await? {
        stage_rows.entry(row.job).or_default().push(row);
    }
    let mut datasets = datasets::of_jobs(connection, &ids).await?;
    let mut checkpoints = checkpoints::last_of_jobs(connection, &ids).await?;
    let wanted = checkpoint_requests::open_of_jobs(connection, &ids).await?;
    let doubted = doubts::of_jobs(connection, &ids).await?;
    let mut tasks = tasks::of_jobs(connection, &ids).await?;
    let mut jobs = Vec::new();
    for row in rows {
        let stage_rows = stage_rows.remove(&row.id).unwrap_or_default();
        let mut stages = stage_rows
            .iter()
            .map(stages::Row::stage)
            .collect::<sqlx::Result<Vec<Stage>>>()?;
        for stage in &mut stages {
            stage.facts.checkpoint = checkpoints.remove(&stage.id);
            stage.facts.wanted = wanted.get(&stage.id).copied();
            stage.facts.doubted = doubted.get(&stage.id).copied().unwrap_or(0);
            stage.facts.tasks = tasks.remove(&stage.id).unwrap_or_default();
        }
        let datasets = datasets.remove(&row.id).unwrap_or_default();
        jobs.push((job(row, stages, datasets)?, stage_rows));
    }
    Ok(jobs)
}

fn job(row: jobs::Row, stages: Vec<Stage>, datasets: Vec<job::Dataset>) -> sqlx::Result<Job> {
    let state = match named::<JobState>(row.state)? {
        JobState::Queued => job::State::Queued,
        JobState::Running | JobState::Waiting => job::State::Running,
        JobState::Succeeded => job::State::Succeeded,
        JobState::Failed => job::State::Failed { reason: row.reason },
        JobState::Cancelled => job::State::Cancelled,
    };
    Ok(Job {
        id: JobId::from_uuid(row.id),
        version: row.version,
        spec: Arc::new(read(row.spec)?),
        submitted_at: row.submitted_at,
        state,
        stages,
        datasets,
    })
}

fn stage_view(stage: &Stage, row: &stages::Row, epochs: Option<Vec<EpochView>>) -> sqlx::Result<StageView> {
    let (done, total) = extent(stage);
    Ok(StageView {
        id: StageId::from_uuid(row.id),
        name: stage.name.clone(),
        kind: stage.kind,
        state: stage.state.label(),
        reason: row.reason.clone(),
        needs: stage.needs.clone(),
        generation: stage.present().map_or(stage.generation, |generation| generation.number),
        world: world(stage),
        peak_rank_bytes: row.peak_rank_bytes.map(count).transpose()?,
        done,
        total,
        epochs: epochs.unwrap_or_default(),
        evaluation: row.evaluation.clone().map(read).transpose()?,
        details: row.details.clone().map(read).transpose()?,
        // For the leader's memory to say.
        stragglers: Vec::new(),
        started_at: row.started_at,
        finished_at: row.finished_at,
    })
}

/// Ranks that work, or did to the end.
fn world(stage: &Stage) -> u32 {
    let works_or_has_ended = stage.present().is_some() || stage.state.label().is_final();
    if works_or_has_ended { stage.world } else { 0 }
}

/// Steps, or tasks, done and in all.
fn extent(stage: &Stage) -> (u64, Option<u64>) {
    let tasks = &stage.facts.tasks;
    if !stage.kind.is_training() {
        let to_come = u64::from(stage.merges() && !tasks.has_merge);
        return (tasks.done, Some(tasks.done + tasks.unfinished + to_come));
    }
    let total = stage.course.map(|course| course.total_steps);
    (stage.progress(), total)
}
