//! Names of a stage's samples: shard and key, as its dataset version has them.

use super::check::Substitute;
use crate::connect::explain;
use anyhow::{Context, Result, anyhow};
use medley_data::dataset::{Corpus, CorpusShard, Pair, Version};
use medley_protocol::checkpoint::ObjectRef;
use medley_protocol::client::Client;
use medley_protocol::rest::{DatasetView, JobDetail, StageView};
use medley_protocol::stage::StageKind;
use medley_protocol::tasks::Set;
use serde::de::DeserializeOwned;
use std::path::PathBuf;

/// Fills in the names of samples that were replaced, and of those that stand in for them.
///
/// # Errors
/// When the stage's dataset version cannot be read.
pub(super) async fn fill(
    client: &Client,
    job: &JobDetail,
    stage: &StageView,
    replaced: &mut [Substitute],
) -> Result<()> {
    if replaced.is_empty() {
        return Ok(());
    }
    let human_only = stage.kind != StageKind::Pretrain;
    let corpus = corpus(client, job, stage).await?;
    let pairs = corpus.training_pairs(human_only);
    for substitute in replaced {
        let name = |sample: u64| pairs.get(sample as usize).map(|pair| name(&corpus, *pair));
        substitute.names = name(substitute.sample)
            .zip(name(substitute.by))
            .map(<[String; 2]>::from);
    }
    Ok(())
}

fn name(corpus: &Corpus, pair: Pair) -> String {
    let shard = &corpus.shards[pair.shard as usize];
    let set = match shard.name.set {
        Set::Human => "human",
        Set::Web => "web",
        Set::Test => "test",
    };
    format!(
        "{set}/{} {}",
        shard.name.file, shard.index.samples[pair.sample as usize].key
    )
}

/// The dataset version that a stage reads: that of its round, the number at the end of its name.
async fn corpus(client: &Client, job: &JobDetail, stage: &StageView) -> Result<Corpus> {
    let round = stage.name.rsplit_once('-').and_then(|(_, round)| round.parse().ok());
    let path = format!("/jobs/{}/datasets", job.job.id);
    let datasets: Vec<DatasetView> = client.get(&path).await.map_err(explain)?;
    let dataset = datasets.into_iter().find(|dataset| Some(dataset.version) == round);
    let dataset = dataset.ok_or_else(|| anyhow!("the dataset version of {} is not known", stage.name))?;
    let version: Version = object(client, &dataset.object).await?;
    let mut shards = Vec::new();
    for entry in version.shards {
        let overlay = match &entry.overlay {
            Some(overlay) => Some(object(client, overlay).await?),
            None => None,
        };
        shards.push(CorpusShard {
            path: PathBuf::from(&entry.shard.file),
            index: object(client, &entry.index).await?,
            name: entry.shard,
            overlay,
        });
    }
    Ok(Corpus::new(shards, version.threshold)?)
}

async fn object<T: DeserializeOwned>(client: &Client, object: &ObjectRef) -> Result<T> {
    let path = format!("/objects/{}", object.key);
    let bytes = client.get_bytes(&path).await.map_err(explain)?;
    serde_json::from_slice(&bytes).with_context(|| format!("object {} cannot be read", object.key))
}
