//! On which node each sum is made that has parts on several nodes.
//!
//! Moving a sum from one node to another is a *transfer*, and costs as much whatever it sums. For every node of the tree
//! above what single nodes can join, and every place where its sum could be made, the fewest transfers below it are
//! counted bottom-up; then, from the root at its owner downwards, a sum is made where its parent is, unless fewer
//! transfers are needed elsewhere. Where each node holds one subtree, that is: everything at the owner.

use super::super::deal::Deal;
use super::super::tree::{Subtree, join};
use std::collections::BTreeMap;

/// A sum of two parts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Merge {
    /// What is made.
    pub(super) sum: Subtree,
    /// Where.
    pub(super) node: usize,
    /// Its children, and on which node each is.
    pub(super) parts: [(Subtree, usize); 2],
}

/// The tree above what nodes can join by themselves.
pub(super) struct Crossing {
    root: Subtree,
    nodes: usize,
    /// What nodes have joined, and which node it was.
    joined: BTreeMap<Subtree, usize>,
    /// The fewest transfers that a sum needs, by the node where it is made.
    transfers: BTreeMap<Subtree, Vec<u32>>,
}

impl Crossing {
    pub(super) fn new(deal: &Deal) -> Self {
        let mut joined = BTreeMap::new();
        for (node, ranks) in deal.nodes.iter().enumerate() {
            let parts: Vec<Subtree> = ranks
                .iter()
                .flat_map(|rank| &deal.subtrees[*rank as usize])
                .copied()
                .collect();
            let whole = join(deal.root, &parts, &mut |_| (), &mut |_| ());
            joined.extend(whole.into_iter().map(|subtree| (subtree, node)));
        }
        let mut crossing = Self {
            root: deal.root,
            nodes: deal.nodes.len(),
            joined,
            transfers: BTreeMap::new(),
        };
        crossing.count(deal.root);
        crossing
    }

    /// The parts of a sum that no node can make from what it has.
    fn parts(&self, sum: Subtree) -> Option<[Subtree; 2]> {
        let crosses = !self.joined.contains_key(&sum);
        sum.children().filter(|_| crosses).map(|(left, right)| [left, right])
    }

    fn count(&mut self, sum: Subtree) {
        let mut transfers = vec![0; self.nodes];
        for part in self.parts(sum).into_iter().flatten() {
            self.count(part);
            let cheapest = self.cheapest(part) + 1;
            for (total, here) in transfers.iter_mut().zip(&self.transfers[&part]) {
                *total += cheapest.min(*here);
            }
        }
        if let Some(node) = self.joined.get(&sum) {
            // It is nowhere else; so large that it is never chosen, so small that sums do not overflow.
            transfers = vec![u32::MAX / 4; self.nodes];
            transfers[*node] = 0;
        }
        self.transfers.insert(sum, transfers);
    }

    fn cheapest(&self, sum: Subtree) -> u32 {
        self.transfers[&sum].iter().copied().min().unwrap_or(0)
    }

    /// Where a part is made whose parent is made on `node`; among equals the first from the owner on.
    fn place(&self, part: Subtree, node: usize, owner: usize) -> usize {
        let (transfers, cheapest) = (&self.transfers[&part], self.cheapest(part));
        let mut from_owner = (owner..self.nodes).chain(0..owner);
        let best = from_owner.find(|other| transfers[*other] == cheapest).unwrap_or(node);
        if transfers[node] <= cheapest + 1 { node } else { best }
    }

    /// How the total comes about on `owner`, parts before sums. The sums are the same for all owners.
    pub(super) fn merges(&self, owner: usize) -> Vec<Merge> {
        let mut merges = Vec::new();
        self.descend(self.root, owner, owner, &mut merges);
        merges
    }

    fn descend(&self, sum: Subtree, node: usize, owner: usize, merges: &mut Vec<Merge>) {
        let Some(parts) = self.parts(sum) else { return };
        let parts = parts.map(|part| (part, self.place(part, node, owner)));
        for (part, place) in parts {
            self.descend(part, place, owner, merges);
        }
        merges.push(Merge { sum, node, parts });
    }
}

/// The owner of each slice, given the merges of each owner: the one that leaves what nodes send most even.
pub(super) fn owners(merges: &[Vec<Merge>], slices: u32) -> Vec<usize> {
    let nodes = merges.len();
    let sends: Vec<Vec<u64>> = (0..nodes).map(|owner| sends(&merges[owner], owner, nodes)).collect();
    let mut sent = vec![0; nodes];
    let choose = |slice: u32| {
        let unevenness = |owner: &usize| -> u64 {
            let after = sends[*owner].iter().zip(&sent).map(|(more, sent)| more + sent);
            after.map(|sent| sent * sent).sum()
        };
        let in_turn = (0..nodes).map(|ahead| (slice as usize + ahead) % nodes);
        let owner = in_turn.min_by_key(unevenness).unwrap_or(0);
        sent.iter_mut()
            .zip(&sends[owner])
            .for_each(|(sent, more)| *sent += more);
        owner
    };
    (0..slices).map(choose).collect()
}

/// What each node sends to other nodes for a slice of `owner`: parts, and the total.
fn sends(merges: &[Merge], owner: usize, nodes: usize) -> Vec<u64> {
    let mut sends = vec![0; nodes];
    sends[owner] = nodes as u64 - 1;
    for merge in merges {
        let moved = merge.parts.iter().filter(|(_, node)| *node != merge.node);
        moved.for_each(|(_, node)| sends[*node] += 1);
    }
    sends
}
