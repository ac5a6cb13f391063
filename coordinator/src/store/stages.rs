//! Table `stages`, but its metrics.

use super::value::{count, json, named, read, stored};
use crate::domain::Stage;
use crate::domain::course::Course;
use crate::domain::stage::{Facts, Generation, Setbacks, State};
use chrono::{DateTime, Utc};
use medley_protocol::agent::Member;
use medley_protocol::ids::{JobId, StageId};
use medley_protocol::stage::{StageKind, StageState};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

/// A row of the table.
#[derive(sqlx::FromRow)]
pub(super) struct Row {
    pub id: Uuid,
    pub job: Uuid,
    pub name: String,
    pub kind: String,
    pub round: i32,
    pub needs: Vec<Uuid>,
    pub state: String,
    pub reason: String,
    pub generation: i64,
    pub world: i32,
    pub peak_rank_bytes: Option<i64>,
    pub membership: Option<Value>,
    pub setbacks: i32,
    pub setback_progress: i64,
    pub forgiven: i64,
    pub total_steps: Option<i64>,
    pub steps_per_epoch: Option<i64>,
    pub metrics_through_step: i64,
    pub evaluation: Option<Value>,
    pub details: Option<Value>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
}

/// The column `membership`.
#[derive(Serialize, Deserialize)]
struct Membership {
    generation: Generation,
    members: Vec<Member>,
    #[serde(default)]
    from: u64,
    #[serde(default)]
    next: Option<Generation>,
    #[serde(default)]
    former: Option<Generation>,
}

impl Row {
    /// The stage, with no facts but its metrics.
    pub(super) fn stage(&self) -> sqlx::Result<Stage> {
        let course = match (self.total_steps, self.steps_per_epoch) {
            (Some(total), Some(per_epoch)) => Some(Course {
                total_steps: count(total)?,
                steps_per_epoch: count(per_epoch)?,
            }),
            _ => None,
        };
        Ok(Stage {
            id: StageId::from_uuid(self.id),
            name: self.name.clone(),
            kind: named::<StageKind>(self.kind.clone())?,
            round: self.round.unsigned_abs(),
            needs: self.needs.iter().map(|need| StageId::from_uuid(*need)).collect(),
            state: self.domain_state()?,
            generation: count(self.generation)?,
            world: self.world.unsigned_abs(),
            setbacks: Setbacks {
                in_a_row: self.setbacks.unsigned_abs(),
                progress: count(self.setback_progress)?,
            },
            forgiven: count(self.forgiven)?,
            course,
            facts: Facts {
                metrics_through: count(self.metrics_through_step)?,
                ..Facts::default()
            },
        })
    }

    fn domain_state(&self) -> sqlx::Result<State> {
        let membership = || -> sqlx::Result<Membership> { read(self.membership.clone().unwrap_or_default()) };
        let reason = self.reason.clone();
        Ok(match named::<StageState>(self.state.clone())? {
            StageState::Blocked => State::Blocked,
            StageState::Waiting => State::Waiting { reason },
            StageState::Starting => State::Starting(membership()?.generation),
            StageState::Running => {
                let Membership {
                    generation,
                    members,
                    from,
                    next,
                    former,
                } = membership()?;
                State::Running {
                    generation,
                    members,
                    from,
                    next,
                    former,
                }
            }
            StageState::Done => State::Done,
            StageState::Failed => State::Failed { reason },
            StageState::Cancelled => State::Cancelled,
        })
    }
}

/// The stages of these jobs, in topological order.
pub(super) async fn rows_of_jobs(connection: &mut PgConnection, jobs: &[Uuid]) -> sqlx::Result<Vec<Row>> {
    sqlx::query_as(
        "SELECT id, job, name, kind, round, needs, state, reason, generation, world, peak_rank_bytes, membership,
                setbacks, setback_progress, forgiven, total_steps, steps_per_epoch, metrics_through_step, evaluation,
                details, started_at, finished_at
         FROM stages
         WHERE job = ANY($1)
         ORDER BY job, position",
    )
    .bind(jobs)
    .fetch_all(connection)
    .await
}

/// Adds the stages of a new job.
pub(super) async fn insert(connection: &mut PgConnection, job: JobId, stages: &[Stage]) -> sqlx::Result<()> {
    for (position, stage) in stages.iter().enumerate() {
        let needs: Vec<Uuid> = stage.needs.iter().map(|need| need.as_uuid()).collect();
        sqlx::query(
            "INSERT INTO stages (id, job, position, name, kind, round, needs, state)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(stage.id.as_uuid())
        .bind(job.as_uuid())
        .bind(position as i32)
        .bind(&stage.name)
        .bind(stage.kind.name())
        .bind(stage.round as i32)
        .bind(needs)
        .bind(stage.state.label().name())
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// Writes what transitions change. The caller holds the version of the job.
pub(super) async fn update(connection: &mut PgConnection, stage: &Stage) -> sqlx::Result<()> {
    let reason = match &stage.state {
        State::Waiting { reason } | State::Failed { reason } => reason.as_str(),
        _ => "",
    };
    let membership = membership(stage).map(|membership| json(&membership)).transpose()?;
    sqlx::query(
        "UPDATE stages
         SET state = $2, reason = $3, generation = $4, membership = $5, setbacks = $6, setback_progress = $7,
             total_steps = $8, steps_per_epoch = $9, world = $10, forgiven = $11,
             started_at = CASE WHEN $2 IN ('starting', 'running') THEN coalesce(started_at, now()) ELSE started_at END,
             finished_at = CASE WHEN $2 IN ('done', 'failed', 'cancelled') THEN coalesce(finished_at, now()) END
         WHERE id = $1",
    )
    .bind(stage.id.as_uuid())
    .bind(stage.state.label().name())
    .bind(reason)
    .bind(stored(stage.generation))
    .bind(membership)
    .bind(stage.setbacks.in_a_row as i32)
    .bind(stored(stage.setbacks.progress))
    .bind(stage.course.map(|course| stored(course.total_steps)))
    .bind(stage.course.map(|course| stored(course.steps_per_epoch)))
    .bind(stage.world as i32)
    .bind(stored(stage.forgiven))
    .execute(connection)
    .await
    .map(drop)
}

/// Notes the memory that a rank of the stage has needed, if none has needed more.
pub(super) async fn note_peak(connection: &mut PgConnection, stage: Uuid, bytes: Option<u64>) -> sqlx::Result<()> {
    sqlx::query("UPDATE stages SET peak_rank_bytes = $2 WHERE id = $1 AND coalesce(peak_rank_bytes, 0) < $2")
        .bind(stage)
        .bind(bytes.map(stored))
        .execute(connection)
        .await
        .map(drop)
}

fn membership(stage: &Stage) -> Option<Membership> {
    match &stage.state {
        State::Starting(generation) => Some(Membership {
            generation: generation.clone(),
            members: Vec::new(),
            from: 0,
            next: None,
            former: None,
        }),
        State::Running {
            generation,
            members,
            from,
            next,
            former,
        } => Some(Membership {
            generation: generation.clone(),
            members: members.clone(),
            from: *from,
            next: next.clone(),
            former: former.clone(),
        }),
        _ => None,
    }
}
