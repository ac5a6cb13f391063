//! Which rank runs which lanes: whole subtrees of the lane tree.
//!
//! The busiest rank sets the time of a step, so its lanes come first; then the number of subtrees, since each one is
//! a buffer to hold and a partial sum to send; then a node's lanes should lie close together, so that its ranks can
//! join their sums before anything leaves the node.
//!
//! A rank with `l` lanes holds at least as many complete subtrees as `l` has binary digits that are 1. So the loads are
//! chosen by a small dynamic program over digit counts, and the blocks are then laid out, largest first, in two ways:
//! - node by node, each node in a range of lanes of its own. Nodes get those loads that make the ranges' ends round, so
//!   that few sums have parts on two nodes. At a range's rim a block may have to be halved.
//! - over the whole tree. Blocks of falling size always fit it without a gap, so each rank has the fewest subtrees.
//!
//! The layout whose fullest rank has fewer subtrees is taken, the first if both are alike. Over the whole tree the count
//! is the smallest possible when the number of lanes is a power of two; otherwise the rim of the tree has nodes of other
//! sizes, of which only those that happen to come together are used.

use super::tree::{Subtree, join};
use std::cmp::Reverse;

/// Lanes by rank, and ranks by node: all that routes depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deal {
    /// The whole tree.
    pub root: Subtree,
    /// Subtrees of each rank, in lane order; never empty.
    pub subtrees: Vec<Vec<Subtree>>,
    /// Ranks of each node, consecutive.
    pub nodes: Vec<Vec<u32>>,
}

/// Why lanes cannot be dealt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no rank.
    #[error("there is no rank to run the lanes")]
    NoRanks,
    /// Some rank would have nothing to do.
    #[error("{ranks} ranks are more than {lanes} lanes: use at most one rank per lane")]
    MoreRanksThanLanes {
        /// Ranks asked for.
        ranks: u32,
        /// Lanes of the spec.
        lanes: u32,
    },
}

/// Deals `lanes` lanes to nodes with `ranks_of_node[i]` ranks each, numbered node by node.
///
/// # Errors
/// When there are more ranks than lanes, or none.
pub fn deal(lanes: u32, ranks_of_node: &[u32]) -> Result<Deal, Error> {
    let nodes = number_ranks(ranks_of_node);
    let ranks = nodes.iter().map(Vec::len).sum::<usize>() as u32;
    if ranks == 0 {
        return Err(Error::NoRanks);
    }
    if ranks > lanes {
        return Err(Error::MoreRanksThanLanes { ranks, lanes });
    }
    let root = Subtree::root(lanes);
    let loads = loads(lanes, ranks);
    let layouts = [by_node(root, &loads, &nodes), by_size(root, &loads, &nodes)];
    let most = |subtrees: &Vec<Vec<Subtree>>| subtrees.iter().map(Vec::len).max();
    let subtrees = layouts.into_iter().min_by_key(most).expect("there are two layouts");
    Ok(Deal { root, subtrees, nodes })
}

impl Deal {
    /// Number of ranks.
    pub fn ranks(&self) -> u32 {
        self.subtrees.len() as u32
    }

    /// The lanes of a rank, in order.
    pub fn lanes(&self, rank: u32) -> impl Iterator<Item = u32> + '_ {
        self.subtrees[rank as usize].iter().flat_map(|subtree| subtree.range())
    }

    /// The node of a rank.
    pub fn node_of(&self, rank: u32) -> usize {
        let on = |node: &Vec<u32>| node.contains(&rank);
        self.nodes.iter().position(on).expect("every rank has a node")
    }
}

fn number_ranks(ranks_of_node: &[u32]) -> Vec<Vec<u32>> {
    let mut next = 0;
    let number = |count: &u32| {
        next += count;
        (next - count..next).collect()
    };
    ranks_of_node.iter().filter(|count| **count > 0).map(number).collect()
}

/// Lanes per rank, most first: none above the average rounded up, and as few binary digits in all as possible.
fn loads(lanes: u32, ranks: u32) -> Vec<u32> {
    let most = lanes.div_ceil(ranks);
    let columns = lanes as usize + 1;
    // cost[r][l]: fewest subtrees when r ranks share l lanes; `last` remembers the load of the r-th.
    let mut cost = vec![vec![u32::MAX; columns]; ranks as usize + 1];
    let mut last = vec![vec![0; columns]; ranks as usize + 1];
    cost[0][0] = 0;
    for r in 1..=ranks as usize {
        for shared in 0..columns {
            let before = cost[r - 1][shared];
            for load in (1..=most).take_while(|load| before < u32::MAX && shared + (*load as usize) < columns) {
                let total = before + load.count_ones();
                let column = shared + load as usize;
                if total < cost[r][column] {
                    cost[r][column] = total;
                    last[r][column] = load;
                }
            }
        }
    }
    let mut left = columns - 1;
    let mut loads: Vec<u32> = (1..=ranks as usize)
        .rev()
        .map(|r| {
            let load = last[r][left];
            left -= load as usize;
            load
        })
        .collect();
    loads.sort_unstable_by(|a, b| b.cmp(a));
    loads
}

/// Subtrees by rank, each node's within a range of lanes of its own; larger nodes come first.
fn by_node(root: Subtree, loads: &[u32], nodes: &[Vec<u32>]) -> Vec<Vec<Subtree>> {
    let mut order: Vec<&Vec<u32>> = nodes.iter().collect();
    order.sort_by_key(|node| Reverse(node.len()));
    let mut left = loads.to_vec();
    let mut of_rank = vec![0; loads.len()];
    let mut layout = Layout::new(loads.len());
    let mut begin = 0;
    for node in order {
        let first = roundest(&left, node.len(), begin);
        for (rank, load) in node.iter().zip(left.drain(first..first + node.len())) {
            of_rank[*rank as usize] = load;
        }
        let end = begin + node.iter().map(|rank| of_rank[*rank as usize]).sum::<u32>();
        layout.free = root.within(&(begin..end));
        let blocks = blocks_of(&of_rank, std::slice::from_ref(node));
        blocks.into_iter().for_each(|block| layout.place(block));
        begin = end;
    }
    layout.finish(root)
}

/// Which `count` neighbours among the loads that are left make a range from `begin` end at the roundest lane.
fn roundest(left: &[u32], count: usize, begin: u32) -> usize {
    let roundness = |first: &usize| {
        let end = begin + left[*first..*first + count].iter().sum::<u32>();
        (end.trailing_zeros(), Reverse(end.count_ones()), Reverse(*first))
    };
    (0..=left.len() - count).max_by_key(roundness).unwrap_or(0)
}

/// Subtrees by rank, over the whole tree.
fn by_size(root: Subtree, loads: &[u32], nodes: &[Vec<u32>]) -> Vec<Vec<Subtree>> {
    let mut layout = Layout::new(loads.len());
    layout.free = vec![root];
    let blocks = blocks_of(loads, nodes);
    blocks.into_iter().for_each(|block| layout.place(block));
    layout.finish(root)
}

/// One power of two of lanes for one rank.
#[derive(Debug, Clone, Copy)]
struct Block {
    rank: u32,
    lanes: u32,
}

/// The blocks of all ranks of these nodes in the order in which they are placed: by size; among equals those of the node
/// that has most of them come first, because they are the likeliest to join.
fn blocks_of(loads: &[u32], nodes: &[Vec<u32>]) -> Vec<Block> {
    let mut blocks = Vec::new();
    for digit in (0..u32::BITS).rev() {
        let lanes = 1 << digit;
        let holders = |node: &Vec<u32>| -> Vec<Block> {
            let holds = |rank: &&u32| loads[**rank as usize] & lanes != 0;
            node.iter().filter(holds).map(|&rank| Block { rank, lanes }).collect()
        };
        let mut by_node: Vec<Vec<Block>> = nodes.iter().map(holders).collect();
        by_node.sort_by_key(|blocks| Reverse(blocks.len()));
        blocks.extend(by_node.into_iter().flatten());
    }
    blocks
}

/// Blocks being placed.
struct Layout {
    free: Vec<Subtree>,
    subtrees: Vec<Vec<Subtree>>,
}

impl Layout {
    fn new(ranks: usize) -> Self {
        Self {
            free: Vec::new(),
            subtrees: vec![Vec::new(); ranks],
        }
    }

    /// Places a block at the smallest free node that has room for it, or else its halves. There are as many free lanes as
    /// blocks to come need, so a single lane finds its place.
    fn place(&mut self, block: Block) {
        let Block { rank, lanes } = block;
        let fits = |at: &usize| largest_complete(self.free[*at]) >= lanes;
        let fitting = (0..self.free.len()).filter(fits);
        let Some(at) = fitting.min_by_key(|at| self.free[*at].lanes) else {
            let half = Block { rank, lanes: lanes / 2 };
            self.place(half);
            return self.place(half);
        };
        let mut found = self.free.remove(at);
        while found.lanes != lanes {
            let (left, right) = found.children().expect("a larger node has children");
            // The left child is complete and the larger one; what is too small on the right stays free.
            self.free.insert(at, right);
            found = left;
        }
        self.subtrees[rank as usize].push(found);
    }

    /// Subtrees by rank, joined as far as possible.
    fn finish(self, root: Subtree) -> Vec<Vec<Subtree>> {
        let joined = |own: &Vec<Subtree>| join(root, own, &mut |_| (), &mut |_| ());
        self.subtrees.iter().map(joined).collect()
    }
}

/// Lanes of the largest complete subtree at or below a node.
fn largest_complete(subtree: Subtree) -> u32 {
    1 << subtree.lanes.ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node_maps(ranks: u32) -> Vec<Vec<u32>> {
        let mut maps = vec![vec![ranks], vec![1; ranks as usize]];
        if ranks > 2 {
            maps.push(vec![ranks / 2, ranks - ranks / 2]);
            maps.push(vec![1, ranks - 2, 1]);
        }
        maps
    }

    /// The lower bound: loads of at most the average rounded up, each with its binary digits.
    fn fewest(lanes: u32, ranks: u32) -> u32 {
        loads(lanes, ranks).iter().map(|load| load.count_ones()).sum()
    }

    #[test]
    fn every_lane_is_dealt_once_in_whole_subtrees() {
        for lanes in 1..=33 {
            for ranks in 1..=lanes {
                for map in node_maps(ranks) {
                    let deal = deal(lanes, &map).unwrap();
                    let mut all: Vec<u32> = (0..ranks).flat_map(|rank| deal.lanes(rank)).collect();
                    all.sort_unstable();
                    assert_eq!(all, (0..lanes).collect::<Vec<_>>(), "{lanes} lanes, nodes {map:?}");
                    let parts: Vec<Subtree> = deal.subtrees.concat();
                    let mut met = 0;
                    let joined = join(deal.root, &parts, &mut |_| met += 1, &mut |_| ());
                    assert_eq!((met, joined), (parts.len(), vec![deal.root]));
                }
            }
        }
    }

    #[test]
    fn the_busiest_rank_has_as_few_lanes_as_possible() {
        for lanes in [8, 11, 32, 64] {
            for ranks in 1..=lanes {
                let deal = deal(lanes, &[ranks]).unwrap();
                let most = (0..ranks).map(|rank| deal.lanes(rank).count() as u32).max();
                assert_eq!(most, Some(lanes.div_ceil(ranks)));
            }
        }
    }

    #[test]
    fn powers_of_two_are_dealt_in_the_fewest_subtrees() {
        for lanes in [1, 2, 4, 8, 16, 32, 64] {
            for ranks in 1..=lanes {
                let deal = deal(lanes, &[ranks]).unwrap();
                assert_eq!(deal.subtrees.concat().len() as u32, fewest(lanes, ranks));
            }
        }
    }

    #[test]
    fn equal_nodes_hold_one_subtree_each() {
        for (lanes, map) in [
            (32, vec![16, 16]),
            (32, vec![4, 4, 4, 4]),
            (8, vec![2, 2]),
            (64, vec![8; 8]),
        ] {
            let deal = deal(lanes, &map).unwrap();
            for ranks in &deal.nodes {
                let parts: Vec<Subtree> = ranks.iter().flat_map(|r| deal.subtrees[*r as usize].clone()).collect();
                assert_eq!(join(deal.root, &parts, &mut |_| (), &mut |_| ()).len(), 1);
            }
        }
    }

    #[test]
    fn more_ranks_than_lanes_are_refused() {
        let error = deal(4, &[3, 2]).unwrap_err();
        assert_eq!(error, Error::MoreRanksThanLanes { ranks: 5, lanes: 4 });
        assert_eq!(deal(4, &[]).unwrap_err(), Error::NoRanks);
    }
}
