//! Who fills which slot when orders change.
//!
//! Processes of a training stage outlive their generation. The slots of a newer one go first to the living processes of the
//! stage, in the order of their ranks; for what is left over new ones are started. A process that the coordinator names as
//! left out gets none, nor one that worked in a generation which is not trusted; what fills no slot is killed. While a generation gets ready beside the present one, or ranks leave
//! the one before, a process fills a slot in each.

use super::message::{Output, ProcessId};
use super::ranks::{Ranks, Seat, Slot, has_failed};
use medley_protocol::agent::{Assignment, Orders, RankState, ToRank};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

impl Ranks {
    /// Takes orders over if they are newer than all before: false if not.
    pub(super) fn obey(&mut self, orders: Orders, now: Duration, out: &mut Vec<Output>) -> bool {
        if self.seen.is_some_and(|seen| orders.revision <= seen) {
            return false;
        }
        self.seen = Some(orders.revision);
        let listed = orders.assignments.into_iter();
        self.assignments = listed
            .map(|listed| ((listed.stage, listed.generation), listed))
            .collect();
        self.fill_slots(now, out);
        self.kill_unwanted(out);
        let dying = self.processes.values().filter(|process| process.dying).count();
        let wanted = self.processes.len() - dying + self.vacant().count();
        if wanted > self.devices as usize {
            let devices = self.devices;
            out.push(Output::Warn(format!(
                "{wanted} ranks are ordered for {devices} devices; some have to wait"
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
    fn fill_slots(&mut self, now: Duration, out: &mut Vec<Output>) {
        let survivors = self.survivors();
        let mut before = std::mem::take(&mut self.slots);
        for ((stage, generation), assignment) in &self.assignments {
            let (stage, generation) = (*stage, *generation);
            let seats = assignment.ranks.iter().map(|rank| Seat {
                stage,
                generation,
                rank: *rank,
            });
            let (kept, new): (Vec<Seat>, Vec<Seat>) = seats.partition(|seat| before.contains_key(seat));
            let kept = kept.into_iter().filter_map(|seat| Some((seat, before.remove(&seat)?)));
            self.slots.extend(kept);
            let mut free: Vec<(Seat, ProcessId)> = survivors
                .iter()
                .filter(|(_, (seat, latest))| {
                    let is_trusted = seat.generation > assignment.distrusts;
                    assignment.kind.is_training() && seat.stage == stage && *latest < generation && is_trusted
                })
                .map(|(process, (seat, _))| (*seat, *process))
                .collect();
            free.sort_unstable();
            let mut free = free.into_iter();
            for seat in new {
                let mut slot = Slot::new();
                if let Some((old, process)) = free.next() {
                    let at_once = !self.assignments.contains_key(&(stage, old.generation));
                    slot.process = Some(process);
                    slot.called_at = at_once.then_some(now);
                    out.push(Output::Tell {
                        process,
                        order: ToRank::Regroup {
                            assignment: Box::new(bare(assignment)),
                            rank: seat.rank,
                            at_once,
                        },
                    });
                }
                self.slots.insert(seat, slot);
            }
        }
    }

    /// Living processes that may get another slot: where they work, and the latest generation in which they have one.
    fn survivors(&self) -> BTreeMap<ProcessId, (Seat, u64)> {
        let left_out: BTreeSet<ProcessId> = self.left_out().collect();
        let is_sound = |slot: &Slot| !has_failed(&slot.state) && !matches!(slot.state, RankState::Left { .. });
        let mut survivors: BTreeMap<ProcessId, (Seat, u64)> = BTreeMap::new();
        for (seat, slot) in self.slots.iter().filter(|(_, slot)| is_sound(slot)) {
            let living = slot.process.and_then(|id| Some((id, self.processes.get(&id)?)));
            if let Some((id, process)) = living.filter(|(id, process)| !process.dying && !left_out.contains(id)) {
                let (_, latest) = survivors.entry(id).or_insert((process.seat, seat.generation));
                *latest = seat.generation.max(*latest);
            }
        }
        survivors
    }

    /// Processes that the coordinator has found to hold up the others.
    fn left_out(&self) -> impl Iterator<Item = ProcessId> + '_ {
        let named = self.assignments.iter().flat_map(|((stage, _), assignment)| {
            assignment.without.iter().map(move |former| Seat {
                stage: *stage,
                generation: former.generation,
                rank: former.rank,
            })
        });
        named.filter_map(|seat| self.slots.get(&seat)?.process)
    }

    /// Kills the processes that fill no slot.
    fn kill_unwanted(&mut self, out: &mut Vec<Output>) {
        let wanted: BTreeSet<ProcessId> = self.slots.values().filter_map(|slot| slot.process).collect();
        for (id, process) in &mut self.processes {
            if !wanted.contains(id) && !process.dying {
                process.dying = true;
                out.push(Output::Kill { process: *id });
            }
        }
    }
}

/// What a rank is told at first: members, checkpoint requests and the end follow as orders of their own.
pub(super) fn bare(assignment: &Assignment) -> Assignment {
    Assignment {
        members: Vec::new(),
        parting: None,
        checkpoint_after: None,
        ..assignment.clone()
    }
}
