//! Who runs where: a pure function from free devices and waiting stages to placements.
//!
//! Stages of a higher priority are served first. Stages of one priority share: each first gets the fewest ranks it can
//! work with, older ones first, then the rest is dealt one device at a time. A training stage is a gang, all or nothing,
//! of one numerics fingerprint; it takes no rank that would not make it faster, because a step takes
//! ⌈lanes / ranks⌉ lanes of time. A stage whose ranks hold its state in memory keeps them where it can. For every
//! stage that has to wait the planner says why in words.

use medley_protocol::ids::{NodeId, StageId};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// A node that can take ranks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The node.
    pub id: NodeId,
    /// Numerics fingerprint of its ranks.
    pub fingerprint: String,
    /// Ranks it can run at once.
    pub devices: u32,
    /// Devices that no stage has.
    pub free: u32,
}

/// A stage that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The stage.
    pub stage: StageId,
    /// Higher ones are served first.
    pub priority: i32,
    /// Fewest ranks it can work with; at least 1.
    pub min: u32,
    /// Most ranks it can use; at least `min`.
    pub max: u32,
    /// Lanes that its ranks share in lock-step; none for ranks that work alone.
    pub lanes: Option<u32>,
    /// Ranks that hold its state in memory, by node: better kept than replaced.
    pub keeps: BTreeMap<NodeId, u32>,
    /// Nodes that cannot work with others that it has, or would have.
    pub avoids: BTreeSet<NodeId>,
}

impl Request {
    fn kept_on(&self, node: &Node) -> u32 {
        self.keeps.get(&node.id).copied().unwrap_or(0)
    }
}

/// Ranks of a stage by node, in rank order.
pub type Placement = Vec<(NodeId, u32)>;

/// What became of the requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Stages that can start.
    pub placements: BTreeMap<StageId, Placement>,
    /// Why the others wait, in words.
    pub waits: BTreeMap<StageId, String>,
}

/// Places `requests`, given oldest first.
pub fn plan(nodes: &[Node], requests: &[Request]) -> Plan {
    let mut board = Board {
        nodes,
        free: nodes.iter().map(|node| node.free).collect(),
    };
    let mut by_priority: BTreeMap<i32, Vec<&Request>> = BTreeMap::new();
    for request in requests {
        by_priority.entry(request.priority).or_default().push(request);
    }
    let mut plan = Plan::default();
    for equals in by_priority.into_values().rev() {
        let mut hands = Vec::new();
        for request in equals {
            match board.gang(request) {
                Ok(hand) => hands.push(hand),
                Err(reason) => {
                    plan.waits.insert(request.stage, reason);
                }
            }
        }
        board.share(&mut hands);
        plan.placements.extend(
            hands
                .into_iter()
                .map(|hand| (hand.request.stage, board.placement(&hand))),
        );
    }
    plan
}

/// The devices as they are being dealt.
struct Board<'a> {
    nodes: &'a [Node],
    /// Free devices of each node.
    free: Vec<u32>,
}

/// What a request has got so far.
struct Hand<'a> {
    request: &'a Request,
    /// The only fingerprint it may have.
    fingerprint: Option<&'a str>,
    /// Most ranks of use to it.
    limit: u32,
    /// Ranks by node.
    ranks: Vec<u32>,
    /// The node of its last device: the next one is taken there too, unless something was given back since.
    last: Option<usize>,
}

impl Hand<'_> {
    fn num_ranks(&self) -> u32 {
        self.ranks.iter().sum()
    }

    fn may_use(&self, node: &Node) -> bool {
        let fits = self
            .fingerprint
            .is_none_or(|fingerprint| fingerprint == node.fingerprint);
        fits && !self.request.avoids.contains(&node.id)
    }
}

impl<'a> Board<'a> {
    /// Takes the fewest ranks that `request` can work with, or says why that is not possible.
    fn gang(&mut self, request: &'a Request) -> Result<Hand<'a>, String> {
        let free = |i: usize| {
            if request.avoids.contains(&self.nodes[i].id) {
                0
            } else {
                self.free[i]
            }
        };
        let free_by_fingerprint = self.sum_by_fingerprint(free);
        let free_in_all: u32 = (0..self.nodes.len()).map(free).sum();
        let (fingerprint, free) = if request.lanes.is_some() {
            let kept = self.sum_by_fingerprint(|i| request.kept_on(&self.nodes[i]));
            let best = free_by_fingerprint
                .iter()
                .max_by_key(|(fingerprint, free)| (**free >= request.min, kept.get(*fingerprint), **free));
            best.map_or((None, 0), |(fingerprint, free)| (Some(*fingerprint), *free))
        } else {
            (None, free_in_all)
        };
        if free < request.min {
            return Err(self.reason(request, free));
        }
        let mut hand = Hand {
            request,
            fingerprint,
            limit: request.max,
            ranks: vec![0; self.nodes.len()],
            last: None,
        };
        while hand.num_ranks() < request.min && self.take(&mut hand) {}
        Ok(hand)
    }

    /// Deals what is left in turns, then takes back ranks that make nobody faster and deals those.
    fn share(&mut self, hands: &mut [Hand<'_>]) {
        // Each pass lowers some limit for good, or is the last.
        loop {
            let mut dealt = true;
            while dealt {
                dealt = false;
                for hand in hands.iter_mut().filter(|hand| hand.num_ranks() < hand.limit) {
                    dealt |= self.take(hand);
                }
            }
            let mut gave_back = false;
            for hand in hands.iter_mut() {
                gave_back |= self.give_back(hand);
            }
            if !gave_back {
                return;
            }
            hands.iter_mut().for_each(|hand| hand.last = None);
        }
    }

    /// Takes one more device: one whose rank is there already, else on the node where the hand has most, else where most are
    /// free.
    fn take(&mut self, hand: &mut Hand<'_>) -> bool {
        // Where it took last, it has more than anywhere else that devices are free.
        let again = hand.last.filter(|i| self.free[*i] > 0 && hand.request.keeps.is_empty());
        let Some(node) = again.or_else(|| self.best(hand)) else {
            return false;
        };
        self.free[node] -= 1;
        hand.ranks[node] += 1;
        hand.last = Some(node);
        true
    }

    fn best(&self, hand: &Hand<'_>) -> Option<usize> {
        let usable = (0..self.nodes.len()).filter(|i| self.free[*i] > 0 && hand.may_use(&self.nodes[*i]));
        usable.max_by_key(|i| {
            let is_there = hand.ranks[*i] < hand.request.kept_on(&self.nodes[*i]);
            (is_there, hand.ranks[*i], self.free[*i], Reverse(*i))
        })
    }

    /// Gives back the ranks without which a step takes no longer, but none that holds the state: it would soon be missed.
    fn give_back(&mut self, hand: &mut Hand<'_>) -> bool {
        let Some(lanes) = hand.request.lanes else { return false };
        let ranks = hand.num_ranks();
        let kept = (0..self.nodes.len()).map(|i| hand.ranks[i].min(hand.request.kept_on(&self.nodes[i])));
        let enough = kept.sum::<u32>().max(hand.request.min);
        let useful = lanes.div_ceil(lanes.div_ceil(ranks)).max(enough);
        for _ in useful..ranks {
            let smallest = (0..self.nodes.len())
                .filter(|i| hand.ranks[*i] > 0)
                .min_by_key(|i| (hand.ranks[*i] <= hand.request.kept_on(&self.nodes[*i]), hand.ranks[*i]));
            let Some(node) = smallest else { break };
            hand.ranks[node] -= 1;
            self.free[node] += 1;
        }
        hand.limit = hand.limit.min(useful.min(ranks));
        useful < ranks
    }

    fn placement(&self, hand: &Hand<'_>) -> Placement {
        let counts = hand.ranks.iter().enumerate().filter(|(_, ranks)| **ranks > 0);
        counts.map(|(i, ranks)| (self.nodes[i].id, *ranks)).collect()
    }

    fn sum_by_fingerprint(&self, value: impl Fn(usize) -> u32) -> BTreeMap<&'a str, u32> {
        let mut sums = BTreeMap::new();
        for (i, node) in self.nodes.iter().enumerate() {
            *sums.entry(node.fingerprint.as_str()).or_default() += value(i);
        }
        sums
    }

    fn reason(&self, request: &Request, free: u32) -> String {
        if self.nodes.is_empty() {
            return "waits for a node: none is alive; start agents with `medley-worker agent`".into();
        }
        let devices: u32 = self.nodes.iter().map(|node| node.devices).sum();
        let by_fingerprint = self.sum_by_fingerprint(|i| self.nodes[i].devices);
        let largest = by_fingerprint.values().copied().max().unwrap_or(0);
        let min = request.min;
        let needs = if min == 1 {
            "a free device".to_owned()
        } else {
            format!("{min} free devices")
        };
        if request.lanes.is_some() && largest < min {
            return format!(
                "waits for {needs} of one numerics fingerprint: the nodes alive have {devices} in all and at most \
                 {largest} of one; add nodes, or lower cluster.min_ranks"
            );
        }
        let others = if request.avoids.is_empty() {
            "the others work for other stages"
        } else {
            "the others work for other stages or do not reach these"
        };
        format!("waits for {needs}: {free} of {devices} are free for it, {others}")
    }
}

#[cfg(test)]
mod tests;
