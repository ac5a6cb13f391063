//! Rank processes: which should run by the highest orders seen, and which do.
//!
//! A *slot* is a rank that the orders list: it is reported in every beat, from its start to the day it is no longer
//! listed. A *process* fills a slot, or is dying because no slot wants it any more. No process is started for a stage
//! of which another is still dying, nor on a device that a process still holds: two processes never own one rank.

use super::leases::Work;
use super::message::{Output, ProcessId};
use crate::rank::membership::LEADER;
use medley_protocol::agent::{Assignment, Orders, RankReport, RankState, Register, ToRank};
use medley_protocol::ids::{CheckpointRequestId, StageId};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone)]
pub(super) struct Ranks {
    devices: u32,
    /// Highest revision seen.
    seen: Option<u64>,
    assignments: BTreeMap<StageId, Assignment>,
    pub(super) slots: BTreeMap<(StageId, u32), Slot>,
    processes: BTreeMap<ProcessId, Process>,
    next_process: u64,
    /// A rank's state changed in a way the coordinator waits for.
    news: bool,
}

/// A rank that the orders list.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) generation: u64,
    state: RankState,
    /// None before its start and after its end.
    pub(super) process: Option<ProcessId>,
    connected: bool,
    /// Checkpoint requests passed on.
    told: BTreeSet<CheckpointRequestId>,
    /// What it does in a stage of tasks.
    pub(super) work: Work,
}

/// A process that has not ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Process {
    pub(super) stage: StageId,
    pub(super) rank: u32,
    pub(super) generation: u64,
    device: u32,
    /// Whether it is the lowest rank of its generation on this node.
    pub(super) lowest: bool,
    /// It is being killed; its slot, if there still is one, belongs to a successor.
    pub(super) dying: bool,
}

impl Process {
    /// The process, for people.
    pub(super) fn describe(&self) -> String {
        format!(
            "rank {} of stage {} in generation {}",
            self.rank, self.stage, self.generation
        )
    }
}

impl Ranks {
    pub(super) fn new(devices: u32) -> Self {
        Self {
            devices,
            seen: None,
            assignments: BTreeMap::new(),
            slots: BTreeMap::new(),
            processes: BTreeMap::new(),
            next_process: 0,
            news: false,
        }
    }

    /// Highest revision seen; 0 before any.
    pub(super) fn revision(&self) -> u64 {
        self.seen.unwrap_or(0)
    }

    /// What a beat says of the ranks.
    pub(super) fn reports(&self) -> Vec<RankReport> {
        let report = |((stage, rank), slot): (&(StageId, u32), &Slot)| RankReport {
            stage: *stage,
            generation: slot.generation,
            rank: *rank,
            state: slot.state.clone(),
        };
        self.slots.iter().map(report).collect()
    }

    /// Whether there is something that should not wait for the next beat.
    pub(super) fn has_news(&self) -> bool {
        self.news
    }

    /// All that is new was told.
    pub(super) fn told(&mut self) {
        self.news = false;
    }

    /// Whether no process is left.
    pub(super) fn are_gone(&self) -> bool {
        self.processes.is_empty()
    }

    /// A process that has not ended.
    pub(super) fn process(&self, id: ProcessId) -> Option<Process> {
        self.processes.get(&id).copied()
    }

    /// The slot that a process fills, unless it is dying.
    pub(super) fn slot_mut(&mut self, id: ProcessId) -> Option<&mut Slot> {
        let process = self.processes.get(&id)?;
        let slot = self.slots.get_mut(&(process.stage, process.rank))?;
        (slot.process == Some(id)).then_some(slot)
    }

    /// Training stages that run here: stage, generation, and whether the lowest rank runs here.
    pub(super) fn training(&self) -> Vec<(StageId, u64, bool)> {
        let training = self
            .assignments
            .values()
            .filter(|assignment| assignment.kind.is_training());
        training
            .map(|assignment| {
                (
                    assignment.stage,
                    assignment.generation,
                    assignment.ranks.contains(&LEADER),
                )
            })
            .collect()
    }

    /// Whether the orders list a stage.
    pub(super) fn lists(&self, stage: StageId) -> bool {
        self.assignments.contains_key(&stage)
    }

    /// Takes orders over if they are newer than all before: false if not.
    pub(super) fn obey(&mut self, orders: Orders, out: &mut Vec<Output>) -> bool {
        if self.seen.is_some_and(|seen| orders.revision <= seen) {
            return false;
        }
        self.seen = Some(orders.revision);
        self.assignments.clear();
        for assignment in orders.assignments {
            let of_stage = self.assignments.get(&assignment.stage);
            if of_stage.is_none_or(|other| other.generation < assignment.generation) {
                self.assignments.insert(assignment.stage, assignment);
            }
        }
        self.fill_slots();
        self.kill_unwanted(out);
        if self.slots.len() > self.devices as usize {
            let (ranks, devices) = (self.slots.len(), self.devices);
            out.push(Output::Warn(format!(
                "{ranks} ranks are ordered for {devices} devices; some have to wait"
            )));
        }
        true
    }

    /// Kills everything and forgets all orders.
    pub(super) fn abandon(&mut self, out: &mut Vec<Output>) {
        self.seen = None;
        self.assignments.clear();
        self.slots.clear();
        self.kill_unwanted(out);
    }

    /// Keeps slots whose generation goes on, adds new ones, drops the others.
    fn fill_slots(&mut self) {
        let mut before = std::mem::take(&mut self.slots);
        for assignment in self.assignments.values() {
            for rank in &assignment.ranks {
                let key = (assignment.stage, *rank);
                let same = before
                    .remove(&key)
                    .filter(|slot| slot.generation == assignment.generation);
                let slot = same.unwrap_or_else(|| Slot::new(assignment.generation));
                self.slots.insert(key, slot);
            }
        }
    }

    /// Kills the processes that fill no slot.
    fn kill_unwanted(&mut self, out: &mut Vec<Output>) {
        for (id, process) in &mut self.processes {
            let slot = self.slots.get(&(process.stage, process.rank));
            let wanted = slot.is_some_and(|slot| slot.process == Some(*id));
            if !wanted && !process.dying {
                process.dying = true;
                out.push(Output::Kill { process: *id });
            }
        }
    }

    /// Kills a process that still fills its slot, which says why.
    pub(super) fn kill(&mut self, id: ProcessId, reason: String, out: &mut Vec<Output>) {
        if let Some(process) = self.processes.get_mut(&id) {
            process.dying = true;
            out.push(Output::Warn(format!("{} is killed: {reason}", process.describe())));
            out.push(Output::Kill { process: id });
        }
        self.reached(id, RankState::Failed { reason, retry: true });
    }

    /// Starts ranks whose predecessors are gone and for which a device is free, and tells ranks what is new.
    pub(super) fn advance(&mut self, me: &Register, out: &mut Vec<Output>) {
        self.start_waiting(me, out);
        self.pass_on(out);
    }

    fn start_waiting(&mut self, me: &Register, out: &mut Vec<Output>) {
        let waiting = |slot: &Slot| slot.process.is_none() && !is_final(&slot.state);
        let keys: Vec<(StageId, u32)> = self
            .slots
            .iter()
            .filter(|(_, slot)| waiting(slot))
            .map(|(key, _)| *key)
            .collect();
        for (stage, rank) in keys {
            let dying = |process: &Process| process.stage == stage && process.dying;
            if self.processes.values().any(dying) {
                continue;
            }
            let Some(device) = self.free_device() else { return };
            self.start(stage, rank, device, me, out);
        }
    }

    fn free_device(&self) -> Option<u32> {
        let taken: BTreeSet<u32> = self.processes.values().map(|process| process.device).collect();
        (0..self.devices).find(|device| !taken.contains(device))
    }

    fn start(&mut self, stage: StageId, rank: u32, device: u32, me: &Register, out: &mut Vec<Output>) {
        let key = (stage, rank);
        let (Some(assignment), Some(slot)) = (self.assignments.get(&stage), self.slots.get_mut(&key)) else {
            return;
        };
        let id = ProcessId(self.next_process);
        self.next_process += 1;
        slot.process = Some(id);
        let process = Process {
            stage,
            rank,
            generation: assignment.generation,
            device,
            lowest: assignment.ranks.iter().min() == Some(&rank),
            dying: false,
        };
        self.processes.insert(id, process);
        // Members and checkpoint requests follow as orders of their own.
        let assignment = Assignment {
            members: Vec::new(),
            checkpoint_after: None,
            ..assignment.clone()
        };
        let order = ToRank::Start {
            assignment: Box::new(assignment),
            rank,
            host: me.host.clone(),
            threads: me.threads,
        };
        let process = id;
        out.push(Output::Start { process, device, order });
    }

    /// Tells ranks their peers, and then requested checkpoints, each once.
    fn pass_on(&mut self, out: &mut Vec<Output>) {
        for ((stage, _), slot) in &mut self.slots {
            let (Some(process), Some(assignment)) = (slot.process, self.assignments.get(stage)) else {
                continue;
            };
            if assignment.members.is_empty() || is_final(&slot.state) {
                continue;
            }
            if !std::mem::replace(&mut slot.connected, true) {
                let members = assignment.members.clone();
                let generation = assignment.generation;
                let order = ToRank::Connect { generation, members };
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

    /// A rank says what it does.
    pub(super) fn reached(&mut self, id: ProcessId, state: RankState) {
        let Some(slot) = self.slot_mut(id) else { return };
        if is_final(&slot.state) {
            return;
        }
        let urgent = is_final(&state) || matches!(state, RankState::Listening { .. });
        slot.state = state;
        self.news |= urgent;
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
        self.reached(id, RankState::Failed { reason, retry: true });
        let work = self.slot_mut(id).map(|slot| {
            slot.process = None;
            std::mem::take(&mut slot.work)
        });
        let process = self.processes.remove(&id)?;
        Some((process, work.unwrap_or_default()))
    }
}

impl Slot {
    fn new(generation: u64) -> Self {
        Self {
            generation,
            state: RankState::Starting,
            process: None,
            connected: false,
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
    matches!(state, RankState::Finished { .. } | RankState::Failed { .. })
}
