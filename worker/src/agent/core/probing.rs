//! Which nodes this agent is asked to reach, and which of them it reaches.
//!
//! The coordinator lists nodes in the answer to every beat, for as long as it wants to know. Each is tried again and again,
//! one try at a time, and every beat says which were reached at their last try.

use super::message::Output;
use medley_protocol::agent::Probe;
use medley_protocol::ids::NodeId;
use std::collections::BTreeMap;
use std::time::Duration;

/// Time between the end of a try and the next.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Default)]
pub(super) struct Probing(BTreeMap<NodeId, Target>);

#[derive(Debug, Clone)]
struct Target {
    address: String,
    /// None while a try is under way.
    next_at: Option<Duration>,
    reached: bool,
}

impl Probing {
    /// These nodes are asked for, and no others.
    pub(super) fn list(&mut self, probes: Vec<Probe>, now: Duration) {
        let mut before = std::mem::take(&mut self.0);
        let target = |Probe { node, address }| {
            let known = before.remove(&node).filter(|known| known.address == address);
            let new = Target {
                address,
                next_at: Some(now),
                reached: false,
            };
            (node, known.unwrap_or(new))
        };
        self.0 = probes.into_iter().map(target).collect();
    }

    /// Begins the tries that are due.
    pub(super) fn advance(&mut self, now: Duration, out: &mut Vec<Output>) {
        for (node, target) in &mut self.0 {
            if target.next_at.take_if(|at| now >= *at).is_some() {
                out.push(Output::Probe {
                    node: *node,
                    address: target.address.clone(),
                });
            }
        }
    }

    /// A try has ended. True if it tells something new.
    pub(super) fn tried(&mut self, node: NodeId, reached: bool, now: Duration) -> bool {
        let Some(target) = self.0.get_mut(&node) else {
            return false;
        };
        target.next_at = Some(now + PAUSE);
        std::mem::replace(&mut target.reached, reached) != reached
    }

    /// The nodes that were reached at their last try.
    pub(super) fn reached(&self) -> Vec<NodeId> {
        let reached = self.0.iter().filter(|(_, target)| target.reached);
        reached.map(|(node, _)| *node).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn probe(node: NodeId, address: &str) -> Probe {
        let address = address.into();
        Probe { node, address }
    }

    fn tries(probing: &mut Probing, now: Duration) -> Vec<NodeId> {
        let mut out = Vec::new();
        probing.advance(now, &mut out);
        let tried = out.into_iter().map(|output| match output {
            Output::Probe { node, .. } => node,
            other => panic!("{other:?}"),
        });
        tried.collect()
    }

    #[test]
    fn a_node_is_tried_for_as_long_as_it_is_listed_one_try_at_a_time() {
        let node = NodeId::generate();
        let mut probing = Probing::default();
        probing.list(vec![probe(node, "a:1")], Duration::ZERO);
        assert_eq!(tries(&mut probing, Duration::ZERO), [node]);
        probing.list(vec![probe(node, "a:1")], 100 * MS);
        assert_eq!(tries(&mut probing, 2000 * MS), [], "the first is under way");
        assert!(probing.tried(node, true, 2000 * MS));
        assert!(!probing.tried(node, true, 2000 * MS), "that is no news");
        assert_eq!(probing.reached(), [node]);
        assert_eq!(tries(&mut probing, 2499 * MS), []);
        assert_eq!(tries(&mut probing, 2500 * MS), [node]);
        assert!(probing.tried(node, false, 2600 * MS));
        assert_eq!(probing.reached(), []);
        probing.list(Vec::new(), 2700 * MS);
        assert_eq!(tries(&mut probing, 9000 * MS), []);
        assert!(!probing.tried(node, true, 9000 * MS), "nobody wants to know any more");
    }

    #[test]
    fn what_was_reached_at_another_address_does_not_count() {
        let node = NodeId::generate();
        let mut probing = Probing::default();
        probing.list(vec![probe(node, "a:1")], Duration::ZERO);
        tries(&mut probing, Duration::ZERO);
        probing.tried(node, true, MS);
        probing.list(vec![probe(node, "a:2")], 2 * MS);
        assert_eq!(probing.reached(), []);
        assert_eq!(tries(&mut probing, 2 * MS), [node]);
    }
}
