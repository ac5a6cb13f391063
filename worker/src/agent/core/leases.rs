//! Leased tasks of a rank: wished for, held, renewed.

use super::message::{Output, ProcessId};
use super::ranks::{Ranks, Slot};
use medley_protocol::ids::{LeaseToken, StageId};
use medley_protocol::tasks::Lease;
use std::time::Duration;

/// Pause before a task is asked for again.
pub(super) const ASK_PAUSE: Duration = Duration::from_millis(500);
/// Shortest time between two renewals of a long lease.
const RENEW_PAUSE: Duration = Duration::from_secs(5);
/// A short lease is renewed this often in its life.
const RENEWALS_PER_LEASE: u32 = 3;

/// What a rank of a stage of tasks does.
#[derive(Debug, Clone, Default)]
pub(super) enum Work {
    /// Nothing that the agent knows of.
    #[default]
    Idle,
    /// It wants a task, to be asked for at this time.
    Wants { at: Duration },
    /// The coordinator was asked for a task.
    Asked,
    /// It works on a task.
    Holds(Held),
}

/// A lease that a rank holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub(super) token: LeaseToken,
    renewed_at: Duration,
    renew_every: Duration,
    /// When the rank last spoke of it.
    heard_at: Duration,
    lease: Duration,
}

impl Ranks {
    /// A rank has nothing to do.
    pub(super) fn wants_task(&mut self, id: ProcessId, at: Duration) {
        if let Some(slot) = self.slot_mut(id).filter(|slot| !matches!(slot.work, Work::Asked)) {
            slot.work = Work::Wants { at };
        }
    }

    /// Ranks for which a task is to be asked for now, as (process, stage, generation, rank); they count as asked.
    pub(super) fn ask(&mut self, now: Duration) -> Vec<(ProcessId, StageId, u64, u32)> {
        let mut due = Vec::new();
        for (seat, slot) in &mut self.slots {
            let wants = matches!(slot.work, Work::Wants { at } if at <= now) && !slot.is_over();
            if let Some(process) = slot.process.filter(|_| wants) {
                slot.work = Work::Asked;
                due.push((process, seat.stage, seat.generation, seat.rank));
            }
        }
        due
    }

    /// A rank gets an answer to its wish. False if it no longer waits for one.
    pub(super) fn answer(&mut self, id: ProcessId, lease: Option<&Lease>, now: Duration) -> bool {
        let Some(slot) = self.slot_mut(id).filter(|slot| matches!(slot.work, Work::Asked)) else {
            return false;
        };
        slot.work = match lease {
            None => Work::Wants { at: now + ASK_PAUSE },
            Some(lease) => Work::Holds(Held {
                token: lease.token,
                renewed_at: now,
                renew_every: RENEW_PAUSE.min(Duration::from_millis(lease.lease_ms) / RENEWALS_PER_LEASE),
                heard_at: now,
                lease: Duration::from_millis(lease.lease_ms),
            }),
        };
        true
    }

    /// There was no answer to a rank's wish: ask again at a later time.
    pub(super) fn ask_again(&mut self, id: ProcessId, at: Duration) {
        if let Some(slot) = self.slot_mut(id).filter(|slot| matches!(slot.work, Work::Asked)) {
            slot.work = Work::Wants { at };
        }
    }

    /// Whether progress on a lease is a reason to renew it now; it counts as renewed.
    pub(super) fn renew(&mut self, id: ProcessId, token: LeaseToken, now: Duration) -> bool {
        match self.slot_mut(id).map(|slot| &mut slot.work) {
            Some(Work::Holds(held)) if held.token == token => {
                held.heard_at = now;
                let is_due = now >= held.renewed_at + held.renew_every;
                if is_due {
                    held.renewed_at = now;
                }
                is_due
            }
            _ => false,
        }
    }

    /// Kills ranks that have said nothing of their task for as long as a lease lasts: they hang, and so would their stage
    /// if nobody else worked for it.
    pub(super) fn end_hung(&mut self, now: Duration, out: &mut Vec<Output>) {
        let hangs = |slot: &Slot| match slot.work {
            Work::Holds(held) if !slot.is_over() && now > held.heard_at + held.lease => {
                Some((slot.process?, held.lease))
            }
            _ => None,
        };
        let hung: Vec<(ProcessId, Duration)> = self.slots.values().filter_map(hangs).collect();
        for (process, silent) in hung {
            let reason = format!("it hangs: it has said nothing of its task for {} s", silent.as_secs());
            self.kill(process, reason, out);
        }
    }

    /// Whether a rank works under this lease.
    pub(super) fn holds(&self, token: LeaseToken) -> bool {
        let under = |work: &Work| matches!(work, Work::Holds(held) if held.token == token);
        self.slots.values().any(|slot| under(&slot.work))
    }

    /// A rank is done with a lease.
    pub(super) fn settle(&mut self, id: ProcessId, token: LeaseToken) {
        if let Some(slot) = self.slot_mut(id)
            && matches!(slot.work, Work::Holds(held) if held.token == token)
        {
            slot.work = Work::Idle;
        }
    }
}
