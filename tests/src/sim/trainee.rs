//! A rank of a training stage: load, listen, and then one generation after the other.
//!
//! The product decides to which generation a rank is called, how it begins, when a step is committed, and which lanes are
//! this rank's. A step's lanes are exchanged before anyone is prepared, as the collective does.

use super::process::{Alarm, Deed, Heard, How, Pid, Seat, Tools, Wire, pulse};
use super::toy::{STATE_BYTES, Toy, data, initial};
use medley_protocol::agent::{Assignment, Connecting, Doing, FromRank, RankState, StepPhase, ToRank};
use medley_protocol::checkpoint::CheckpointPart;
use medley_protocol::spec::Length;
use medley_protocol::stage::StageKind;
use medley_worker::checkpoint::{is_planned, part_range};
use medley_worker::collective::deal::{Deal, deal};
use medley_worker::rank::beginning::{Beginning, Memory, Path, begin};
use medley_worker::rank::calls::{Call, Calls, Heard as Order};
use medley_worker::rank::membership::{self, Input, Output};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Longest wait of a prepared rank for the others; shorter than in truth, as everything here.
const PATIENCE: Duration = Duration::from_secs(10);
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
        let pulse = later(super::process::PULSE, Alarm::Pulse);
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

    fn listen(&self, out: &mut Vec<Deed>) {
        let state = RankState::Listening {
            address: self.pid.to_string(),
            committed: self.committed(),
        };
        let generation = self.calls.generation();
        out.push(Deed::Say(FromRank::State { generation, state }));
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
            lane_us: None,
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

    fn gone(&mut self, seat: Seat, why: String, tools: &mut Tools, out: &mut Vec<Deed>) {
        let of_this = self
            .part
            .as_ref()
            .filter(|part| part.seat.generation == seat.generation);
        if of_this.is_none_or(|part| part.left.contains(&seat.rank)) {
            return;
        }
        match self.phase {
            // What was said before it went counts.
            Phase::Training => {
                while self.phase == Phase::Training && self.take_in(tools, out) {}
                let rank = seat.rank;
                self.feed(Input::Lost { rank, why }, tools, out);
            }
            Phase::Joining => self.break_off(format!("lost rank {}: {why}", seat.rank), out),
            // Until everyone is connected, peers are waited for.
            _ => {}
        }
    }

    /// Connects to the members of the generation that it is called to.
    fn connect(&mut self, tools: &Tools, out: &mut Vec<Deed>) {
        let Some(call) = self.calls.ready_after(self.joined()).cloned() else {
            return;
        };
        let ranks_of_nodes = call.ranks_of_nodes();
        let Call {
            assignment,
            rank,
            members,
        } = call;
        let pids: Option<BTreeMap<u32, Pid>> = members
            .iter()
            .map(|member| Some((member.rank, member.address.parse().ok()?)))
            .collect();
        let (Some(mut peers), Ok(deal)) = (pids, deal(assignment.spec.lanes.count, &ranks_of_nodes)) else {
            out.push(Deed::Accuse(format!("these members cannot train: {members:?}")));
            return;
        };
        if peers.remove(&rank) != Some(self.pid) {
            out.push(Deed::Accuse(format!("rank {rank} has another address in {members:?}")));
        }
        let memory = self.committed().map(|committed| Memory {
            committed,
            prepared: self.prepared.is_some(),
        });
        let hello = Wire::Hello {
            stage: assignment.stage,
            secret: assignment.secret.clone(),
            memory,
        };
        let generation = assignment.generation;
        self.early = self.early.split_off(&generation);
        // A rank says hello to itself too, so that one alone begins like all others.
        self.early.entry(generation).or_default().push((rank, hello.clone()));
        self.part = Some(Part {
            seat: Seat { generation, rank },
            assignment,
            deal,
            peers,
            memories: BTreeMap::new(),
            left: BTreeSet::new(),
            member: None,
            shares: BTreeMap::new(),
        });
        self.phase = Phase::Connecting;
        self.since = tools.now;
        self.send_all(&hello, out);
    }

    /// Everyone is connected.
    fn begin(&mut self, tools: &mut Tools, out: &mut Vec<Deed>) {
        let Some(part) = &self.part else { return };
        let memories: Vec<Option<Memory>> = part.memories.values().copied().collect();
        let stored = part.assignment.inputs.resume.as_ref().map(|manifest| manifest.step);
        let rank = part.seat.rank as usize;
        match begin(&memories, stored) {
            Beginning::Stored => {
                self.prepared = None;
                self.toy = initial(&part.assignment, tools.objects);
                if self.toy.is_none() {
                    out.push(Deed::Accuse("a checkpoint that is committed cannot be loaded".into()));
                }
                self.enter(How::Stored, tools, out);
            }
            Beginning::Memory { paths, .. } => {
                let own = paths[rank];
                if let Some(lanes) = self.prepared.take().filter(|_| own == Path::CommitPrepared) {
                    self.commit(lanes, out);
                }
                let source = paths.iter().position(|path| *path != Path::Join);
                if let Some(toy) = self.toy.filter(|_| source == Some(rank)) {
                    let joiners = (0..).zip(&paths).filter(|(_, path)| **path == Path::Join);
                    joiners.for_each(|(to, _)| self.send(to, Wire::State(toy), out));
                }
                if own == Path::Join {
                    self.toy = None;
                    self.phase = Phase::Joining;
                } else {
                    self.enter(How::Memory(own), tools, out);
                }
            }
        }
    }

    /// Has the state that its generation goes on from.
    fn enter(&mut self, how: How, tools: &mut Tools, out: &mut Vec<Deed>) {
        let (Some(part), Some(toy)) = (&mut self.part, self.toy) else {
            return;
        };
        let (Assignment { world, .. }, committed) = (&*part.assignment, toy.step);
        let Seat { generation, rank } = part.seat;
        part.member = Some(membership::State::new(rank, *world, generation, committed, PATIENCE));
        let (seat, step) = (part.seat, committed);
        out.push(Deed::Began { seat, how, step });
        let stored = part.assignment.inputs.resume.as_ref().map(|manifest| manifest.step);
        self.phase = Phase::Training;
        self.say(RankState::Running { committed }, out);
        out.push(later(TICK, Alarm::Tick { seat }));
        if committed > 0 && stored != Some(committed) && self.is_planned(committed) {
            self.take_checkpoint(tools, out);
        }
        self.go_on(tools, out);
    }

    /// Computes the next step, or closes after the last.
    fn go_on(&mut self, tools: &mut Tools, out: &mut Vec<Deed>) {
        let (Some(toy), Some(part)) = (self.toy, &self.part) else {
            return;
        };
        if toy.step < self.total() {
            let (seat, step) = (part.seat, toy.step);
            self.since = tools.now;
            out.push(later(tools.dice.ms(30, 150), Alarm::Computed { seat, step }));
        } else {
            self.phase = Phase::Closing;
            self.close(out);
        }
    }

    fn own_lanes(&self) -> Lanes {
        let (Some(part), Some(toy)) = (&self.part, self.toy) else {
            return Lanes::new();
        };
        let data = data(&part.assignment);
        let own = part.deal.lanes(part.seat.rank);
        own.map(|lane| (lane, toy.lane(data, lane))).collect()
    }

    /// Says that it is prepared, once it is.
    fn prepare(&mut self, tools: &mut Tools, out: &mut Vec<Deed>) {
        let (Some(part), Some(toy)) = (&mut self.part, self.toy) else {
            return;
        };
        let step = toy.step;
        let mut ranks = 0..part.assignment.world;
        let computing = part.member.as_ref().is_some_and(|member| !member.is_prepared());
        if !computing || !ranks.all(|rank| part.shares.contains_key(&(step, rank))) {
            return;
        }
        let later_shares = part.shares.split_off(&(step + 1, 0));
        let shares = std::mem::replace(&mut part.shares, later_shares);
        let of_step = shares.into_iter().filter(|((of, _), _)| *of == step);
        self.prepared = Some(of_step.flat_map(|(_, lanes)| lanes).collect());
        self.since = tools.now;
        let joined = part.seat.generation;
        let wanted = self.calls.take_wanted().map(|step| Input::CheckpointWanted { step });
        let ready = self
            .calls
            .next_after(joined)
            .map(|generation| Input::Ready { generation });
        let prepared = Input::Prepared {
            digest: toy.digest(self.total()),
            planned: self.is_planned(step + 1),
        };
        for input in wanted.into_iter().chain(ready).chain([prepared]) {
            self.feed(input, tools, out);
        }
    }

    /// Feeds the membership and does what it says.
    fn feed(&mut self, input: Input, tools: &mut Tools, out: &mut Vec<Deed>) {
        let training = self.phase == Phase::Training;
        let Some(part) = self.part.as_mut().filter(|_| training) else {
            return;
        };
        let Some(member) = part.member.take() else { return };
        let (member, outputs) = membership::step(member, input, tools.now);
        part.member = Some(member);
        for output in outputs {
            match output {
                Output::Send { to, message } => self.send(to, Wire::Control(message), out),
                Output::Commit { checkpoint, then } => {
                    if let Some(lanes) = self.prepared.take() {
                        self.commit(lanes, out);
                    }
                    let leaves = then.and_then(|next| self.calls.leaves_before(next));
                    if checkpoint || leaves == Some(true) {
                        self.take_checkpoint(tools, out);
                    }
                    if then.is_some() {
                        self.leave(out);
                        self.parting = leaves.is_some();
                        self.part(out);
                    } else {
                        self.go_on(tools, out);
                    }
                }
                Output::Fail { reason, doubt: None } => self.break_off(reason, out),
                Output::Fail { doubt: Some(doubt), .. } => {
                    self.say(RankState::Doubtful { doubt }, out);
                    self.parting = true;
                    out.push(Deed::Exit);
                }
            }
        }
    }

    fn commit(&mut self, mut lanes: Lanes, out: &mut Vec<Deed>) {
        let (Some(part), Some(before)) = (&self.part, self.toy) else {
            return;
        };
        lanes.sort_unstable();
        let all = 0..part.assignment.spec.lanes.count;
        if !lanes.iter().map(|(lane, _)| *lane).eq(all) {
            let step = before.step;
            out.push(Deed::Accuse(format!(
                "step {step} is committed with the lanes {lanes:?}"
            )));
        }
        let values: Vec<u64> = lanes.into_iter().map(|(_, value)| value).collect();
        let toy = before.commit(&values);
        self.toy = Some(toy);
        let (seat, world) = (part.seat, part.assignment.world);
        out.push(Deed::Committed { seat, world, toy });
        let metrics = toy.metrics();
        out.push(Deed::Say(FromRank::Committed { metrics, ledger: None }));
    }

    fn take_checkpoint(&mut self, tools: &mut Tools, out: &mut Vec<Deed>) {
        if let (Some(part), Some(toy)) = (&self.part, self.toy) {
            self.writing += 1;
            let written = Alarm::Written {
                toy,
                part: part.seat.rank,
                parts: part.assignment.world,
            };
            out.push(later(tools.dice.ms(20, 400), written));
        }
    }

    fn written(&mut self, toy: Toy, (part, parts): (u32, u32), tools: &mut Tools, out: &mut Vec<Deed>) {
        let range = part_range(STATE_BYTES, part, parts);
        let bytes = toy.bytes();
        let part = CheckpointPart {
            step: toy.step,
            part,
            parts,
            offset_bytes: range.start,
            state_bytes: STATE_BYTES,
            object: tools
                .objects
                .put("part", &bytes[range.start as usize..range.end as usize]),
            tensors: None,
        };
        self.writing -= 1;
        out.push(Deed::Say(FromRank::Part { part, peak_bytes: None }));
        self.close(out);
        self.part(out);
    }

    /// Ends once all parts are written, if it has left for good.
    fn part(&mut self, out: &mut Vec<Deed>) {
        if self.parting && self.writing == 0 {
            let committed = self.committed().unwrap_or(0);
            self.say(RankState::Left { committed }, out);
            out.push(Deed::Exit);
        }
    }

    /// Is finished once all steps are committed and all parts written.
    fn close(&mut self, out: &mut Vec<Deed>) {
        if self.phase != Phase::Closing || self.writing > 0 {
            return;
        }
        let committed = self.committed().unwrap_or(0);
        self.say(RankState::Finished { committed }, out);
        self.leave(out);
    }

    /// Leaves its generation in peace.
    fn leave(&mut self, out: &mut Vec<Deed>) {
        self.send_all(&Wire::Bye, out);
        self.phase = Phase::Waiting;
    }

    /// Its generation is over for it; what it holds in memory stays.
    fn break_off(&mut self, reason: String, out: &mut Vec<Deed>) {
        let committed = self.committed().unwrap_or(0);
        self.say(RankState::Broken { committed, reason }, out);
        if let Some((seat, peers)) = self.seat() {
            out.push(Deed::Close { seat, peers });
        }
        self.phase = Phase::Waiting;
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
