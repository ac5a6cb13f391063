//! Which nodes reach each other, as their agents find when they are asked to try.
//!
//! Two questions are asked. *Do nodes that were apart reach each other again?* They are tried for as long as they are apart.
//! *Does a node that is to join reach those that are there?* A join that cannot connect would cost a running generation its
//! pause; so nobody joins who was not seen to reach all others. Both agents have to reach the other one.
//!
//! This is in the leader's memory alone. One that has just begun to lead asks before it lets anyone join, and finds what is
//! apart by that.

use super::Settings;
use super::apart::{Pair, names, pair};
use super::sight::{Seen, Sight};
use crate::domain::Event;
use medley_protocol::agent::Probe;
use medley_protocol::ids::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What is known of pairs of nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// Pairs whose agents try to reach each other, since when.
    asked: BTreeMap<Pair, Duration>,
    /// Those of them that do not.
    apart: BTreeSet<Pair>,
    /// Pairs of which somebody wanted to know in the last decision.
    wanted: BTreeSet<Pair>,
}

impl Reach {
    /// Pairs of nodes that do not reach each other.
    pub fn apart(&self) -> &BTreeSet<Pair> {
        &self.apart
    }

    /// What every agent is to try.
    pub fn probes(&self, sight: &Sight) -> BTreeMap<NodeId, Vec<Probe>> {
        let mut probes: BTreeMap<NodeId, Vec<Probe>> = BTreeMap::new();
        for (one, other) in self.asked.keys() {
            for (from, node) in [(*one, *other), (*other, *one)] {
                let address = sight.nodes.get(&node).and_then(|seen| seen.address.clone());
                let probe = address.map(|address| Probe { node, address });
                probes.entry(from).or_default().extend(probe);
            }
        }
        probes
    }

    /// Takes in what the agents say, and what became known by that.
    pub(super) fn look(&mut self, sight: &Sight, now: Duration, settings: &Settings) -> Vec<Event> {
        let wanted = std::mem::take(&mut self.wanted);
        self.asked
            .retain(|pair, _| wanted.contains(pair) || self.apart.contains(pair));
        let (mut found, mut healed) = (BTreeSet::new(), BTreeSet::new());
        for (pair, since) in &mut self.asked {
            if reach(*pair, sight) {
                healed.extend(self.apart.take(pair));
            } else if !are_heard(*pair, sight, now, settings) {
                // Of a node that is silent nobody can say which way is cut.
                *since = now;
            } else if now.saturating_sub(*since) >= settings.reach_limit {
                found.insert(*pair);
            }
        }
        let mut events = self.note(found, sight);
        if let Some((_, node)) = healed.first() {
            let text = format!("{} reach each other again", names(&healed, sight));
            events.push(Event::of_node(*node, "nodes-together", text));
        }
        events
    }

    /// A generation has found that nodes do not reach each other. If their agents do by now, its ranks are just late to know.
    pub(super) fn learn(&mut self, pairs: &BTreeSet<Pair>, sight: &Sight, now: Duration) -> Vec<Event> {
        let still = pairs.iter().copied().filter(|pair| !reach(*pair, sight));
        let still: BTreeSet<Pair> = still.collect();
        self.asked.extend(still.iter().map(|pair| (*pair, now)));
        self.note(still, sight)
    }

    /// Whether all these pairs are seen to reach each other. What is not known is asked for.
    pub(super) fn have_met(&mut self, pairs: BTreeSet<Pair>, sight: &Sight, now: Duration) -> bool {
        for pair in &pairs {
            self.asked.entry(*pair).or_insert(now);
        }
        let have_met = pairs.iter().all(|pair| reach(*pair, sight));
        self.wanted.extend(pairs);
        have_met
    }

    /// Notes pairs that are apart; what is new of them is said.
    fn note(&mut self, mut pairs: BTreeSet<Pair>, sight: &Sight) -> Vec<Event> {
        pairs.retain(|pair| self.apart.insert(*pair));
        let event = |(_, node): &Pair| {
            let text = format!(
                "{} cannot reach each other: no training has ranks on both",
                names(&pairs, sight)
            );
            Event::of_node(*node, "nodes-apart", text)
        };
        pairs.first().map(event).into_iter().collect()
    }
}

/// Every pair of a node that joins with one of the others, and of two that join.
pub(super) fn pairs(joins: &[NodeId], present: &[NodeId]) -> BTreeSet<Pair> {
    let with_all = |node: &NodeId| {
        let others = joins.iter().chain(present).filter(move |other| *other != node);
        others.map(|other| pair(*node, *other)).collect::<Vec<Pair>>()
    };
    joins.iter().flat_map(with_all).collect()
}

/// Whether each of two nodes has reached the other.
fn reach((one, other): Pair, sight: &Sight) -> bool {
    let has_reached = |from: NodeId, to| sight.nodes.get(&from).is_some_and(|seen| seen.reached.contains(&to));
    has_reached(one, other) && has_reached(other, one)
}

/// Whether both nodes speak, and say where they are reached.
fn are_heard((one, other): Pair, sight: &Sight, now: Duration, settings: &Settings) -> bool {
    let is_heard = |seen: &Seen| seen.address.is_some() && now.saturating_sub(seen.heard_at) <= settings.fresh;
    [one, other]
        .iter()
        .all(|node| sight.nodes.get(node).is_some_and(is_heard))
}
