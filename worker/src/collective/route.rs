//! Who sends which partial sum of which slice to whom.
//!
//! The gradient is cut into slices. Each slice has an *owner*, a node that makes its total, and on every node a *gatherer*:
//! 1. inside a node, ranks send their subtrees to the slice's gatherer, who joins them as far as the tree allows, so
//!    that one partial sum per joined subtree leaves the node;
//! 2. gatherers join those to the root of the tree. Each sum is made on the node where it needs the fewest transfers,
//!    in the end on the owner ([`crossing`]);
//! 3. the total goes back once to each node's gatherer, who passes it on to the node's other ranks.
//!
//! Slices are dealt to owners so that all nodes send alike, and rotate over a node's ranks. A node whose lanes are one
//! subtree sends as many bytes as in a ring. The route is free: the bits are fixed by the tree, which every [`Op::Add`]
//! follows. Sends never block, and all ranks go through the same steps in the same order, so a rank's operations can be
//! executed in order without deadlock.

mod crossing;

use super::deal::Deal;
use super::tree::{Subtree, join};
use crossing::{Crossing, Merge};
use std::ops::Range;

/// Most elements of a slice (16 MiB of fp32): bounds frames, and lets the phases of different slices overlap.
const MAX_SLICE: usize = 4 << 20;
/// Fewest slices between nodes: nodes that hold unlike subtrees own unlike numbers of slices.
const MIN_SLICES: usize = 8;
/// Slices begin at multiples of this many elements, like the entries of flat buffers.
const ALIGN: usize = 64;

/// The sum of a subtree's lanes over one slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partial {
    /// Index of the slice.
    pub slice: u32,
    /// The lanes summed.
    pub subtree: Subtree,
}

/// One operation of a rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Send a partial sum that this rank has.
    Send {
        /// Receivers; never empty.
        to: Vec<u32>,
        /// What.
        what: Partial,
    },
    /// Wait for a partial sum.
    Receive {
        /// Sender.
        from: u32,
        /// What.
        what: Partial,
    },
    /// Make this partial sum by adding those of its two children, left + right.
    Add(
        /// The sum that is made.
        Partial,
    ),
}

/// How a flat buffer is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slices {
    len: usize,
    width: usize,
    count: u32,
    turn: u32,
}

impl Slices {
    /// Cuts a buffer of `len` elements for this deal: equally many slices for each node and, where nodes are alike,
    /// for each rank.
    pub fn new(deal: &Deal, len: usize) -> Self {
        let widest = deal.nodes.iter().map(Vec::len).max().unwrap_or(1);
        let round = deal.nodes.len() * widest;
        let fewest = if deal.nodes.len() > 1 { MIN_SLICES } else { 1 };
        let rounds = len.div_ceil(round * MAX_SLICE).max(fewest.div_ceil(round));
        let count = (round * rounds) as u32;
        let width = len.div_ceil(count as usize).next_multiple_of(ALIGN);
        Self {
            len,
            width,
            count,
            turn: round as u32,
        }
    }

    /// Number of slices; the last ones may be empty.
    pub fn count(self) -> u32 {
        self.count
    }

    /// Elements of a slice.
    pub fn range(self, slice: u32) -> Range<usize> {
        let first = self.width * slice as usize;
        first.min(self.len)..(first + self.width).min(self.len)
    }

    /// The slices in turns that give each rank its share of them, where nodes are alike. The first turn is at the end of the
    /// buffer, where a gradient is final first.
    pub fn turns(self) -> impl Iterator<Item = Range<u32>> {
        let turn = self.turn;
        (0..self.count / turn).rev().map(move |i| i * turn..(i + 1) * turn)
    }
}

impl Op {
    /// The sum that it moves or makes.
    pub const fn what(&self) -> Partial {
        match self {
            Self::Send { what, .. } | Self::Receive { what, .. } | Self::Add(what) => *what,
        }
    }
}

/// The operations of `rank`, in order.
pub fn route(deal: &Deal, slices: Slices, rank: u32) -> Vec<Op> {
    let home = deal.node_of(rank);
    let crossing = Crossing::new(deal);
    let merges: Vec<Vec<Merge>> = (0..deal.nodes.len()).map(|owner| crossing.merges(owner)).collect();
    let owners = crossing::owners(&merges, slices.count());
    let plans: Vec<Plan> = (0..slices.count())
        .zip(owners)
        .filter(|(slice, _)| !slices.range(*slice).is_empty())
        .map(|(slice, owner)| Plan::new((deal, &merges[owner]), slice, (rank, home), owner))
        .collect();
    let mut ops = Vec::new();
    plans.iter().for_each(|plan| plan.hand_in(&mut ops));
    plans.iter().for_each(|plan| plan.join_node(&mut ops));
    for step in 0..merges[0].len() {
        plans.iter().for_each(|plan| plan.merge(&plan.merges[step], &mut ops));
    }
    plans.iter().for_each(|plan| plan.pass_on(&mut ops));
    plans.iter().for_each(|plan| plan.take_total(&mut ops));
    ops
}

/// One slice as one rank sees it.
struct Plan<'a> {
    deal: &'a Deal,
    /// How sums of several nodes are made.
    merges: &'a [Merge],
    slice: u32,
    rank: u32,
    /// This rank's node.
    home: usize,
    /// Node that makes the total.
    owner: usize,
    /// Gatherer on each node.
    gatherers: Vec<u32>,
}

impl<'a> Plan<'a> {
    fn new((deal, merges): (&'a Deal, &'a [Merge]), slice: u32, (rank, home): (u32, usize), owner: usize) -> Self {
        let turn = slice as usize / deal.nodes.len();
        Self {
            deal,
            merges,
            slice,
            rank,
            home,
            owner,
            gatherers: deal.nodes.iter().map(|ranks| ranks[turn % ranks.len()]).collect(),
        }
    }

    fn partial(&self, subtree: Subtree) -> Partial {
        Partial {
            slice: self.slice,
            subtree,
        }
    }

    fn gathers(&self) -> bool {
        self.gatherers[self.home] == self.rank
    }

    fn total(&self) -> Partial {
        self.partial(self.deal.root)
    }

    /// The node's ranks without its gatherer.
    fn fellows(&self) -> Vec<u32> {
        let gatherer = self.gatherers[self.home];
        let ranks = self.deal.nodes[self.home].iter().copied();
        ranks.filter(|rank| *rank != gatherer).collect()
    }

    /// Which subtrees this rank's node holds, and on which of its ranks.
    fn holders(&self) -> Vec<(Subtree, u32)> {
        let of = |rank: &u32| {
            let rank = *rank;
            let own = self.deal.subtrees[rank as usize].iter();
            own.map(move |subtree| (*subtree, rank))
        };
        self.deal.nodes[self.home].iter().flat_map(of).collect()
    }

    fn hand_in(&self, ops: &mut Vec<Op>) {
        if self.gathers() {
            return;
        }
        let to = self.gatherers[self.home];
        ops.extend(self.deal.subtrees[self.rank as usize].iter().map(|subtree| Op::Send {
            to: vec![to],
            what: self.partial(*subtree),
        }));
    }

    /// Receives what the node's ranks hold and adds until nothing more can be joined.
    fn join_node(&self, ops: &mut Vec<Op>) {
        if !self.gathers() {
            return;
        }
        let holders = self.holders();
        let parts: Vec<Subtree> = holders.iter().map(|(part, _)| *part).collect();
        let cell = std::cell::RefCell::new(&mut *ops);
        let mut found = |part| {
            let holder = holders.iter().find(|(held, _)| *held == part).map(|(_, rank)| *rank);
            let from = holder.expect("only parts of the list are found");
            if from != self.rank {
                let what = self.partial(part);
                cell.borrow_mut().push(Op::Receive { from, what });
            }
        };
        let mut joined = |parent| cell.borrow_mut().push(Op::Add(self.partial(parent)));
        join(self.deal.root, &parts, &mut found, &mut joined);
        if self.merges.is_empty() {
            self.send_total(self.fellows(), ops);
        }
    }

    /// Makes a sum of several nodes' parts, or sends a part of it to where it is made.
    fn merge(&self, merge: &Merge, ops: &mut Vec<Op>) {
        if !self.gathers() {
            return;
        }
        let elsewhere = |node: usize| node != merge.node;
        for (part, node) in merge.parts {
            let what = self.partial(part);
            if !elsewhere(self.home) && elsewhere(node) {
                let from = self.gatherers[node];
                ops.push(Op::Receive { from, what });
            } else if elsewhere(self.home) && node == self.home {
                let to = vec![self.gatherers[merge.node]];
                ops.push(Op::Send { to, what });
            }
        }
        if elsewhere(self.home) {
            return;
        }
        ops.push(Op::Add(self.partial(merge.sum)));
        if merge.sum == self.deal.root {
            let others = self.gatherers.iter().copied().filter(|rank| *rank != self.rank);
            self.send_total(others.chain(self.fellows()).collect(), ops);
        }
    }

    fn pass_on(&self, ops: &mut Vec<Op>) {
        if !self.gathers() || self.owner == self.home {
            return;
        }
        ops.push(Op::Receive {
            from: self.gatherers[self.owner],
            what: self.total(),
        });
        self.send_total(self.fellows(), ops);
    }

    fn take_total(&self, ops: &mut Vec<Op>) {
        if !self.gathers() {
            ops.push(Op::Receive {
                from: self.gatherers[self.home],
                what: self.total(),
            });
        }
    }

    fn send_total(&self, to: Vec<u32>, ops: &mut Vec<Op>) {
        if !to.is_empty() {
            ops.push(Op::Send { to, what: self.total() });
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
