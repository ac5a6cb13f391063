//! What the nodes say of themselves: registrations and heartbeats, kept in the leader's memory alone.

use crate::domain::node::{KnownNode, Withheld};
use medley_protocol::agent::{Beat, Connecting, Doing, RankState};
use medley_protocol::hardware::Hardware;
use medley_protocol::ids::{NodeId, StageId};
use medley_protocol::vigil::QUIET;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A rank, named by its stage, generation and number.
pub type RankId = (StageId, u64, u32);

/// A node as it is seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// The node.
    pub node: KnownNode,
    /// When it last beat, or was last given time to.
    pub heard_at: Duration,
    /// Highest revision it has seen.
    pub revision: u64,
    /// Whether it has beaten in this incarnation.
    pub has_beaten: bool,
    /// Since when its first beat is awaited. Lives that never beat make it no later.
    pub awaited_since: Duration,
    /// Whether its agent is about to end.
    pub leaves: bool,
    /// Its ranks.
    pub ranks: BTreeMap<RankId, Report>,
    /// Where other agents try whether they reach it.
    pub address: Option<String>,
    /// The nodes that it has reached at its last try, of those that it is asked for.
    pub reached: BTreeSet<NodeId>,
    /// What its ranks compute on.
    pub hardware: Hardware,
}

/// What an agent says of a rank.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// What the rank is doing.
    pub state: RankState,
    /// Since when the agent has said just this.
    pub since: Duration,
    /// Where in a step it is, while it trains.
    pub doing: Option<Doing>,
    /// For how long its process had said nothing when the agent spoke.
    pub quiet: Duration,
    /// How far it is with its connections, while it makes them.
    pub connecting: Option<Connecting>,
}

impl Report {
    /// Steps that a rank will have committed so long after it said this, if it trains on.
    fn committed_after(&self, time: Duration) -> Option<u64> {
        let RankState::Running { committed } = self.state else {
            return None;
        };
        let usual_ms = self.doing.and_then(|doing| doing.usual_step_ms);
        let more = usual_ms.map_or(0, |ms| time.as_millis().div_ceil(u128::from(ms.max(1))));
        Some(committed + u64::try_from(more).unwrap_or(0))
    }
}

/// All nodes as they are seen.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sight {
    /// By id.
    pub nodes: BTreeMap<NodeId, Seen>,
    /// Those that take no new work, as operators or their agents have said.
    pub withheld: BTreeMap<NodeId, Withheld>,
}

/// Why a beat is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// No such node: its agent has to register.
    Unknown,
    /// Another life of the agent has registered since.
    Stale,
}

impl Sight {
    /// A node registered, or is known from the job table: it has a whole silence from `now`.
    pub fn meet(&mut self, node: KnownNode, now: Duration) {
        let same_life = |seen: &&mut Seen| seen.node.incarnation == node.incarnation;
        if let Some(seen) = self.nodes.get_mut(&node.id).filter(same_life) {
            seen.node = node;
            seen.heard_at = now;
            return;
        }
        let mute = self.nodes.get(&node.id).filter(|seen| !seen.has_beaten);
        let seen = Seen {
            awaited_since: mute.map_or(now, |seen| seen.awaited_since),
            heard_at: now,
            revision: 0,
            has_beaten: false,
            leaves: false,
            ranks: BTreeMap::new(),
            address: None,
            reached: BTreeSet::new(),
            hardware: Hardware::default(),
            node,
        };
        self.nodes.insert(seen.node.id, seen);
    }

    /// A node beats. Returns whether that may call for a decision: a rank does something else than before, is quiet or misses
    /// another, or other nodes are reached.
    ///
    /// # Errors
    /// [`Refused`]; the beat then counts for nothing.
    pub fn beat(&mut self, beat: Beat, now: Duration) -> Result<bool, Refused> {
        let seen = self.nodes.get_mut(&beat.node).ok_or(Refused::Unknown)?;
        if seen.node.incarnation != beat.incarnation {
            return Err(Refused::Stale);
        }
        let leaves = beat.leaves_in_ms.is_some();
        let mut news = !seen.has_beaten || beat.revision != seen.revision || beat.ranks.len() != seen.ranks.len();
        news |= seen.leaves != leaves;
        let mut ranks = BTreeMap::new();
        for report in beat.ranks {
            let id = (report.stage, report.generation, report.rank);
            let before = seen.ranks.get(&id).filter(|before| before.state == report.state);
            news |= before.is_none() && !is_progress_alone(seen.ranks.get(&id), &report.state);
            let quiet = Duration::from_millis(report.quiet_ms.unwrap_or(0));
            news |= quiet >= QUIET || report.doing.is_some_and(|doing| doing.misses_somebody());
            let since = before.map_or(now, |before| before.since);
            let heard = Report {
                state: report.state,
                since,
                doing: report.doing,
                quiet,
                connecting: report.connecting,
            };
            ranks.insert(id, heard);
        }
        let reached: BTreeSet<NodeId> = beat.reached.into_iter().collect();
        news |= reached != seen.reached;
        seen.reached = reached;
        seen.address = beat.address;
        seen.hardware = beat.hardware;
        seen.ranks = ranks;
        seen.leaves = leaves;
        seen.heard_at = now;
        seen.revision = beat.revision;
        seen.has_beaten = true;
        Ok(news)
    }

    /// Operators withhold these nodes; so are those whose agents are about to end.
    pub fn withhold(&mut self, nodes: BTreeMap<NodeId, Withheld>) {
        self.withheld = nodes;
        for (id, _) in self.nodes.iter().filter(|(_, seen)| seen.leaves) {
            self.withheld.entry(*id).or_default().leaves();
        }
    }

    /// Steps that a generation's ranks will have committed at this time, as far as they have said where they are and what a step
    /// takes.
    pub fn committed_at(&self, stage: StageId, generation: u64, time: Duration) -> u64 {
        let ranks = (stage, generation, 0)..=(stage, generation, u32::MAX);
        let by_rank = self.nodes.values().flat_map(|seen| {
            let since = time.saturating_sub(seen.heard_at);
            let reports = seen.ranks.range(ranks.clone());
            reports.filter_map(move |(_, report)| report.committed_after(since))
        });
        by_rank.max().unwrap_or(0)
    }

    /// Gives every node a whole silence from `now`: whoever could not listen must not judge.
    pub fn forgive(&mut self, now: Duration) {
        for seen in self.nodes.values_mut() {
            seen.heard_at = now;
        }
    }
}

/// A step more is no reason to decide anything.
fn is_progress_alone(before: Option<&Report>, now: &RankState) -> bool {
    let was_running = before.is_some_and(|before| matches!(before.state, RankState::Running { .. }));
    was_running && matches!(now, RankState::Running { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use medley_protocol::agent::{RankReport, StepPhase};
    use medley_protocol::ids::IncarnationId;
    use uuid::Uuid;

    fn known(life: u128) -> KnownNode {
        KnownNode {
            id: NodeId::from_uuid(Uuid::from_u128(1)),
            name: "n1".into(),
            incarnation: IncarnationId::from_uuid(Uuid::from_u128(life)),
            devices: 2,
            fingerprint: "a".into(),
        }
    }

    fn beat(life: u128, states: &[RankState]) -> Beat {
        let report = |(rank, state): (u32, &RankState)| RankReport {
            stage: StageId::from_uuid(Uuid::from_u128(7)),
            generation: 1,
            rank,
            state: state.clone(),
            doing: None,
            quiet_ms: None,
            connecting: None,
        };
        Beat {
            node: known(life).id,
            incarnation: known(life).incarnation,
            revision: 1,
            ranks: (0..).zip(states).map(report).collect(),
            leaves_in_ms: None,
            address: None,
            reached: Vec::new(),
            hardware: Hardware::default(),
        }
    }

    const T0: Duration = Duration::from_secs(100);
    const T1: Duration = Duration::from_secs(101);

    #[test]
    fn a_beat_of_an_earlier_life_counts_for_nothing() {
        let mut sight = Sight::default();
        assert_eq!(sight.beat(beat(1, &[]), T0), Err(Refused::Unknown));
        sight.meet(known(1), T0);
        sight.meet(known(2), T0);
        assert_eq!(sight.beat(beat(1, &[]), T1), Err(Refused::Stale));
        assert_eq!(sight.nodes[&known(1).id].heard_at, T0);
    }

    #[test]
    fn a_report_keeps_the_time_since_when_it_holds() {
        let mut sight = Sight::default();
        sight.meet(known(1), T0);
        let starting = [RankState::Starting];
        assert_eq!(sight.beat(beat(1, &starting), T0), Ok(true));
        assert_eq!(sight.beat(beat(1, &starting), T1), Ok(false));
        let seen = &sight.nodes[&known(1).id];
        assert_eq!((seen.heard_at, seen.ranks.values().next().unwrap().since), (T1, T0));
    }

    #[test]
    fn a_generation_is_where_its_furthest_rank_was_and_as_many_steps_further_as_fit_since() {
        let mut sight = Sight::default();
        sight.meet(known(1), T0);
        let running = |committed| RankState::Running { committed };
        let mut beat = beat(1, &[running(7), running(8), RankState::Starting]);
        let at = |sight: &Sight, generation| sight.committed_at(StageId::from_uuid(Uuid::from_u128(7)), generation, T1);
        sight.beat(beat.clone(), T0).unwrap();
        assert_eq!(
            (at(&sight, 1), at(&sight, 2)),
            (8, 0),
            "nobody knows yet what a step takes"
        );
        for report in &mut beat.ranks {
            report.doing = Some(Doing {
                step: 8,
                phase: StepPhase::Computing,
                collective: 1,
                for_ms: 1,
                usual_step_ms: Some(300),
                lane_us: None,
            });
        }
        sight.beat(beat, T0).unwrap();
        assert_eq!(at(&sight, 1), 12);
    }

    #[test]
    fn a_step_more_is_no_news_but_another_state_is() {
        let mut sight = Sight::default();
        sight.meet(known(1), T0);
        let running = |committed| [RankState::Running { committed }];
        assert_eq!(sight.beat(beat(1, &running(1)), T0), Ok(true));
        assert_eq!(sight.beat(beat(1, &running(2)), T0), Ok(false));
        assert_eq!(
            sight.beat(beat(1, &[RankState::Finished { committed: 2 }]), T0),
            Ok(true)
        );
        assert_eq!(sight.beat(beat(1, &[]), T0), Ok(true));
    }

    #[test]
    fn as_long_as_a_rank_is_quiet_or_misses_another_every_beat_is_news() {
        let mut sight = Sight::default();
        sight.meet(known(1), T0);
        let says = |waits_ms, quiet_ms| {
            let mut beat = beat(1, &[RankState::Running { committed: 1 }]);
            beat.ranks[0].quiet_ms = Some(quiet_ms);
            beat.ranks[0].doing = Some(Doing {
                step: 1,
                phase: StepPhase::Agreeing,
                collective: 9,
                for_ms: waits_ms,
                usual_step_ms: Some(100),
                lane_us: None,
            });
            beat
        };
        sight.beat(says(0, 0), T0).unwrap();
        for (waits_ms, quiet_ms, news) in [(499, 749, false), (500, 0, true), (600, 0, true), (0, 750, true)] {
            assert_eq!(
                sight.beat(says(waits_ms, quiet_ms), T0),
                Ok(news),
                "{waits_ms} {quiet_ms}"
            );
        }
    }

    #[test]
    fn a_node_whose_agent_is_about_to_end_is_drained_until_the_next_one_begins() {
        let mut sight = Sight::default();
        sight.meet(known(1), T0);
        let leaving = Beat {
            leaves_in_ms: Some(5000),
            ..beat(1, &[])
        };
        sight.beat(beat(1, &[]), T0).unwrap();
        assert_eq!(sight.beat(leaving, T0), Ok(true));
        sight.withhold(BTreeMap::new());
        let withheld = sight.withheld[&known(1).id];
        assert!(withheld.drains && withheld.leaves && !withheld.is_due);
        sight.meet(known(2), T1);
        sight.withhold(BTreeMap::new());
        assert!(sight.withheld.is_empty());
    }

    #[test]
    fn lives_that_end_before_their_first_beat_are_awaited_no_longer() {
        let mut sight = Sight::default();
        let since = |sight: &Sight| sight.nodes[&known(1).id].awaited_since;
        sight.meet(known(1), T0);
        sight.meet(known(2), T1);
        assert_eq!(since(&sight), T0);
        sight.beat(beat(2, &[]), T1).unwrap();
        sight.meet(known(3), T1);
        assert_eq!(since(&sight), T1, "a node that was heard is awaited anew");
    }

    #[test]
    fn registering_the_same_life_again_forgets_nothing() {
        let mut sight = Sight::default();
        sight.meet(known(1), T0);
        sight.beat(beat(1, &[RankState::Starting]), T0).unwrap();
        sight.meet(known(1), T1);
        assert_eq!(sight.nodes[&known(1).id].ranks.len(), 1);
    }
}
