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
mod tests {
    use super::*;
    use medley_protocol::ledger::Replaced;

    const PAIRS: u64 = 27;

    fn facts(steps: u64) -> Facts {
        Facts {
            stage: "pretrain-0".into(),
            seed: 5,
            lanes: 2,
            batch: 3,
            steps,
        }
    }

    /// What ranks that do right write down: 4 steps of 6 samples in an epoch, 3 samples left. One sample is replaced.
    fn entries(steps: u64) -> Vec<LedgerEntry> {
        let lane = |step, lane| {
            let (epoch, position) = place(step, 4, 2, 3, lane, 0);
            let order = Order::new(5, epoch, PAIRS);
            let tries = |position| if (epoch, position) == (1, 7) { 2 } else { 0 };
            let positions = position..position + 3;
            let replaced = positions.clone().filter(|position| tries(*position) > 0);
            LaneSamples {
                epoch,
                position,
                replaced: replaced.map(|position| Replaced { position, tries: 2 }).collect(),
                samples: positions
                    .map(|position| order.substitute(position, tries(position)))
                    .collect(),
            }
        };
        let entry = |step| LedgerEntry {
            step,
            pairs: PAIRS,
            lanes: vec![lane(step, 0), lane(step, 1)],
        };
        (0..steps).map(entry).collect()
    }

    fn check(steps: u64, entries: &[LedgerEntry]) -> Report {
        let mut check = Check::new(facts(steps));
        entries.iter().for_each(|entry| check.entry(entry));
        check.finish()
    }

    #[track_caller]
    fn finds(expected: &[&str], spoil: impl FnOnce(&mut Vec<LedgerEntry>)) {
        let mut entries = entries(10);
        spoil(&mut entries);
        assert_eq!(check(10, &entries).faults, expected);
    }

    #[test]
    fn a_whole_ledger_names_what_each_epoch_leaves_and_what_was_replaced() {
        let report = check(10, &entries(10));
        assert!(report.is_whole(), "{:?}", report.faults);
        assert_eq!(
            (report.steps_per_epoch, report.unread.clone(), report.read),
            (4, 24..27, 60)
        );
        let order = Order::new(5, 1, PAIRS);
        let replaced = Substitute {
            step: 5,
            epoch: 1,
            position: 7,
            sample: order.at(7),
            by: order.substitute(7, 2),
            tries: 2,
            names: None,
        };
        assert_eq!(report.replaced, [replaced]);
    }

    #[test]
    fn a_lost_step_is_missing_with_its_positions() {
        let gap = ["no entry: step 6", "never read: position 12 to 17 of epoch 1"];
        finds(&gap, |entries| drop(entries.remove(6)));
        let end = ["no entry: step 8 to 9", "never read: position 0 to 11 of epoch 2"];
        finds(&end, |entries| entries.truncate(8));
    }

    #[test]
    fn a_step_that_is_there_twice_is_told() {
        finds(&["step 3 has more than one entry"], |entries| {
            entries.insert(4, entries[3].clone());
        });
    }

    #[test]
    fn one_wrong_sample_is_found() {
        let due = entries(1)[0].lanes[1].samples[2];
        let wrong = format!(
            "step 0, lane 1: sample {} at position 5 of epoch 0, where the order has {due}",
            due + 1
        );
        finds(&[&wrong], |entries| entries[0].lanes[1].samples[2] += 1);
    }

    #[test]
    fn a_replacement_that_was_not_written_down_is_a_wrong_sample() {
        let faults = {
            let mut entries = entries(10);
            entries[5].lanes[0].replaced.clear();
            check(10, &entries).faults
        };
        assert!(
            faults.len() == 1 && faults[0].contains("position 7 of epoch 1"),
            "{faults:?}"
        );
    }

    #[test]
    fn positions_that_are_read_twice_are_found_and_so_are_those_left_out() {
        let mut spoiled = entries(10);
        spoiled[2].lanes[1] = spoiled[2].lanes[0].clone();
        let faults = check(10, &spoiled).faults;
        assert_eq!(
            faults[0],
            "step 2, lane 1: read from position 12 of epoch 0; its place is 15 of epoch 0"
        );
        assert!(
            faults[1].contains("position 12 of epoch 0 was read before"),
            "{faults:?}"
        );
        assert_eq!(faults.last().unwrap(), "never read: position 15 to 17 of epoch 0");
    }

    #[test]
    fn an_entry_of_another_form_is_refused() {
        finds(
            &["step 1 has 1 lanes, not 2", "never read: position 6 to 11 of epoch 0"],
            |entries| entries[1].lanes.truncate(1),
        );
        let other = [
            "step 1 draws from 28 pairs, not 27",
            "never read: position 6 to 11 of epoch 0",
        ];
        finds(&other, |entries| entries[1].pairs += 1);
    }

    #[test]
    fn many_faults_are_counted() {
        let report = check(200, &[]);
        assert_eq!(report.faults, ["no entry: step 0 to 199"]);
        let mut spoiled = entries(10);
        spoiled
            .iter_mut()
            .for_each(|entry| entry.lanes.iter_mut().for_each(|lane| lane.samples.fill(PAIRS)));
        let report = check(10, &spoiled);
        assert_eq!((report.faults.len(), report.more_faults), (MAX_FAULTS, 40));
    }
}
