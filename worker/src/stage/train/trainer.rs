//! Step after step: own lanes, the collective, agreement, commit.

mod commit;
mod enter;
mod save;

use super::lanes::Lanes;
use super::line::Line;
use super::member::Speaker;
use super::negatives::{self, Looked, Looking};
use super::place::{Place, Way};
use super::samples::{Loaded, Samples};
use super::setup::Setup;
use super::shares::{LaneShare, View};
use super::{Left, Stop};
use crate::checkpoint::placed::Placed;
use crate::checkpoint::shared::Shared;
use crate::checkpoint::writer::Writer;
use crate::collective::deal::Deal;
use crate::collective::gradients::Gradients;
use crate::collective::nccl::Nccl;
use crate::collective::reduce::{Local, share, total};
use crate::collective::underway::Underway;
use crate::objects::Objects;
use crate::rank::activity::Activity;
use crate::rank::failure::Failure;
use crate::rank::pipes::Voice;
use commit::Prepared;
use medley_data::loader::Loader;
use medley_model::blip::{Blip, LaneBatch, LaneStep};
use medley_model::device::Device;
use medley_model::loss::itc::Distillation;
use medley_model::params::Objective;
use medley_model::schedule::Schedule;
use medley_model::tape::Gradient;
use medley_protocol::agent::{Assignment, FromRank, RankState, StepPhase};
use medley_protocol::ids::StageId;
use medley_protocol::ledger::LedgerEntry;
use medley_protocol::metrics::StepMetrics;
use medley_protocol::spec::CheckpointSpec;
use std::collections::VecDeque;

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

/// What a committed step reports.
type Report = (StepMetrics, Option<LedgerEntry>);

impl Trainer {
    /// A rank that holds no state yet.
    ///
    /// # Errors
    /// [`Failure`] if its device has not what it takes.
    pub(super) fn new(
        setup: Setup,
        assignment: &Assignment,
        device: Device,
        (objects, voice): (Objects, Voice),
    ) -> Result<Self, Failure> {
        let lane_share = setup.lane_share();
        let mut state = Placed::zeros(&setup.blip, &device);
        if assignment.generation > 1 {
            // Somebody may hold the state: all would wait while this rank, being fed, waits for its memory.
            state.claim_memory();
        }
        Ok(Self {
            gradients: Gradients::new(setup.blip.student_layout.len()),
            lane_share,
            state: Shared::new(state)?,
            holds_state: false,
            loaded: 0,
            prepared: None,
            blip: setup.blip,
            samples: Samples::new(
                setup.loader,
                setup.schedule.total_steps(),
                &device,
                voice.activity().clone(),
            ),
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
        })
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

    /// Says that the rank gives up.
    pub(super) fn say(&self, failure: &Failure) {
        self.voice.state(failure.state());
    }

    /// What may move gradients between GPUs.
    pub(super) fn nccl(&self) -> &Nccl {
        &self.nccl
    }

    /// Trains to the end, or until another generation follows.
    ///
    /// # Errors
    /// [`Stop`].
    pub(super) fn run(&mut self, mut speaker: Speaker, place: &mut Place, line: &mut Line) -> Result<Left, Stop> {
        while self.state.step() < self.schedule.total_steps() {
            let prepared = self.prepare_finite(place)?;
            let digest = self.state.digest(&self.compared(prepared.gathered.identities.len()))?;
            self.note(StepPhase::Agreeing, place.exchange);
            let planned = self.is_planned(self.state.step() + 1);
            // Should the generation break now, the next one may commit it.
            self.prepared = Some(prepared);
            let agreed = speaker.agree(place.mesh, line, digest, planned)?;
            if self.state.is_viewed() {
                self.note(StepPhase::Saving, place.exchange);
                self.state.change();
            }
            self.note(StepPhase::Computing, place.exchange);
            let report = self.prepared.take().map(|prepared| self.commit(prepared));
            // None, if this rank has a part in what follows.
            let leaves = agreed.then.and_then(|next| line.leaves_before(next));
            if agreed.checkpoint || leaves == Some(true) {
                self.take_checkpoint(place)?;
            }
            if let Some((metrics, ledger)) = report {
                tracing::debug!(step = metrics.step, "committed");
                self.voice.activity().committed();
                self.voice.say(&FromRank::Committed { metrics, ledger });
            }
            if agreed.then.is_some() {
                return Ok(if leaves.is_some() { Left::ForGood } else { Left::ForNext });
            }
        }
        self.note(StepPhase::Saving, place.exchange);
        self.finish_writing()?;
        let committed = self.state.step();
        self.voice.state(RankState::Finished { committed });
        Ok(Left::Finished)
    }

    /// Prepares the next step. What is not finite is computed once more: if it comes back, it is the model's fault, else a
    /// device erred. All ranks see the same sums, so all of them do the same.
    fn prepare_finite(&mut self, place: &mut Place) -> Result<Prepared, Stop> {
        let first = self.prepare(place)?;
        let Some(what) = first.not_finite() else {
            return Ok(first);
        };
        let step = self.state.step();
        tracing::warn!(step, what, "not finite; the step is computed once more");
        self.gradients.give(first.gradient);
        self.samples.rewind(step)?;
        let second = self.prepare(place)?;
        match second.not_finite() {
            None => Ok(second),
            Some(what) => Err(Stop::Failed(match self.compare_all(place)? {
                Some(doubt) => Failure::doubtful(format!("{doubt}: the {what} of that step is not finite"), doubt),
                None => Failure::lasting(format!(
                    "the {what} of step {step} is not finite, twice: lower the stage's peak_lr or lengthen its warm-up"
                )),
            })),
        }
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
            voice,
            ..
        } = self;
        let activity = voice.activity();
        let lane = |lane: u32, gradient: Gradient| {
            let step = steps[lane as usize];
            let waiting = looked.as_mut().and_then(|looked| looked.batches.pop_front());
            let mut batch = waiting.map_or_else(|| next(samples, step), Ok)?;
            let drawn = match (&looked, foreign.as_mut()) {
                (Some(looked), Some(reader)) => {
                    Some(negatives::draw(blip, looked, step, (&mut batch, reader), activity)?)
                }
                _ => None,
            };
            let lane = LaneBatch {
                guests: drawn.as_ref().map_or(&[], |drawn| &drawn.guests),
                ..batch.own()
            };
            let negatives = drawn.as_ref().map(|drawn| &drawn.negatives);
            let output = device.run((blip, state.seen()), lane, step, negatives, gradient)?;
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
        let over_nccl = matches!(way, Way::Devices(_));
        let total = match way {
            Way::Mesh(local) => total(plan, local, exchange, mesh, &mut self.gradients)?,
            Way::Devices(underway) => underway.finish(&mut self.gradients)?,
        };
        self.note(StepPhase::Computing, exchange);
        Ok(self.complete(total, gathered, over_nccl)?)
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
            views.push(negatives::look(
                &mut self.own,
                (&self.blip, self.state.seen()),
                &batch,
                step,
            ));
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
            temperature: self.state.temperature(&self.blip),
            batches,
            all,
        }))
    }

    /// Notes where in a step this rank is.
    fn note(&self, phase: StepPhase, exchange: u64) {
        self.voice.activity().enter(self.state.step(), phase, exchange);
    }

    fn lane_step(&self, lane: u32) -> LaneStep {
        let (step, train) = (self.state.step(), &self.schedule.train);
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
