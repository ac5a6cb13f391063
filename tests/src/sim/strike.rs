//! What faults do to the world, and what must follow from them.

use super::faults::{FOR_GOOD, Fault};
use super::process::{Actor, Heard, Pid, Process, Seat};
use super::witness::describe;
use super::world::{Happening, World};
use medley_worker::agent::core::Input;
use medley_worker::collective::tcp::Timing;
use std::time::Duration;

/// Time within which a rank that computes for ever is named. It may first have to miss a call to the next generation, and the
/// end of a second one without a step is made known after a pause.
const NAMED_WITHIN: Duration = Duration::from_secs(12);
/// Time for ranks to end and facts to arrive once an agent stops.
const STOP_PATIENCE: Duration = Duration::from_secs(4);

impl World<'_> {
    /// Something goes wrong.
    pub(super) fn fail(&mut self, fault: Fault) {
        self.witness.note(|| format!("FAULT {fault:?}"));
        self.witness.count(fault.name());
        let is_alone = self.now >= self.disturbed_until;
        self.disturbed_until = self.disturbed_until.max(self.now.saturating_add(fault.disturbs()));
        self.num_faults += 1;
        match fault {
            Fault::KillRank => {
                if let Some(pid) = self.some_rank() {
                    self.end(pid, "was ended by signal 9");
                }
            }
            Fault::FreezeRank { lasts } => self.freeze(lasts),
            Fault::Spin { lasts } => {
                if let Some(pid) = self.some_that_trains() {
                    self.processes[pid].spins_until = self.now.saturating_add(lasts);
                    self.expect_a_verdict(pid, lasts, is_alone);
                }
            }
            Fault::Reset => self.reset(),
            Fault::Flip { bit } => self.flip(bit),
            Fault::KillAgent { node, down } => self.kill_agent(node, down),
            Fault::Leave { node, grace, down } => {
                self.nodes[node].leaves(down);
                let life = self.nodes[node].life;
                let over = self.now + grace + STOP_PATIENCE;
                self.agenda.put(over, Happening::GraceOver { node, life });
                self.feed(node, Input::Leave { grace });
            }
            Fault::Cut {
                from,
                to,
                both_ways,
                lasts,
            } => {
                self.cut(from, to, lasts);
                if both_ways {
                    self.cut(to, from, lasts);
                }
            }
            Fault::Silence { node, silence, lasts } => self.network.silence(node, silence, self.now + lasts),
            Fault::KillCoordinator { down, torn } => {
                if torn {
                    self.decide(false);
                }
                self.coordinator = None;
                self.agenda.put(self.now + down, Happening::CoordinatorStarts);
            }
        }
    }

    /// A rank stands still. Its peers give it up if that lasts.
    fn freeze(&mut self, lasts: Duration) {
        let Some(pid) = self.some_rank() else { return };
        self.processes[pid].frozen_until = self.now.saturating_add(lasts);
        if lasts > Timing::default().silence
            && let Some((seat, peers)) = self.seat(pid)
        {
            peers.into_iter().for_each(|peer| self.miss((pid, seat), peer));
        }
    }

    /// Two ranks lose their connection.
    fn reset(&mut self) {
        let Some(pid) = self.some_rank() else { return };
        let Some((seat, peers)) = self.seat(pid) else { return };
        let Some(peer) = peers.first().copied() else { return };
        self.lose((pid, seat), peer, "connection reset");
        if let Some((of_peer, _)) = self.seat(peer) {
            self.lose((peer, of_peer), pid, "connection reset");
        }
    }

    /// A bit flips in the state of a rank that trains.
    fn flip(&mut self, bit: u32) {
        let Some(pid) = self.some_that_trains() else { return };
        let Some((seat, _)) = self.seat(pid) else { return };
        let process = &mut self.processes[pid];
        if process.actor.as_mut().is_some_and(|actor| actor.flip(bit)) {
            self.witness.flipped(process.place.stage, seat.generation);
        }
    }

    /// A rank that trains computes for ever. If nothing else goes wrong, somebody has to say which one it is.
    fn expect_a_verdict(&mut self, pid: Pid, lasts: Duration, is_alone: bool) {
        if is_alone && lasts > NAMED_WITHIN {
            let (began, faults) = (self.now, self.num_faults);
            let named = Happening::IsNamed { pid, began, faults };
            self.agenda.put(self.now + NAMED_WITHIN, named);
        }
    }

    /// Whether a rank that has computed for ever since `began` was named, if there was no other fault. In the midst of an exchange it
    /// looks like one whose messages do not arrive, and its node may have been late at the same time: then its generation is over
    /// for that reason. It is named if it misses the call to the next one, and if that is made without it, it has been ended.
    pub(super) fn is_named(&mut self, pid: Pid, began: Duration, faults: u64) {
        if self.num_faults > faults {
            return;
        }
        let place = self.processes[pid].place;
        let has_ended = self.processes[pid].actor.is_none();
        if self.witness.has_named(place.node, began) {
            self.witness.count("spinning rank named");
        } else if has_ended && self.witness.has_told_an_end(place.stage, began) {
            self.witness.count("spinning rank left behind");
        } else {
            let (rank, within) = (describe(pid, place), NAMED_WITHIN.as_secs());
            self.witness.accuse(format!(
                "{rank} computes for ever, and nobody has said so within {within} s"
            ));
        }
    }

    /// A rank that runs now, if any does.
    fn some_rank(&mut self) -> Option<Pid> {
        self.some(|process| process.actor.is_some())
    }

    /// A rank in the midst of steps that it takes with others, if any is.
    fn some_that_trains(&mut self) -> Option<Pid> {
        self.some(|process| process.actor.as_ref().is_some_and(Actor::trains))
    }

    /// One of the processes that are like this, if any is.
    fn some(&mut self, is_like_this: impl Fn(&Process) -> bool) -> Option<Pid> {
        let found: Vec<Pid> = (0..self.processes.len())
            .filter(|pid| is_like_this(&self.processes[*pid]))
            .collect();
        (!found.is_empty()).then(|| found[self.dice.below(found.len())])
    }

    fn seat(&self, pid: Pid) -> Option<(Seat, Vec<Pid>)> {
        self.processes[pid].actor.as_ref()?.seat()
    }

    /// An agent dies, its ranks with it; it starts again after a while, unless it is gone for good.
    pub(super) fn kill_agent(&mut self, node: usize, down: Duration) {
        if self.nodes[node].agent.take().is_some() && down < FOR_GOOD {
            self.agenda.put(self.now + down, Happening::AgentStarts { node });
        }
        for pid in 0..self.processes.len() {
            if self.processes[pid].place.node == node {
                self.end(pid, "died with its agent");
            }
        }
    }

    /// An agent ends that was asked to leave, if it still lives that life.
    pub(super) fn grace_over(&mut self, node: usize, life: u64) {
        if self.nodes[node].life == life
            && let Some(down) = self.nodes[node].left()
        {
            self.kill_agent(node, down);
        }
    }

    /// Nothing gets from one node to another any more: whoever listened there gives up after a while.
    fn cut(&mut self, from: usize, to: usize, lasts: Duration) {
        self.network.cut(from, to, self.now, self.now.saturating_add(lasts));
        if lasts <= Timing::default().silence {
            return;
        }
        let on = |pid: &Pid, node: usize| self.processes[*pid].place.node == node;
        let mut missed: Vec<((Pid, Seat), Pid)> = Vec::new();
        for pid in (0..self.processes.len()).filter(|pid| on(pid, from)) {
            let Some((seat, peers)) = self.seat(pid) else { continue };
            missed.extend(
                peers
                    .iter()
                    .filter(|peer| on(peer, to))
                    .map(|peer| ((pid, seat), *peer)),
            );
        }
        missed.into_iter().for_each(|(silent, peer)| self.miss(silent, peer));
    }

    /// A process has heard nothing of its peers for so long that it gives them up.
    fn miss(&mut self, (silent, seat): (Pid, Seat), pid: Pid) {
        let why = format!("p{silent} is silent");
        let heard = Heard::Gone { seat, why };
        let at = self.now + Timing::default().silence;
        self.agenda.put(at, Happening::Heard { pid, heard });
    }
}
