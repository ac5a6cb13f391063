//! A rank of a training stage: load, listen, connect, then step after step with its peers.
//!
//! When a step is committed the product's membership decides, and its deal says which lanes are this rank's. A step's
//! lanes are exchanged before anyone is prepared, as the collective does.

use super::process::{Alarm, Deed, Heard, Pid, Tools, Wire};
use super::toy::{STATE_BYTES, Toy, data, initial};
use medley_protocol::agent::{Assignment, FromRank, Member, RankState, ToRank};
use medley_protocol::checkpoint::CheckpointPart;
use medley_protocol::spec::Length;
use medley_protocol::stage::StageKind;
use medley_worker::checkpoint::{is_planned, part_range};
use medley_worker::collective::deal::{Deal, deal};
use medley_worker::collective::tcp::Timing;
use medley_worker::rank::membership::{self, Input, Output};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Longest wait of a prepared rank for the others; shorter than in truth, as everything here.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time between two looks at the clock.
const TICK: Duration = Duration::from_secs(1);
/// Time for the others' goodbyes.
const GOODBYE_PATIENCE: Duration = Duration::from_secs(20);

/// Contributions of some lanes, as (lane, contribution).
type Lanes = Vec<(u32, u64)>;

pub(super) struct Trainee {
    pid: Pid,
    assignment: Assignment,
    rank: u32,
    toy: Toy,
    phase: Phase,
    deal: Option<Deal>,
    /// The other members.
    peers: BTreeMap<u32, Pid>,
    greeted: BTreeSet<u32>,
    /// Peers that have said goodbye.
    left: BTreeSet<u32>,
    member: Option<membership::State>,
    /// What has to wait until all are connected.
    early: Vec<Input>,
    /// By step and rank.
    shares: BTreeMap<(u64, u32), Lanes>,
    /// Parts that are being written.
    writing: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Loading,
    Listening,
    Connecting,
    Training,
    /// All steps are committed; the last parts are being written.
    Closing,
    Leaving,
    Over,
}

impl Trainee {
    pub(super) fn start(pid: Pid, assignment: Assignment, rank: u32, tools: &mut Tools) -> (Self, Vec<Deed>) {
        let trainee = Self {
            pid,
            assignment,
            rank,
            toy: Toy::fresh(0),
            phase: Phase::Loading,
            deal: None,
            peers: BTreeMap::new(),
            greeted: BTreeSet::new(),
            left: BTreeSet::new(),
            member: None,
            early: Vec::new(),
            shares: BTreeMap::new(),
            writing: 0,
        };
        let loaded = Deed::Later {
            after: tools.dice.ms(200, 1200),
            alarm: Alarm::Loaded,
        };
        (trainee, vec![state(RankState::Starting), loaded])
    }

    pub(super) fn peers(&self) -> Vec<Pid> {
        self.peers.values().copied().collect()
    }

    pub(super) fn hear(&mut self, heard: Heard, tools: &mut Tools) -> Vec<Deed> {
        let mut out = Vec::new();
        match heard {
            Heard::Order(ToRank::Connect { members }) => self.connect(&members, &mut out),
            Heard::Order(ToRank::CheckpointAfter { wanted }) => {
                self.feed(Input::CheckpointWanted { step: wanted.step }, tools, &mut out);
            }
            Heard::Order(_) => {}
            Heard::Alarm(alarm) => self.alarm(alarm, tools, &mut out),
            Heard::Wire { from, wire } => self.wire(from, wire, tools, &mut out),
            Heard::Gone { rank, why } => self.gone(rank, why, tools, &mut out),
        }
        if self.phase == Phase::Connecting && self.peers.keys().all(|rank| self.greeted.contains(rank)) {
            self.begin(tools, &mut out);
        }
        out
    }

    fn alarm(&mut self, alarm: Alarm, tools: &mut Tools, out: &mut Vec<Deed>) {
        match alarm {
            Alarm::Loaded => match initial(&self.assignment, tools.objects) {
                Some(toy) => {
                    self.toy = toy;
                    self.phase = Phase::Listening;
                    let address = self.pid.to_string();
                    out.push(state(RankState::Listening { address }));
                }
                None => out.push(Deed::Accuse("a checkpoint that is committed cannot be loaded".into())),
            },
            Alarm::ConnectLate if self.phase == Phase::Connecting => {
                self.fail("not all members have connected".into(), out);
            }
            Alarm::Tick if self.phase == Phase::Training => {
                self.feed(Input::Tick, tools, out);
                out.push(later(TICK, Alarm::Tick));
            }
            Alarm::Computed { step } if self.phase == Phase::Training => {
                let lanes = self.own_lanes();
                self.send_all(
                    &Wire::Share {
                        step,
                        lanes: lanes.clone(),
                    },
                    out,
                );
                self.shares.insert((step, self.rank), lanes);
                self.prepare(tools, out);
            }
            Alarm::Written(toy) => self.written(toy, tools, out),
            Alarm::GoodbyeLate if self.phase == Phase::Leaving => self.exit(out),
            _ => {}
        }
    }

    fn wire(&mut self, from: u32, wire: Wire, tools: &mut Tools, out: &mut Vec<Deed>) {
        match wire {
            Wire::Hello {
                stage,
                generation,
                secret,
            } => {
                let own = &self.assignment;
                if (stage, generation, &secret) == (own.stage, own.generation, &own.secret) {
                    self.greeted.insert(from);
                }
            }
            Wire::Share { step, lanes } => {
                self.shares.insert((step, from), lanes);
                self.prepare(tools, out);
            }
            Wire::Control(message) => self.feed(Input::Said { from, message }, tools, out),
            Wire::Bye => {
                self.left.insert(from);
                self.leave_with_others(out);
            }
        }
    }

    fn gone(&mut self, rank: u32, why: String, tools: &mut Tools, out: &mut Vec<Deed>) {
        match self.phase {
            Phase::Leaving => self.exit(out),
            _ if self.left.contains(&rank) => {}
            _ => self.feed(Input::Lost { rank, why }, tools, out),
        }
    }

    fn connect(&mut self, members: &[Member], out: &mut Vec<Deed>) {
        if self.phase != Phase::Listening || !members.iter().map(|member| member.rank).eq(0..self.assignment.world) {
            out.push(Deed::Accuse(format!(
                "rank {} is told to connect out of turn",
                self.rank
            )));
            return;
        }
        let pids: Option<BTreeMap<u32, Pid>> = members
            .iter()
            .map(|member| Some((member.rank, member.address.parse().ok()?)))
            .collect();
        let ranks_of_nodes: Vec<u32> = members
            .chunk_by(|a, b| a.node == b.node)
            .map(|ranks| ranks.len() as u32)
            .collect();
        let (Some(mut pids), Ok(deal)) = (pids, deal(self.assignment.spec.lanes.count, &ranks_of_nodes)) else {
            out.push(Deed::Accuse(format!("these members cannot train: {members:?}")));
            return;
        };
        if pids.remove(&self.rank) != Some(self.pid) {
            out.push(Deed::Accuse(format!(
                "rank {} has another address in {members:?}",
                self.rank
            )));
        }
        self.peers = pids;
        self.deal = Some(deal);
        self.phase = Phase::Connecting;
        let hello = Wire::Hello {
            stage: self.assignment.stage,
            generation: self.assignment.generation,
            secret: self.assignment.secret.clone(),
        };
        self.send_all(&hello, out);
        out.push(later(Timing::default().connect, Alarm::ConnectLate));
    }

    /// Everyone is connected.
    fn begin(&mut self, tools: &mut Tools, out: &mut Vec<Deed>) {
        let Assignment { world, generation, .. } = self.assignment;
        let committed = self.toy.step;
        self.member = Some(membership::State::new(
            self.rank, world, generation, committed, PATIENCE,
        ));
        self.phase = Phase::Training;
        out.push(state(RankState::Running { committed }));
        out.push(later(TICK, Alarm::Tick));
        self.go_on(tools, out);
        for input in std::mem::take(&mut self.early) {
            self.feed(input, tools, out);
        }
    }

    /// Computes the next step, or closes after the last.
    fn go_on(&mut self, tools: &mut Tools, out: &mut Vec<Deed>) {
        let step = self.toy.step;
        if step < self.total() {
            out.push(later(tools.dice.ms(30, 150), Alarm::Computed { step }));
        } else {
            self.phase = Phase::Closing;
            self.close(out);
        }
    }

    fn own_lanes(&self) -> Lanes {
        let data = data(&self.assignment);
        let deal = self.deal.iter();
        let own = deal.flat_map(|deal| deal.lanes(self.rank));
        own.map(|lane| (lane, self.toy.lane(data, lane))).collect()
    }

    /// Says that it is prepared, once it is.
    fn prepare(&mut self, tools: &mut Tools, out: &mut Vec<Deed>) {
        let step = self.toy.step;
        let mut ranks = 0..self.assignment.world;
        let computing = self.member.as_ref().is_some_and(|member| !member.is_prepared());
        if computing && ranks.all(|rank| self.shares.contains_key(&(step, rank))) {
            let planned = is_planned(self.assignment.spec.checkpoint, step + 1, self.total(), None);
            let digest = self.toy.digest();
            self.feed(Input::Prepared { digest, planned }, tools, out);
        }
    }

    /// Feeds the membership and does what it says.
    fn feed(&mut self, input: Input, tools: &mut Tools, out: &mut Vec<Deed>) {
        let Some(member) = self.member.clone() else {
            self.early.push(input);
            return;
        };
        if self.phase != Phase::Training {
            return;
        }
        let (member, outputs) = membership::step(member, input, tools.now);
        self.member = Some(member);
        for output in outputs {
            match output {
                Output::Send { to, message } => self.send(to, Wire::Control(message), out),
                Output::Commit { checkpoint } => self.commit(checkpoint, tools, out),
                Output::Fail { reason } => self.fail(reason, out),
            }
        }
    }

    fn commit(&mut self, checkpoint: bool, tools: &mut Tools, out: &mut Vec<Deed>) {
        let step = self.toy.step;
        let later_shares = self.shares.split_off(&(step + 1, 0));
        let mut lanes: Lanes = std::mem::replace(&mut self.shares, later_shares)
            .into_values()
            .flatten()
            .collect();
        lanes.sort_unstable();
        if !lanes
            .iter()
            .map(|(lane, _)| *lane)
            .eq(0..self.assignment.spec.lanes.count)
        {
            out.push(Deed::Accuse(format!(
                "step {step} is committed with the lanes {lanes:?}"
            )));
        }
        let values: Vec<u64> = lanes.into_iter().map(|(_, value)| value).collect();
        self.toy = self.toy.commit(&values);
        out.push(Deed::Committed(self.toy));
        let metrics = self.toy.metrics();
        out.push(Deed::Say(FromRank::Committed { metrics }));
        if checkpoint {
            self.writing += 1;
            out.push(later(tools.dice.ms(20, 400), Alarm::Written(self.toy)));
        }
        self.go_on(tools, out);
    }

    fn written(&mut self, toy: Toy, tools: &mut Tools, out: &mut Vec<Deed>) {
        let (part, parts) = (self.rank, self.assignment.world);
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
        };
        self.writing -= 1;
        out.push(Deed::Say(FromRank::Part { part, peak_bytes: None }));
        self.close(out);
    }

    /// Is finished once all steps are committed and all parts written.
    fn close(&mut self, out: &mut Vec<Deed>) {
        if self.phase != Phase::Closing || self.writing > 0 {
            return;
        }
        let committed = self.toy.step;
        out.push(state(RankState::Finished { committed }));
        self.send_all(&Wire::Bye, out);
        self.phase = Phase::Leaving;
        out.push(later(GOODBYE_PATIENCE, Alarm::GoodbyeLate));
        self.leave_with_others(out);
    }

    fn leave_with_others(&mut self, out: &mut Vec<Deed>) {
        if self.phase == Phase::Leaving && self.left.len() == self.peers.len() {
            self.exit(out);
        }
    }

    fn exit(&mut self, out: &mut Vec<Deed>) {
        self.phase = Phase::Over;
        out.push(Deed::Exit("ended with exit code 0"));
    }

    fn fail(&mut self, reason: String, out: &mut Vec<Deed>) {
        self.phase = Phase::Over;
        out.push(state(RankState::Failed { reason, retry: true }));
        out.push(Deed::Exit("ended with exit code 1"));
    }

    fn send(&self, to: u32, wire: Wire, out: &mut Vec<Deed>) {
        out.extend(self.peers.get(&to).map(|to| Deed::Send { to: *to, wire }));
    }

    fn send_all(&self, wire: &Wire, out: &mut Vec<Deed>) {
        for rank in self.peers.keys() {
            self.send(*rank, wire.clone(), out);
        }
    }

    fn total(&self) -> u64 {
        let spec = &self.assignment.spec;
        let train = match self.assignment.kind {
            StageKind::Captioner => &spec.captioner,
            StageKind::Filter => &spec.filter,
            _ => &spec.pretrain,
        };
        match train.length {
            Length::Steps { count } | Length::Epochs { count } => count,
        }
    }
}

fn state(state: RankState) -> Deed {
    Deed::Say(FromRank::State { state })
}

fn later(after: Duration, alarm: Alarm) -> Deed {
    Deed::Later { after, alarm }
}
