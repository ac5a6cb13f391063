//! What a stage starts from, read from the object store: dataset version, vocabulary, model and weights.

use crate::checkpoint;
use crate::objects::Objects;
use crate::rank::failure::Failure;
use medley_data::dataset::{Corpus, CorpusShard, Version, VersionShard, shard_path};
use medley_data::text::{Tokenizer, Vocabulary};
use medley_model::blip::Blip;
use medley_model::flat::Flat;
use medley_model::params;
use medley_model::state::State;
use medley_model::weights::{Error as WeightsError, Start};
use medley_protocol::agent::StageInputs;
use medley_protocol::checkpoint::{Manifest, ObjectRef};
use medley_protocol::file;
use medley_protocol::spec::{DataSpec, Spec, VocabSpec};
use medley_protocol::tasks::{Set, ShardName};
use serde::de::DeserializeOwned;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Largest file of a vocabulary.
const MAX_VOCAB_BYTES: u64 = 32 << 20;

/// The file of a shard, as the spec places its set.
pub fn path_of(data: &DataSpec, shard: &ShardName) -> PathBuf {
    let sub_directory = match shard.set {
        Set::Human => &data.human,
        Set::Web => &data.web,
        Set::Test => &data.test,
    };
    shard_path(Path::new(&data.root), sub_directory, shard)
}

/// Reads a JSON object.
///
/// # Errors
/// When it cannot be read, or is not what it should be.
pub fn read_json<T: DeserializeOwned>(objects: &Objects, object: &ObjectRef) -> Result<T, Failure> {
    let bytes = objects.get(object)?;
    serde_json::from_slice(&bytes).map_err(|e| Failure::lasting(format!("object {}: {e}", object.key)))
}

/// The dataset version that the stage reads.
///
/// # Errors
/// When there is none, or it cannot be read.
pub fn version(objects: &Objects, inputs: &StageInputs) -> Result<Version, Failure> {
    read_json(objects, needed(inputs.dataset.as_ref(), "dataset version")?)
}

/// Loads indexes and overlays of the version's shards that `wanted` picks, in order.
///
/// # Errors
/// When something cannot be read, or does not fit together.
pub fn corpus(
    objects: &Objects,
    data: &DataSpec,
    version: &Version,
    wanted: impl Fn(&VersionShard) -> bool,
) -> Result<Corpus, Failure> {
    let load = |entry: &VersionShard| {
        let overlay = entry.overlay.as_ref().map(|overlay| read_json(objects, overlay));
        Ok(CorpusShard {
            path: path_of(data, &entry.shard),
            name: entry.shard.clone(),
            index: read_json(objects, &entry.index)?,
            overlay: overlay.transpose()?,
        })
    };
    let shards: Result<Vec<CorpusShard>, Failure> =
        version.shards.iter().filter(|entry| wanted(entry)).map(load).collect();
    Corpus::new(shards?, version.threshold).map_err(|e| Failure::lasting(e.to_string()))
}

/// The tokenizer of the job.
///
/// # Errors
/// When there is no vocabulary, or it cannot be read.
pub fn tokenizer(objects: &Objects, spec: &VocabSpec, object: Option<&ObjectRef>) -> Result<Tokenizer, Failure> {
    let object = needed(object, "vocabulary")?;
    let text = String::from_utf8(objects.get(object)?).map_err(|e| Failure::lasting(format!("vocabulary: {e}")))?;
    let vocabulary = Vocabulary::parse(&text).map_err(|e| Failure::lasting(format!("vocabulary: {e}")))?;
    Ok(Tokenizer::new(vocabulary, spec.specials))
}

/// Reads a file with a vocabulary; `advice` says what to do when there is none.
///
/// # Errors
/// Why it cannot be read or cannot serve, without its name.
pub fn vocabulary(path: &Path, advice: &str) -> Result<Vocabulary, String> {
    let advice = |cause: std::io::Error| format!("{cause}; give a BERT vocab.txt or tokenizer.json {advice}");
    let mut text = String::new();
    let file = file::open(path).map_err(advice)?;
    file.take(MAX_VOCAB_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(advice)?;
    if text.len() as u64 > MAX_VOCAB_BYTES {
        return Err(format!("is larger than {} MiB", MAX_VOCAB_BYTES >> 20));
    }
    let parse = match path.extension() {
        Some(extension) if extension == "json" => Vocabulary::parse_json,
        _ => Vocabulary::parse,
    };
    parse(&text).map_err(|e| e.to_string())
}

/// The model of the spec at an image size.
pub fn blip(spec: &Spec, image_size: u32, vocabulary: &Vocabulary) -> Blip {
    let vocab = params::Vocabulary {
        size: vocabulary.len() as u32,
        pad: vocabulary.special("[PAD]"),
        cls: vocabulary.special("[CLS]"),
        sep: vocabulary.special("[SEP]"),
        dec: vocabulary.special("[DEC]"),
        enc: vocabulary.special("[ENC]"),
    };
    Blip::new(&spec.model, image_size, vocab)
}

/// A checkpoint's state.
///
/// # Errors
/// When the manifest is missing, a part is damaged, or it belongs to another model.
pub fn state(objects: &Objects, blip: &Blip, manifest: Option<&Manifest>, role: &str) -> Result<State, Failure> {
    let mut state = State::zeros(blip);
    checkpoint::load(objects, needed(manifest, role)?, &mut state)?;
    Ok(state)
}

/// A checkpoint's parameters.
///
/// # Errors
/// As for [`state`].
pub fn params(objects: &Objects, blip: &Blip, manifest: Option<&Manifest>, role: &str) -> Result<Flat, Failure> {
    Ok(checkpoint::load_params(objects, needed(manifest, role)?, blip)?)
}

/// The state that files of weights give, laid over the seed's; the seed's where there are none. What became of every tensor
/// is logged.
///
/// # Errors
/// When a file cannot be read or does not fit: file and tensor are named.
pub fn begun(spec: &Spec, blip: &Blip, files: &[String], momentum: f64) -> Result<State, Failure> {
    let start = Start {
        files,
        seed: spec.seed,
        momentum,
    };
    let (state, report) = start.load(blip)?;
    if !files.is_empty() {
        report.to_string().lines().for_each(|line| tracing::info!("{line}"));
    }
    Ok(state)
}

impl From<WeightsError> for Failure {
    fn from(error: WeightsError) -> Self {
        Self::new(error.to_string(), error.may_pass())
    }
}

fn needed<'a, T>(input: Option<&'a T>, what: &str) -> Result<&'a T, Failure> {
    input.ok_or_else(|| Failure::lasting(format!("the assignment names no {what}")))
}
