//! What a training stage is made of, and the state it begins with.

use crate::collective::deal::{Deal, deal};
use crate::rank::failure::Failure;
use crate::rank::process::Context;
use crate::stage::inputs;
use medley_data::augment::Augment;
use medley_data::loader::{Loader, Settings};
use medley_model::blip::Blip;
use medley_model::params::Objective;
use medley_model::schedule::Schedule;
use medley_model::state::State;
use medley_protocol::agent::Member;
use medley_protocol::spec::{AugmentSpec, AutoContrast, LaneSpec, Length, TrainSpec};
use medley_protocol::stage::StageKind;
use medley_protocol::tasks::Set;
use std::sync::Arc;

/// Everything that is fixed for the stage, and the state.
pub(super) struct Setup {
    pub blip: Blip,
    pub objective: Objective,
    pub train: TrainSpec,
    pub lanes: LaneSpec,
    pub seed: u64,
    pub schedule: Schedule,
    /// Tokens of the prompt, which are not predicted.
    pub prompt_tokens: usize,
    pub state: State,
    pub loader: Loader,
}

impl Setup {
    /// Loads dataset version, vocabulary and weights.
    pub(super) fn load(context: &Context) -> Result<Self, Failure> {
        let (assignment, objects) = (&context.assignment, &context.objects);
        let (spec, stage_inputs) = (&assignment.spec, &assignment.inputs);
        let (objective, train) = match assignment.kind {
            StageKind::Captioner => (Objective::Captioner, &spec.captioner),
            StageKind::Filter => (Objective::Filter, &spec.filter),
            _ => (Objective::Pretrain, &spec.pretrain),
        };
        let human_only = objective != Objective::Pretrain;
        let version = inputs::version(objects, stage_inputs)?;
        let corpus = inputs::corpus(objects, &spec.data, &version, |entry| match entry.shard.set {
            Set::Human => true,
            Set::Web => !human_only,
            Set::Test => false,
        })?;
        let pairs = corpus.training_pairs(human_only);
        let tokenizer = inputs::tokenizer(objects, stage_inputs)?;
        let blip = inputs::blip(spec, train.image_size, tokenizer.vocabulary());
        let schedule = Schedule::new(train, pairs.len() as u64, spec.global_batch())
            .ok_or_else(|| too_few(pairs.len(), spec.global_batch()))?;
        let prompt_tokens = tokenizer.pieces(&train.prompt).len();
        let settings = Settings {
            seed: spec.seed,
            lanes: spec.lanes.count,
            batch: spec.lanes.batch,
            image_size: train.image_size,
            augment: augment(train.augment),
            max_tokens: spec.model.text.max_tokens as usize,
            prompt: train.prompt.clone(),
        };
        let loader = Loader::new(Arc::new(corpus), pairs, Arc::new(tokenizer), settings);
        Ok(Self {
            state: initial_state(context, &blip)?,
            blip,
            objective,
            train: train.clone(),
            lanes: spec.lanes,
            seed: spec.seed,
            schedule,
            prompt_tokens,
            loader,
        })
    }

    /// Deals the lanes to the members' nodes.
    pub(super) fn deal(&self, members: &[Member]) -> Result<Deal, Failure> {
        let on_same_node = |a: &Member, b: &Member| a.node == b.node;
        let ranks_of_node: Vec<u32> = members.chunk_by(on_same_node).map(|ranks| ranks.len() as u32).collect();
        deal(self.lanes.count, &ranks_of_node).map_err(Failure::from)
    }

    /// Elements of a gradient.
    pub(super) fn gradient_len(&self) -> usize {
        self.blip.student_layout.len()
    }

    /// Most bytes that one rank shares with the others in a step.
    pub(super) fn share_bytes(&self, deal: &Deal) -> usize {
        let most = (0..deal.ranks()).map(|rank| deal.lanes(rank).count()).max();
        most.unwrap_or(0) * self.share_of_lane().bytes()
    }

    /// What a lane shares.
    pub(super) fn share_of_lane(&self) -> LaneShare {
        let rows = if self.objective.understands() { self.lanes.batch } else { 0 };
        LaneShare {
            features: (rows * self.blip.model.embed_dim) as usize,
        }
    }

    /// Steps of an epoch, where the stage's length is given in epochs.
    pub(super) fn counted_epoch(&self) -> Option<u64> {
        matches!(self.train.length, Length::Epochs { .. }).then_some(self.schedule.steps_per_epoch)
    }
}

/// Layout of what a lane shares: three losses, then image features, then text features.
#[derive(Debug, Clone, Copy)]
pub(super) struct LaneShare {
    /// Elements of one modality's features.
    pub features: usize,
}

impl LaneShare {
    /// Elements in all.
    pub(super) fn len(self) -> usize {
        3 + 2 * self.features
    }

    /// Bytes in all.
    pub(super) fn bytes(self) -> usize {
        self.len() * size_of::<f32>()
    }
}

/// The stage's own checkpoint; else the weights it starts from, with a fresh optimiser; else fresh weights.
fn initial_state(context: &Context, blip: &Blip) -> Result<State, Failure> {
    let (inputs, objects) = (&context.assignment.inputs, &context.objects);
    if let Some(manifest) = &inputs.resume {
        return inputs::state(objects, blip, Some(manifest), "checkpoint to go on from");
    }
    if context.assignment.kind == StageKind::Pretrain && inputs.start.is_none() {
        return Ok(State::fresh(blip, context.assignment.spec.seed));
    }
    let mut state = inputs::state(objects, blip, inputs.start.as_ref(), "checkpoint to start from")?;
    state.begin_stage();
    Ok(state)
}

fn too_few(pairs: usize, global_batch: u64) -> Failure {
    Failure::lasting(format!(
        "the dataset version has {pairs} pairs for this stage, a step takes {global_batch} (lanes.count × lanes.batch): add data or \
         lower lanes.batch"
    ))
}

fn augment(spec: AugmentSpec) -> Augment {
    match spec {
        AugmentSpec::None => Augment::None,
        AugmentSpec::Reference { min_crop, auto_contrast } => Augment::Reference {
            min_crop,
            broken_contrast: auto_contrast == AutoContrast::Reference,
        },
    }
}
