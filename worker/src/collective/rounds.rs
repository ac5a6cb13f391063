//! A route in rounds that all ranks go through together: for transports that cannot keep what nobody has asked for yet.
//!
//! Round `n` holds the additions that need what was received in the rounds before it and nothing later, and then every transfer
//! of a sum that is complete by then. Who sends a sum and who receives it have the transfer in the same round, and in the same
//! order among those between the two. So a transport may end a round at a rank as late as when all its peers have begun
//! theirs: the lowest round that anybody is in can always go on.
//!
//! The rounds of one turn of slices come before those of the next, and turns go from the end of the gradient to its beginning, as
//! the backward pass does. So a round can begin while later ones still wait for their part of the gradient; but when it begins
//! changes nothing about which comes next.
//!
//! A rank's rounds depend on what others do, so each rank lays out all routes, which takes milliseconds, once in a generation.

use super::deal::Deal;
use super::route::{Op, Partial, Slices, route};
use std::collections::BTreeMap;
use std::ops::Range;

/// What a rank does in one round: first the additions, in order, then all transfers at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Round {
    /// The gradient is needed from this element on.
    pub first: usize,
    /// Sums that are made from their two children, left + right.
    pub adds: Vec<Partial>,
    /// Sums that are sent, and to whom.
    pub sends: Vec<(u32, Partial)>,
    /// Sums that are received, and from whom.
    pub receives: Vec<(u32, Partial)>,
}

/// The rounds of all ranks; some rounds of a rank may be empty.
pub fn rounds(deal: &Deal, slices: Slices) -> Vec<Vec<Round>> {
    let routes: Vec<Vec<Op>> = (0..deal.ranks()).map(|rank| route(deal, slices, rank)).collect();
    let mut all = vec![Vec::new(); routes.len()];
    for turn in slices.turns() {
        let first = slices.range(turn.start).start;
        for (rounds, more) in all.iter_mut().zip(rounds_of(&routes, &turn)) {
            rounds.extend(more.into_iter().map(|round| Round { first, ..round }));
        }
    }
    all
}

/// How many of the rounds can begin once the gradient is final from this element on.
pub fn open(rounds: &[Round], from: usize) -> usize {
    rounds.partition_point(|round| round.first >= from)
}

/// The rounds in which all ranks go through one turn of slices.
fn rounds_of(routes: &[Vec<Op>], turn: &Range<u32>) -> Vec<Vec<Round>> {
    let of_turn = |op: &&Op| turn.contains(&op.what().slice);
    let mut walks: Vec<Walk> = routes
        .iter()
        .map(|route| Walk::new(route.iter().filter(of_turn).cloned().collect()))
        .collect();
    // In which round a sum is on its way from whom to whom.
    let mut wire = BTreeMap::new();
    // Routes are free of deadlock, so some walk goes on until all have ended.
    let mut moved = true;
    while moved {
        moved = false;
        for (rank, walk) in (0..).zip(&mut walks) {
            moved |= walk.go_on(rank, &mut wire);
        }
    }
    walks.into_iter().map(Walk::finish).collect()
}

/// A rank on its way through its route.
struct Walk {
    ops: std::iter::Peekable<std::vec::IntoIter<Op>>,
    rounds: Vec<Round>,
    /// The first round in which the rank can use a sum; what it held from the beginning is not listed.
    usable: BTreeMap<Partial, usize>,
}

impl Walk {
    fn new(ops: Vec<Op>) -> Self {
        Self {
            ops: ops.into_iter().peekable(),
            rounds: Vec::new(),
            usable: BTreeMap::new(),
        }
    }

    /// Goes on until a sum is needed that nobody has sent yet; returns whether it went anywhere.
    fn go_on(&mut self, rank: u32, wire: &mut BTreeMap<(u32, u32, Partial), usize>) -> bool {
        let mut moved = false;
        while let Some(op) = self.ops.next_if(|op| match op {
            Op::Receive { from, what } => wire.contains_key(&(*from, rank, *what)),
            Op::Send { .. } | Op::Add(_) => true,
        }) {
            moved = true;
            match op {
                Op::Send { to, what } => {
                    let round = self.usable(what);
                    self.round(round).sends.extend(to.iter().map(|to| (*to, what)));
                    wire.extend(to.into_iter().map(|to| ((rank, to, what), round)));
                }
                Op::Receive { from, what } => {
                    let round = wire[&(from, rank, what)];
                    self.round(round).receives.push((from, what));
                    self.usable.insert(what, round + 1);
                }
                Op::Add(what) => {
                    let (left, right) = what.subtree.children().expect("only inner nodes are made");
                    let child = |subtree| self.usable(Partial { subtree, ..what });
                    let round = child(left).max(child(right));
                    self.round(round).adds.push(what);
                    self.usable.insert(what, round);
                }
            }
        }
        moved
    }

    fn usable(&self, what: Partial) -> usize {
        self.usable.get(&what).copied().unwrap_or(0)
    }

    fn round(&mut self, number: usize) -> &mut Round {
        if self.rounds.len() <= number {
            self.rounds.resize_with(number + 1, Round::default);
        }
        &mut self.rounds[number]
    }

    /// The rounds, with transfers in an order that both ends share.
    fn finish(mut self) -> Vec<Round> {
        for round in &mut self.rounds {
            round.sends.sort_unstable();
            round.receives.sort_unstable();
        }
        self.rounds
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::deal::deal;
    use crate::collective::route::tests::{cut, expected, own, sum};
    use std::collections::VecDeque;

    /// A transport that moves a sum only when both ends have asked for it, each in the group it is in, and lets a rank go on
    /// only when all of its group has moved.
    struct Rendezvous {
        rounds: Vec<VecDeque<Round>>,
        values: Vec<BTreeMap<Partial, blake3::Hash>>,
        /// What is asked for and has not moved, by sender and receiver, in the order in which it was asked for.
        sends: BTreeMap<(u32, u32), VecDeque<Partial>>,
        receives: BTreeMap<(u32, u32), VecDeque<Partial>>,
        /// Transfers of each rank's present group that have not moved.
        left: Vec<usize>,
    }

    impl Rendezvous {
        fn new(deal: &Deal, slices: Slices) -> Self {
            Self {
                rounds: rounds(deal, slices).into_iter().map(VecDeque::from).collect(),
                values: (0..deal.ranks()).map(|rank| own(deal, slices, rank)).collect(),
                sends: BTreeMap::new(),
                receives: BTreeMap::new(),
                left: vec![0; deal.ranks() as usize],
            }
        }

        /// Begins the next round of a rank whose last one is over.
        fn post(&mut self, rank: u32) -> bool {
            let at = rank as usize;
            if self.left[at] > 0 {
                return false;
            }
            let Some(round) = self.rounds[at].pop_front() else {
                return false;
            };
            for what in round.adds {
                let (left, right) = what.subtree.children().unwrap();
                let child = |subtree| self.values[at][&Partial { subtree, ..what }];
                let value = sum(child(left), child(right));
                self.values[at].insert(what, value);
            }
            self.left[at] = round.sends.len() + round.receives.len();
            for (to, what) in round.sends {
                assert_ne!(to, rank, "nobody sends to itself");
                self.sends.entry((rank, to)).or_default().push_back(what);
            }
            for (from, what) in round.receives {
                self.receives.entry((from, rank)).or_default().push_back(what);
            }
            true
        }

        /// Moves what both ends ask for.
        fn deliver(&mut self) {
            for ((from, to), sends) in &mut self.sends {
                let receives = self.receives.entry((*from, *to)).or_default();
                while let (Some(sent), Some(wanted)) = (sends.front(), receives.front()) {
                    assert_eq!(sent, wanted, "ranks {from} and {to} ask in another order");
                    let value = self.values[*from as usize][sent];
                    self.values[*to as usize].insert(*sent, value);
                    self.left[*from as usize] -= 1;
                    self.left[*to as usize] -= 1;
                    sends.pop_front();
                    receives.pop_front();
                }
            }
        }

        fn run(mut self) -> Vec<BTreeMap<Partial, blake3::Hash>> {
            let ranks = self.left.len() as u32;
            // Ranks begin their rounds one at a time, the last one first.
            while (0..ranks).rev().filter(|rank| self.post(*rank)).count() > 0 {
                self.deliver();
            }
            let over = self.left.iter().all(|left| *left == 0) && self.rounds.iter().all(VecDeque::is_empty);
            assert!(over, "deadlock: {:?} transfers are left", self.left);
            self.values
        }
    }

    #[test]
    fn groups_that_wait_for_each_other_never_deadlock_and_make_every_slice_the_tree_of_all_lanes() {
        for lanes in 1..=64 {
            for ranks in 1..=lanes {
                let map = cut(ranks, u64::from(lanes * 64 + ranks));
                let deal = deal(lanes, &map).unwrap();
                let slices = Slices::new(&deal, 5000);
                let (subtree, want) = (deal.root, expected(deal.root));
                for values in Rendezvous::new(&deal, slices).run() {
                    for slice in (0..slices.count()).filter(|slice| !slices.range(*slice).is_empty()) {
                        let total = values[&Partial { slice, subtree }];
                        assert_eq!(total, want, "{lanes} lanes on {map:?}, slice {slice}");
                    }
                }
            }
        }
    }

    #[test]
    fn turns_go_from_the_end_to_the_beginning_and_a_round_needs_nothing_before_its_first_element() {
        for map in [&[2][..], &[1, 1], &[2, 2], &[3, 1]] {
            let deal = deal(8, map).unwrap();
            let slices = Slices::new(&deal, 100_000);
            for rounds in rounds(&deal, slices) {
                let turns = slices.turns().count();
                assert_eq!(turns > 1, map.len() > 1, "{map:?}");
                assert!(rounds.is_sorted_by(|one, next| one.first >= next.first));
                for round in &rounds {
                    let moved = round.sends.iter().chain(&round.receives).map(|(_, what)| what);
                    let mut all = round.adds.iter().chain(moved);
                    assert!(all.all(|what| slices.range(what.slice).start >= round.first));
                }
                let all = rounds.len();
                assert_eq!((open(&rounds, 100_000), open(&rounds, 0)), (0, all));
                let late = open(&rounds, 1);
                assert_eq!(late > 0, turns > 1, "all turns but the last can begin before");
                assert!(late < all);
            }
        }
    }

    #[test]
    fn a_rank_alone_needs_no_transfer() {
        let deal = deal(6, &[1]).unwrap();
        assert_eq!(rounds(&deal, Slices::new(&deal, 5000)), [[]]);
    }

    #[test]
    fn a_node_needs_two_rounds_and_two_nodes_need_four() {
        let count = |lanes, map: &[u32]| {
            let deal = deal(lanes, map).unwrap();
            let all = rounds(&deal, Slices::new(&deal, 100_000));
            let transfers = |round: &&Round| !round.sends.is_empty() || !round.receives.is_empty();
            all.iter().map(|rounds| rounds.iter().filter(transfers).count()).max()
        };
        assert_eq!(count(32, &[8]), Some(2));
        assert_eq!(count(32, &[8, 8]), Some(4));
    }
}
