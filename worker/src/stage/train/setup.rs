//! What is settled before the first step: data, model and schedule, and where a state comes from that nobody holds.

use super::shares::LaneShare;
use crate::checkpoint;
use crate::objects::Objects;
use crate::rank::failure::Failure;
use crate::stage::inputs;
use medley_data::loader::{Loader, Settings};
use medley_data::order::stage_seed;
use medley_model::blip::Blip;
use medley_model::params::Objective;
use medley_model::schedule::Schedule;
use medley_model::state::State;
use medley_protocol::agent::{Assignment, StageInputs};
use medley_protocol::spec::{Negatives, Spec, TrainSpec};
use medley_protocol::stage::StageKind;
use medley_protocol::tasks::Set;
use std::sync::Arc;

/// A stage ready to train.
pub(super) struct Setup {
    /// The model at the stage's image size.
    pub(super) blip: Blip,
    /// What is trained.
    pub(super) objective: Objective,
    /// Rates and lengths.
    pub(super) schedule: Schedule,
    /// Seed of the stage's random streams.
    pub(super) seed: u64,
    /// Lanes of a step.
    pub(super) lanes: u32,
    /// Samples of a lane.
    pub(super) batch: u32,
    /// Tokens of the prompt.
    pub(super) prompt_tokens: usize,
    /// Reads samples.
    pub(super) loader: Loader,
    /// Reads samples of other lanes, where negatives come from all of them.
    pub(super) foreign: Option<Loader>,
    /// Samples that the stage draws from, where a ledger is kept.
    ledger: Option<u64>,
}

impl Setup {
    /// Reads what the assignment names.
    ///
    /// # Errors
    /// [`Failure`]: an input is missing or does not fit.
    pub(super) fn load(assignment: &Assignment, objects: &Objects) -> Result<Self, Failure> {
        let spec = &assignment.spec;
        let (objective, train) = objective(spec, assignment.kind)?;
        let human_only = objective != Objective::Pretrain;
        let tokenizer = inputs::tokenizer(objects, &spec.vocab, assignment.inputs.vocab.as_ref())?;
        let version = inputs::version(objects, &assignment.inputs)?;
        let corpus = inputs::corpus(objects, &spec.data, &version, |entry| match entry.shard.set {
            Set::Human => true,
            Set::Web => !human_only,
            Set::Test => false,
        })?;
        let pairs = corpus.training_pairs(human_only);
        let schedule = Schedule::new(train, pairs.len() as u64, spec.global_batch()).ok_or_else(|| {
            Failure::lasting(format!(
                "lanes.count × lanes.batch: a step needs {} pairs, the dataset version has {}",
                spec.global_batch(),
                pairs.len()
            ))
        })?;
        let seed = stage_seed(spec.seed, &assignment.stage_name);
        let prompt_tokens = tokenizer.pieces(&train.prompt).len();
        let max_tokens = spec.max_tokens(train);
        if prompt_tokens + 2 >= max_tokens {
            let stage = assignment.kind;
            return Err(Failure::lasting(format!(
                "{stage}.max_tokens is {max_tokens}: no room for a text after the {prompt_tokens} tokens of {stage}.prompt"
            )));
        }
        let settings = Settings {
            seed,
            lanes: spec.lanes.count,
            batch: spec.lanes.batch,
            image_size: train.image_size,
            augment: train.augment,
            max_tokens,
            prompt: train.prompt.clone(),
        };
        let blip = Blip {
            recomputes: train.recompute,
            ..inputs::blip(spec, train.image_size, tokenizer.vocabulary())
        };
        let ledger = spec.ledger.then_some(pairs.len() as u64);
        let loader = Loader::new(Arc::new(corpus), pairs, Arc::new(tokenizer), settings);
        let from_all = objective.understands() && train.negatives == Negatives::All;
        Ok(Self {
            objective,
            schedule,
            seed,
            lanes: spec.lanes.count,
            batch: spec.lanes.batch,
            prompt_tokens,
            foreign: from_all.then(|| loader.another()),
            loader,
            blip,
            ledger,
        })
    }

    /// What each lane contributes besides its gradient.
    pub(super) fn lane_share(&self) -> LaneShare {
        let samples = if self.objective.understands() {
            self.batch as usize
        } else {
            0
        };
        LaneShare {
            features: samples * self.blip.model.embed_dim as usize,
            samples,
            batch: self.batch as usize,
            ledger: self.ledger,
        }
    }
}

fn objective(spec: &Spec, kind: StageKind) -> Result<(Objective, &TrainSpec), Failure> {
    match kind {
        StageKind::Pretrain => Ok((Objective::Pretrain, &spec.pretrain)),
        StageKind::Captioner => Ok((Objective::Captioner, &spec.captioner)),
        StageKind::Filter => Ok((Objective::Filter, &spec.filter)),
        other => Err(Failure::lasting(format!("a stage of kind {other} does not train"))),
    }
}

/// The stage's own checkpoint if it has one; else the checkpoint it is fine-tuned from; else the weights that the spec names,
/// or fresh ones.
///
/// # Errors
/// [`Failure`]: an input is missing or does not fit.
pub(super) fn stored_state(
    assignment: &Assignment,
    objects: &Objects,
    blip: &Blip,
    train: &TrainSpec,
) -> Result<State, Failure> {
    let StageInputs { start, resume, .. } = &assignment.inputs;
    if let Some(manifest) = resume {
        let mut state = State::zeros(blip);
        let loaded = checkpoint::load(objects, manifest, &mut state);
        // Of the stage's own checkpoints there may be an earlier one.
        loaded.map_err(|error| error.damage(manifest).map_or_else(|| error.into(), Failure::damaged))?;
        return Ok(state);
    }
    let spec = &assignment.spec;
    let pretrains = assignment.kind == StageKind::Pretrain;
    let files = if pretrains {
        &spec.start.initial
    } else {
        &spec.start.pretrained
    };
    if start.is_none() && (pretrains || !files.is_empty()) {
        return inputs::begun(spec, blip, files, train.momentum);
    }
    let pretrained = Blip::new(&blip.model, spec.pretrain.image_size, blip.vocab);
    let state = inputs::state(objects, &pretrained, start.as_ref(), "checkpoint to start from")?;
    let mut state = state.at_image_size(&pretrained, blip);
    state.begin_stage();
    Ok(state)
}
