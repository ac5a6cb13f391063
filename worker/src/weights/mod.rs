//! `medley-worker weights`: looks into files of weights, and writes a checkpoint for other programs.
//!
//! Files come *into* a training through the spec (`start`), read by each rank when the stage begins; `show` tells beforehand
//! what would become of every tensor. Out they go through `export`, from a checkpoint in an object store.

mod checkpoint;

use crate::objects::Objects;
use crate::stage::inputs;
use crate::{checkpoint as parts, local, print};
use anyhow::{Context as _, bail};
use checkpoint::Found;
use clap::{Args, Subcommand, ValueEnum};
use medley_data::text::Vocabulary;
use medley_model::blip::Blip;
use medley_model::state::State;
use medley_model::weights::export::{Export, Kind};
use medley_model::weights::{Family, Source, Start};
use medley_protocol::spec::Spec;
use medley_protocol::text::plain;
use serde_json::json;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What is done with weights.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the tensors of files; with a spec, say what each would become.
    Show(Show),
    /// Write a checkpoint for transformers, or as the released code's.
    Export(ExportArgs),
}

/// Arguments of `show`.
#[derive(Debug, Args)]
pub struct Show {
    /// Files of weights, or directories of transformers, in the order of the spec's list.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Say what the files would give the model of this job spec.
    #[arg(long)]
    spec: Option<PathBuf>,
    /// Vocabulary of the model; by default the spec's file.
    #[arg(long, requires = "spec")]
    vocab: Option<PathBuf>,
    /// Side of the images; by default that of the spec's pre-training.
    #[arg(long, requires = "spec")]
    image_size: Option<u32>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Arguments of `export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The checkpoint: an output directory of `medley-worker train`, a stage's directory in an object store (its last
    /// whole checkpoint is taken), or a file with a manifest.
    #[arg(long)]
    checkpoint: PathBuf,
    /// The job spec, or what `medley jobs show --json` prints.
    #[arg(long)]
    spec: PathBuf,
    /// The vocabulary; by default the spec's file, or the only one in the object store.
    #[arg(long)]
    vocab: Option<PathBuf>,
    /// URL of the object store; by default the one the checkpoint lies in.
    #[arg(long)]
    store: Option<String>,
    /// What to write.
    #[arg(long, value_enum)]
    to: To,
    /// Directory to write; must not exist, or be empty.
    #[arg(long)]
    out: PathBuf,
}

/// What an export is for.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum To {
    /// `BlipForConditionalGeneration` and `BlipProcessor` of transformers.
    HfCaption,
    /// `BlipForImageTextRetrieval` and `BlipProcessor` of transformers.
    HfRetrieval,
    /// The released code's checkpoint.
    Pth,
    /// The released code's names as safetensors.
    Safetensors,
}

impl From<To> for Kind {
    fn from(to: To) -> Self {
        match to {
            To::HfCaption => Self::HfCaption,
            To::HfRetrieval => Self::HfRetrieval,
            To::Pth => Self::Pth,
            To::Safetensors => Self::Safetensors,
        }
    }
}

/// Runs a command.
///
/// # Errors
/// What cannot be read, does not fit, or cannot be written.
pub fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Show(args) => show(&args),
        Command::Export(args) => export(&args),
    }
}

fn show(args: &Show) -> anyhow::Result<()> {
    let Some(spec) = &args.spec else {
        return args.files.iter().try_for_each(|file| list(file, args.json));
    };
    let spec = read_spec(spec)?;
    let vocabulary = vocabulary(args.vocab.as_deref(), &spec)?
        .context("--vocab: the spec trains a vocabulary on its data; give a vocab.txt to compare with")?;
    let size = args.image_size.unwrap_or(spec.pretrain.image_size);
    let blip = inputs::blip(&spec, size, &Vocabulary::parse(&vocabulary)?);
    let start = Start {
        files: &args.files,
        seed: spec.seed,
        momentum: spec.pretrain.momentum,
    };
    let (_, report) = start.load(&blip)?;
    if args.json {
        print::json(&report)
    } else {
        print::lines(report)
    }
}

/// Prints the tensors of a file.
fn list(file: &Path, as_json: bool) -> anyhow::Result<()> {
    let source = Source::open(file)?;
    let (path, format, tensors) = (source.path().display(), source.format(), source.tensors());
    let family = Family::of(tensors.iter().map(|tensor| tensor.name.as_str()));
    if as_json {
        let listed = json!({"path": source.path(), "format": format, "family": family, "tensors": tensors});
        return print::json(&listed);
    }
    let family = family.map_or("of no model that is known here".to_owned(), |family| family.to_string());
    print::lines(format_args!("{path}: {format}, {family}, {} tensors", tensors.len()))?;
    for tensor in tensors {
        let name = plain(&tensor.name, usize::MAX);
        print::lines(format_args!("  {name} {:?} {}", tensor.shape, tensor.dtype))?;
    }
    Ok(())
}

fn export(args: &ExportArgs) -> anyhow::Result<()> {
    let spec = read_spec(&args.spec)?;
    let Found { manifest, store } = checkpoint::find(&args.checkpoint)?;
    let store = match (&args.store, store) {
        (Some(url), _) => url.clone(),
        (None, Some(directory)) => format!("file://{}", directory.display()),
        (None, None) => bail!("--store: give the URL of the object store that the manifest's parts lie in"),
    };
    let objects = Objects::open(&store)?;
    let vocabulary = match vocabulary(args.vocab.as_deref(), &spec)? {
        Some(vocabulary) => vocabulary,
        None => checkpoint::only_vocabulary(&store)?,
    };
    let parsed = Vocabulary::parse(&vocabulary).context("vocabulary")?;
    let (blip, mut state) = fitting(&spec, &parsed, manifest.state_bytes)?;
    parts::load(&objects, &manifest, &mut state)?;
    let export = Export {
        blip: &blip,
        state: &state,
        vocabulary: &parsed.to_text(),
    };
    export.write(args.to.into(), &args.out)?;
    print::lines(format_args!("step {} written to {}", manifest.step, args.out.display()))
}

/// The model at that of the spec's image sizes whose state has this size: stages differ in it.
fn fitting(spec: &Spec, vocabulary: &Vocabulary, state_bytes: u64) -> anyhow::Result<(Blip, State)> {
    let sizes = BTreeSet::from([&spec.pretrain, &spec.captioner, &spec.filter].map(|train| train.image_size));
    for size in sizes {
        let blip = inputs::blip(spec, size, vocabulary);
        let state = State::zeros(&blip);
        if state.num_bytes() as u64 == state_bytes {
            return Ok((blip, state));
        }
    }
    bail!(
        "the checkpoint has {state_bytes} bytes, which is none of this spec's stages with a vocabulary of {}: \
         check --spec and --vocab",
        vocabulary.len()
    )
}

/// A spec, or the spec within what `medley jobs show --json` says of a job.
fn read_spec(path: &Path) -> anyhow::Result<Spec> {
    let named = || format!("--spec {}", path.display());
    let text = fs::read_to_string(path).with_context(named)?;
    let shown = serde_json::from_str::<serde_json::Value>(&text).ok();
    let spec = shown.and_then(|mut shown| Some(shown.pointer_mut("/job/spec")?.take()));
    match spec {
        Some(spec) => serde_json::from_value(spec).with_context(named),
        None => local::read_spec(path).with_context(named),
    }
}

/// The text of the vocabulary that is named, here or in the spec.
fn vocabulary(given: Option<&Path>, spec: &Spec) -> anyhow::Result<Option<String>> {
    let in_spec = (!spec.vocab.file.is_empty()).then(|| Path::new(&spec.vocab.file));
    let Some(path) = given.or(in_spec) else {
        return Ok(None);
    };
    let text = fs::read_to_string(path).with_context(|| format!("vocabulary {}", path.display()))?;
    Ok(Some(text))
}

#[cfg(test)]
mod tests;
