//! Whether a stage's ledger is whole: every position of every epoch once, and at each the sample that the order puts there.
//!
//! The order is a function of (seed, epoch, position), so it is computed here again and what the ranks say that they have read
//! is held against it.

use medley_data::order::{Order, place};
use medley_protocol::ledger::{LaneSamples, LedgerEntry};
use serde::Serialize;
use std::ops::Range;

/// Faults that are told one by one; of more there is only a count.
const MAX_FAULTS: usize = 20;

/// What a stage should have read.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    /// The stage's name.
    pub(super) stage: String,
    /// The stage's own seed.
    pub(super) seed: u64,
    /// Lanes of a step.
    pub(super) lanes: u32,
    /// Samples of a lane.
    pub(super) batch: u32,
    /// Committed steps.
    pub(super) steps: u64,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Report {
    /// The stage's name.
    pub(super) stage: String,
    /// Committed steps.
    pub(super) steps: u64,
    /// Samples that the stage draws from.
    pub(super) pairs: u64,
    /// Steps of an epoch.
    pub(super) steps_per_epoch: u64,
    /// Positions at the end of each epoch that no step reads: too few for another one.
    pub(super) unread: Range<u64>,
    /// Samples read.
    pub(super) read: u64,
    /// Samples that stand in for others.
    pub(super) replaced: Vec<Substitute>,
    /// What is wrong, in words; empty if the ledger is whole.
    pub(super) faults: Vec<String>,
    /// Faults beyond those.
    pub(super) more_faults: u64,
}

impl Report {
    /// Whether every position was read once, and as the order says.
    pub(super) fn is_whole(&self) -> bool {
        self.faults.is_empty()
    }

    /// Adds a fault.
    pub(super) fn fault(&mut self, fault: String) {
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(fault);
        } else {
            self.more_faults += 1;
        }
    }
}

/// A sample in another one's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Substitute {
    /// The step.
    pub(super) step: u64,
    /// The epoch.
    pub(super) epoch: u64,
    /// The position in the epoch.
    pub(super) position: u64,
    /// The sample that no longer decodes.
    pub(super) sample: u64,
    /// The one that was read.
    pub(super) by: u64,
    /// Number of the draw that gave it.
    pub(super) tries: u64,
    /// Names of both, where they are known.
    pub(super) names: Option<[String; 2]>,
}

/// A check under way; entries come in order of their steps.
pub(super) struct Check {
    facts: Facts,
    report: Report,
    /// The step whose entry is expected.
    next: u64,
    /// The present epoch and the positions of it that were read.
    epoch: u64,
    read: Vec<bool>,
}

impl Check {
    /// Nothing is checked yet.
    pub(super) fn new(facts: Facts) -> Self {
        let report = Report {
            stage: facts.stage.clone(),
            steps: facts.steps,
            pairs: 0,
            steps_per_epoch: 0,
            unread: 0..0,
            read: 0,
            replaced: Vec::new(),
            faults: Vec::new(),
            more_faults: 0,
        };
        Self {
            facts,
            report,
            next: 0,
            epoch: 0,
            read: Vec::new(),
        }
    }

    /// The step whose entry is wanted.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Takes in an entry.
    pub(super) fn entry(&mut self, entry: &LedgerEntry) {
        let step = entry.step;
        if step < self.next {
            return self.report.fault(format!("step {step} has more than one entry"));
        }
        self.skip_to(step);
        self.next = step + 1;
        if !self.fits(entry) {
            return;
        }
        while step / self.report.steps_per_epoch > self.epoch {
            self.close_epoch();
        }
        for (lane, samples) in (0..).zip(&entry.lanes) {
            self.lane(step, lane, samples);
        }
    }

    /// All entries were taken in.
    pub(super) fn finish(mut self) -> Report {
        self.skip_to(self.facts.steps);
        if self.report.steps_per_epoch > 0 {
            while self.epoch * self.report.steps_per_epoch < self.facts.steps {
                self.close_epoch();
            }
        }
        self.report
    }

    fn skip_to(&mut self, step: u64) {
        if self.next < step {
            let steps = between(self.next..step);
            self.report.fault(format!("no entry: step {steps}"));
        }
    }

    /// Whether an entry has the form of this stage's; the first one tells how many pairs there are.
    fn fits(&mut self, entry: &LedgerEntry) -> bool {
        let (step, lanes, global) = (entry.step, self.facts.lanes as usize, self.global_batch());
        if self.report.pairs == 0 && entry.pairs >= global {
            self.report.pairs = entry.pairs;
            self.report.steps_per_epoch = entry.pairs / global;
            self.report.unread = self.report.steps_per_epoch * global..entry.pairs;
            self.read = vec![false; self.report.unread.start as usize];
        }
        let fault = if entry.pairs != self.report.pairs {
            format!(
                "step {step} draws from {} pairs, not {}",
                entry.pairs, self.report.pairs
            )
        } else if entry.lanes.len() != lanes {
            format!("step {step} has {} lanes, not {lanes}", entry.lanes.len())
        } else {
            return true;
        };
        self.report.fault(fault);
        false
    }

    fn lane(&mut self, step: u64, lane: u64, found: &LaneSamples) {
        let (lanes, batch) = (u64::from(self.facts.lanes), u64::from(self.facts.batch));
        let where_ = format!("step {step}, lane {lane}");
        if found.samples.len() as u64 != batch {
            let len = found.samples.len();
            return self.report.fault(format!("{where_}: {len} samples, not {batch}"));
        }
        let (epoch, position) = place(step, self.report.steps_per_epoch, lanes, batch, lane, 0);
        if (found.epoch, found.position) != (epoch, position) {
            self.report.fault(format!(
                "{where_}: read from position {} of epoch {}; its place is {position} of epoch {epoch}",
                found.position, found.epoch
            ));
        }
        let order = Order::new(self.facts.seed, found.epoch, self.report.pairs);
        for (position, sample) in (found.position..).zip(&found.samples) {
            self.report.read += 1;
            if !self.mark(found.epoch, position) {
                self.report.fault(format!(
                    "{where_}: position {position} of epoch {} was read before, or is none",
                    found.epoch
                ));
                continue;
            }
            let replaced = found.replaced.iter().find(|replaced| replaced.position == position);
            let tries = replaced.map_or(0, |replaced| replaced.tries);
            let due = order.substitute(position, tries);
            if *sample != due {
                self.report.fault(format!(
                    "{where_}: sample {sample} at position {position} of epoch {}, where the order has {due}",
                    found.epoch
                ));
            } else if tries > 0 {
                self.report.replaced.push(Substitute {
                    step,
                    epoch: found.epoch,
                    position,
                    sample: order.at(position),
                    by: due,
                    tries,
                    names: None,
                });
            }
        }
    }

    /// Notes that a position was read; false if it was before, or does not belong to the present epoch's steps.
    fn mark(&mut self, epoch: u64, position: u64) -> bool {
        let read = self.read.get_mut(position as usize).filter(|_| epoch == self.epoch);
        read.is_some_and(|read| !std::mem::replace(read, true))
    }

    /// Tells what was not read of the present epoch, and begins the next one.
    fn close_epoch(&mut self) {
        let (epoch, per_epoch) = (self.epoch, self.report.steps_per_epoch);
        let steps = self.facts.steps.saturating_sub(epoch * per_epoch).min(per_epoch);
        let due = (steps * self.global_batch()) as usize;
        let mut position = 0;
        for run in self.read[..due].chunk_by(|a, b| a == b) {
            let end = position + run.len() as u64;
            if !run[0] {
                let positions = between(position..end);
                self.report
                    .fault(format!("never read: position {positions} of epoch {epoch}"));
            }
            position = end;
        }
        self.read.fill(false);
        self.epoch += 1;
    }

    fn global_batch(&self) -> u64 {
        u64::from(self.facts.lanes) * u64::from(self.facts.batch)
    }
}

/// A range for people.
fn between(range: Range<u64>) -> String {
    match range.end - range.start {
        1 => range.start.to_string(),
        _ => format!("{} to {}", range.start, range.end - 1),
    }
}

#[cfg(test)]
mod tests;
