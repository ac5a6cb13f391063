//! A rank of a training stage: load, listen, and then one generation after the other.
//!
//! The product decides to which generation a rank is called, how it begins, when a step is committed, and which lanes are
//! this rank's. A step's lanes are exchanged before anyone is prepared, as the collective does.

mod joining;
mod leaving;
mod steps;

use super::process::{Alarm, Deed, Heard, How, PULSE, Pid, Seat, Tools, Wire, pulse};
use super::toy::Toy;
use medley_protocol::agent::{Assignment, Connecting, Doing, FromRank, RankState, StepPhase, ToRank};
use medley_protocol::spec::Length;
use medley_protocol::stage::StageKind;
use medley_worker::checkpoint::is_planned;
use medley_worker::collective::deal::Deal;
use medley_worker::rank::beginning::{Memory, Path};
use medley_worker::rank::calls::{Calls, Heard as Order};
use medley_worker::rank::membership::{self, Input};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What a step takes, about.
const USUAL_STEP_MS: u64 = 150;
/// Time between two looks at the clock.
const TICK: Duration = Duration::from_secs(1);

/// Contributions of some lanes, as (lane, contribution).
type Lanes = Vec<(u32, u64)>;

pub(super) struct Trainee {
    pid: Pid,
    calls: Calls,
    /// None until one was loaded, or taken from a peer.
    toy: Option<Toy>,
    /// What the generation that broke was about to commit.
    prepared: Option<Lanes>,
    phase: Phase,
    /// The present generation, or the last one.
    part: Option<Part>,
    /// What has arrived for generations that this rank does not take part in yet.
    early: BTreeMap<u64, Vec<(u32, Wire)>>,
    /// Whether it has left for good, and ends once its parts are written.
    parting: bool,
    /// Parts of checkpoints that are being written.
    writing: u32,
    /// Since when it does what it does in a step, or has made no connection more.
    since: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Loading,
    /// Waits to be called, or for the members of the generation it is called to.
    Waiting,
    Connecting,
    /// Its peers feed it.
    Joining,
    Training,
    /// All steps are committed; the last parts are being written.
    Closing,
}

/// A rank's part in one generation.
struct Part {
    assignment: Box<Assignment>,
    seat: Seat,
    deal: Deal,
    /// The other members.
    peers: BTreeMap<u32, Pid>,
    memories: BTreeMap<u32, Option<Memory>>,
    /// Peers that have left in peace.
    left: BTreeSet<u32>,
    member: Option<membership::State>,
    /// By step and rank.
    shares: BTreeMap<(u64, u32), Lanes>,
}

impl Trainee {
    pub(super) fn start(pid: Pid, assignment: Assignment, rank: u32, tools: &mut Tools) -> (Self, Vec<Deed>) {
        let starting = FromRank::State {
            generation: assignment.generation,
            state: RankState::Starting,
        };
        let trainee = Self {
            pid,
            calls: Calls::new(Box::new(assignment), rank),
            toy: None,
            prepared: None,
            phase: Phase::Loading,
            part: None,
            early: BTreeMap::new(),
            parting: false,
            writing: 0,
            since: tools.now,
        };
        let loaded = later(tools.dice.ms(200, 1200), Alarm::Loaded);
        let pulse = later(PULSE, Alarm::Pulse);
        (trainee, vec![Deed::Say(starting), loaded, pulse])
    }

    /// Its place among its peers, while it is connected or wants to be.
    pub(super) fn seat(&self) -> Option<(Seat, Vec<Pid>)> {
        let connected = !matches!(self.phase, Phase::Loading | Phase::Waiting);
        let part = self.part.as_ref().filter(|_| connected)?;
        Some((part.seat, part.peers.values().copied().collect()))
    }

    pub(super) fn hear(&mut self, heard: Heard, tools: &mut Tools) -> Vec<Deed> {
        let mut out = Vec::new();
        match heard {
            // Whatever it is told, it ends.
            Heard::Order(_) | Heard::Wire { .. } | Heard::Gone { .. } if self.parting => {}
            Heard::Order(order) => self.order(order, &mut out),
            Heard::Alarm(alarm) => self.alarm(alarm, tools, &mut out),
            Heard::Wire { from, wire } => {
                let waiting = self.early.entry(from.generation).or_default();
                waiting.push((from.rank, wire));
            }
            Heard::Gone { seat, why } => self.gone(seat, why, tools, &mut out),
        }
        self.advance(tools, &mut out);
        out
    }

    /// Goes on as far as it can: takes in what has arrived, and its next part.
    fn advance(&mut self, tools: &mut Tools, out: &mut Vec<Deed>) {
        loop {
            let joined = self.joined();
            if self.parting {
                return;
            }
            if self.phase == Phase::Waiting && self.calls.ready_after(joined).is_some() {
                self.connect(tools, out);
            } else if self.phase == Phase::Waiting || !self.take_in(tools, out) {
                return;
            }
        }
    }

    /// Takes in one thing that has arrived for the present generation.
    fn take_in(&mut self, tools: &mut Tools, out: &mut Vec<Deed>) -> bool {
        let Some(part) = &self.part else { return false };
        let waiting = self.early.entry(part.seat.generation).or_default();
        if waiting.is_empty() || self.phase == Phase::Loading {
            return false;
        }
        let is_due = |wire: &Wire| match self.phase {
            Phase::Connecting => matches!(wire, Wire::Hello { .. }),
            Phase::Joining => matches!(wire, Wire::State(_)),
            _ => true,
        };
        let Some(at) = waiting.iter().position(|(_, wire)| is_due(wire)) else {
            return false;
        };
        let (from, wire) = waiting.remove(at);
        self.wire(from, wire, tools, out);
        true
    }

    fn joined(&self) -> u64 {
        self.part.as_ref().map_or(0, |part| part.seat.generation)
    }

    fn committed(&self) -> Option<u64> {
        self.toy.map(|toy| toy.step)
    }

    fn order(&mut self, order: ToRank, out: &mut Vec<Deed>) {
        let calls_off = match &order {
            ToRank::Regroup {
                assignment,
                at_once: true,
                ..
            } => Some(assignment.generation),
            _ => None,
        };
        match self.calls.hear(order) {
            Ok(Order::Called) if self.phase != Phase::Loading => self.listen(out),
            Ok(_) => {}
            Err(what) => out.push(Deed::Accuse(what)),
        }
        let connected = self.seat().is_some() && self.phase != Phase::Closing;
        if connected && calls_off.is_some_and(|generation| generation > self.joined()) {
            self.break_off("another generation has begun".into(), out);
        }
    }

    fn say(&self, state: RankState, out: &mut Vec<Deed>) {
        let generation = self.joined();
        out.push(Deed::Say(FromRank::State { generation, state }));
    }

    fn alarm(&mut self, alarm: Alarm, tools: &mut Tools, out: &mut Vec<Deed>) {
        match alarm {
            Alarm::Pulse => out.extend(pulse(self.doing(tools.now), self.connecting(tools.now))),
            Alarm::Loaded => {
                self.phase = Phase::Waiting;
                self.listen(out);
            }
            Alarm::Tick { seat } if self.is_training(seat) => {
                self.feed(Input::Tick, tools, out);
                out.push(later(TICK, Alarm::Tick { seat }));
            }
            Alarm::Computed { seat, step } if self.is_training(seat) => {
                let lanes = self.own_lanes();
                let share = Wire::Share {
                    step,
                    lanes: lanes.clone(),
                };
                self.send_all(&share, out);
                self.since = tools.now;
                if let Some(part) = &mut self.part {
                    part.shares.insert((step, part.seat.rank), lanes);
                }
                self.prepare(tools, out);
            }
            Alarm::Written { toy, part, parts } => self.written(toy, (part, parts), tools, out),
            _ => {}
        }
    }

    /// Where in a step it is.
    fn doing(&self, now: Duration) -> Option<Doing> {
        let (part, toy) = (self.part.as_ref()?, self.toy?);
        let member = part.member.as_ref().filter(|_| self.phase == Phase::Training)?;
        let phase = if member.is_prepared() {
            StepPhase::Agreeing
        } else if part.shares.contains_key(&(toy.step, part.seat.rank)) {
            StepPhase::Exchanging
        } else {
            StepPhase::Computing
        };
        Some(Doing {
            step: toy.step,
            phase,
            collective: toy.step,
            for_ms: now.saturating_sub(self.since).as_millis() as u64,
            usual_step_ms: Some(USUAL_STEP_MS),
            lane_us: Some(1000 * USUAL_STEP_MS),
        })
    }

    /// How far it is with its connections.
    fn connecting(&self, now: Duration) -> Option<Connecting> {
        let part = self.part.as_ref()?;
        if !matches!(self.phase, Phase::Connecting | Phase::Joining) {
            return None;
        }
        let lacks = part.peers.keys().filter(|rank| !part.memories.contains_key(rank));
        Some(Connecting {
            generation: part.seat.generation,
            lacks: lacks.copied().collect(),
            for_ms: now.saturating_sub(self.since).as_millis() as u64,
        })
    }

    /// A bit flips in its state, unless that would not be found out any more.
    pub(super) fn flip(&mut self, bit: u32) -> bool {
        let total = self.total();
        let toy = self.toy.filter(|toy| self.trains() && toy.step + 1 < total);
        self.toy = toy.map(|toy| toy.flipped(bit)).or(self.toy);
        toy.is_some()
    }

    /// Whether it is in the midst of steps that it takes with others.
    pub(super) fn trains(&self) -> bool {
        self.phase == Phase::Training && self.part.as_ref().is_some_and(|part| !part.peers.is_empty())
    }

    fn is_training(&self, seat: Seat) -> bool {
        self.phase == Phase::Training && self.part.as_ref().is_some_and(|part| part.seat == seat)
    }

    fn wire(&mut self, from: u32, wire: Wire, tools: &mut Tools, out: &mut Vec<Deed>) {
        let Some(part) = &mut self.part else { return };
        match wire {
            Wire::Hello { stage, secret, memory } => {
                let own = &part.assignment;
                if stage == own.stage && secret == own.secret {
                    part.memories.insert(from, memory);
                    self.since = tools.now;
                }
                if part.memories.len() == own.world as usize {
                    self.begin(tools, out);
                }
            }
            Wire::State(toy) => {
                if self.phase == Phase::Joining {
                    self.toy = Some(toy);
                    self.enter(How::Memory(Path::Join), tools, out);
                }
            }
            Wire::Share { step, lanes } => {
                part.shares.insert((step, from), lanes);
                self.prepare(tools, out);
            }
            Wire::Control(message) => self.feed(Input::Said { from, message }, tools, out),
            Wire::Bye => {
                part.left.insert(from);
            }
        }
    }

    fn send(&self, to: u32, wire: Wire, out: &mut Vec<Deed>) {
        let Some(part) = &self.part else { return };
        let from = part.seat;
        out.extend(part.peers.get(&to).map(|to| Deed::Send { to: *to, from, wire }));
    }

    fn send_all(&self, wire: &Wire, out: &mut Vec<Deed>) {
        let peers = self.part.iter().flat_map(|part| part.peers.keys());
        peers.for_each(|rank| self.send(*rank, wire.clone(), out));
    }

    fn is_planned(&self, committed: u64) -> bool {
        let part = self.part.as_ref();
        part.is_some_and(|part| is_planned(part.assignment.spec.checkpoint, committed, self.total(), None))
    }

    fn total(&self) -> u64 {
        let Some(part) = &self.part else { return 0 };
        let spec = &part.assignment.spec;
        let train = match part.assignment.kind {
            StageKind::Captioner => &spec.captioner,
            StageKind::Filter => &spec.filter,
            _ => &spec.pretrain,
        };
        match train.length {
            Length::Steps { count } | Length::Epochs { count } => count,
        }
    }
}

fn later(after: Duration, alarm: Alarm) -> Deed {
    Deed::Later { after, alarm }
}
