//! The leader's loop: load, decide, save, publish.
//!
//! One coordinator leads, in a term that the job table gives out. Every save checks the term, so a leader that was paused
//! cannot write after it was replaced. A leader that could not decide for a while has not listened either: it gives
//! every node a whole silence again before it judges.
//!
//! A decision is written whole. If the job table does not take what was decided of one job, that job is set aside for a while:
//! the next decision leaves it as it is, with all that it has, and decides on the others.

use super::control::Control;
use super::decide::{Memory, decide};
use super::orders;
use crate::domain::{InvalidTransition, SystemMint};
use crate::store::{Saved, Scheduling, Store};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Time between two proofs of leadership.
const LEAD_BEAT: Duration = Duration::from_secs(1);
/// Longest time for one decision with everything around it.
const DECISION_LIMIT: Duration = Duration::from_secs(10);

/// Time for which a job is set aside of which the job table does not take what was decided.
const SET_ASIDE: Duration = Duration::from_secs(10);

/// Why no decision was made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The job table cannot be read or written.
    #[error("the job table: {0}")]
    Store(#[from] sqlx::Error),
    /// The job table holds what no transition leads to.
    #[error(transparent)]
    Transition(#[from] InvalidTransition),
}

/// The part of a coordinator that schedules.
#[derive(Debug)]
pub struct Leader {
    store: Store,
    control: Control,
    objects_url: Arc<str>,
    /// This coordinator among others.
    holder: Uuid,
    office: Option<Office>,
}

/// What a coordinator has while it leads.
#[derive(Debug)]
struct Office {
    term: i64,
    proved_at: Duration,
    decided_at: Duration,
    memory: Memory,
}

impl Leader {
    /// A coordinator that does not lead yet.
    pub fn new(store: Store, control: Control, objects_url: Arc<str>) -> Self {
        Self {
            store,
            control,
            objects_url,
            holder: Uuid::now_v7(),
            office: None,
        }
    }

    /// Makes one decision, if this coordinator leads or can take over. Returns whether the next one should follow at
    /// once.
    ///
    /// # Errors
    /// [`Error`]; nothing was changed then.
    pub async fn tick(&mut self) -> Result<bool, Error> {
        let Some(mut office) = self.hold_office().await? else {
            return Ok(false);
        };
        let now = self.control.now();
        if now.saturating_sub(office.decided_at) > self.control.settings().silence / 2 {
            tracing::warn!("the last decision was long ago: nodes get time to beat again");
            self.control.forgive();
        }
        // What is remembered and decided is large; those who wait for this should not be.
        let saved = Box::pin(self.decide(&mut office, now)).await;
        office.decided_at = now;
        match saved {
            Ok(Saved::Outdated) => {
                self.office = Some(office);
                Ok(true)
            }
            Ok(Saved::Refused { job, cause }) => {
                tracing::error!(
                    %job,
                    cause,
                    "what was decided of this job cannot be written; it stays as it is for {} s, and is then tried again",
                    SET_ASIDE.as_secs()
                );
                office.memory.aside.insert(job, now + SET_ASIDE);
                self.office = Some(office);
                Ok(true)
            }
            Ok(Saved::Deposed) => {
                tracing::warn!(term = office.term, "another coordinator leads now");
                self.control.resign();
                Ok(false)
            }
            Ok(Saved::Written { .. }) => {
                self.office = Some(office);
                Ok(false)
            }
            Err(error) => {
                self.office = Some(office);
                Err(error)
            }
        }
    }

    /// Gives up leadership, so that another coordinator need not wait.
    ///
    /// # Errors
    /// When the job table does not answer.
    pub async fn resign(&mut self) -> Result<(), Error> {
        self.control.resign();
        if let Some(office) = self.office.take() {
            self.store.resign(self.holder, office.term).await?;
        }
        Ok(())
    }

    /// The office, proved to be held or newly taken.
    async fn hold_office(&mut self) -> Result<Option<Office>, Error> {
        let now = self.control.now();
        let Some(mut office) = self.office.take() else {
            return self.take_office(now).await;
        };
        if now.saturating_sub(office.proved_at) < LEAD_BEAT {
            return Ok(Some(office));
        }
        match self.store.prove_leadership(self.holder, office.term).await {
            Ok(true) => {
                office.proved_at = now;
                Ok(Some(office))
            }
            Ok(false) => {
                tracing::warn!(term = office.term, "another coordinator has taken over");
                self.control.resign();
                Ok(None)
            }
            Err(error) => {
                self.office = Some(office);
                Err(error.into())
            }
        }
    }

    async fn take_office(&mut self, now: Duration) -> Result<Option<Office>, Error> {
        let Some(term) = self.store.try_to_lead(self.holder).await? else {
            return Ok(None);
        };
        self.control.lead(self.store.known_nodes().await?);
        tracing::info!(term, "this coordinator leads");
        Ok(Some(Office {
            term,
            proved_at: now,
            decided_at: now,
            memory: Memory::default(),
        }))
    }

    async fn decide(&self, office: &mut Office, now: Duration) -> Result<Saved, Error> {
        let mut sight = self.control.sight();
        sight.withhold(self.store.withheld_nodes().await?);
        let jobs = self.store.active_jobs().await?;
        let settings = self.control.settings();
        let (mut memory, decision) = decide(office.memory.clone(), &sight, jobs, now, settings, &mut SystemMint)?;
        let desired = orders::desired(&decision.jobs, &sight, &self.objects_url);
        let concerned = memory.told.concerned(&desired, sight.nodes.keys().copied());
        let scheduling = Scheduling {
            term: office.term,
            decision: &decision,
            concerned: concerned.into_iter().collect(),
        };
        let saved = self.store.save(&scheduling).await?;
        if let Saved::Written { revisions } = &saved {
            memory.told.tell(desired, revisions);
            office.memory = memory;
            let probes = office.memory.reach.probes(&sight);
            self.control.publish(&office.memory.told, probes, &sight);
            self.control.name_stragglers(office.memory.stragglers.stragglers());
            for event in &decision.events {
                tracing::info!(kind = event.kind, "{}", event.message);
            }
        }
        Ok(saved)
    }
}

/// Schedules until `shutdown`. Errors are logged and tried again: the job table is the truth, and it may be away.
pub async fn run(store: Store, control: Control, objects_url: Arc<str>, shutdown: impl Future<Output = ()> + Send) {
    let mut leader = Leader::new(store, control.clone(), objects_url);
    let mut again = false;
    tokio::pin!(shutdown);
    loop {
        let pause = if again { Duration::ZERO } else { control.settings().tick };
        tokio::select! {
            () = &mut shutdown => break,
            () = control.woken() => {}
            () = tokio::time::sleep(pause) => {}
        }
        again = match tokio::time::timeout(DECISION_LIMIT, leader.tick()).await {
            Ok(Ok(again)) => again,
            Ok(Err(error)) => {
                tracing::error!(%error, "no decision could be made; trying again");
                tokio::time::sleep(control.settings().tick).await;
                false
            }
            Err(_) => {
                tracing::error!(
                    "a decision took longer than {} s; trying again",
                    DECISION_LIMIT.as_secs()
                );
                false
            }
        };
    }
    let resigned = tokio::time::timeout(LEAD_BEAT, leader.resign()).await;
    if let Ok(Err(error)) = resigned {
        tracing::warn!(%error, "leadership was not given back; another coordinator will wait for a time-out");
    }
}
