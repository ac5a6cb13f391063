//! Step after step: own lanes, the collective, agreement, commit.

use super::handover;
use super::lanes::Lanes;
use super::line::Line;
use super::member::Speaker;
use super::negatives::{self, Looked, Looking};
use super::samples::{Loaded, Samples};
use super::setup::{Setup, stored_state};
use super::shares::{Gathered, LaneShare, View};
use super::{Left, Stop};
use crate::checkpoint::shared::Shared;
use crate::checkpoint::writer::{Outcome, Part, Writer};
use crate::checkpoint::{is_planned, part_range};
use crate::collective::deal::Deal;
use crate::collective::gradients::Gradients;
use crate::collective::nccl::Nccl;
use crate::collective::reduce::{Local, Plan, share, total};
use crate::collective::rounds::Round;
use crate::collective::tcp::{Lost, Mesh};
use crate::collective::underway::{Group, Underway};
use crate::objects::Objects;
use crate::rank::activity::Activity;
use crate::rank::beginning::{Memory, Path};
use crate::rank::failure::Failure;
use crate::rank::membership::dissenters;
use crate::rank::memory::peak_bytes;
use crate::rank::pipes::Voice;
use medley_data::loader::Loader;
use medley_model::blip::{Blip, LaneBatch, LaneStep};
use medley_model::device::{Buffer, Device};
use medley_model::loss::itc::Distillation;
use medley_model::params::Objective;
use medley_model::schedule::Schedule;
use medley_model::state::{Commit, State, gradient_norm};
use medley_model::tape::Gradient;
use medley_protocol::agent::{Assignment, FromRank, RankState, StepPhase};
use medley_protocol::doubt::{COMPARED_WITHIN, Doubt};
use medley_protocol::ids::StageId;
use medley_protocol::ledger::LedgerEntry;
use medley_protocol::metrics::StepMetrics;
use medley_protocol::spec::{CheckpointSpec, Length};
use std::collections::VecDeque;
use std::io;
use std::iter;
use std::ops::Range;
use std::time::Duration;

/// Longest wait for the store to take the last checkpoint.
const LAST_PATIENCE: Duration = Duration::from_mins(10);
const LOSS_NAMES: [&str; 3] = ["ITC", "ITM", "LM"];

/// What a rank keeps from generation to generation.
pub(super) struct Trainer {
    blip: Blip,
    state: Shared,
    /// Whether `state` is one that training reached; otherwise it is to be loaded, or taken from others.
    holds_state: bool,
    /// Steps committed by the stored state that `state` has come of; 0 for the stage's start, or where peers have fed it.
    loaded: u64,
    /// What the generation that broke was about to commit.
    prepared: Option<Prepared>,
    schedule: Schedule,
    objective: Objective,
    seed: u64,
    prompt_tokens: usize,
    lane_share: LaneShare,
    checkpoint: CheckpointSpec,
    lanes: u32,
    samples: Samples,
    /// Reads samples of other lanes, where negatives come from all of them.
    foreign: Option<Loader>,
    objects: Objects,
    stage: StageId,
    voice: Voice,
    writer: Option<Writer>,
    own: Lanes,
    device: Device,
    gradients: Gradients,
    nccl: Nccl,
}

/// A rank's place in a generation.
pub(super) struct Place<'a> {
    deal: Deal,
    plan: Plan,
    pub(super) mesh: &'a Mesh,
    /// What moves gradients between GPUs, if they do not go over the mesh.
    devices: Option<(Vec<Round>, Box<dyn Group + 'a>)>,
    /// Number of collectives begun: a redone step does not meet frames of its first try.
    exchange: u64,
}

impl<'a> Place<'a> {
    pub(super) fn new(deal: Deal, plan: Plan, mesh: &'a Mesh) -> Self {
        Self {
            deal,
            plan,
            mesh,
            devices: None,
            exchange: 0,
        }
    }

    /// Gradients are moved by this group; over the mesh if there is none.
    pub(super) fn move_by(&mut self, group: Option<Box<dyn Group + 'a>>) {
        self.devices = group.map(|group| (self.plan.rounds(&self.deal), group));
    }

    fn lanes(&self) -> impl Iterator<Item = u32> + '_ {
        self.deal.lanes(self.mesh.rank())
    }
}

/// A step's gradients on their way to their sum.
enum Way<'a> {
    /// Of the rank's lanes, for the mesh.
    Mesh(Local),
    /// Between GPUs.
    Devices(Underway<'a>),
}

/// What a committed step reports.
type Report = (StepMetrics, Option<LedgerEntry>);

/// All that a step commits.
struct Prepared {
    /// In the memory of the process.
    gradient: Buffer,
    gathered: Gathered,
    gradient_norm: f64,
}

impl Trainer {
    /// A rank that holds no state yet.
    pub(super) fn new(
        setup: Setup,
        assignment: &Assignment,
        device: Device,
        (objects, voice): (Objects, Voice),
    ) -> Self {
        let lane_share = setup.lane_share();
        let mut state = State::zeros(&setup.blip);
        if assignment.generation > 1 {
            // Somebody may hold the state: all would wait while this rank, being fed, waits for its memory.
            state.claim_memory();
        }
        Self {
            gradients: Gradients::new(setup.blip.student_layout.len()),
            lane_share,
            state: state.into(),
            holds_state: false,
            loaded: 0,
            prepared: None,
            blip: setup.blip,
            samples: Samples::new(setup.loader, setup.schedule.total_steps(), &device),
            schedule: setup.schedule,
            objective: setup.objective,
            seed: setup.seed,
            prompt_tokens: setup.prompt_tokens,
            lanes: setup.lanes,
            checkpoint: assignment.spec.checkpoint,
            foreign: setup.foreign,
            objects,
            stage: assignment.stage,
            voice,
            writer: None,
            own: Lanes::on(device.clone()),
            nccl: Nccl::on(device.clone()),
            device,
        }
    }

    /// What the rank is doing.
    pub(super) fn activity(&self) -> &Activity {
        self.voice.activity()
    }

    /// Elements of a gradient.
    pub(super) fn gradient_len(&self) -> usize {
        self.blip.student_layout.len()
    }

    /// Most bytes that a rank shares with the others in a step.
    pub(super) fn largest_share(&self, deal: &Deal) -> usize {
        let most_lanes = (0..deal.ranks()).map(|rank| deal.lanes(rank).count()).max();
        most_lanes.unwrap_or(0) * self.lane_share.bytes()
    }

    /// Steps committed by the state in memory, if there is one.
    pub(super) fn committed(&self) -> Option<u64> {
        self.holds_state.then_some(self.state.step)
    }

    /// Steps committed by the stored state that this rank's has come of, as far as it knows.
    pub(super) fn loaded(&self) -> u64 {
        self.loaded
    }

    /// Says that the rank gives up.
    pub(super) fn say(&self, failure: &Failure) {
        self.voice.state(failure.state());
    }

    /// What this rank brings along to its next generation.
    pub(super) fn memory(&self) -> Option<Memory> {
        self.committed().map(|committed| Memory {
            committed,
            prepared: self.prepared.is_some(),
        })
    }

    /// Takes the state from the last checkpoint, or from the stage's start.
    ///
    /// # Errors
    /// [`Failure`] when it cannot be read or does not fit.
    pub(super) fn load(&mut self, assignment: &Assignment) -> Result<(), Failure> {
        self.drop_prepared();
        self.holds_state = false;
        // What was claimed to be fed is given back first: two states would not fit everywhere.
        self.state = State::zeros(&self.blip).into();
        self.own.forget();
        self.state = stored_state(assignment, &self.objects, &self.blip, &self.schedule.train)?.into();
        self.holds_state = true;
        self.loaded = self.state.step;
        tracing::info!("trains from step {}", self.state.step);
        Ok(())
    }

    /// Takes the path to the generation's common step, as far as this rank can alone. Returns the report of a step that
    /// was committed late.
    pub(super) fn reach(&mut self, path: Path) -> Option<Report> {
        let late = self.prepared.take_if(|_| path == Path::CommitPrepared);
        self.drop_prepared();
        late.map(|prepared| self.commit(prepared))
    }

    /// Feeds those who join, or is fed.
    ///
    /// # Errors
    /// [`Lost`] when a peer does not deliver.
    pub(super) fn hand_over(&mut self, paths: &[Path], place: &Place) -> Result<(), Lost> {
        let joins = paths[place.mesh.rank() as usize] == Path::Join;
        self.holds_state &= !joins;
        if joins {
            self.own.forget();
            self.loaded = 0;
        }
        handover::feed(&mut self.state, paths, &place.deal.nodes, place.mesh)?;
        self.holds_state = true;
        Ok(())
    }

    /// What may move gradients between GPUs.
    pub(super) fn nccl(&self) -> &Nccl {
        &self.nccl
    }

    fn drop_prepared(&mut self) {
        if let Some(prepared) = self.prepared.take() {
            self.gradients.give(prepared.gradient);
        }
    }

    /// Is ready for the generation's first step.
    ///
    /// A checkpoint that was due at this step may have been lost with the generation before; unless it is the one that is
    /// `stored`, it is taken again.
    ///
    /// # Errors
    /// [`Failure`] when reading or writing cannot begin.
    pub(super) fn enter(
        &mut self,
        generation: u64,
        stored: Option<u64>,
        late: Option<Report>,
        place: &Place,
    ) -> Result<(), Failure> {
        let committed = self.state.step;
        self.samples.begin(place.lanes().collect(), committed)?;
        let moved_by_devices = place.devices.is_some();
        self.gradients.lie_on(if moved_by_devices {
            self.device.clone()
        } else {
            Device::Cpu
        });
        self.voice.enter(generation);
        self.voice.state(RankState::Running { committed });
        if let Some((metrics, ledger)) = late {
            self.voice.say(&FromRank::Committed { metrics, ledger });
        }
        if committed > 0 && stored != Some(committed) && self.is_planned(committed) {
            self.take_checkpoint(place)?;
        }
        Ok(())
    }

    /// Trains to the end, or until another generation follows.
    ///
    /// # Errors
    /// [`Stop`].
    pub(super) fn run(&mut self, mut speaker: Speaker, place: &mut Place, line: &mut Line) -> Result<Left, Stop> {
        while self.state.step < self.schedule.total_steps() {
            let prepared = self.prepare_finite(place)?;
            self.note(StepPhase::Agreeing, place.exchange);
            let digest = self.digest(self.compared(prepared.gathered.identities.len()));
            let planned = self.is_planned(self.state.step + 1);
            // Should the generation break now, the next one may commit it.
            self.prepared = Some(prepared);
            let agreed = speaker.agree(place.mesh, line, digest, planned)?;
            self.note(StepPhase::Computing, place.exchange);
            let report = self.prepared.take().map(|prepared| self.commit(prepared));
            // None, if this rank has a part in what follows.
            let leaves = agreed.then.and_then(|next| line.leaves_before(next));
            if agreed.checkpoint || leaves == Some(true) {
                self.take_checkpoint(place)?;
            }
            if let Some((metrics, ledger)) = report {
                tracing::debug!(step = metrics.step, "committed");
                self.voice.activity().committed(place.lanes().count() as u32);
                self.voice.say(&FromRank::Committed { metrics, ledger });
            }
            if agreed.then.is_some() {
                return Ok(if leaves.is_some() { Left::ForGood } else { Left::ForNext });
            }
        }
        self.note(StepPhase::Saving, place.exchange);
        self.finish_writing()?;
        let committed = self.state.step;
        self.voice.state(RankState::Finished { committed });
        Ok(Left::Finished)
    }

    /// Says that this rank has left for good, once all that it wrote is in the store.
    ///
    /// # Errors
    /// [`Failure`] when the store does not take it.
    pub(super) fn part(&mut self) -> Result<(), Failure> {
        self.finish_writing()?;
        let committed = self.state.step;
        self.voice.state(RankState::Left { committed });
        Ok(())
    }

    fn finish_writing(&mut self) -> Result<(), Failure> {
        match self.writer.take() {
            Some(writer) => writer.finish(LAST_PATIENCE).map_err(Failure::passing),
            None => Ok(()),
        }
    }

    /// Prepares the next step. What is not finite is computed once more: if it comes back, it is the model's fault, else a
    /// device erred. All ranks see the same sums, so all of them do the same.
    fn prepare_finite(&mut self, place: &mut Place) -> Result<Prepared, Stop> {
        let first = self.prepare(place)?;
        let Some(what) = not_finite(&first) else {
            return Ok(first);
        };
        let step = self.state.step;
        tracing::warn!(step, what, "not finite; the step is computed once more");
        self.gradients.give(first.gradient);
        self.samples.rewind(step)?;
        let second = self.prepare(place)?;
        match not_finite(&second) {
            None => Ok(second),
            Some(what) => Err(Stop::Failed(match self.compare_all(place)? {
                Some(doubt) => Failure::doubtful(format!("{doubt}: the {what} of that step is not finite"), doubt),
                None => Failure::lasting(format!(
                    "the {what} of step {step} is not finite, twice: lower the stage's peak_lr or lengthen its warm-up"
                )),
            })),
        }
    }

    /// Compares all of the state with the other ranks', as all of them do now.
    fn compare_all(&self, place: &mut Place) -> Result<Option<Doubt>, Stop> {
        place.exchange += 1;
        let own = self.digest(iter::once(0..self.state.num_bytes())).to_le_bytes();
        let shares = share(own.to_vec(), place.exchange, place.mesh)?;
        let digest = |share: &Vec<u8>| share.as_slice().try_into().map_or(0, u64::from_le_bytes);
        let digests: Vec<u64> = shares.values().map(digest).collect();
        let doubt = |minority| Doubt::new(self.state.step, self.loaded, minority);
        Ok(dissenters(&digests).map(doubt))
    }

    fn prepare(&mut self, place: &mut Place) -> Result<Prepared, Stop> {
        let mut looked = self.look(place)?;
        place.exchange += 1;
        self.note(StepPhase::Computing, place.exchange);
        let steps: Vec<LaneStep> = (0..self.lanes).map(|lane| self.lane_step(lane)).collect();
        let mut outputs = Vec::new();
        let Self {
            blip,
            state,
            samples,
            foreign,
            own: device,
            lane_share,
            ..
        } = self;
        let lane = |lane: u32, gradient: Gradient| {
            let step = steps[lane as usize];
            let waiting = looked.as_mut().and_then(|looked| looked.batches.pop_front());
            let mut batch = waiting.map_or_else(|| next(samples, step), Ok)?;
            let drawn = match (&looked, foreign.as_mut()) {
                (Some(looked), Some(reader)) => Some(negatives::draw(blip, state, looked, step, (&mut batch, reader))?),
                _ => None,
            };
            let lane = LaneBatch {
                guests: drawn.as_ref().map_or(&[], |drawn| &drawn.guests),
                ..batch.own()
            };
            let negatives = drawn.as_ref().map(|drawn| &drawn.negatives);
            let output = device.run((blip, state), lane, step, negatives, gradient)?;
            outputs.push((output, lane_share.words(&batch)));
            Ok::<(), Failure>(())
        };
        let (plan, gradients) = (&place.plan, &mut self.gradients);
        let mut way = match &mut place.devices {
            None => Way::Mesh(Local::collect(plan, gradients, lane)?),
            Some((rounds, group)) => Way::Devices(Underway::collect(&mut **group, (plan, rounds), gradients, lane)?),
        };
        let (exchange, mesh) = (place.exchange, place.mesh);
        let outputs = self.own.finish(outputs)?;
        self.note(StepPhase::Exchanging, exchange);
        if let Way::Devices(underway) = &mut way {
            underway.ask_all()?;
        }
        let shares = share(self.lane_share.encode(&outputs), exchange, mesh)?;
        let gathered = self.lane_share.gather(&place.deal, &shares)?;
        let total = match way {
            Way::Mesh(local) => total(plan, local, exchange, mesh, &mut self.gradients)?,
            Way::Devices(underway) => underway.finish(&mut self.gradients)?,
        };
        let gradient = self.gradients.bring_home(total)?;
        Ok(Prepared {
            gradient_norm: gradient_norm(&Device::Cpu, gradient.span(), self.lanes),
            gradient,
            gathered,
        })
    }

    /// The first of two passes, where negatives come from all lanes.
    fn look(&mut self, place: &mut Place) -> Result<Option<Looked>, Stop> {
        if self.foreign.is_none() {
            return Ok(None);
        }
        place.exchange += 1;
        self.note(StepPhase::Computing, place.exchange);
        let (mut batches, mut views) = (VecDeque::new(), Vec::new());
        for lane in place.lanes() {
            let step = self.lane_step(lane);
            let batch = next(&mut self.samples, step)?;
            views.push(negatives::look(&mut self.own, (&self.blip, &self.state), &batch, step));
            batches.push_back(batch.kept());
        }
        let views: Vec<View> = views.into_iter().map(Looking::wait).collect();
        self.note(StepPhase::Exchanging, place.exchange);
        let shares = share(self.lane_share.encode_views(&views), place.exchange, place.mesh)?;
        let all = self.lane_share.gather_views(&place.deal, &shares)?;
        let reader = self.foreign.iter();
        let identities = reader.flat_map(|reader| all.samples.iter().map(|sample| reader.identity(*sample)));
        Ok(Some(Looked {
            identities: identities.collect(),
            batches,
            all,
        }))
    }

    /// Notes where in a step this rank is.
    fn note(&self, phase: StepPhase, exchange: u64) {
        self.voice.activity().enter(self.state.step, phase, exchange);
    }

    fn lane_step(&self, lane: u32) -> LaneStep {
        let (step, train) = (self.state.step, &self.schedule.train);
        LaneStep {
            objective: self.objective,
            seed: self.seed,
            step,
            lane,
            distillation: Distillation {
                alpha: self.schedule.alpha(step) as f32,
                temperature: (train.teacher_temperature > 0.0).then_some(train.teacher_temperature as f32),
            },
            same_image: train.same_image,
            prompt_tokens: self.prompt_tokens,
        }
    }

    /// The step's one act on the state: no network, no cancellation point.
    fn commit(&mut self, prepared: Prepared) -> Report {
        let step = self.state.step;
        let lr = self.schedule.lr(step);
        let commit = Commit {
            gradient: prepared.gradient.span(),
            lanes: self.lanes,
            image_features: &prepared.gathered.image_features,
            text_features: &prepared.gathered.text_features,
            identities: &prepared.gathered.identities,
            lr,
        };
        // Waits while the state before this step is being copied for a checkpoint.
        self.state
            .change()
            .commit(&self.blip, self.objective, &self.schedule.train, commit);
        self.gradients.give(prepared.gradient);
        let [itc, itm, lm] = prepared.gathered.losses;
        let metrics = StepMetrics {
            step,
            epoch: self.schedule.epoch(step),
            itc,
            itm,
            lm,
            lr,
            alpha: self.schedule.alpha(step),
            temperature: f64::from(self.state.temperature(&self.blip)),
            grad_norm: prepared.gradient_norm,
        };
        (metrics, self.lane_share.entry(step, prepared.gathered.lanes))
    }

    fn is_planned(&self, committed: u64) -> bool {
        let epoch = match self.schedule.train.length {
            Length::Epochs { .. } => Some(self.schedule.steps_per_epoch),
            Length::Steps { .. } => None,
        };
        is_planned(self.checkpoint, committed, self.schedule.total_steps(), epoch)
    }

    /// Hands this rank's part to the threads that copy and write it.
    fn take_checkpoint(&mut self, place: &Place) -> Result<(), Failure> {
        self.note(StepPhase::Saving, place.exchange);
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => self.start_writer()?,
        };
        let part = Part {
            state: self.state.view(),
            part: place.mesh.rank(),
            parts: place.deal.ranks(),
        };
        self.writer.insert(writer).write(part);
        Ok(())
    }

    fn start_writer(&self) -> io::Result<Writer> {
        let voice = self.voice.clone();
        let report = move |outcome| {
            voice.say(&match outcome {
                Outcome::Written(part) => FromRank::Part {
                    part,
                    peak_bytes: peak_bytes(),
                },
                Outcome::Refused { step, reason } => FromRank::PartRefused { step, reason },
            });
        };
        Writer::start(self.objects.clone(), self.stage, State::tensors_of(&self.blip), report)
    }

    /// The bytes of the state before the step that are compared between the ranks: a rotating part, and what the step's samples
    /// replace in the queues; before the last step all, because nothing is compared after it.
    fn compared(&self, samples: usize) -> Vec<Range<usize>> {
        let bytes = self.state.num_bytes();
        if self.state.step + 1 == self.schedule.total_steps() {
            return iter::once(0..bytes).collect();
        }
        let part = self.state.step % COMPARED_WITHIN;
        let part = part_range(bytes as u64, part as u32, COMPARED_WITHIN as u32);
        let mut compared = self.state.replaced_by(samples);
        compared.push(part.start as usize..part.end as usize);
        compared
    }

    fn digest(&self, ranges: impl IntoIterator<Item = Range<usize>>) -> u64 {
        let mut hasher = blake3::Hasher::new();
        for range in ranges {
            self.state.for_bytes(range, |bytes| {
                hasher.update(bytes);
            });
        }
        let hash = hasher.finalize();
        u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("a hash has eight bytes"))
    }
}

/// The next batch of a rank's lanes, which is that of `step`.
fn next(samples: &mut Samples, LaneStep { step, lane, .. }: LaneStep) -> Result<Loaded, Failure> {
    let batch = samples.next()?;
    for (position, tries) in &batch.replaced {
        tracing::warn!(
            step,
            lane,
            position,
            tries,
            "a sample no longer decodes and was replaced"
        );
    }
    Ok(batch)
}

/// The first term that is not finite.
fn not_finite(prepared: &Prepared) -> Option<&'static str> {
    let losses = prepared.gathered.losses.iter().zip(LOSS_NAMES);
    let mut terms = losses.chain([(&prepared.gradient_norm, "gradient")]);
    terms.find(|(value, _)| !value.is_finite()).map(|(_, name)| name)
}
