//! Metrics of committed steps, with what the steps have read where a ledger is kept, held until the coordinator has stored them.
//!
//! Every agent of a training stage keeps a ring of rows, because any of them may lead the next generation; only the one
//! that runs the generation's lowest rank reports. It asks how far the rows are stored and sends what follows. Rows are
//! functions of the step, so a row that is redone or arrives twice is the same row, and asking again cures every doubt.
//!
//! Where a generation goes back to an earlier step, rows from there on are forgotten, and so is what the coordinator said of them:
//! it may have forgotten them too, because the states that they came of are doubtful. What an earlier generation still says of
//! steps from there on is superseded: its rows are not taken, and its parts of checkpoints are not handed in.
//!
//! A part of a checkpoint is held back until the rows below its step are stored. A checkpoint therefore never outruns
//! the metrics: whoever goes on from it, even if every agent of today is lost, commits the next row that is wanted.

use super::message::Request;
use medley_protocol::ids::StageId;
use medley_protocol::ledger::LedgerEntry;
use medley_protocol::metrics::{MetricsChunk, StepMetrics};
use std::collections::BTreeMap;
use std::time::Duration;

/// Rows kept per stage.
pub(super) const MAX_ROWS: usize = 100_000;
/// Samples that the ledger's entries of a stage name.
const MAX_SAMPLES: usize = 16 << 20;
/// Rows of one chunk.
pub(super) const MAX_CHUNK_ROWS: usize = 500;
/// Samples that the entries of one chunk name, unless one entry alone names more.
const MAX_CHUNK_SAMPLES: usize = 1 << 16;
/// Shortest time between two chunks of a stage.
const CHUNK_PAUSE: Duration = Duration::from_millis(500);
/// Time until it is asked again whether somebody else has filled a gap.
const GAP_PAUSE: Duration = Duration::from_secs(5);
/// Refusals in a row after which checkpoints no longer wait for the rows, and rows of stages that left are dropped.
const MAX_CONFLICTS: u32 = 5;

/// The rings of all stages, by stage.
#[derive(Debug, Clone, Default)]
pub(super) struct Rings(BTreeMap<StageId, Ring>);

#[derive(Debug, Clone)]
struct Ring {
    /// By step. Rows of ranks that went different ways may leave gaps.
    rows: BTreeMap<u64, Row>,
    /// Samples that the rows' entries name.
    samples: usize,
    /// The generation that runs here; none before the first.
    generation: Option<u64>,
    /// The last generation that began to train here: the rows are its own, or those that it has gone on from; 0 before the first.
    lineage: u64,
    /// The step from which it went on.
    begun: u64,
    /// What the lineage was when the coordinator was last asked.
    asked_in: u64,
    /// Rows below this step are reported from here: all while this node runs the lowest rank, and what it still had
    /// when it ceased to.
    duty: u64,
    /// Whether the stage still runs here.
    listed: bool,
    through: Through,
    /// Rows below this step were stored when the coordinator was last heard.
    floor: u64,
    not_before: Duration,
    /// Refused chunks in a row.
    conflicts: u32,
    /// Rows were lost since the coordinator was last heard.
    overflows: bool,
}

/// What a committed step reports.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub(super) metrics: StepMetrics,
    pub(super) ledger: Option<LedgerEntry>,
}

/// What should not have come of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Oddity {
    /// The oldest rows begin to be lost.
    Overflow,
    /// A step was redone with other samples.
    Differs,
}

/// How far the coordinator has stored the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Through {
    Unknown,
    /// The step wanted next.
    Next(u64),
    /// Earlier rows than the ring holds are wanted.
    Gap,
    /// The coordinator wants none.
    Refused,
}

impl Rings {
    /// The training stages that run here, as (stage, generation, whether this node leads).
    pub(super) fn list(&mut self, stages: &[(StageId, u64, bool)]) {
        for ring in self.0.values_mut() {
            ring.listed = false;
        }
        for (stage, generation, leads) in stages {
            let ring = self.0.entry(*stage).or_insert_with(Ring::new);
            ring.listed = true;
            if ring.generation != Some(*generation) {
                ring.generation = Some(*generation);
                ring.take_turn(*leads);
                ring.through = Through::Unknown;
                ring.conflicts = 0;
            }
        }
        self.sweep();
    }

    /// A local rank goes on from the state after `step` steps, in a generation; others may have before.
    pub(super) fn begins(&mut self, stage: StageId, generation: u64, step: u64) {
        let ring = self.0.get_mut(&stage).filter(|ring| ring.lineage < generation);
        if let Some(ring) = ring {
            (ring.lineage, ring.begun) = (generation, step);
            ring.drop_from(step);
            ring.floor = ring.floor.min(step);
            ring.through = Through::Unknown;
            ring.conflicts = 0;
        }
    }

    /// Whether a state after `step` steps, reached in a generation, is behind a later one that went on from an earlier state.
    pub(super) fn is_superseded(&self, stage: StageId, generation: u64, step: u64) -> bool {
        let ring = self.0.get(&stage);
        ring.is_some_and(|ring| generation < ring.lineage && step > ring.begun)
    }

    /// Adds the row of a step that a local rank has committed in a generation, perhaps as its lowest; every other rank adds the
    /// same.
    pub(super) fn push(&mut self, stage: StageId, generation: u64, by_leader: bool, row: Row) -> Option<Oddity> {
        if self.is_superseded(stage, generation, row.metrics.step + 1) {
            return None;
        }
        if by_leader {
            // The rank may be dying, and its stage gone from here; its row counts nevertheless.
            let ring = self.0.entry(stage).or_insert_with(Ring::new);
            ring.duty = ring.duty.max(row.metrics.step + 1);
        }
        self.0.get_mut(&stage)?.push(row)
    }

    /// Stages that have, or had, a ring.
    pub(super) fn stages(&self) -> Vec<StageId> {
        self.0.keys().copied().collect()
    }

    /// Whether rows wait that this agent has to report, and that somebody wants.
    pub(super) fn have_due(&self) -> bool {
        self.0
            .values()
            .any(|ring| ring.first_due().is_some() && !ring.is_hopeless())
    }

    /// The request that is due for a stage without one under way. An error says what cannot be reported, once.
    pub(super) fn due(&mut self, stage: StageId, now: Duration) -> Result<Option<Request>, String> {
        let Some(ring) = self.0.get_mut(&stage).filter(|ring| now >= ring.not_before) else {
            return Ok(None);
        };
        let Some(first) = ring.first_due() else {
            return Ok(None);
        };
        ring.asked_in = ring.lineage;
        match ring.through {
            Through::Unknown | Through::Gap => Ok(Some(Request::MetricsThrough { stage })),
            Through::Refused => Ok(None),
            Through::Next(next) if next < first => {
                ring.through = Through::Gap;
                ring.not_before = now + GAP_PAUSE;
                Err(format!(
                    "metrics of stage {stage} from step {next} to {first} are lost; later ones cannot be stored"
                ))
            }
            Through::Next(_) => {
                ring.not_before = now + CHUNK_PAUSE;
                let chunk = ring.chunk();
                Ok(Some(Request::Metrics { stage, chunk }))
            }
        }
    }

    /// The coordinator has stored all rows below `next`.
    pub(super) fn stored(&mut self, stage: StageId, next: u64, now: Duration) {
        let Some(ring) = self.answered(stage) else { return };
        ring.conflicts = 0;
        ring.overflows = false;
        ring.floor = next;
        ring.drop_below(next);
        let still_gap = ring.through == Through::Gap && ring.rows.keys().next().is_some_and(|first| *first > next);
        if still_gap {
            ring.not_before = now + GAP_PAUSE;
        } else {
            ring.through = Through::Next(next);
        }
        self.sweep();
    }

    /// A request did not fit what the coordinator has: ask it again.
    pub(super) fn conflicted(&mut self, stage: StageId, now: Duration) {
        let Some(ring) = self.answered(stage) else { return };
        ring.through = Through::Unknown;
        ring.conflicts += 1;
        ring.not_before = now + CHUNK_PAUSE;
        self.sweep();
    }

    /// The coordinator does not want the rows.
    pub(super) fn refused(&mut self, stage: StageId) {
        if let Some(ring) = self.0.get_mut(&stage) {
            ring.through = Through::Refused;
        }
        self.sweep();
    }

    /// The ring whose question was answered, unless rows were forgotten since it was asked: then it is asked again.
    fn answered(&mut self, stage: StageId) -> Option<&mut Ring> {
        self.0.get_mut(&stage).filter(|ring| ring.asked_in == ring.lineage)
    }

    /// Whether a part of the stage's checkpoint at `step` has to wait for the rows below that step.
    pub(super) fn hold(&self, stage: StageId, step: u64) -> bool {
        self.0.get(&stage).is_some_and(|ring| ring.hold(step))
    }

    /// Forgets rows of stages that have left this node and that nobody will take.
    fn sweep(&mut self) {
        self.0
            .retain(|_, ring| ring.listed || (ring.first_due().is_some() && !ring.is_hopeless()));
    }
}

impl Ring {
    fn new() -> Self {
        Self {
            rows: BTreeMap::new(),
            samples: 0,
            generation: None,
            lineage: 0,
            begun: 0,
            asked_in: 0,
            duty: 0,
            listed: false,
            through: Through::Unknown,
            floor: 0,
            not_before: Duration::ZERO,
            conflicts: 0,
            overflows: false,
        }
    }

    fn push(&mut self, row: Row) -> Option<Oddity> {
        let step = row.metrics.step;
        let is_first = self.rows.keys().next().is_none_or(|first| step < *first);
        if is_first && self.through == Through::Gap {
            self.through = Through::Unknown;
        }
        // Every rank says every row, and steps are redone: what is here, or stored, is the same.
        if step < self.floor {
            return None;
        }
        if let Some(known) = self.rows.get(&step) {
            return (known.ledger != row.ledger).then_some(Oddity::Differs);
        }
        self.samples += row.samples();
        self.rows.insert(step, row);
        if self.rows.len() <= MAX_ROWS && self.samples <= MAX_SAMPLES {
            return None;
        }
        self.samples -= self.rows.pop_first().map_or(0, |(_, oldest)| oldest.samples());
        let is_new = !std::mem::replace(&mut self.overflows, true);
        is_new.then_some(Oddity::Overflow)
    }

    fn drop_below(&mut self, next: u64) {
        self.rows = self.rows.split_off(&next);
        self.samples = self.rows.values().map(Row::samples).sum();
    }

    fn drop_from(&mut self, step: u64) {
        self.rows.retain(|row, _| *row < step);
        self.samples = self.rows.values().map(Row::samples).sum();
    }

    /// The first rows that follow each other.
    fn chunk(&self) -> MetricsChunk {
        let first = self.rows.keys().next().copied().unwrap_or(0);
        let (mut rows, mut ledger, mut samples) = (Vec::new(), Vec::new(), 0);
        for (row, step) in self.rows.values().zip(first..).take(MAX_CHUNK_ROWS) {
            samples += row.samples();
            if row.metrics.step != step || (samples > MAX_CHUNK_SAMPLES && !rows.is_empty()) {
                break;
            }
            rows.push(row.metrics);
            ledger.extend(row.ledger.clone());
        }
        MetricsChunk {
            generation: self.lineage,
            rows,
            ledger,
        }
    }

    /// A generation begins, led from here or not.
    fn take_turn(&mut self, leads: bool) {
        let had = self.rows.keys().next_back().map_or(0, |last| last + 1);
        self.duty = if leads { u64::MAX } else { self.duty.min(had) };
    }

    /// The first row's step, if it is to be reported from here.
    fn first_due(&self) -> Option<u64> {
        self.rows.keys().next().copied().filter(|step| *step < self.duty)
    }

    fn is_hopeless(&self) -> bool {
        matches!(self.through, Through::Gap | Through::Refused) || self.conflicts >= MAX_CONFLICTS
    }

    /// Metrics that are refused for good do not keep a checkpoint from being committed.
    fn hold(&self, step: u64) -> bool {
        !self.is_hopeless() && self.first_due().is_some_and(|first| first < step)
    }
}

impl Row {
    fn samples(&self) -> usize {
        self.ledger.as_ref().map_or(0, LedgerEntry::len)
    }
}
