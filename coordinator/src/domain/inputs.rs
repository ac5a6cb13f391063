//! What a stage starts from: the outputs of the stages before it.

use super::stage::Generation;
use super::{Job, Stage};
use medley_protocol::agent::StageInputs;
use medley_protocol::checkpoint::Manifest;
use medley_protocol::stage::StageKind;

/// The inputs of a generation of `stage`.
pub fn inputs(job: &Job, stage: &Stage, generation: &Generation) -> StageInputs {
    let resume = generation.resume.clone();
    if stage.kind == StageKind::Index {
        return StageInputs::default();
    }
    let dataset = job.dataset(stage.round);
    let checkpoint_of = |kind| checkpoint(job, kind, stage.round);
    let starts_from_pretrained = matches!(
        stage.kind,
        StageKind::Captioner | StageKind::Filter | StageKind::Evaluate
    );
    let filters = stage.kind == StageKind::Capfilt;
    StageInputs {
        dataset: dataset.map(|dataset| dataset.object.clone()),
        vocab: dataset.map(|dataset| dataset.vocab.clone()),
        start: starts_from_pretrained
            .then(|| checkpoint_of(StageKind::Pretrain))
            .flatten(),
        captioner: filters.then(|| checkpoint_of(StageKind::Captioner)).flatten(),
        filter: filters.then(|| checkpoint_of(StageKind::Filter)).flatten(),
        resume,
    }
}

/// The last checkpoint of the stage of this kind and round.
fn checkpoint(job: &Job, kind: StageKind, round: u32) -> Option<Manifest> {
    let stage = job
        .stages
        .iter()
        .find(|stage| stage.kind == kind && stage.round == round);
    stage.and_then(|stage| stage.facts.checkpoint.clone())
}
