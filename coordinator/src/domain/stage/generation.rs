//! One membership of a stage: which ranks work together, and where each of them runs.

use medley_protocol::agent::Former;
use medley_protocol::checkpoint::Manifest;
use medley_protocol::ids::{IncarnationId, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One membership of a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Generation {
    /// Its fencing number.
    pub number: u64,
    /// Shared by its members.
    pub secret: String,
    /// Who runs which rank, in rank order, ranks of one node together.
    pub seats: Vec<Seat>,
    /// The checkpoint that its members start from if none of them holds a later state, fixed when the generation is made.
    pub resume: Option<Manifest>,
    /// Ranks of the generation before that held the others up: their processes take no part.
    #[serde(default)]
    pub without: Vec<Former>,
}

impl Generation {
    /// Ranks on each node.
    pub fn ranks_by_node(&self) -> BTreeMap<NodeId, u32> {
        let mut ranks = BTreeMap::new();
        for seat in &self.seats {
            *ranks.entry(seat.node).or_default() += 1;
        }
        ranks
    }

    /// Its seats beyond those that the nodes have in another generation: on each node the last ones, as agents give the first
    /// to the ranks that they have.
    pub fn beyond(&self, other: &Self) -> Vec<Seat> {
        let mut has = other.ranks_by_node();
        let is_beyond = |seat: &&Seat| {
            let left = has.entry(seat.node).or_default();
            let is_beyond = *left == 0;
            *left = left.saturating_sub(1);
            is_beyond
        };
        self.seats.iter().filter(is_beyond).copied().collect()
    }
}

/// One rank's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// The rank.
    pub rank: u32,
    /// The node that runs it.
    pub node: NodeId,
    /// The life of that node's agent: the rank dies with it.
    pub incarnation: IncarnationId,
}
