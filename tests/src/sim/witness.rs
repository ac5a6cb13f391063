//! What must hold at every moment. What must hold at the end besides is in `ending`.
//!
//! - Within one life, the revision that an agent obeys only grows.
//! - Ranks that did not start in the same life of their agent never run on one node at once, nor two ranks on one device.
//! - A generation goes on from the furthest step that any of its members has reached, and from no earlier one than that of the
//!   checkpoint that was the last when it was placed. No member that has a state near enough copies one.
//! - A process commits one step after the other, none twice, and no rank is more than one step ahead of another of its
//!   generation.
//! - Whoever commits a step, in whichever generation, has the state of the undisturbed run; so has every checkpoint, and
//!   a step has one. Where a bit has flipped that holds again from the moment on at which it is found out, and no state is
//!   doubted without a cause.
//! - A generation lets no node in that is cut off from one of it, and a rank that computes for ever is named.
//! - Generations grow, and no job fails for such faults as are played here.

use super::objects::Objects;
use super::process::{How, Pid, Place, Process, Seat};
use super::record::{Coverage, Record};
use super::table::Table;
use super::toy::Toy;
use medley_coordinator::domain::decision::{Decision, Effect};
use medley_coordinator::domain::job;
use medley_protocol::ids::StageId;
use medley_worker::rank::beginning::Path;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// Lines of a trace.
const MAX_LINES: usize = 120;

/// How far the ranks of a generation are.
struct Progress {
    /// Steps that were committed before its first.
    base: u64,
    by_rank: BTreeMap<u32, u64>,
}

/// A process of a stage.
type Member = (Pid, StageId);

pub(super) struct Witness<'a> {
    pub(super) reference: Option<&'a Record>,
    pub(super) record: Record,
    pub(super) coverage: Coverage,
    /// The first rule that was broken.
    pub(super) violation: Option<String>,
    /// The last lines, if a trace is wanted.
    pub(super) trace: Option<VecDeque<String>>,
    now: Duration,
    revisions: BTreeMap<(usize, u64), u64>,
    generations: BTreeMap<StageId, u64>,
    /// Ranks of the present generation.
    worlds: BTreeMap<StageId, usize>,
    /// Most steps that anyone has committed.
    furthest: BTreeMap<StageId, u64>,
    /// Steps of the last checkpoint when a generation was placed.
    floors: BTreeMap<(StageId, u64), u64>,
    progress: BTreeMap<(StageId, u64), Progress>,
    /// Steps committed by the state that a process holds.
    held: BTreeMap<Pid, u64>,
    checkpoints: BTreeSet<(StageId, u64)>,
    /// Stages in whose states a bit has flipped that nobody has found out.
    flipped: BTreeSet<StageId>,
    /// The last generation of a stage that was found to be doubtful.
    doubted: BTreeMap<StageId, u64>,
    /// When, and how, it was said that a rank hangs.
    hangs: Vec<(Duration, String)>,
    /// When, and of which stage, it was said that a generation is over.
    ends: Vec<(Duration, StageId)>,
}

impl<'a> Witness<'a> {
    pub(super) fn new(reference: Option<&'a Record>, traces: bool) -> Self {
        Self {
            reference,
            record: Record::default(),
            coverage: Coverage::default(),
            violation: None,
            trace: traces.then(VecDeque::new),
            now: Duration::ZERO,
            revisions: BTreeMap::new(),
            generations: BTreeMap::new(),
            worlds: BTreeMap::new(),
            furthest: BTreeMap::new(),
            floors: BTreeMap::new(),
            progress: BTreeMap::new(),
            held: BTreeMap::new(),
            checkpoints: BTreeSet::new(),
            flipped: BTreeSet::new(),
            doubted: BTreeMap::new(),
            hangs: Vec::new(),
            ends: Vec::new(),
        }
    }

    pub(super) fn at(&mut self, now: Duration) {
        self.now = now;
    }

    /// A bit has flipped in the state that a rank of a generation trains.
    pub(super) fn flipped(&mut self, stage: StageId, generation: u64) {
        if !self.is_doubtful(stage, generation) {
            self.count("bit flipped in a state");
            self.flipped.insert(stage);
        }
    }

    /// Whether what a generation makes may come of a bit that flipped.
    fn is_doubtful(&self, stage: StageId, generation: u64) -> bool {
        self.flipped.contains(&stage) || self.doubted.get(&stage).is_some_and(|last| generation <= *last)
    }

    /// What is doubtful was given up.
    fn doubt(&mut self, stage: StageId, generation: u64, proven: u64) {
        self.checkpoints.retain(|(of, step)| *of != stage || *step <= proven);
        if self.doubted.insert(stage, generation) == Some(generation) {
            return;
        }
        self.count("states doubted");
        if !self.flipped.remove(&stage) {
            self.accuse(format!("generation {generation} is doubted, and no bit has flipped"));
        }
    }

    /// A line of the trace.
    pub(super) fn note(&mut self, line: impl FnOnce() -> String) {
        let Some(trace) = &mut self.trace else { return };
        trace.push_back(format!("{:9.3} {}", self.now.as_secs_f64(), line()));
        if trace.len() > MAX_LINES {
            trace.pop_front();
        }
    }

    pub(super) fn count(&mut self, what: &'static str) {
        self.coverage.count(what);
    }

    pub(super) fn accuse(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// An agent says which revision it obeys.
    pub(super) fn obeys(&mut self, node: usize, life: u64, revision: u64) {
        let before = self.revisions.insert((node, life), revision).unwrap_or(0);
        if revision < before {
            self.accuse(format!("n{node} obeys revision {revision} after {before}"));
        }
    }

    /// A process starts beside the others.
    pub(super) fn starts(&mut self, place: Place, others: &[Process]) {
        let alive = others
            .iter()
            .filter(|other| other.actor.is_some() && other.place.node == place.node);
        for other in alive.map(|other| other.place) {
            if other.device == place.device {
                self.accuse(format!("two ranks own device {} of n{}", place.device, place.node));
            }
            if other.stage == place.stage && other.life != place.life {
                let (old, new, node) = (other.life, place.life, place.node);
                self.accuse(format!(
                    "ranks of lives {old} and {new} of its agent run on n{node} at once"
                ));
            }
        }
    }

    /// A process begins to train in a generation.
    pub(super) fn begins(&mut self, (pid, stage): Member, seat: Seat, how: How, (name, step): (&str, u64)) {
        let key = (stage, seat.generation);
        let floor = self.floors.get(&key).copied().unwrap_or(0);
        let held = self.held.insert(pid, step);
        let fits = match how {
            How::Stored => step == floor && held.is_none_or(|held| held < floor),
            How::Memory(Path::Ready | Path::CommitPrepared) => held == Some(step),
            How::Memory(Path::Join) => held.is_none_or(|held| held < step),
        };
        self.count(match how {
            How::Stored => "begun-from-store",
            How::Memory(Path::Ready) => "begun-from-memory",
            How::Memory(Path::CommitPrepared) => "committed-late",
            How::Memory(Path::Join) => "fed-by-peers",
        });
        if !fits || step < floor {
            self.accuse(format!(
                "{name}: p{pid} goes on from step {step} by {how:?} in generation {}; it held {held:?}, and the checkpoint was \
                 {floor}",
                seat.generation
            ));
        }
        let progress = self.progress.entry(key).or_insert_with(|| Progress {
            base: step,
            by_rank: BTreeMap::new(),
        });
        if progress.base != step {
            let base = progress.base;
            self.accuse(format!(
                "{name}: ranks of generation {} go on from steps {base} and {step}",
                seat.generation
            ));
        }
    }

    /// A process has committed a step of a stage.
    pub(super) fn commits(&mut self, (pid, stage): Member, seat: Seat, world: u32, (name, toy): (&str, Toy)) {
        let Seat { generation, rank } = seat;
        let step = toy.step;
        let held = self.held.insert(pid, step);
        if held.is_some_and(|held| held + 1 != step) {
            self.accuse(format!("{name}: p{pid} commits step {step} after {held:?}"));
        }
        let before = self.furthest.get(&stage).copied().unwrap_or(0);
        self.furthest.insert(stage, step.max(before));
        if let Some(progress) = self.progress.get_mut(&(stage, generation)) {
            let redone = step <= before && step > progress.base && progress.by_rank.values().all(|other| *other < step);
            progress.by_rank.insert(rank, step);
            if redone {
                self.coverage.count("step redone");
            }
            let all = progress.by_rank.values().copied();
            let slowest = if progress.by_rank.len() < world as usize {
                Some(progress.base)
            } else {
                all.min()
            };
            let ahead = step.saturating_sub(slowest.unwrap_or(0));
            if ahead > 1 {
                self.accuse(format!(
                    "{name}: rank {rank} of generation {generation} is {ahead} steps ahead at {step}"
                ));
            }
        }
        if !self.is_doubtful(stage, generation) {
            self.compare(name, toy, "committed");
        }
    }

    fn compare(&mut self, stage: &str, toy: Toy, what: &str) {
        let key = (stage.to_owned(), toy.step);
        let right = self.reference.and_then(|reference| reference.states.get(&key).copied());
        let first = *self.record.states.entry(key).or_insert(toy);
        if first != toy || (self.reference.is_some() && right != Some(toy)) {
            self.accuse(format!(
                "{stage}: the state {what} at step {} is not that of an undisturbed run",
                toy.step
            ));
        }
    }

    /// A decision was written.
    pub(super) fn decided(&mut self, decision: &Decision) {
        for event in &decision.events {
            self.count(event.kind);
            self.note(|| format!("[{}] {}", event.kind, event.message));
            if event.message.contains("hangs") {
                self.hangs.push((self.now, event.message.clone()));
            }
            if let Some(stage) = event.stage
                && event.kind == "generation-over"
            {
                self.ends.push((self.now, stage));
            }
        }
        for effect in &decision.effects {
            if let Effect::Doubt {
                stage,
                generation,
                doubt,
                ..
            } = effect
            {
                self.doubt(*stage, *generation, doubt.proven);
            }
        }
        for stage in decision.jobs.iter().flat_map(|job| &job.stages) {
            let before = self.generations.insert(stage.id, stage.generation).unwrap_or(0);
            if let Some(generation) = stage.present().filter(|_| stage.kind.is_training()) {
                let step = generation.resume.as_ref().map_or(0, |manifest| manifest.step);
                self.floors.entry((stage.id, generation.number)).or_insert(step);
                let world = generation.seats.len();
                let had = self.worlds.insert(stage.id, world).unwrap_or(world);
                if world > had {
                    self.count("generation grown");
                } else if world < had {
                    self.count("generation shrunk");
                }
            }
            if stage.generation < before {
                self.accuse(format!(
                    "{}: generation {} comes after {before}",
                    stage.name, stage.generation
                ));
            }
        }
        for job in &decision.jobs {
            if let job::State::Failed { reason } = &job.state {
                self.accuse(format!("the job failed: {reason}"));
            }
        }
    }

    /// Whether it was said since then that a rank of a node hangs.
    pub(super) fn has_named(&self, node: usize, then: Duration) -> bool {
        let of_node = format!(" on n{node} ");
        self.hangs
            .iter()
            .any(|(at, text)| *at >= then && text.contains(&of_node))
    }

    /// Whether it was said since then that a generation of a stage is over.
    pub(super) fn has_told_an_end(&self, stage: StageId, then: Duration) -> bool {
        self.ends.iter().any(|(at, of)| *at >= then && *of == stage)
    }

    /// Looks at what was handed in.
    pub(super) fn inspect(&mut self, table: &Table, objects: &Objects) {
        if table.checkpoints.len() == self.checkpoints.len() {
            return;
        }
        for ((stage, step), manifest) in &table.checkpoints {
            if !self.checkpoints.insert((*stage, *step)) {
                continue;
            }
            let name = table.stage_name(*stage);
            self.note(|| format!("{name}: the checkpoint at step {step} is whole"));
            self.count("checkpoint");
            match objects.load(manifest) {
                Some(_) if self.flipped.contains(stage) => {}
                Some(toy) => self.compare(&name, toy, "of the checkpoint"),
                None => self.accuse(format!("{name}: the checkpoint at step {step} is torn")),
            }
        }
    }
}

/// A rank, for people.
pub(super) fn describe(pid: Pid, place: Place) -> String {
    format!(
        "p{pid} (rank {} of generation {} on n{})",
        place.rank, place.generation, place.node
    )
}
