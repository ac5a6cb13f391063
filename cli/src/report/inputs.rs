//! Everything a report is computed from.

use crate::connect::explain;
use anyhow::{Context, Result, anyhow, bail};
use medley_data::dataset::{Overlay, Version};
use medley_data::evaluation::Details;
use medley_data::index::ShardIndex;
use medley_data::synth::{Truth, read_truth};
use medley_protocol::checkpoint::ObjectRef;
use medley_protocol::client::Client;
use medley_protocol::ids::JobId;
use medley_protocol::rest::{DatasetView, JobDetail};
use medley_protocol::tasks::{Evaluation, Set};
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// A finished job with what it made, and the truth.
#[derive(Debug)]
pub(crate) struct Inputs {
    /// The job.
    pub(crate) job: JobDetail,
    /// Its evaluations, in the order of its stages.
    pub(crate) evaluations: Vec<Evaluated>,
    /// What CapFilt found, round by round.
    pub(crate) rounds: Vec<Round>,
    /// The truth about the held-out set.
    pub(crate) test: Vec<Truth>,
    /// The truth about the web set.
    pub(crate) web: Vec<Truth>,
    /// The folder of the web set's shards.
    pub(crate) web_dir: PathBuf,
}

/// An evaluation with what it was computed from.
#[derive(Debug)]
pub(crate) struct Evaluated {
    /// The stage that made it.
    pub(crate) stage: String,
    /// The figures.
    pub(crate) figures: Evaluation,
    /// Pair by pair.
    pub(crate) details: Details,
}

/// A dataset version made by CapFilt.
#[derive(Debug)]
pub(crate) struct Round {
    /// Its description.
    pub(crate) dataset: DatasetView,
    /// Texts with at least this match probability are kept.
    pub(crate) threshold: f64,
    /// Its web shards.
    pub(crate) shards: Vec<Captioned>,
}

/// A web shard after CapFilt.
#[derive(Debug)]
pub(crate) struct Captioned {
    /// Its file.
    pub(crate) file: String,
    /// Its samples.
    pub(crate) index: ShardIndex,
    /// What CapFilt found, sample by sample.
    pub(crate) overlay: Overlay,
}

/// Reads everything about a finished job whose data is a generated corpus.
///
/// # Errors
/// Names what is missing or cannot be read.
pub(crate) async fn gather(client: &Client, job: JobId) -> Result<Inputs> {
    let job: JobDetail = client.get(&format!("/jobs/{job}")).await.map_err(explain)?;
    let path = format!("/jobs/{}/datasets", job.job.id);
    let mut datasets: Vec<DatasetView> = client.get(&path).await.map_err(explain)?;
    datasets.sort_by_key(|dataset| dataset.version);
    let root = Path::new(&job.spec.data.root);
    let truth = |set: &str| {
        read_truth(root, set)
            .with_context(|| format!("cannot read the truth about the {set} set in {}", root.display()))
    };
    let (test, web) = (truth(&job.spec.data.test)?, truth(&job.spec.data.web)?);
    Ok(Inputs {
        evaluations: evaluations(client, &job).await?,
        rounds: rounds(client, datasets).await?,
        test,
        web,
        web_dir: root.join(&job.spec.data.web),
        job,
    })
}

async fn evaluations(client: &Client, job: &JobDetail) -> Result<Vec<Evaluated>> {
    let mut found = Vec::new();
    for stage in &job.stages {
        let Some(figures) = &stage.evaluation else { continue };
        let details = stage.details.as_ref();
        let details = details.ok_or_else(|| anyhow!("stage {} has figures without details", stage.name))?;
        found.push(Evaluated {
            stage: stage.name.clone(),
            figures: figures.clone(),
            details: object(client, details).await?,
        });
    }
    Ok(found)
}

async fn rounds(client: &Client, datasets: Vec<DatasetView>) -> Result<Vec<Round>> {
    let mut rounds = Vec::new();
    for dataset in datasets {
        let version: Version = object(client, &dataset.object).await?;
        let Some(threshold) = version.threshold else { continue };
        let mut shards = Vec::new();
        for shard in version.shards.iter().filter(|shard| shard.shard.set == Set::Web) {
            let Some(overlay) = &shard.overlay else { continue };
            let captioned = Captioned {
                file: shard.shard.file.clone(),
                index: object(client, &shard.index).await?,
                overlay: object(client, overlay).await?,
            };
            if captioned.index.samples.len() != captioned.overlay.entries.len() {
                bail!("the overlay of {} does not belong to its index", captioned.file);
            }
            shards.push(captioned);
        }
        rounds.push(Round {
            dataset,
            threshold,
            shards,
        });
    }
    Ok(rounds)
}

async fn object<T: DeserializeOwned>(client: &Client, object: &ObjectRef) -> Result<T> {
    let bytes = client
        .get_bytes(&format!("/objects/{}", object.key))
        .await
        .map_err(explain)?;
    serde_json::from_slice(&bytes).with_context(|| format!("object {} cannot be read", object.key))
}
