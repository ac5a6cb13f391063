//! A node, as its agent registered it.

use medley_protocol::ids::{IncarnationId, NodeId};

/// A node as the job table knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownNode {
    /// Identity.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// The present life of its agent.
    pub incarnation: IncarnationId,
    /// Ranks it can run at once.
    pub devices: u32,
    /// Numerics fingerprint of its ranks.
    pub fingerprint: String,
}

/// A node that takes no new work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Withheld {
    /// Whether what it has is to go to other nodes.
    pub drains: bool,
    /// Whether it gives up even what nobody else can take.
    pub is_due: bool,
    /// Whether its agent is about to end: what nobody else can take had better be saved now.
    pub leaves: bool,
}

impl Withheld {
    /// Its agent is about to end.
    pub fn leaves(&mut self) {
        self.drains = true;
        self.leaves = true;
    }
}
