//! Who sends which partial sum of which slice to whom.
//!
//! The gradient is cut into slices. Each slice has an *owner*, who computes its total, and on every node a *gatherer*:
//! 1. inside a node, ranks send their subtrees to the slice's gatherer, who joins them as far as the tree allows, so
//!    that one partial sum per joined subtree leaves the node;
//! 2. gatherers send those to the owner, who joins them to the root of the tree;
//! 3. the total goes back once to each node's gatherer, who passes it on to the node's other ranks.
//!
//! Slices rotate over nodes first and over a node's ranks second, so a node whose lanes are one subtree sends as many
//! bytes as in a ring. The route is free: the bits are fixed by the tree, which every [`Op::Add`] follows. Sends never
//! block, so a rank's operations can be executed in order without deadlock.

use super::deal::Deal;
use super::tree::{Subtree, join};
use std::ops::Range;

/// Most elements of a slice (16 MiB of fp32): bounds frames, and lets the phases of different slices overlap.
const MAX_SLICE: usize = 4 << 20;
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
}

impl Slices {
    /// Cuts a buffer of `len` elements for this deal: equally many slices for each node and, where nodes are alike,
    /// for each rank.
    pub fn new(deal: &Deal, len: usize) -> Self {
        let widest = deal.nodes.iter().map(Vec::len).max().unwrap_or(1);
        let round = deal.nodes.len() * widest;
        let rounds = len.div_ceil(round * MAX_SLICE).max(1);
        let count = (round * rounds) as u32;
        let width = len.div_ceil(count as usize).next_multiple_of(ALIGN);
        Self { len, width, count }
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
}

/// The operations of `rank`, in order.
pub fn route(deal: &Deal, slices: Slices, rank: u32) -> Vec<Op> {
    let home = deal.node_of(rank);
    let plans: Vec<Plan> = (0..slices.count())
        .filter(|slice| !slices.range(*slice).is_empty())
        .map(|slice| Plan::new(deal, slice, rank, home))
        .collect();
    let mut ops = Vec::new();
    for phase in [
        Plan::hand_in,
        Plan::join_node,
        Plan::join_all,
        Plan::pass_on,
        Plan::take_total,
    ] {
        for plan in &plans {
            phase(plan, &mut ops);
        }
    }
    ops
}

/// One slice as one rank sees it.
struct Plan<'a> {
    deal: &'a Deal,
    slice: u32,
    rank: u32,
    /// This rank's node.
    home: usize,
    owner: u32,
    /// Gatherer on each node; the owner is its own node's.
    gatherers: Vec<u32>,
}

impl<'a> Plan<'a> {
    fn new(deal: &'a Deal, slice: u32, rank: u32, home: usize) -> Self {
        let nodes = deal.nodes.len();
        let turn = slice as usize / nodes;
        let gatherers: Vec<u32> = deal.nodes.iter().map(|ranks| ranks[turn % ranks.len()]).collect();
        Self {
            deal,
            slice,
            rank,
            home,
            owner: gatherers[slice as usize % nodes],
            gatherers,
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

    /// Which subtrees a node holds, and on which of its ranks.
    fn holders(&self, node: usize) -> Vec<(Subtree, u32)> {
        let of = |rank: &u32| {
            let rank = *rank;
            let own = self.deal.subtrees[rank as usize].iter();
            own.map(move |subtree| (*subtree, rank))
        };
        self.deal.nodes[node].iter().flat_map(of).collect()
    }

    /// What a node's gatherer sends to the owner.
    fn joined(&self, node: usize) -> Vec<Subtree> {
        let parts: Vec<Subtree> = self.holders(node).into_iter().map(|(part, _)| part).collect();
        join(self.deal.root, &parts, &mut |_| (), &mut |_| ())
    }

    /// Receives from their holders and adds until nothing more can be joined.
    fn join(&self, holders: &[(Subtree, u32)], ops: &mut Vec<Op>) {
        let parts: Vec<Subtree> = holders.iter().map(|(part, _)| *part).collect();
        let ops = std::cell::RefCell::new(ops);
        let mut found = |part| {
            let holder = holders.iter().find(|(held, _)| *held == part).map(|(_, rank)| *rank);
            let from = holder.expect("only parts of the list are found");
            if from != self.rank {
                let what = self.partial(part);
                ops.borrow_mut().push(Op::Receive { from, what });
            }
        };
        let mut joined = |parent| ops.borrow_mut().push(Op::Add(self.partial(parent)));
        join(self.deal.root, &parts, &mut found, &mut joined);
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

    fn join_node(&self, ops: &mut Vec<Op>) {
        if !self.gathers() {
            return;
        }
        self.join(&self.holders(self.home), ops);
        if self.owner != self.rank {
            ops.extend(self.joined(self.home).into_iter().map(|subtree| Op::Send {
                to: vec![self.owner],
                what: self.partial(subtree),
            }));
        }
    }

    fn join_all(&self, ops: &mut Vec<Op>) {
        if self.owner != self.rank {
            return;
        }
        let nodes = 0..self.deal.nodes.len();
        let of = |node| {
            let gatherer = self.gatherers[node];
            self.joined(node).into_iter().map(move |subtree| (subtree, gatherer))
        };
        let holders: Vec<(Subtree, u32)> = nodes.flat_map(of).collect();
        self.join(&holders, ops);
        let others = self.gatherers.iter().copied().filter(|rank| *rank != self.rank);
        self.send_total(others.chain(self.fellows()).collect(), ops);
    }

    fn pass_on(&self, ops: &mut Vec<Op>) {
        if !self.gathers() || self.owner == self.rank {
            return;
        }
        ops.push(Op::Receive {
            from: self.owner,
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
mod tests;
