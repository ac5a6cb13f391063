//! The scheduling transaction: a decision is written whole, in the leader's term, or not at all.

use super::{Store, epochs, events, jobs, leader, nodes, tasks, value};
use crate::domain::decision::{Decision, Effect};
use medley_protocol::ids::NodeId;
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
}

impl Store {
    /// Writes a decision with its events and mints the revisions of the orders that follow from it.
    ///
    /// # Errors
    /// Those of the database; nothing is written then.
    pub async fn save(&self, scheduling: &Scheduling<'_>) -> sqlx::Result<Saved> {
        let Decision {
            jobs,
            changed,
            events,
            effects,
        } = scheduling.decision;
        let mut revisions = BTreeMap::new();
        if changed.is_empty() && events.is_empty() && effects.is_empty() && scheduling.concerned.is_empty() {
            return Ok(Saved::Written { revisions });
        }
        let mut transaction = self.pool.begin().await?;
        if !leader::is_term(&mut transaction, scheduling.term).await? {
            transaction.rollback().await?;
            return Ok(Saved::Deposed);
        }
        for job in jobs.iter().filter(|job| changed.contains(&job.id)) {
            if !jobs::update(&mut transaction, job).await? {
                transaction.rollback().await?;
                return Ok(Saved::Outdated);
            }
        }
        for effect in effects {
            carry_out(&mut transaction, effect).await?;
        }
        events::add(&mut transaction, events).await?;
        if !scheduling.concerned.is_empty() {
            revisions = nodes::next_revisions(&mut transaction, &scheduling.concerned).await?;
        }
        transaction.commit().await?;
        Ok(Saved::Written { revisions })
    }
}

async fn carry_out(connection: &mut PgConnection, effect: &Effect) -> sqlx::Result<()> {
    match *effect {
        Effect::OpenEpochs { stage, course } => epochs::open(connection, stage, course).await,
        Effect::CloseEpochs { stage } => epochs::close_through(connection, stage, value::stored(u64::MAX)).await,
        Effect::AddMerge { stage } => tasks::add_merge(connection, stage).await,
        Effect::ReleaseTasks { stage, blameless } => tasks::release(connection, stage, blameless).await,
    }
}
