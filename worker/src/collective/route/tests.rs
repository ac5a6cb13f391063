//! Routes evaluated symbolically: a value is the expression that computes it.

use super::*;
use crate::collective::deal::deal;
use std::collections::{BTreeMap, VecDeque};

/// A partial sum with the expression it was computed by, as a hash of its shape (texts of 64 lanes are long).
pub(crate) type Expression = blake3::Hash;

fn leaf(lane: u32) -> Expression {
    blake3::hash(&lane.to_le_bytes())
}

pub(crate) fn sum(left: Expression, right: Expression) -> Expression {
    blake3::hash(&[left.as_bytes().as_slice(), right.as_bytes()].concat())
}

pub(crate) fn expected(subtree: Subtree) -> Expression {
    match subtree.children() {
        None => leaf(subtree.first),
        Some((left, right)) => sum(expected(left), expected(right)),
    }
}

/// Executes all ranks' operations and returns each rank's expressions; panics on deadlock, or when something is used
/// before it is there.
fn run(deal: &Deal, slices: Slices) -> Vec<BTreeMap<Partial, Expression>> {
    let ranks = deal.ranks();
    let mut programs: Vec<VecDeque<Op>> = (0..ranks).map(|rank| route(deal, slices, rank).into()).collect();
    let mut values: Vec<BTreeMap<Partial, Expression>> = (0..ranks).map(|rank| own(deal, slices, rank)).collect();
    let mut wire: BTreeMap<(u32, u32, Partial), Expression> = BTreeMap::new();
    while programs.iter().any(|program| !program.is_empty()) {
        let mut moved = false;
        for rank in 0..ranks {
            while let Some(op) = programs[rank as usize].front() {
                match op {
                    Op::Send { to, what } => {
                        let value = values[rank as usize][what];
                        for to in to {
                            assert_ne!(*to, rank, "nobody sends to itself");
                            assert!(wire.insert((rank, *to, *what), value).is_none(), "sent twice");
                        }
                    }
                    Op::Receive { from, what } => {
                        let Some(value) = wire.remove(&(*from, rank, *what)) else {
                            break;
                        };
                        values[rank as usize].insert(*what, value);
                    }
                    Op::Add(what) => {
                        let (left, right) = what.subtree.children().unwrap();
                        let child = |subtree| values[rank as usize][&Partial { subtree, ..*what }];
                        let value = sum(child(left), child(right));
                        values[rank as usize].insert(*what, value);
                    }
                }
                programs[rank as usize].pop_front();
                moved = true;
            }
        }
        assert!(moved, "deadlock: {programs:?}");
    }
    assert!(wire.is_empty(), "sent and never received: {:?}", wire.keys());
    values
}

pub(crate) fn own(deal: &Deal, slices: Slices, rank: u32) -> BTreeMap<Partial, Expression> {
    let subtrees = deal.subtrees[rank as usize].iter();
    let of = |subtree: &Subtree| {
        let subtree = *subtree;
        (0..slices.count()).map(move |slice| (Partial { slice, subtree }, expected(subtree)))
    };
    subtrees.flat_map(of).collect()
}

fn check(lanes: u32, map: &[u32], len: usize) {
    let deal = deal(lanes, map).unwrap();
    let slices = Slices::new(&deal, len);
    let want = expected(deal.root);
    for (rank, values) in run(&deal, slices).iter().enumerate() {
        for slice in (0..slices.count()).filter(|slice| !slices.range(*slice).is_empty()) {
            let total = values[&Partial {
                slice,
                subtree: deal.root,
            }];
            assert_eq!(total, want, "{lanes} lanes on {map:?}: slice {slice} of rank {rank}");
        }
    }
}

/// A deterministic mixture of node maps: ranks cut into nodes by the digits of `seed`.
pub(crate) fn cut(ranks: u32, mut seed: u64) -> Vec<u32> {
    let mut map = Vec::new();
    let mut left = ranks;
    while left > 0 {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let count = 1 + (seed >> 33) as u32 % left;
        map.push(count);
        left -= count;
    }
    map
}

#[test]
fn every_slice_is_the_tree_of_all_lanes_on_every_rank() {
    for lanes in 1..=64 {
        for ranks in 1..=lanes {
            check(lanes, &cut(ranks, u64::from(lanes * 64 + ranks)), 5000);
        }
    }
}

#[test]
fn slices_cover_the_buffer_without_overlap() {
    let deal = deal(8, &[2, 3]).unwrap();
    for len in [0, 1, 64, 65, 1000, 40_000_000] {
        let slices = Slices::new(&deal, len);
        let mut next = 0;
        for slice in 0..slices.count() {
            let range = slices.range(slice);
            assert_eq!(range.start, next);
            assert!(range.start.is_multiple_of(ALIGN) || range.start == len);
            assert!(range.len() <= MAX_SLICE);
            next = range.end;
        }
        assert_eq!(next, len);
    }
}

/// What each node sends to others, as a multiple of what it would in a ring of nodes. Slices are not quite alike: the last
/// one is shorter.
fn against_a_ring(lanes: u32, map: &[u32]) -> Vec<f64> {
    let len = 1 << 20;
    let deal = deal(lanes, map).unwrap();
    let slices = Slices::new(&deal, len);
    let mut sent = vec![0; map.len()];
    for rank in 0..deal.ranks() {
        let home = deal.node_of(rank);
        for op in route(&deal, slices, rank) {
            let Op::Send { to, what } = op else { continue };
            let abroad = to.iter().filter(|to| deal.node_of(**to) != home).count();
            sent[home] += abroad * slices.range(what.slice).len();
        }
    }
    let ring = (2 * len * (map.len() - 1)) as f64 / map.len() as f64;
    sent.into_iter().map(|sent| sent as f64 / ring).collect()
}

fn most(ratios: &[f64]) -> f64 {
    ratios.iter().copied().fold(0.0, f64::max)
}

#[test]
fn a_node_of_one_subtree_sends_no_more_than_a_ring_would() {
    for (lanes, map) in [
        (32, vec![16, 16]),
        (32, vec![4; 8]),
        (64, vec![8; 8]),
        (64, vec![1; 64]),
        (8, vec![2, 2]),
        (8, vec![1; 4]),
    ] {
        let ratio = most(&against_a_ring(lanes, &map));
        assert!(ratio <= 1.1, "{lanes} lanes on {map:?}: {ratio} times a ring's bytes");
    }
}

/// Ranks on two nodes of sixteen: the first filled up, or both alike.
fn on_two_nodes(ranks: u32) -> [Vec<u32>; 2] {
    let first = ranks.saturating_sub(1).min(16);
    [vec![first, ranks - first], vec![ranks.div_ceil(2), ranks / 2]]
}

#[test]
fn two_nodes_send_at_most_twice_a_rings_bytes_however_many_ranks_are_left() {
    for lanes in [28, 30, 31, 32] {
        for ranks in 2..=lanes {
            for map in on_two_nodes(ranks) {
                let ratios = against_a_ring(lanes, &map);
                assert!(most(&ratios) <= 2.01, "{lanes} lanes on {map:?}: {ratios:?}");
            }
        }
    }
}

#[test]
fn the_lanes_of_the_paper_cost_at_most_twice_a_rings_bytes_on_any_nodes() {
    for lanes in [8, 16, 32] {
        for ranks in 2..=lanes {
            let of = |count: u32| {
                let rest = [ranks % count].into_iter().filter(|rest| *rest > 0);
                vec![count; (ranks / count) as usize].into_iter().chain(rest).collect()
            };
            let maps: Vec<Vec<u32>> = [1, 2, 4, 8]
                .map(of)
                .into_iter()
                .chain([cut(ranks, u64::from(ranks))])
                .collect();
            for map in maps.into_iter().filter(|map| map.len() > 1) {
                let ratios = against_a_ring(lanes, &map);
                assert!(most(&ratios) <= 2.01, "{lanes} lanes on {map:?}: {ratios:?}");
            }
        }
    }
}

#[test]
fn nodes_send_little_more_than_twice_a_rings_bytes_together_and_at_most_three_times_each() {
    for lanes in (1..=64).step_by(3) {
        for ranks in 2..=lanes {
            let maps = on_two_nodes(ranks)
                .into_iter()
                .chain([cut(ranks, u64::from(lanes * 64 + ranks)), vec![1; ranks as usize]]);
            for map in maps.filter(|map| map.len() > 1) {
                let ratios = against_a_ring(lanes, &map);
                let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
                assert!(
                    mean <= 2.51 && most(&ratios) <= 3.01,
                    "{lanes} lanes on {map:?}: {ratios:?}"
                );
            }
        }
    }
}
