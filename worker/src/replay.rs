//! `medley-worker replay`: training steps on tensors from files, to compare Medley with another implementation.
//!
//! The files are described in `docs/replay.md`; [`medley_model::replay`] reads them and computes.

use crate::print;
use anyhow::Context as _;
use medley_model::replay::{Batch, Config, document, step};
use std::fs;
use std::path::{Path, PathBuf};

/// Arguments of `medley-worker replay`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Dimensions, token ids and hyper-parameters, JSON.
    #[arg(long)]
    config: PathBuf,
    /// State before the first step, safetensors.
    #[arg(long)]
    state: PathBuf,
    /// One step's samples, negatives, alpha and learning rate, safetensors; once for each step.
    #[arg(long = "batch", required = true)]
    batches: Vec<PathBuf>,
    /// Directory for the results: `step-N.safetensors` of each step, and the `state.safetensors` after the last.
    #[arg(long)]
    out: PathBuf,
    /// Threads; the results are the same for any number.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,
}

/// Runs the steps and writes what they yield.
///
/// # Errors
/// Files that cannot be read or written, and every field or tensor that does not fit.
pub fn run(args: Args) -> anyhow::Result<()> {
    let threads = rayon::ThreadPoolBuilder::new()
        .num_threads(args.threads as usize)
        .build()?;
    threads.install(|| replay(&args))
}

fn replay(args: &Args) -> anyhow::Result<()> {
    let json = fs::read_to_string(&args.config).with_context(|| name(&args.config))?;
    let config = Config::read(&name(&args.config), &json)?;
    let blip = config.blip();
    let mut state = document::read(&name(&args.state), &read(&args.state)?, &blip, config.objective)?;
    fs::create_dir_all(&args.out).with_context(|| name(&args.out))?;
    for (i, path) in args.batches.iter().enumerate() {
        let batch = Batch::read(&name(path), &read(path)?, &config)?;
        let outcome = step(&blip, &config, &mut state, &batch).context("a fault of the model's code")?;
        outcome.write(&blip, &args.out.join(format!("step-{i}.safetensors")))?;
        let losses: Vec<String> = outcome.losses().map(|(name, loss)| format!("{name} {loss}")).collect();
        print::lines(format_args!("step {i}: {}", losses.join(", ")))?;
    }
    document::write(&state, &blip, config.objective, &args.out.join("state.safetensors"))?;
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| name(path))
}

fn name(path: &Path) -> String {
    path.display().to_string()
}
