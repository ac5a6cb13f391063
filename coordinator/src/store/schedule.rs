//! The scheduling transaction: a decision is written whole, in the leader's term, or not at all.
//!
//! If the database refuses what is written of one job, it says so of that job: whoever decides can leave it out.

use super::{Store, checkpoints, doubts, epochs, events, jobs, leader, nodes, retention, tasks, value};
use crate::domain::Job;
use crate::domain::decision::{Decision, Effect};
use medley_protocol::ids::{JobId, NodeId};
use sqlx::PgConnection;
use std::collections::BTreeMap;

/// What is to be written.
#[derive(Debug)]
pub struct Scheduling<'a> {
    /// The term in which it was decided.
    pub term: i64,
    /// The decision.
    pub decision: &'a Decision,
    /// Nodes that get new orders.
    pub concerned: Vec<NodeId>,
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Saved {
    /// It is written.
    Written {
        /// The revisions of the new orders.
        revisions: BTreeMap<NodeId, u64>,
    },
    /// A job has changed since it was loaded: nothing is written.
    Outdated,
    /// Another term has begun: nothing is written.
    Deposed,
    /// The database does not take what was decided of a job, and would not another time: nothing is written.
    Refused {
        /// The job.
        job: JobId,
        /// Why, for the log.
        cause: String,
    },
}

impl Store {
    /// Writes a decision with its events and mints the revisions of the orders that follow from it.
    ///
    /// # Errors
    /// Those of the database; nothing is written then.
    pub async fn save(&self, scheduling: &Scheduling<'_>) -> sqlx::Result<Saved> {
        let decision = scheduling.decision;
        let mut revisions = BTreeMap::new();
        if decision.is_empty() && scheduling.concerned.is_empty() {
            return Ok(Saved::Written { revisions });
        }
        let mut transaction = self.pool.begin().await?;
        if !leader::is_term(&mut transaction, scheduling.term).await? {
            transaction.rollback().await?;
            return Ok(Saved::Deposed);
        }
        let mut concerns = None;
        match write(&mut transaction, decision, &mut concerns).await {
            Ok(true) => {}
            Ok(false) => {
                transaction.rollback().await?;
                return Ok(Saved::Outdated);
            }
            Err(error) => {
                let Some(job) = concerns.filter(|_| is_refusal(&error)) else {
                    return Err(error);
                };
                transaction.rollback().await?;
                let cause = error.to_string();
                return Ok(Saved::Refused { job, cause });
            }
        }
        if !scheduling.concerned.is_empty() {
            revisions = nodes::next_revisions(&mut transaction, &scheduling.concerned).await?;
        }
        transaction.commit().await?;
        Ok(Saved::Written { revisions })
    }
}

/// Writes a decision; false if a job has changed since it was loaded. `concerns` is the job that is being written.
async fn write(connection: &mut PgConnection, decision: &Decision, concerns: &mut Option<JobId>) -> sqlx::Result<bool> {
    let Decision {
        jobs,
        changed,
        events,
        effects,
    } = decision;
    for job in jobs.iter().filter(|job| changed.contains(&job.id)) {
        *concerns = Some(job.id);
        if !jobs::update(connection, job).await? {
            return Ok(false);
        }
    }
    for effect in effects {
        let has = |job: &&Job| effect.stage().is_some_and(|stage| job.stage(stage).is_some());
        *concerns = jobs.iter().find(has).map(|job| job.id);
        carry_out(connection, effect).await?;
    }
    for event in events {
        *concerns = event.job;
        events::add(connection, std::slice::from_ref(event)).await?;
    }
    Ok(true)
}

/// Whether an error is about what is written, and not about the database.
fn is_refusal(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Encode(_) | sqlx::Error::Decode(_) => true,
        // Classes of SQLSTATE: 22 values, 23 constraints, 54 limits.
        sqlx::Error::Database(e) => e
            .code()
            .is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.starts_with(class))),
        _ => false,
    }
}

async fn carry_out(connection: &mut PgConnection, effect: &Effect) -> sqlx::Result<()> {
    match effect {
        Effect::OpenEpochs { stage, course } => epochs::open(connection, *stage, *course).await,
        Effect::CloseEpochs { stage } => {
            epochs::close_through(connection, *stage, value::stored(u64::MAX)).await?;
            // Nobody reads any more what its last generation started from.
            retention::drop_surplus(connection, *stage).await
        }
        Effect::AddMerge { stage } => tasks::add_merge(connection, *stage).await,
        Effect::MarkDamaged { damage, event } => checkpoints::mark_damaged(connection, damage, event).await.map(drop),
        Effect::Doubt {
            stage,
            generation,
            doubt,
            event,
        } => doubts::raise(connection, (*stage, *generation), doubt, event).await,
        Effect::ReleaseTasks { stage, failed } => tasks::release(connection, *stage, failed).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::graph::{Shards, new_job};
    use crate::domain::{Event, SystemMint};
    use crate::store::{Earlier, Submission};
    use crate::test_database;
    use medley_protocol::doubt::Doubt;
    use medley_protocol::spec::Spec;
    use medley_protocol::stage::JobState;
    use serde_json::json;
    use uuid::Uuid;

    async fn with_job() -> (Store, JobId) {
        let store = Store::new(test_database::fresh().await);
        let document = json!({"name": "j", "kind": "bootstrap", "preset": "nano", "data": {"root": "/d"}});
        let spec = Spec::from_document(&document).unwrap();
        let shards = Shards {
            human: vec!["h.tar".into()],
            web: vec!["w.tar".into()],
            test: vec!["t.tar".into()],
        };
        let (job, tasks) = new_job(spec, &shards, chrono::Utc::now(), &mut SystemMint);
        let submission = Submission {
            job: &job,
            tasks: &tasks,
            events: &[],
            key: None,
        };
        assert_eq!(store.submit(&submission).await.unwrap(), Earlier::Nothing);
        (store, job.id)
    }

    fn cancelling(job: Job) -> Decision {
        let job = job.cancel().unwrap();
        Decision {
            changed: [job.id].into(),
            events: vec![Event::of_job(&job, "job-cancelled", "enough")],
            jobs: vec![job],
            effects: Vec::new(),
        }
    }

    async fn save(store: &Store, term: i64, decision: &Decision) -> Saved {
        let scheduling = Scheduling {
            term,
            decision,
            concerned: Vec::new(),
        };
        store.save(&scheduling).await.unwrap()
    }

    #[tokio::test]
    async fn a_job_is_loaded_as_it_was_submitted() {
        let (store, id) = with_job().await;
        let [job] = store.active_jobs().await.unwrap().try_into().unwrap();
        assert_eq!((job.id, job.version, job.stages.len()), (id, 1, 8));
        assert_eq!(job.stages[0].facts.tasks.unfinished, 3);
        assert_eq!(store.job(id).await.unwrap(), Some(job));
    }

    #[tokio::test]
    async fn a_generation_that_gets_ready_is_loaded_beside_the_present_one() {
        let (store, id) = with_job().await;
        let term = store.try_to_lead(Uuid::from_u128(1)).await.unwrap().unwrap();
        let mut job = store.job(id).await.unwrap().unwrap();
        let stage = job.stages[1].clone().unblock().unwrap();
        let stage = stage.place(Vec::new(), "a".into()).unwrap().run(Vec::new(), 7).unwrap();
        job.stages[1] = stage.prepare(Vec::new(), "b".into()).unwrap();
        let decision = Decision {
            changed: [job.id].into(),
            jobs: vec![job.clone()],
            ..Decision::default()
        };
        assert!(matches!(save(&store, term, &decision).await, Saved::Written { .. }));
        let loaded = store.job(id).await.unwrap().unwrap();
        assert_eq!(loaded.stages[1], job.stages[1]);
    }

    #[tokio::test]
    async fn a_decision_of_an_earlier_term_is_not_written() {
        let (store, id) = with_job().await;
        let one = Uuid::from_u128(1);
        let term = store.try_to_lead(one).await.unwrap().unwrap();
        let later = store.try_to_lead(one).await.unwrap().unwrap();
        let decision = cancelling(store.job(id).await.unwrap().unwrap());
        assert_eq!(save(&store, term, &decision).await, Saved::Deposed);
        assert_eq!(store.job(id).await.unwrap().unwrap().state.label(), JobState::Queued);
        assert!(matches!(save(&store, later, &decision).await, Saved::Written { .. }));
        assert_eq!(store.job(id).await.unwrap().unwrap().state.label(), JobState::Cancelled);
    }

    #[tokio::test]
    async fn an_event_is_stored_as_one_line_whatever_it_says() {
        let (store, id) = with_job().await;
        let term = store.try_to_lead(Uuid::from_u128(1)).await.unwrap().unwrap();
        let mut decision = cancelling(store.job(id).await.unwrap().unwrap());
        decision.events[0].message = "a\0b\n".repeat(100_000);
        assert!(matches!(save(&store, term, &decision).await, Saved::Written { .. }));
        let [event] = store.events_of_job(id, 0, 10).await.unwrap().try_into().unwrap();
        assert!(event.message.starts_with(r"a\0b\na\0b\n"), "{}", event.message);
        assert_eq!(event.message.chars().count(), 16_000);
    }

    #[tokio::test]
    async fn what_the_database_does_not_take_is_refused_with_its_job_and_nothing_is_written() {
        let (store, id) = with_job().await;
        let term = store.try_to_lead(Uuid::from_u128(1)).await.unwrap().unwrap();
        let job = store.job(id).await.unwrap().unwrap();
        let failed = job.clone().fail("a\0b".into()).unwrap();
        let mut decision = cancelling(job);
        decision.jobs[0] = failed;
        let saved = save(&store, term, &decision).await;
        assert!(matches!(saved, Saved::Refused { job, .. } if job == id), "{saved:?}");
        assert_eq!(store.job(id).await.unwrap().unwrap().state.label(), JobState::Queued);
        assert_eq!(store.events_of_job(id, 0, 10).await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_doubt_beyond_all_numbers_forgets_nothing() {
        let (store, id) = with_job().await;
        let term = store.try_to_lead(Uuid::from_u128(1)).await.unwrap().unwrap();
        let job = store.job(id).await.unwrap().unwrap();
        let stage = &job.stages[1];
        let doubt = Doubt {
            step: u64::MAX,
            proven: u64::MAX,
            minority: Vec::new(),
        };
        let doubt = Effect::Doubt {
            stage: stage.id,
            generation: 1,
            doubt,
            event: Event::of_stage(id, stage, "checkpoint-damaged", "one is"),
        };
        let decision = Decision {
            effects: vec![doubt],
            jobs: vec![job],
            ..Decision::default()
        };
        assert!(matches!(save(&store, term, &decision).await, Saved::Written { .. }));
        assert_eq!(store.job(id).await.unwrap().unwrap().stages[1].facts.doubted, 1);
    }

    #[tokio::test]
    async fn a_decision_on_an_older_version_is_not_written_nor_are_its_events() {
        let (store, id) = with_job().await;
        let term = store.try_to_lead(Uuid::from_u128(1)).await.unwrap().unwrap();
        let decision = cancelling(store.job(id).await.unwrap().unwrap());
        assert!(matches!(save(&store, term, &decision).await, Saved::Written { .. }));
        assert_eq!(save(&store, term, &decision).await, Saved::Outdated);
        assert_eq!(store.events_of_job(id, 0, 10).await.unwrap().len(), 1);
    }
}
