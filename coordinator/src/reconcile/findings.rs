//! What speaks against a generation, and what it says together.

use super::apart::Pair;
use crate::domain::stage::Seat;
use crate::domain::{InvalidTransition, Stage};
use medley_protocol::checkpoint::Damage;
use medley_protocol::doubt::Doubt;
use medley_protocol::ids::NodeId;
use std::collections::BTreeSet;
use std::time::Duration;

/// How a generation ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct End {
    /// Why, in words.
    pub reason: String,
    /// Whether nodes were lost, rather than ranks alone.
    pub lost_node: bool,
    /// Ranks that failed by themselves, or held the others up.
    pub failed: Vec<u32>,
    /// Nodes that are silent.
    pub silent: Vec<NodeId>,
    /// Whether it got nowhere by nobody's known fault.
    pub is_stuck: bool,
    /// Whether it ended so that a node can be drained.
    pub is_drain: bool,
    /// Checkpoints that ranks could not load, each once.
    pub damaged: Vec<Found>,
    /// Nodes that do not reach each other.
    pub apart: Apart,
    /// Whether the states of its ranks differed: nobody's memory is used again.
    pub is_doubtful: bool,
    /// What the ranks said of that.
    pub doubt: Option<Doubt>,
}

/// Nodes of a generation that do not reach each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Apart {
    /// Which.
    pub pairs: BTreeSet<Pair>,
    /// Those that leave, so that all that stay reach each other.
    pub leaving: BTreeSet<NodeId>,
}

impl End {
    /// The stage once its generation has ended so.
    pub(super) fn set_back(&self, stage: Stage) -> Result<Stage, InvalidTransition> {
        // That nodes do not reach each other never ends a job, however often it is tried.
        if self.damaged.is_empty() && self.apart.pairs.is_empty() {
            stage.set_back(&self.reason)
        } else {
            stage.fall_back(&self.reason)
        }
    }
}

/// A checkpoint that a rank found damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What is wrong with it.
    pub damage: Damage,
    /// Where that was found.
    pub node: NodeId,
    /// By whom and what, in words.
    pub text: String,
}

/// One finding against a generation.
pub(super) struct Finding {
    pub(super) seat: Seat,
    pub(super) text: String,
    /// Whether starting again may help.
    pub(super) retry: bool,
    pub(super) what: What,
    pub(super) damage: Option<Damage>,
}

/// What a finding is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    /// The node is lost, or another life of it: the cause of what the others say.
    Node { is_silent: bool },
    /// The generation gets nowhere, and nobody can say by whose fault.
    Stuck,
    /// The rank itself failed.
    Rank,
    /// The rank blames others, since then.
    Peers(Duration),
}

/// Most findings that a reason lists.
const MAX_LISTED: usize = 3;

impl Finding {
    /// Since when the rank only blames others, if it does.
    pub(super) fn blames(&self) -> Option<Duration> {
        match self.what {
            What::Peers(since) => Some(since),
            What::Node { .. } | What::Stuck | What::Rank => None,
        }
    }
}

/// What the findings say together.
pub(super) fn end(mut findings: Vec<Finding>) -> End {
    let failed = findings.iter().filter(|finding| finding.what == What::Rank);
    let failed = failed.map(|finding| finding.seat.rank).collect();
    let lost_node = findings.iter().any(|finding| matches!(finding.what, What::Node { .. }));
    let silent = findings
        .iter()
        .filter(|finding| finding.what == What::Node { is_silent: true });
    let silent = silent.map(|finding| finding.seat.node).collect();
    let is_stuck = findings.iter().any(|finding| finding.what == What::Stuck);
    let mut damaged: Vec<Found> = findings.iter().filter_map(found).collect();
    damaged.sort_by_key(|found| found.damage.checkpoint);
    damaged.dedup_by_key(|found| found.damage.checkpoint);
    // Causes come before what follows from them.
    findings.sort_by_key(|finding| finding.what);
    // Ranks of a lost node say the same.
    findings.dedup_by(|one, other| one.text == other.text);
    let more = findings.len().saturating_sub(MAX_LISTED);
    let listed = findings.into_iter().take(MAX_LISTED).map(|finding| finding.text);
    let mut reason = listed.collect::<Vec<String>>().join("; ");
    if more > 0 {
        reason = format!("{reason}; and {more} more");
    }
    End {
        reason,
        lost_node,
        failed,
        silent,
        is_stuck,
        damaged,
        ..End::default()
    }
}

fn found(finding: &Finding) -> Option<Found> {
    Some(Found {
        damage: finding.damage.clone()?,
        node: finding.seat.node,
        text: finding.text.clone(),
    })
}
