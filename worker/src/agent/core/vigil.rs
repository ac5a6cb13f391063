//! Processes that are there and do nothing: noticed, told of, and killed.

use super::message::{Output, ProcessId};
use super::ranks::{Process, Ranks, Slot};
use medley_protocol::agent::{Connecting, Doing, RankState};
use medley_protocol::vigil::QUIET;
use std::time::Duration;

/// Silence of a process after which it counts as standing still, whatever others say: fifteen pulses.
const SILENCE: Duration = Duration::from_millis(1500);
/// Shortest time that a process has to answer a call.
const PATIENCE: Duration = Duration::from_secs(2);
/// Usual steps within which a rank must answer a call that ends its generation: it looks for one in every step.
const STEPS_TO_ANSWER: u32 = 3;
/// Time between two looks after which this agent must have stood still itself.
const MAX_GAP: Duration = Duration::from_millis(500);

impl Ranks {
    /// A process says that it runs.
    pub(super) fn pulses(
        &mut self,
        id: ProcessId,
        doing: Option<Doing>,
        connecting: Option<&Connecting>,
        now: Duration,
    ) {
        for (seat, slot) in self.slots.iter_mut().filter(|(_, slot)| slot.process == Some(id)) {
            let of_this = connecting.filter(|connecting| connecting.generation == seat.generation);
            slot.connecting = of_this.cloned();
        }
        if let Some(process) = self.processes.get_mut(&id) {
            process.pulsed_at = Some(now);
            process.is_quiet = false;
            let misses = |doing: Option<Doing>| doing.is_some_and(|doing| doing.misses_somebody());
            self.news |= misses(doing) && !misses(process.doing);
            process.doing = doing;
            let usual = doing.and_then(|doing| doing.usual_step_ms).map(Duration::from_millis);
            process.patience = usual
                .map(|usual| (usual * STEPS_TO_ANSWER).max(PATIENCE))
                .or(process.patience);
        }
    }

    /// For how long a process has said nothing; none before its first pulse.
    pub(super) fn quiet_ms(&self, id: ProcessId, now: Duration) -> Option<u64> {
        let pulsed_at = self.processes.get(&id)?.pulsed_at?;
        Some(now.saturating_sub(pulsed_at).as_millis() as u64)
    }

    /// Kills processes that stand still: they are silent although a thread that does not compute should speak.
    ///
    /// If this agent stood still itself, as on a machine that slept, they get their whole time again.
    pub(super) fn end_silent(&mut self, now: Duration, out: &mut Vec<Output>) {
        let gap = now.saturating_sub(std::mem::replace(&mut self.looked_at, now));
        if gap > MAX_GAP {
            let pulses = self
                .processes
                .values_mut()
                .filter_map(|process| process.pulsed_at.as_mut());
            pulses.for_each(|pulsed_at| *pulsed_at += gap);
        }
        for process in self.processes.values_mut().filter(|process| !process.dying) {
            let is_quiet = process.pulsed_at.is_some_and(|pulsed_at| now >= pulsed_at + QUIET);
            let was_quiet = std::mem::replace(&mut process.is_quiet, is_quiet);
            self.news |= is_quiet && !was_quiet;
        }
        let is_silent = |process: &Process| process.pulsed_at.is_some_and(|pulsed_at| now > pulsed_at + SILENCE);
        let living = self.processes.iter().filter(|(_, process)| !process.dying);
        let silent: Vec<ProcessId> = living
            .filter(|(_, process)| is_silent(process))
            .map(|(id, _)| *id)
            .collect();
        for id in silent {
            let reason = format!(
                "it stands still: it has said nothing for {:.1} s",
                SILENCE.as_secs_f64()
            );
            self.kill(id, reason, out);
        }
        for (id, patience) in self.deaf(now) {
            let reason = format!(
                "it hangs: it has not answered its call for {:.1} s",
                patience.as_secs_f64()
            );
            self.kill(id, reason, out);
        }
    }

    /// Processes that were called to another generation at once, and do not answer although they pulse.
    fn deaf(&self, now: Duration) -> Vec<(ProcessId, Duration)> {
        let is_deaf = |slot: &Slot| {
            let id = slot.process?;
            let process = self.processes.get(&id).filter(|process| !process.dying)?;
            let patience = process.patience?;
            let is_late = now > slot.called_at? + patience;
            (is_late && slot.state == RankState::Starting).then_some((id, patience))
        };
        self.slots.values().filter_map(is_deaf).collect()
    }
}
