//! What goes wrong in a run: drawn from its seed.

use super::dice::Dice;
use super::network::Silence;
use std::time::Duration;

/// Most faults of a run: fewer than the setbacks that a stage is allowed.
const MAX_FAULTS: usize = 6;
/// Faults begin within this time; the job takes about as long.
const SPAN_MS: u64 = 25_000;

/// Time in which all that a fault causes is over.
const AFTERMATH: Duration = Duration::from_secs(10);

/// It never ends.
pub(super) const FOR_GOOD: Duration = Duration::MAX;

/// One fault.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    /// Some rank is killed.
    KillRank,
    /// Some rank stands still, for a while or for good.
    FreezeRank { lasts: Duration },
    /// Some rank that trains does nothing any more but say that it runs, for a while or for good.
    Spin { lasts: Duration },
    /// Two ranks lose their connection.
    Reset,
    /// A bit flips in the state of some rank that trains with others.
    Flip {
        /// Which bit; another one each time: one that flips back before it is compared leaves nothing to be found.
        bit: u32,
    },
    /// A node's agent is killed with its ranks and starts anew after a while, or never.
    KillAgent { node: usize, down: Duration },
    /// A node's agent is asked to leave, within a time, and starts anew after a while.
    Leave {
        node: usize,
        grace: Duration,
        down: Duration,
    },
    /// Calls between a node's agent and the coordinator get lost or late for a while.
    Silence {
        node: usize,
        silence: Silence,
        lasts: Duration,
    },
    /// Nothing gets from one node to another for a while, or for good; and back, if `both_ways`. All reach the coordinator.
    Cut {
        from: usize,
        to: usize,
        both_ways: bool,
        lasts: Duration,
    },
    /// The coordinator dies with its memory and starts anew after a while. `torn`: between writing a decision and
    /// publishing it.
    KillCoordinator { down: Duration, torn: bool },
}

impl Fault {
    /// What it counts as.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::KillRank => "fault: rank killed",
            Self::FreezeRank { .. } => "fault: rank stands still",
            Self::Spin { .. } => "fault: rank spins",
            Self::Reset => "fault: connection reset",
            Self::Flip { .. } => "fault: bit flipped",
            Self::KillAgent { down: FOR_GOOD, .. } => "fault: node gone for good",
            Self::KillAgent { .. } => "fault: agent killed",
            Self::Leave { .. } => "fault: agent asked to leave",
            Self::Silence { .. } => "fault: node silent",
            Self::Cut { both_ways: true, .. } => "fault: nodes cut",
            Self::Cut { .. } => "fault: nodes cut one way",
            Self::KillCoordinator { torn: true, .. } => "fault: coordinator killed while writing",
            Self::KillCoordinator { .. } => "fault: coordinator killed",
        }
    }

    /// For how long what happens may be due to it.
    pub(super) fn disturbs(self) -> Duration {
        let own = match self {
            Self::FreezeRank { lasts } | Self::Spin { lasts } | Self::Cut { lasts, .. } => lasts,
            other => other.lasts(),
        };
        own.saturating_add(AFTERMATH)
    }

    /// For how long nobody can expect the job to go on. Of two nodes that are cut off from each other one can.
    pub(super) fn lasts(self) -> Duration {
        match self {
            Self::KillRank
            | Self::FreezeRank { .. }
            | Self::Spin { .. }
            | Self::Reset
            | Self::Flip { .. }
            | Self::Cut { .. }
            | Self::KillAgent { down: FOR_GOOD, .. } => Duration::ZERO,
            Self::KillAgent { down, .. } | Self::KillCoordinator { down, .. } => down,
            Self::Leave { grace, down, .. } => grace + down,
            Self::Silence { lasts, .. } => lasts,
        }
    }
}

/// The faults of a run over `nodes` nodes, with their times, in order.
pub(super) fn schedule(dice: &mut Dice, nodes: usize) -> Vec<(Duration, Fault)> {
    if dice.chance(10) {
        // Nothing else is to blame then, and the verdict has to name the rank.
        let lasts = FOR_GOOD;
        return vec![(dice.ms(0, SPAN_MS), Fault::Spin { lasts })];
    }
    let count = 1 + dice.below(MAX_FAULTS);
    // Faults that come close upon each other are the harder ones.
    let span = if dice.chance(40) { 3000 } else { SPAN_MS };
    let begin = dice.ms(0, SPAN_MS - span);
    let mut faults: Vec<(Duration, Fault)> = (0..count)
        .map(|_| (begin + dice.ms(0, span), fault(dice, nodes)))
        .collect();
    if dice.chance(20) {
        // One node of several never comes back.
        let (node, down) = (dice.below(nodes), FOR_GOOD);
        faults.push((begin + dice.ms(0, span), Fault::KillAgent { node, down }));
    }
    faults.sort_by_key(|(at, _)| *at);
    faults
}

/// Bits that flip, and faults that take no rank away: a rank that is lost takes along what nobody has compared yet.
pub(super) fn flips(dice: &mut Dice) -> Vec<(Duration, Fault)> {
    let count = 1 + dice.below(2);
    let flip = |bit| (dice.ms(0, SPAN_MS), Fault::Flip { bit });
    let mut faults: Vec<(Duration, Fault)> = (0..count as u32).map(flip).collect();
    for (at, _) in faults.clone() {
        let at = at + dice.ms(0, 3000);
        let down = dice.ms(100, 3000);
        let torn = dice.chance(50);
        match dice.below(3) {
            0 => faults.push((at, Fault::Reset)),
            1 => faults.push((at, Fault::KillCoordinator { down, torn })),
            _ => {}
        }
    }
    faults.sort_by_key(|(at, _)| *at);
    faults
}

fn fault(dice: &mut Dice, nodes: usize) -> Fault {
    let node = dice.below(nodes);
    match dice.below(17) {
        0 | 1 => Fault::KillRank,
        2 => Fault::FreezeRank {
            lasts: if dice.chance(50) {
                FOR_GOOD
            } else {
                dice.ms(500, 12_000)
            },
        },
        3 => Fault::Reset,
        4 | 5 => Fault::KillAgent {
            node,
            down: dice.ms(100, 8000),
        },
        6 => Fault::Spin {
            lasts: if dice.chance(50) {
                FOR_GOOD
            } else {
                dice.ms(500, 12_000)
            },
        },
        7..=9 => Fault::Silence {
            node,
            silence: [Silence::Cut, Silence::Deaf, Silence::Late][dice.below(3)],
            lasts: dice.ms(500, 12_000),
        },
        10..=12 => Fault::Cut {
            from: node,
            to: (node + 1 + dice.below(nodes - 1)) % nodes,
            both_ways: dice.chance(70),
            lasts: match dice.below(4) {
                0 => FOR_GOOD,
                1 => dice.ms(20_000, 90_000),
                _ => dice.ms(500, 20_000),
            },
        },
        13..=15 => Fault::Leave {
            node,
            grace: dice.ms(500, 10_000),
            down: dice.ms(100, 8000),
        },
        _ => Fault::KillCoordinator {
            down: dice.ms(100, 8000),
            torn: dice.chance(30),
        },
    }
}
