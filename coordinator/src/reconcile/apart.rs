//! Nodes that do not reach each other, as a generation finds out when it connects.
//!
//! Every rank says with whom it has no connection yet, and for how long it has made no other. Where two ranks have both tried
//! for [`reach_limit`](super::Settings::reach_limit) and have none with each other, their nodes do not reach each other. A
//! rank that has not begun to connect, such as one that ends a step of the generation before, says nothing of the network. Nor
//! does anyone while ranks of one node have no connection with each other: then a machine is slow, for nothing is between them.
//!
//! The members are then cut into sides: whoever stays reaches all others that stay. The side that holds more of the state goes
//! on, and what leaves comes back once it is reached ([`reach`](super::reach)).

use super::evidence::Evidence;
use super::findings::{Apart, End};
use super::sight::{Report, Sight};
use crate::domain::Stage;
use crate::domain::stage::{Generation, Seat};
use medley_protocol::agent::RankState;
use medley_protocol::ids::NodeId;
use medley_protocol::vigil::QUIET;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Most pairs of nodes that a text names.
const MAX_NAMED: usize = 3;

/// Two nodes, the lower id first.
pub type Pair = (NodeId, NodeId);

/// The pair of two nodes.
pub fn pair(one: NodeId, other: NodeId) -> Pair {
    (one.min(other), one.max(other))
}

/// What a node is worth to a stage: ranks that hold its state before anything else.
pub fn worth(holding: u32, ranks: u32) -> u64 {
    (u64::from(holding) << 32) | u64::from(ranks)
}

/// The nodes that leave so that all that stay reach each other; `nodes`, with what they are worth, come in order of standing.
///
/// Nodes that miss the same others are a side. As long as sides miss each other, the one leaves that misses most; of equals
/// the one that is worth least, and then the last.
pub fn leaving(nodes: &[(NodeId, u64)], apart: &BTreeSet<Pair>) -> BTreeSet<NodeId> {
    let worth: BTreeMap<NodeId, u64> = nodes.iter().copied().collect();
    let mut missed: BTreeMap<NodeId, BTreeSet<NodeId>> = BTreeMap::new();
    for (one, other) in apart {
        if worth.contains_key(one) && worth.contains_key(other) {
            missed.entry(*one).or_default().insert(*other);
            missed.entry(*other).or_default().insert(*one);
        }
    }
    let sides = sides(nodes, &missed);
    let mut leaving = BTreeSet::new();
    loop {
        let misses = |side: &Side| -> Option<u64> {
            let still = side.misses.difference(&leaving);
            let each: Vec<u64> = still.map(|node| worth[node]).collect();
            (!each.is_empty()).then(|| each.iter().sum())
        };
        let stay = (0..).zip(&sides).filter(|(_, side)| !leaving.contains(&side.nodes[0]));
        let worst = stay.filter_map(|(at, side): (usize, _)| Some((misses(side)?, Reverse(side.worth), at)));
        let Some((_, _, at)) = worst.max() else { break };
        leaving.extend(&sides[at].nodes);
    }
    // What a side missed may have left after it.
    for side in &sides {
        if side.misses.is_subset(&leaving) {
            leaving.retain(|node| !side.nodes.contains(node));
        }
    }
    leaving
}

/// Nodes that miss the same others.
struct Side {
    nodes: Vec<NodeId>,
    misses: BTreeSet<NodeId>,
    worth: u64,
}

/// The sides, in the order of their first nodes.
fn sides(nodes: &[(NodeId, u64)], missed: &BTreeMap<NodeId, BTreeSet<NodeId>>) -> Vec<Side> {
    let mut sides: Vec<Side> = Vec::new();
    for (node, worth) in nodes {
        let Some(misses) = missed.get(node) else { continue };
        match sides.iter_mut().find(|side| side.misses == *misses) {
            Some(side) => {
                side.nodes.push(*node);
                side.worth += worth;
            }
            None => sides.push(Side {
                nodes: vec![*node],
                misses: misses.clone(),
                worth: *worth,
            }),
        }
    }
    sides
}

/// The nodes of some pairs, for people.
pub(super) fn names(pairs: &BTreeSet<Pair>, sight: &Sight) -> String {
    let name = |node: &NodeId| {
        let seen = sight.nodes.get(node);
        seen.map_or_else(|| node.to_string(), |seen| seen.node.name.clone())
    };
    let mut named: Vec<String> = pairs
        .iter()
        .map(|(one, other)| {
            let (one, other) = (name(one), name(other));
            format!("{} and {}", (&one).min(&other), (&one).max(&other))
        })
        .collect();
    named.sort_unstable();
    let more = match named.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!(", and {more} more pairs"),
    };
    named.truncate(MAX_NAMED);
    format!("nodes {}{more}", named.join(", "))
}

impl Evidence<'_> {
    /// The end of a generation that does not connect because nodes do not reach each other.
    pub(super) fn apart(&self, stage: &Stage, generation: &Generation) -> Option<End> {
        let pairs = self.unconnected(stage, generation);
        if pairs.is_empty() {
            return None;
        }
        let limit = self.settings.reach_limit.as_secs_f64();
        let reason = format!(
            "{} cannot reach each other: their ranks have no connection after {limit:.1} s",
            names(&pairs, self.sight)
        );
        let leaving = leaving(&self.members(stage, generation), &pairs);
        Some(End {
            reason,
            lost_node: true,
            apart: Apart { pairs, leaving },
            ..End::default()
        })
    }

    /// Pairs of nodes of a generation whose ranks have tried to connect for long enough, and have not.
    fn unconnected(&self, stage: &Stage, generation: &Generation) -> BTreeSet<Pair> {
        let mut pairs = BTreeSet::new();
        for seat in &generation.seats {
            let tried = self.tried(stage, generation, seat);
            for lacked in tried
                .into_iter()
                .flat_map(|report| report.connecting.iter())
                .flat_map(|c| &c.lacks)
            {
                let Some(other) = generation.seats.get(*lacked as usize) else {
                    continue;
                };
                if self.tried(stage, generation, other).is_none() {
                    continue;
                }
                if other.node == seat.node {
                    return BTreeSet::new();
                }
                pairs.insert(pair(seat.node, other.node));
            }
        }
        pairs
    }

    /// The report of a rank that makes its connections, or has made them, and has made none for long. A node that is silent says
    /// nothing of the network.
    fn tried(&self, stage: &Stage, generation: &Generation, seat: &Seat) -> Option<&Report> {
        self.seen(seat, self.settings.fresh).ok()?;
        let report = self.report(stage, generation, seat)?;
        let for_long = match (&report.connecting, &report.state) {
            (Some(connecting), _) => Duration::from_millis(connecting.for_ms),
            (None, RankState::Running { .. }) => self.now.saturating_sub(report.since),
            (None, _) => return None,
        };
        (for_long >= self.settings.reach_limit && report.quiet < QUIET).then_some(report)
    }

    /// The nodes of a generation in rank order, with what they are worth.
    fn members(&self, stage: &Stage, generation: &Generation) -> Vec<(NodeId, u64)> {
        let survivors = self.survivors(stage, generation);
        let furthest = survivors.iter().map(|rank| rank.committed).max();
        // Whoever is one step behind is prepared for it.
        let holds = |rank: u32| {
            let rank = survivors.iter().find(|survivor| survivor.rank == rank);
            rank.is_some_and(|rank| Some(rank.committed.saturating_add(1)) >= furthest)
        };
        let mut members: Vec<(NodeId, u64)> = Vec::new();
        for seat in &generation.seats {
            let own = worth(u32::from(holds(seat.rank)), 1);
            match members.last_mut().filter(|(node, _)| *node == seat.node) {
                Some((_, worth)) => *worth += own,
                None => members.push((seat.node, own)),
            }
        }
        members
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn node(id: u128) -> NodeId {
        NodeId::from_uuid(Uuid::from_u128(id))
    }

    fn pairs(pairs: &[(u128, u128)]) -> BTreeSet<Pair> {
        pairs
            .iter()
            .map(|(one, other)| pair(node(*one), node(*other)))
            .collect()
    }

    /// Who leaves of nodes 1, 2, 3… of so many ranks each, which all hold the state.
    fn who_leaves(ranks: &[u32], apart: &[(u128, u128)]) -> Vec<u128> {
        let nodes: Vec<(NodeId, u64)> = (1..)
            .zip(ranks)
            .map(|(id, ranks)| (node(id), worth(*ranks, *ranks)))
            .collect();
        let leaving = leaving(&nodes, &pairs(apart)).into_iter();
        leaving.map(|node| node.as_uuid().as_u128()).collect()
    }

    #[test]
    fn of_two_sides_the_larger_one_stays_and_of_equals_the_first() {
        assert_eq!(who_leaves(&[2, 3], &[(1, 2)]), [1]);
        assert_eq!(who_leaves(&[2, 2], &[(1, 2)]), [2]);
        let two_and_three = [(1, 3), (1, 4), (1, 5), (2, 3), (2, 4), (2, 5)];
        assert_eq!(who_leaves(&[1; 5], &two_and_three), [1, 2]);
        assert_eq!(
            who_leaves(&[2, 1, 1, 1, 1], &two_and_three),
            [3, 4, 5],
            "three ranks against three"
        );
        assert_eq!(who_leaves(&[1, 1, 2], &[(1, 3), (2, 3)]), [3]);
    }

    #[test]
    fn a_node_that_nobody_reaches_leaves_alone() {
        assert_eq!(who_leaves(&[2, 2, 2], &[(1, 2), (1, 3)]), [1]);
        assert_eq!(
            who_leaves(&[1, 4, 1], &[(1, 2), (2, 3)]),
            [1, 3],
            "unless it is more than all others"
        );
    }

    #[test]
    fn of_two_that_do_not_reach_each_other_one_leaves_and_who_reaches_both_stays() {
        assert_eq!(who_leaves(&[2, 2, 2], &[(1, 3)]), [3]);
        assert_eq!(who_leaves(&[1, 2, 2], &[(1, 3)]), [1]);
    }

    #[test]
    fn whoever_holds_the_state_comes_before_any_number_of_others() {
        let nodes = [(node(1), worth(0, 16)), (node(2), worth(1, 1))];
        assert_eq!(leaving(&nodes, &pairs(&[(1, 2)])), BTreeSet::from([node(1)]));
    }

    proptest! {
        #[test]
        fn who_stays_reaches_all_that_stay_and_nobody_leaves_who_could_stay(
            ranks in prop::collection::vec(0..4_u32, 1..9),
            apart in prop::collection::vec((1..9_u128, 1..9_u128), 0..16),
        ) {
            let apart: Vec<(u128, u128)> = apart.into_iter().filter(|(one, other)| one != other).collect();
            let left = who_leaves(&ranks, &apart);
            let all = 1..=ranks.len() as u128;
            let stay: Vec<u128> = all.clone().filter(|id| !left.contains(id)).collect();
            let reach = |one: u128, other: u128| !apart.contains(&(one, other)) && !apart.contains(&(other, one));
            let reaches_all = |one: u128| stay.iter().all(|other| *other == one || reach(one, *other));
            prop_assert!(stay.iter().all(|one| reaches_all(*one)));
            prop_assert!(left.iter().all(|one| !reaches_all(*one)), "{left:?}");
            prop_assert!(left.iter().all(|id| all.contains(id)));
        }
    }
}
