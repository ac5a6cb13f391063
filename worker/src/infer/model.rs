//! Loading a trained model for inference, from a checkpoint or from files of weights.

use super::{ROWS_AT_ONCE, ROWS_AT_ONCE_ON_GPU};
use crate::objects::Objects;
use crate::stage::inputs;
use anyhow::{Context as _, bail, ensure};
use medley_data::text::{Tokenizer, Vocabulary};
use medley_model::blip::Blip;
use medley_model::device::Device;
use medley_model::generate::Reader;
use medley_model::params::{self, Objective};
use medley_model::weights::{Description, Report, Source, Start};
use medley_protocol::inference::{Checkpoint, Weights, Work};
use medley_protocol::spec::Spec;
use medley_protocol::stage::StageKind;
use serde_json::json;
use std::path::Path;

/// Names of a vocabulary's file beside weights.
const VOCABULARIES: [&str; 2] = ["vocab.txt", "tokenizer.json"];

/// A model that was loaded.
pub(super) struct Model {
    /// The spec it was trained by; for files of weights, one with its dimensions and the paper's settings.
    pub(super) spec: Spec,
    /// What captions begin with if nothing else is said.
    pub(super) prompt: String,
    /// Longest text in tokens.
    pub(super) max_tokens: usize,
    pub(super) tokenizer: Tokenizer,
    pub(super) trained: Reader,
    /// Texts that grow together.
    pub(super) rows_at_once: usize,
}

impl Model {
    /// Loads the model that can do this work.
    pub(super) fn load(weights: &Weights, work: &Work, device: &Device) -> anyhow::Result<Self> {
        let model = match weights {
            Weights::Checkpoint(checkpoint) => of_checkpoint(checkpoint, work, device),
            Weights::Files { path } => of_files(Path::new(path), work, device),
        }?;
        let problem = model.spec.model.not_for_gpus().into_iter().next();
        if let Some(problem) = problem.filter(|_| device.is_gpu()) {
            bail!("{} {}, or compute on the processor", problem.path, problem.message);
        }
        Ok(model)
    }
}

fn rows_at_once(device: &Device) -> usize {
    if device.is_gpu() {
        ROWS_AT_ONCE_ON_GPU
    } else {
        ROWS_AT_ONCE
    }
}

fn of_checkpoint(checkpoint: &Checkpoint, work: &Work, device: &Device) -> anyhow::Result<Model> {
    let (kind, [best, other]) = (checkpoint.kind, work.stages());
    ensure!(
        kind == best || kind == other,
        "a checkpoint of a {kind} stage cannot do this: give one of a {best} or {other} stage"
    );
    let spec = checkpoint.spec.clone();
    let train = match kind {
        StageKind::Captioner => &spec.captioner,
        StageKind::Filter => &spec.filter,
        _ => &spec.pretrain,
    };
    let objects = Objects::open(&checkpoint.store)?;
    let tokenizer = inputs::tokenizer(&objects, &spec.vocab, Some(&checkpoint.vocab))?;
    let blip = inputs::blip(&spec, train.image_size, tokenizer.vocabulary());
    let params = inputs::params(&objects, &blip, Some(&checkpoint.manifest), "checkpoint")?;
    Ok(Model {
        prompt: train.prompt.clone(),
        max_tokens: spec.max_tokens(train),
        spec,
        tokenizer,
        trained: Reader::new(blip, params, device),
        rows_at_once: rows_at_once(device),
    })
}

fn of_files(path: &Path, work: &Work, device: &Device) -> anyhow::Result<Model> {
    let source = Source::open(path)?;
    let file = source.path();
    let spec = spec(Description::beside(&source)?).with_context(|| format!("the model of {}", file.display()))?;
    let vocabulary = vocabulary(file.parent().unwrap_or(Path::new(".")))?;
    let blip = inputs::blip(&spec, spec.pretrain.image_size, &vocabulary);
    let start = Start {
        files: &[file],
        seed: spec.seed,
        momentum: 1.0,
    };
    let (params, report) = start.load_params(&blip)?;
    complete(file, &blip, &report, work)?;
    Ok(Model {
        prompt: String::new(),
        max_tokens: spec.max_tokens(&spec.filter),
        tokenizer: Tokenizer::new(vocabulary, spec.vocab.specials),
        spec,
        trained: Reader::new(blip, params, device),
        rows_at_once: rows_at_once(device),
    })
}

/// A spec for a model of these dimensions, which are thereby checked. Nothing is trained: it has the smallest batch and queue.
fn spec(description: Description) -> anyhow::Result<Spec> {
    let mut model = description.model;
    model.queue = 2;
    let (image_size, positions) = (description.image_size, model.text.positions);
    let sizes = |max_tokens: u32| json!({"image_size": image_size, "max_tokens": max_tokens.min(positions)});
    let document = json!({
        "name": "-", "kind": "bootstrap", "preset": "vit-b", "data": {"root": "/"},
        "lanes": {"count": 1, "batch": 2}, "cluster": {"max_ranks": 1},
        "model": model, "pretrain": sizes(30), "captioner": sizes(40), "filter": sizes(35),
        "capfilt": {"max_tokens": 20.min(positions), "min_tokens": 5.min(positions / 2)},
    });
    Ok(Spec::from_document(&document)?)
}

/// The vocabulary that lies in the folder of the weights.
fn vocabulary(folder: &Path) -> anyhow::Result<Vocabulary> {
    let found = VOCABULARIES
        .iter()
        .map(|name| folder.join(name))
        .find(|path| path.is_file());
    let Some(path) = found else {
        bail!(
            "{}: there is no {} beside the weights: put the vocabulary there that they were trained with (bert-base-uncased's \
             for the released ones)",
            folder.display(),
            VOCABULARIES.join(" or ")
        );
    };
    inputs::vocabulary(&path, "that can be read").map_err(|cause| anyhow::anyhow!("{}: {cause}", path.display()))
}

/// Refuses files that leave out what the work needs: it would be random.
fn complete(file: &Path, blip: &Blip, report: &Report, work: &Work) -> anyhow::Result<()> {
    let (objective, what) = match work {
        Work::Caption { .. } => (
            Objective::Captioner,
            "captions need: give a captioner or a pre-trained model, such as a BlipForConditionalGeneration",
        ),
        Work::Match { .. } => (
            Objective::Filter,
            "matching needs: give a matcher or a pre-trained model, such as a BlipForImageTextRetrieval",
        ),
    };
    let layout = &blip.student_layout;
    let trained = params::declared_writes(layout, objective);
    // The temperature divides logits in training only.
    let needed = |name: &str| name != "temp" && trained[layout.id(name).index()] > 0;
    let missing: Vec<&str> = report
        .initialised
        .iter()
        .map(|initialised| initialised.entry.as_str())
        .filter(|name| needed(name))
        .collect();
    let Some(first) = missing.first() else {
        return Ok(());
    };
    let others = missing.len() - 1;
    bail!(
        "{}: lacks {first} and {others} other tensors that {what}",
        file.display()
    )
}
