//! Rank processes: which should run by the highest orders seen, and which do.
//!
//! A *slot* is a rank of a generation that the orders list: it is reported in every beat, from its start to the day it is no
//! longer listed. A *process* fills a slot, or is dying because no slot wants it any more. No process is started for a stage
//! of which another is still dying, nor on a device that a process still holds: two processes never own one rank.
//! [`seating`](super::seating) decides which process fills which slot.

use super::leases::Work;
use super::message::{Output, ProcessId};
use super::seating::bare;
use super::words;
use crate::rank::membership::LEADER;
use medley_protocol::agent::{Assignment, Connecting, Doing, RankReport, RankState, Register, ToRank};
use medley_protocol::ids::{CheckpointRequestId, StageId};
use medley_protocol::spec::Precision;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

#[derive(Debug, Clone)]
pub(super) struct Ranks {
    pub(super) devices: u32,
    /// Whether ranks compute on GPUs.
    pub(super) on_gpus: bool,
    /// Highest revision seen.
    pub(super) seen: Option<u64>,
    /// By stage and generation.
    pub(super) assignments: BTreeMap<(StageId, u64), Assignment>,
    pub(super) slots: BTreeMap<Seat, Slot>,
    pub(super) processes: BTreeMap<ProcessId, Process>,
    next_process: u64,
    /// Something changed in a way the coordinator waits for.
    pub(super) news: bool,
    /// When this agent last looked for processes that stand still.
    pub(super) looked_at: Duration,
}

/// A rank of a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Seat {
    pub(super) stage: StageId,
    pub(super) generation: u64,
    pub(super) rank: u32,
}

/// A rank that the orders list.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) state: RankState,
    /// Since when its process was called at once to it, until it answers.
    pub(super) called_at: Option<Duration>,
    /// None before its start and after its end.
    pub(super) process: Option<ProcessId>,
    /// Whether its process was told its peers.
    told_peers: bool,
    /// Whether its process knows that it is to leave.
    parting: bool,
    /// How far its process is with the connections of this generation, when it last said so.
    pub(super) connecting: Option<Connecting>,
    /// Checkpoint requests passed on.
    told: BTreeSet<CheckpointRequestId>,
    /// What it does in a stage of tasks.
    pub(super) work: Work,
}

/// A process that has not ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Process {
    /// Where it works, or worked last.
    pub(super) seat: Seat,
    device: u32,
    /// It is being killed; its slot, if there still is one, belongs to a successor.
    pub(super) dying: bool,
    /// When it last said that it runs.
    pub(super) pulsed_at: Option<Duration>,
    /// It has not said so for long.
    pub(super) is_quiet: bool,
    /// Where in a step it was then.
    pub(super) doing: Option<Doing>,
    /// Time that it may take to answer a call: none before it has trained.
    pub(super) patience: Option<Duration>,
}

impl Process {
    /// The process, for people.
    pub(super) fn describe(&self) -> String {
        let Seat {
            stage,
            generation,
            rank,
        } = self.seat;
        format!("rank {rank} of stage {stage} in generation {generation}")
    }
}

impl Ranks {
    pub(super) fn new(devices: u32) -> Self {
        Self {
            devices,
            on_gpus: false,
            seen: None,
            assignments: BTreeMap::new(),
            slots: BTreeMap::new(),
            processes: BTreeMap::new(),
            next_process: 0,
            news: false,
            looked_at: Duration::ZERO,
        }
    }

    /// Highest revision seen; 0 before any.
    pub(super) fn revision(&self) -> u64 {
        self.seen.unwrap_or(0)
    }

    /// What a beat says of the ranks.
    pub(super) fn reports(&self, now: Duration) -> Vec<RankReport> {
        let report = |(seat, slot): (&Seat, &Slot)| RankReport {
            stage: seat.stage,
            generation: seat.generation,
            rank: seat.rank,
            state: slot.state.clone(),
            doing: slot.process.and_then(|id| self.doing(id, *seat)),
            quiet_ms: slot.process.and_then(|id| self.quiet_ms(id, now)),
            connecting: slot.process.and(slot.connecting.clone()),
        };
        words::in_beat(self.slots.iter().map(report).collect())
    }

    /// Where in a step a process is, if it works in this seat.
    fn doing(&self, id: ProcessId, seat: Seat) -> Option<Doing> {
        self.processes.get(&id).filter(|process| process.seat == seat)?.doing
    }

    /// Whether there is something that should not wait for the next beat.
    pub(super) fn has_news(&self) -> bool {
        self.news
    }

    /// All that is new was told.
    pub(super) fn told(&mut self) {
        self.news = false;
    }

    /// Whether nothing is listed and no process is left.
    pub(super) fn are_all_gone(&self) -> bool {
        self.slots.is_empty() && self.are_gone()
    }

    /// Whether no process is left.
    pub(super) fn are_gone(&self) -> bool {
        self.processes.is_empty()
    }

    /// A process that has not ended.
    pub(super) fn process(&self, id: ProcessId) -> Option<Process> {
        self.processes.get(&id).copied()
    }

    /// The slot in which a process works, unless it is dying.
    pub(super) fn slot_mut(&mut self, id: ProcessId) -> Option<&mut Slot> {
        let seat = self.processes.get(&id)?.seat;
        self.slots.get_mut(&seat).filter(|slot| slot.process == Some(id))
    }

    /// Training stages that run here, with the generation that works: stage, generation, and whether its lowest rank runs here.
    pub(super) fn training(&self) -> Vec<(StageId, u64, bool)> {
        let training = self.assignments.values().filter(|a| a.kind.is_training());
        // A generation that gets ready beside another comes after it.
        let mut present: BTreeMap<StageId, (u64, bool)> = BTreeMap::new();
        for assignment in training {
            let leads = assignment.ranks.contains(&LEADER);
            present
                .entry(assignment.stage)
                .or_insert((assignment.generation, leads));
        }
        let of_stage = |(stage, (generation, leads))| (stage, generation, leads);
        present.into_iter().map(of_stage).collect()
    }

    /// Whether the orders list a stage.
    pub(super) fn lists(&self, stage: StageId) -> bool {
        self.assignments.keys().any(|(listed, _)| *listed == stage)
    }

    /// Kills a process that still fills its slot, which says why.
    pub(super) fn kill(&mut self, id: ProcessId, reason: String, out: &mut Vec<Output>) {
        if let Some(process) = self.processes.get_mut(&id) {
            process.dying = true;
            out.push(Output::Warn(format!("{} is killed: {reason}", process.describe())));
            out.push(Output::Kill { process: id });
        }
        self.failed(id, &RankState::Failed { reason, retry: true });
    }

    /// Starts ranks whose predecessors are gone and for which a device is free, and tells ranks what is new.
    pub(super) fn advance(&mut self, me: &Register, out: &mut Vec<Output>) {
        self.start_waiting(me, out);
        self.pass_on(out);
    }

    /// Slots that no process fills or has filled.
    pub(super) fn vacant(&self) -> impl Iterator<Item = Seat> + '_ {
        let vacant = |slot: &Slot| slot.process.is_none() && !is_final(&slot.state);
        self.slots
            .iter()
            .filter(move |(_, slot)| vacant(slot))
            .map(|(seat, _)| *seat)
    }

    fn start_waiting(&mut self, me: &Register, out: &mut Vec<Output>) {
        for seat in self.vacant().collect::<Vec<Seat>>() {
            let dying = |process: &Process| process.seat.stage == seat.stage && process.dying;
            if self.processes.values().any(dying) {
                continue;
            }
            let Some(device) = self.free_device() else { return };
            self.start(seat, device, me, out);
        }
    }

    fn free_device(&self) -> Option<u32> {
        let taken: BTreeSet<u32> = self.processes.values().map(|process| process.device).collect();
        (0..self.devices).find(|device| !taken.contains(device))
    }

    fn start(&mut self, seat: Seat, device: u32, me: &Register, out: &mut Vec<Output>) {
        let assignment = self.assignments.get(&(seat.stage, seat.generation));
        let (Some(assignment), Some(slot)) = (assignment, self.slots.get_mut(&seat)) else {
            return;
        };
        let id = ProcessId(self.next_process);
        self.next_process += 1;
        slot.process = Some(id);
        let process = Process {
            seat,
            device,
            dying: false,
            pulsed_at: None,
            is_quiet: false,
            doing: None,
            patience: None,
        };
        self.processes.insert(id, process);
        let order = ToRank::Start {
            assignment: Box::new(bare(assignment)),
            rank: seat.rank,
            host: me.host.clone(),
            threads: me.threads,
            device: device_name(self.on_gpus, assignment.spec.precision()).into(),
        };
        let process = id;
        out.push(Output::Start { process, device, order });
    }

    /// Tells ranks that they are to leave, their peers, and then requested checkpoints, each once.
    fn pass_on(&mut self, out: &mut Vec<Output>) {
        for (seat, slot) in &mut self.slots {
            let assignment = self.assignments.get(&(seat.stage, seat.generation));
            let (Some(process), Some(assignment)) = (slot.process, assignment) else {
                continue;
            };
            let parting = assignment.parting.as_ref();
            if let Some(parting) = parting.filter(|parting| parting.ranks.contains(&seat.rank))
                && !std::mem::replace(&mut slot.parting, true)
            {
                let (next, saves) = (parting.next, parting.saves);
                let order = ToRank::Leave { next, saves };
                out.push(Output::Tell { process, order });
            }
            if assignment.members.is_empty() || is_final(&slot.state) {
                continue;
            }
            if !std::mem::replace(&mut slot.told_peers, true) {
                let order = ToRank::Connect {
                    generation: seat.generation,
                    members: assignment.members.clone(),
                };
                out.push(Output::Tell { process, order });
            }
            if let Some(wanted) = assignment
                .checkpoint_after
                .filter(|wanted| slot.told.insert(wanted.request))
            {
                let order = ToRank::CheckpointAfter { wanted };
                out.push(Output::Tell { process, order });
            }
        }
    }

    /// A rank says what it does in a generation. True if it works there from now on, or still: one that is unwanted does not.
    pub(super) fn reached(&mut self, id: ProcessId, generation: u64, state: RankState) -> bool {
        if has_failed(&state) {
            self.failed(id, &state);
            return false;
        }
        let Some(process) = self.processes.get_mut(&id) else {
            return false;
        };
        let mut own = self.slots.iter_mut().filter(|(_, slot)| slot.process == Some(id));
        let Some((seat, slot)) = own.find(|(seat, _)| seat.generation == generation) else {
            return false;
        };
        if is_final(&slot.state) {
            return false;
        }
        let works = matches!(state, RankState::Running { .. });
        if works {
            process.seat = *seat;
        }
        self.news |= !matches!(state, RankState::Starting | RankState::Running { .. });
        slot.state = state;
        works
    }

    /// A process has failed, in whatever it was to do.
    fn failed(&mut self, id: ProcessId, state: &RankState) {
        for slot in self.slots.values_mut().filter(|slot| slot.process == Some(id)) {
            if !is_final(&slot.state) {
                slot.state = state.clone();
                self.news = true;
            }
        }
    }

    /// A rank has committed so many steps.
    pub(super) fn committed(&mut self, id: ProcessId, steps: u64) {
        let Some(slot) = self.slot_mut(id) else { return };
        if let RankState::Running { committed } = &mut slot.state {
            *committed = steps.max(*committed);
        }
    }

    /// A process has ended. Returns it, and its slot's work if it died on its own.
    pub(super) fn exited(&mut self, id: ProcessId, how: &str) -> Option<(Process, Work)> {
        let reason = format!("its process {how}");
        self.failed(id, &RankState::Failed { reason, retry: true });
        let work = self.slot_mut(id).map(|slot| std::mem::take(&mut slot.work));
        let own = self.slots.values_mut().filter(|slot| slot.process == Some(id));
        own.for_each(|slot| slot.process = None);
        let process = self.processes.remove(&id)?;
        Some((process, work.unwrap_or_default()))
    }
}

/// How a rank calls the device it is started on: of GPUs, it sees one.
fn device_name(is_gpu: bool, precision: Precision) -> &'static str {
    match precision {
        _ if !is_gpu => "cpu",
        Precision::Fp32 => "cuda:0",
        Precision::Bf16 => "cuda:0:bf16",
    }
}

impl Slot {
    pub(super) fn new() -> Self {
        Self {
            state: RankState::Starting,
            called_at: None,
            process: None,
            told_peers: false,
            parting: false,
            connecting: None,
            told: BTreeSet::new(),
            work: Work::Idle,
        }
    }

    /// Whether the rank has said its last word.
    pub(super) fn is_over(&self) -> bool {
        is_final(&self.state)
    }
}

fn is_final(state: &RankState) -> bool {
    has_failed(state) || matches!(state, RankState::Finished { .. } | RankState::Left { .. })
}

pub(super) fn has_failed(state: &RankState) -> bool {
    matches!(
        state,
        RankState::Failed { .. } | RankState::Damaged { .. } | RankState::Doubtful { .. }
    )
}
