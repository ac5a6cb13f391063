//! `medley-worker train`: a pre-training, or a fine-tuning that starts from it, without coordinator, agent or database.
//!
//! The same ranks, collective and checkpoints as on a cluster; this process does by hand what agent and coordinator do
//! there: it says what memory ranks take and refuses what this machine has not ([`memory`]), indexes the data ([`prepare`]),
//! starts the ranks and brings them together ([`gang`]), and keeps the manifest of the last whole checkpoint, from which the
//! next start goes on.

mod gang;
mod memory;
mod prepare;

use crate::objects::Objects;
use crate::rank;
use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressStyle};
use medley_model::schedule::Schedule;
use medley_protocol::agent::Assignment;
use medley_protocol::checkpoint::Manifest;
use medley_protocol::ids::{JobId, StageId};
use medley_protocol::metrics::StepMetrics;
use medley_protocol::spec::{Precision, Spec, TrainSpec};
use medley_protocol::stage::StageKind;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

/// What is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Stage {
    Pretrain,
    Captioner,
    Filter,
}

impl Stage {
    fn kind(self) -> StageKind {
        match self {
            Self::Pretrain => StageKind::Pretrain,
            Self::Captioner => StageKind::Captioner,
            Self::Filter => StageKind::Filter,
        }
    }

    fn train(self, spec: &Spec) -> &TrainSpec {
        match self {
            Self::Pretrain => &spec.pretrain,
            Self::Captioner => &spec.captioner,
            Self::Filter => &spec.filter,
        }
    }

    /// The count of the pairs it is trained on.
    fn pairs(self) -> &'static str {
        match self {
            Self::Pretrain => "pairs",
            Self::Captioner | Self::Filter => "pairs.human",
        }
    }

    /// File for the manifest of the last whole checkpoint.
    fn checkpoint(self) -> String {
        self.file("checkpoint.json")
    }

    /// File for the metrics of every committed step, one JSON object a line.
    fn metrics(self) -> String {
        self.file("metrics.jsonl")
    }

    fn file(self, name: &str) -> String {
        match self {
            Self::Pretrain => name.to_owned(),
            Self::Captioner | Self::Filter => format!("{}-{name}", self.kind()),
        }
    }
}

/// Arguments of `medley-worker train`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Job spec, TOML or JSON.
    spec: PathBuf,
    /// Which of its stages is run; a fine-tuning starts from the pre-training under --out.
    #[arg(long, value_enum, default_value_t = Stage::Pretrain)]
    stage: Stage,
    /// Directory for objects, checkpoints and metrics; a training found there goes on.
    #[arg(long)]
    out: PathBuf,
    /// Rank processes.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    ranks: u32,
    /// Threads of each rank.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,
}

/// Trains to the end and prints the digest of the final state.
///
/// # Errors
/// A wrong spec or data set, or why a rank gave up.
pub fn run(args: Args) -> anyhow::Result<()> {
    let spec = read_spec(&args.spec)?;
    let device = device_for(rank::device_name(), spec.precision());
    memory::check(&spec, args.stage.kind(), args.ranks, &device)?;
    fs::create_dir_all(&args.out).with_context(|| format!("--out {}", args.out.display()))?;
    let out = args.out.canonicalize()?;
    let store = format!("file://{}", out.join("store").display());
    fs::create_dir_all(out.join("store"))?;
    let objects = Objects::open(&store)?;
    let (mut stage_inputs, counts) = prepare::index(&spec, &objects)?;
    let stage = args.stage;
    let pairs = counts.get(stage.pairs()).copied().unwrap_or(0);
    let total = total_steps(stage.train(&spec), pairs, spec.global_batch())?;
    stage_inputs.resume = read_manifest(&out.join(stage.checkpoint()))?;
    if stage != Stage::Pretrain && spec.start.pretrained.is_empty() {
        stage_inputs.start = read_manifest(&out.join(Stage::Pretrain.checkpoint()))?;
        if stage_inputs.start.is_none() {
            bail!(
                "--stage: {} holds no pre-training to start from; run `train` without --stage first",
                out.display()
            );
        }
    }
    let resume = stage_inputs.resume.clone();
    if let Some(manifest) = &resume {
        println!("going on from step {}", manifest.step);
    }
    let assignment = Assignment {
        job: JobId::generate(),
        stage: resume
            .as_ref()
            .map_or_else(StageId::generate, |manifest| manifest.stage),
        stage_name: format!("{}-0", stage.kind()),
        kind: stage.kind(),
        generation: 1,
        ranks: (0..args.ranks).collect(),
        world: args.ranks,
        members: Vec::new(),
        secret: format!("{:032x}", rand::random::<u128>()),
        store,
        inputs: stage_inputs,
        checkpoint_after: None,
        without: Vec::new(),
        distrusts: 0,
        parting: None,
        spec,
    };
    let mut log = metrics_log(
        &out.join(stage.metrics()),
        resume.as_ref().map_or(0, |manifest| manifest.step),
    )?;
    let bar = progress_bar(total);
    let mut checkpoint = None;
    gang::train(&assignment, (args.threads, &device), |news| match news {
        gang::News::Committed(metrics) => {
            show(&bar, &metrics);
            serde_json::to_writer(&log, &metrics)?;
            Ok(log.write_all(b"\n")?)
        }
        gang::News::Checkpoint(manifest) => {
            write_manifest(&out.join(stage.checkpoint()), &manifest)?;
            checkpoint = Some(manifest);
            Ok(())
        }
    })?;
    bar.finish_and_clear();
    let last = checkpoint.or(resume).filter(|manifest| manifest.step == total);
    let Some(manifest) = last else {
        bail!("the ranks finished without a checkpoint of step {total}");
    };
    println!("step {total} state {}", digest(&objects, &manifest)?);
    Ok(())
}

/// A device by its name, with the format that the spec asks for if the name has none.
fn device_for(mut name: String, precision: Precision) -> String {
    if precision == Precision::Bf16 && name.starts_with("cuda:") && !name.ends_with(":bf16") {
        name.push_str(":bf16");
    }
    name
}

/// Reads and completes a spec, TOML or JSON.
pub(crate) fn read_spec(path: &Path) -> anyhow::Result<Spec> {
    let text = fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
    let json = path.extension().is_some_and(|extension| extension == "json");
    let document = if json {
        serde_json::from_str(&text).with_context(|| format!("{}", path.display()))?
    } else {
        toml::from_str(&text).with_context(|| format!("{}", path.display()))?
    };
    Spec::from_document(&document).with_context(|| format!("{} is not a valid spec", path.display()))
}

fn read_manifest(path: &Path) -> anyhow::Result<Option<Manifest>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .with_context(|| format!("{}", path.display())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("{}", path.display())),
    }
}

/// Replaces the manifest as one act.
fn write_manifest(path: &Path, manifest: &Manifest) -> anyhow::Result<()> {
    let partial = path.with_extension("partial");
    let mut file = File::create(&partial)?;
    serde_json::to_writer_pretty(&file, manifest)?;
    file.flush()?;
    file.sync_all()?;
    Ok(fs::rename(partial, path)?)
}

/// The log of metrics, cut behind the last step that is not trained again.
fn metrics_log(path: &Path, next_step: u64) -> anyhow::Result<File> {
    let kept: Vec<String> = match File::open(path) {
        Ok(file) => BufReader::new(file)
            .lines()
            .map_while(Result::ok)
            .filter(|line| serde_json::from_str::<StepMetrics>(line).is_ok_and(|row| row.step < next_step))
            .collect(),
        Err(_) => Vec::new(),
    };
    let mut file = File::create(path).with_context(|| format!("{}", path.display()))?;
    for line in kept {
        writeln!(file, "{line}")?;
    }
    Ok(file)
}

fn total_steps(train: &TrainSpec, pairs: u64, global_batch: u64) -> anyhow::Result<u64> {
    let schedule = Schedule::new(train, pairs, global_batch);
    Ok(schedule.context("the data sets are smaller than a step")?.total_steps())
}

fn progress_bar(total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} steps, {per_sec}, {eta} left  {msg}");
    ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn show(bar: &ProgressBar, metrics: &StepMetrics) {
    bar.set_position(metrics.step + 1);
    let StepMetrics { itc, itm, lm, .. } = metrics;
    bar.set_message(format!("itc {itc:.3} itm {itm:.3} lm {lm:.3}"));
}

/// BLAKE3 of the canonical state.
fn digest(objects: &Objects, manifest: &Manifest) -> anyhow::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    for part in &manifest.parts {
        hasher.update(&objects.get(&part.object)?);
    }
    Ok(hasher.finalize())
}
