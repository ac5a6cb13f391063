//! Step after step: own lanes, the collective, agreement, commit.

use super::member::Speaker;
use super::negatives::{self, Looked};
use super::samples::Samples;
use super::setup::Setup;
use super::shares::{Gathered, LaneShare};
use crate::checkpoint::writer::{Copied, Writer};
use crate::checkpoint::{is_planned, part_range};
use crate::collective::deal::Deal;
use crate::collective::reduce::{Local, Plan, share, total};
use crate::collective::tcp::Mesh;
use crate::rank::failure::Failure;
use crate::rank::pipes::{Orders, Voice};
use medley_data::loader::{Batch, Loader};
use medley_model::blip::{Blip, LaneBatch, LaneStep};
use medley_model::flat::{Flat, Pool};
use medley_model::loss::itc::Distillation;
use medley_model::params::Objective;
use medley_model::schedule::Schedule;
use medley_model::state::{Commit, State, gradient_norm};
use medley_protocol::agent::{FromRank, RankState};
use medley_protocol::metrics::StepMetrics;
use medley_protocol::spec::{CheckpointSpec, Length};
use std::collections::VecDeque;

/// A prepared step proves 1/64 of the state before it: every byte is compared once in 64 steps.
const DIGEST_PARTS: u32 = 64;
const LOSS_NAMES: [&str; 3] = ["ITC", "ITM", "LM"];

/// One rank in the middle of its work.
pub(super) struct Trainer<'a> {
    blip: Blip,
    state: State,
    schedule: Schedule,
    objective: Objective,
    seed: u64,
    prompt_tokens: usize,
    lane_share: LaneShare,
    checkpoint: CheckpointSpec,
    deal: Deal,
    plan: Plan,
    rank: u32,
    lanes: u32,
    mesh: &'a Mesh,
    samples: Samples,
    /// Reads samples of other lanes, where negatives come from all of them.
    foreign: Option<Loader>,
    writer: Option<Writer>,
    activations: Pool,
    gradients: Pool,
    /// Number of collectives begun: a redone step does not meet frames of its first try.
    exchange: u64,
}

/// All that a step commits.
struct Prepared {
    gradient: Flat,
    gathered: Gathered,
    gradient_norm: f64,
}

impl<'a> Trainer<'a> {
    /// A rank with its part in the generation; its samples are read from now on.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn new(
        setup: Setup,
        checkpoint: CheckpointSpec,
        (deal, plan, rank): (Deal, Plan, u32),
        mesh: &'a Mesh,
        writer: Writer,
    ) -> std::io::Result<Self> {
        let lane_share = setup.lane_share();
        let own = deal.lanes(rank).collect();
        let samples = Samples::start(setup.loader, own, setup.state.step, setup.schedule.total_steps())?;
        Ok(Self {
            lane_share,
            blip: setup.blip,
            state: setup.state,
            schedule: setup.schedule,
            objective: setup.objective,
            seed: setup.seed,
            prompt_tokens: setup.prompt_tokens,
            lanes: setup.lanes,
            checkpoint,
            deal,
            plan,
            rank,
            mesh,
            samples,
            foreign: setup.foreign,
            writer: Some(writer),
            activations: Pool::default(),
            gradients: Pool::default(),
            exchange: 0,
        })
    }

    /// Trains to the end; returns the number of committed steps.
    pub(super) fn run(mut self, mut speaker: Speaker, orders: &Orders, voice: &Voice) -> Result<u64, Failure> {
        let total_steps = self.schedule.total_steps();
        let committed = self.state.step;
        voice.state(RankState::Running { committed });
        while self.state.step < total_steps {
            let prepared = self.prepare_finite()?;
            let digest = self.digest();
            let planned = self.is_planned(self.state.step + 1);
            let checkpoint = speaker.agree(self.mesh, orders, digest, planned)?;
            let metrics = self.commit(prepared);
            if checkpoint {
                self.take_checkpoint()?;
            }
            voice.say(&FromRank::Committed { metrics });
        }
        if let Some(writer) = self.writer.take() {
            writer.finish().map_err(Failure::passing)?;
        }
        Ok(self.state.step)
    }

    /// Prepares the next step. What is not finite is computed once more: if it comes back, it is the model's fault, else a
    /// device erred. All ranks see the same sums, so all of them do the same.
    fn prepare_finite(&mut self) -> Result<Prepared, Failure> {
        let first = self.prepare()?;
        let Some(what) = not_finite(&first) else {
            return Ok(first);
        };
        let step = self.state.step;
        tracing::warn!(step, what, "not finite; the step is computed once more");
        self.gradients.give(first.gradient);
        self.samples.rewind(step)?;
        let second = self.prepare()?;
        match not_finite(&second) {
            None => Ok(second),
            Some(what) => Err(Failure::lasting(format!(
                "the {what} of step {step} is not finite, twice: lower the stage's peak_lr or lengthen its warm-up"
            ))),
        }
    }

    fn prepare(&mut self) -> Result<Prepared, Failure> {
        let mut looked = self.look()?;
        self.exchange += 1;
        let steps: Vec<LaneStep> = (0..self.lanes).map(|lane| self.lane_step(lane)).collect();
        let mut outputs = Vec::new();
        let len = self.blip.student_layout.len();
        let Self {
            blip,
            state,
            samples,
            foreign,
            activations,
            ..
        } = self;
        let local = Local::collect(&self.plan, len, &mut self.gradients, |lane, gradient| {
            let step = steps[lane as usize];
            let waiting = looked.as_mut().and_then(|looked| looked.batches.pop_front());
            let mut batch = waiting.map_or_else(|| next(samples, step), Ok)?;
            let drawn = match (&looked, foreign.as_mut()) {
                (Some(looked), Some(reader)) => Some(negatives::draw(blip, state, looked, step, (&mut batch, reader))?),
                _ => None,
            };
            let lane = LaneBatch {
                guests: drawn.as_ref().map_or(&[], |drawn| &drawn.guests),
                ..own(&batch)
            };
            let negatives = drawn.as_ref().map(|drawn| &drawn.negatives);
            let output = blip
                .lane_with(state, lane, step, negatives, activations, gradient)
                .map_err(|e| Failure::lasting(format!("a fault of the model's code: {e}")))?;
            outputs.push((output, batch.identities));
            Ok::<(), Failure>(())
        })?;
        let shares = share(self.lane_share.encode(&outputs), self.exchange, self.mesh)?;
        let gathered = self.lane_share.gather(&self.deal, &shares)?;
        let gradient = total(&self.plan, local, self.exchange, self.mesh, &mut self.gradients)?;
        Ok(Prepared {
            gradient_norm: gradient_norm(&gradient, self.lanes),
            gradient,
            gathered,
        })
    }

    /// The first of two passes, where negatives come from all lanes.
    fn look(&mut self) -> Result<Option<Looked>, Failure> {
        if self.foreign.is_none() {
            return Ok(None);
        }
        self.exchange += 1;
        let (mut batches, mut views) = (VecDeque::new(), Vec::new());
        for lane in self.deal.lanes(self.rank) {
            let step = self.lane_step(lane);
            let batch = next(&mut self.samples, step)?;
            views.push(negatives::look(
                &self.blip,
                &self.state,
                &batch,
                step,
                &mut self.activations,
            ));
            batches.push_back(batch);
        }
        let shares = share(self.lane_share.encode_views(&views), self.exchange, self.mesh)?;
        let all = self.lane_share.gather_views(&self.deal, &shares)?;
        let reader = self.foreign.iter();
        let identities = reader.flat_map(|reader| all.samples.iter().map(|sample| reader.identity(*sample)));
        Ok(Some(Looked {
            identities: identities.collect(),
            batches,
            all,
        }))
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
    fn commit(&mut self, prepared: Prepared) -> StepMetrics {
        let step = self.state.step;
        let lr = self.schedule.lr(step);
        let commit = Commit {
            gradient: &prepared.gradient,
            lanes: self.lanes,
            image_features: &prepared.gathered.image_features,
            text_features: &prepared.gathered.text_features,
            identities: &prepared.gathered.identities,
            lr,
        };
        self.state
            .commit(&self.blip, self.objective, &self.schedule.train, commit);
        self.gradients.give(prepared.gradient);
        let [itc, itm, lm] = prepared.gathered.losses;
        StepMetrics {
            step,
            epoch: self.schedule.epoch(step),
            itc,
            itm,
            lm,
            lr,
            alpha: self.schedule.alpha(step),
            temperature: f64::from(self.state.temperature(&self.blip)),
            grad_norm: prepared.gradient_norm,
        }
    }

    fn is_planned(&self, committed: u64) -> bool {
        let epoch = match self.schedule.train.length {
            Length::Epochs { .. } => Some(self.schedule.steps_per_epoch),
            Length::Steps { .. } => None,
        };
        is_planned(self.checkpoint, committed, self.schedule.total_steps(), epoch)
    }

    /// Copies this rank's part and hands it to the thread that writes.
    fn take_checkpoint(&mut self) -> Result<(), Failure> {
        let state_bytes = self.state.num_bytes() as u64;
        let (part, parts) = (self.rank, self.deal.ranks());
        let range = part_range(state_bytes, part, parts);
        let copied = Copied {
            step: self.state.step,
            part,
            parts,
            offset_bytes: range.start,
            state_bytes,
            bytes: self.state.copy_bytes(range.start as usize..range.end as usize),
        };
        if let Some(writer) = self.writer.take() {
            self.writer = Some(writer.write(copied).map_err(Failure::passing)?);
        }
        Ok(())
    }

    /// Digest of a rotating part of the state before the step.
    fn digest(&self) -> u64 {
        let part = (self.state.step % u64::from(DIGEST_PARTS)) as u32;
        let range = part_range(self.state.num_bytes() as u64, part, DIGEST_PARTS);
        let mut hasher = blake3::Hasher::new();
        self.state.for_bytes(range.start as usize..range.end as usize, |bytes| {
            hasher.update(bytes);
        });
        let hash = hasher.finalize();
        u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("a hash has eight bytes"))
    }
}

/// The next batch of a rank's lanes, which is that of `step`.
fn next(samples: &mut Samples, LaneStep { step, lane, .. }: LaneStep) -> Result<Batch, Failure> {
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

/// A batch without guests.
pub(super) fn own(batch: &Batch) -> LaneBatch<'_> {
    LaneBatch {
        pixels: &batch.pixels,
        texts: &batch.texts,
        identities: &batch.identities,
        guests: &[],
    }
}

/// The first term that is not finite.
fn not_finite(prepared: &Prepared) -> Option<&'static str> {
    let losses = prepared.gathered.losses.iter().zip(LOSS_NAMES);
    let mut terms = losses.chain([(&prepared.gradient_norm, "gradient")]);
    terms.find(|(value, _)| !value.is_finite()).map(|(_, name)| name)
}
