//! What is settled before the first step: data, model, schedule and the state to go on from.

use super::shares::LaneShare;
use crate::objects::Objects;
use crate::rank::failure::Failure;
use crate::stage::inputs;
use medley_data::augment::Augment;
use medley_data::loader::{Loader, Settings};
use medley_model::blip::Blip;
use medley_model::params::Objective;
use medley_model::schedule::Schedule;
use medley_model::state::State;
use medley_protocol::agent::{Assignment, StageInputs};
use medley_protocol::spec::{AugmentSpec, AutoContrast, Spec, TrainSpec};
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
    /// State to go on from.
    pub(super) state: State,
    /// Reads samples.
    pub(super) loader: Loader,
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
        let settings = Settings {
            seed,
            lanes: spec.lanes.count,
            batch: spec.lanes.batch,
            image_size: train.image_size,
            augment: augment(train.augment),
            max_tokens: (spec.model.text.max_tokens as usize + prompt_tokens).min(spec.model.text.positions as usize),
            prompt: train.prompt.clone(),
        };
        let blip = inputs::blip(spec, train.image_size, tokenizer.vocabulary());
        let state = initial_state(assignment, objects, &blip)?;
        Ok(Self {
            state,
            objective,
            schedule,
            seed,
            lanes: spec.lanes.count,
            batch: spec.lanes.batch,
            prompt_tokens,
            loader: Loader::new(Arc::new(corpus), pairs, Arc::new(tokenizer), settings),
            blip,
        })
    }

    /// What each lane contributes besides its gradient.
    pub(super) fn lane_share(&self) -> LaneShare {
        let features = if self.objective.understands() {
            (self.batch * self.blip.model.embed_dim) as usize
        } else {
            0
        };
        LaneShare { features }
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

fn augment(spec: AugmentSpec) -> Augment {
    match spec {
        AugmentSpec::None => Augment::None,
        AugmentSpec::Reference {
            min_crop,
            auto_contrast,
        } => Augment::Reference {
            min_crop,
            broken_contrast: auto_contrast == AutoContrast::Reference,
        },
    }
}

/// Seed of a stage's order, augmentation, dropout and negatives: stages of one job differ, fresh weights do not.
fn stage_seed(seed: u64, stage_name: &str) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).update(stage_name.as_bytes());
    let hash = hasher.finalize();
    u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("a hash has eight bytes"))
}

/// The stage's own checkpoint if it has one; else the weights it is fine-tuned from; else fresh weights.
fn initial_state(assignment: &Assignment, objects: &Objects, blip: &Blip) -> Result<State, Failure> {
    let StageInputs { start, resume, .. } = &assignment.inputs;
    if resume.is_some() {
        return inputs::state(objects, blip, resume.as_ref(), "checkpoint to go on from");
    }
    if assignment.kind == StageKind::Pretrain && start.is_none() {
        return Ok(State::fresh(blip, assignment.spec.seed));
    }
    let pretrained = Blip::new(&blip.model, assignment.spec.pretrain.image_size, blip.vocab);
    let state = inputs::state(objects, &pretrained, start.as_ref(), "checkpoint to start from")?;
    let mut state = state.at_image_size(&pretrained, blip);
    state.begin_stage();
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_of_one_job_have_seeds_of_their_own() {
        assert_ne!(stage_seed(1, "pretrain-0"), stage_seed(1, "pretrain-1"));
        assert_ne!(stage_seed(1, "pretrain-0"), stage_seed(2, "pretrain-0"));
        assert_eq!(stage_seed(1, "filter-0"), stage_seed(1, "filter-0"));
    }
}
