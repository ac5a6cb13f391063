//! All figures of a report.

use super::filtering::{self, Filtering};
use super::inputs::Inputs;
use super::retrieval::{self, Chance, Difference, Model};
use crate::console::seconds_between;
use anyhow::Result;
use medley_protocol::ids::JobId;
use medley_protocol::rest::StageView;
use medley_protocol::tasks::Counts;
use serde::Serialize;
use std::path::PathBuf;

/// The report of a finished demo.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Report {
    /// The job.
    pub(crate) job: JobId,
    /// Its name.
    pub(crate) name: String,
    /// From its submission to its end.
    pub(crate) seconds: f64,
    /// Whether it was so short that nothing can be learned from the figures.
    pub(crate) quick: bool,
    /// Held-out pairs.
    pub(crate) test_pairs: u64,
    /// What guessing would reach.
    pub(crate) chance: Option<Chance>,
    /// The evaluated models: raw first, bootstrapped last.
    pub(crate) models: Vec<Model>,
    /// Bootstrapped against raw.
    pub(crate) differences: Vec<Difference>,
    /// Rounds of CapFilt.
    pub(crate) capfilt: Vec<Filtering>,
    /// Counts of the dataset versions that CapFilt made.
    pub(crate) datasets: Vec<Dataset>,
    /// What the stages cost.
    pub(crate) stages: Vec<StageCost>,
    /// Where everything lies.
    pub(crate) places: Places,
}

/// A dataset version.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Dataset {
    /// Its number.
    pub(crate) version: u32,
    /// Its counts.
    pub(crate) counts: Counts,
}

/// What a stage cost: time, ranks, memory.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct StageCost {
    /// The stage.
    pub(crate) name: String,
    /// From its first start to its end.
    pub(crate) seconds: f64,
    /// Steps, or tasks.
    pub(crate) done: u64,
    /// `steps` or `tasks`.
    pub(crate) unit: &'static str,
    /// Steps or tasks per second of that time.
    pub(crate) per_second: f64,
    /// Ranks of its last generation.
    pub(crate) ranks: u32,
    /// Most memory that one of its ranks has had resident, in bytes.
    pub(crate) peak_rank_bytes: Option<u64>,
    /// Memberships it needed: 1 where nothing failed.
    pub(crate) generations: u64,
}

/// Where everything lies.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Places {
    /// The report's folder.
    pub(crate) report: PathBuf,
    /// The generated corpus and its truth.
    pub(crate) data: PathBuf,
    /// Checkpoints, indexes, overlays and dataset versions.
    pub(crate) store: PathBuf,
    /// Logs.
    pub(crate) logs: PathBuf,
}

impl Report {
    /// Computes everything.
    ///
    /// # Errors
    /// When the inputs do not belong together.
    pub(crate) fn new(inputs: &Inputs, places: Places, quick: bool) -> Result<Self> {
        let models = retrieval::models(inputs)?;
        let rounds = inputs.rounds.iter();
        let job = &inputs.job.job;
        let test_pairs = models.first().map_or(0, |model| model.figures.pairs);
        Ok(Self {
            job: job.id,
            name: job.name.clone(),
            seconds: job
                .finished_at
                .map_or(0.0, |end| seconds_between(job.submitted_at, end)),
            quick,
            test_pairs,
            chance: (test_pairs > 0).then(|| Chance::among(test_pairs)),
            models,
            differences: retrieval::differences(inputs)?,
            capfilt: rounds
                .map(|round| filtering::figures(round, &inputs.web))
                .collect::<Result<_>>()?,
            datasets: inputs
                .rounds
                .iter()
                .map(|round| Dataset {
                    version: round.dataset.version,
                    counts: round.dataset.counts.clone(),
                })
                .collect(),
            stages: inputs.job.stages.iter().filter_map(cost).collect(),
            places,
        })
    }
}

fn cost(stage: &StageView) -> Option<StageCost> {
    let seconds = seconds_between(stage.started_at?, stage.finished_at?);
    Some(StageCost {
        name: stage.name.clone(),
        seconds,
        done: stage.done,
        unit: if stage.kind.is_training() { "steps" } else { "tasks" },
        per_second: if seconds > 0.0 {
            stage.done as f64 / seconds
        } else {
            0.0
        },
        ranks: stage.world,
        peak_rank_bytes: stage.peak_rank_bytes,
        generations: stage.generation,
    })
}
