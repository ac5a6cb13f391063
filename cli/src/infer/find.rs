//! Which checkpoint of a coordinator is meant.

use crate::connect::explain;
use crate::jobs::{self, JobName, pages};
use anyhow::{Context as _, Result, anyhow, bail};
use medley_protocol::checkpoint::Manifest;
use medley_protocol::client::Client;
use medley_protocol::ids::{CheckpointId, JobId};
use medley_protocol::inference::Checkpoint;
use medley_protocol::rest::{CheckpointView, DatasetView, JobDetail, StageView};
use medley_protocol::stage::StageKind;
use std::fmt;

/// Newest jobs that are looked at.
const SEARCHED: usize = 1000;

/// A checkpoint that was found.
#[derive(Debug)]
pub(super) struct Found {
    job: JobDetail,
    kind: StageKind,
    checkpoint: CheckpointView,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CheckpointView {
            id, stage_name, step, ..
        } = &self.checkpoint;
        let job = &self.job.job;
        write!(
            f,
            "{stage_name} at step {step} of job {} ({}): checkpoint {id}",
            job.id, job.name
        )
    }
}

impl Found {
    /// Looks for the checkpoint of this id, or the best one of the newest job of this name that has one; without a name, of the
    /// newest job that has one. `wanted` are the kinds of stages that serve, the best first.
    ///
    /// # Errors
    /// When there is none, or the one that is named does not serve.
    pub(super) async fn look(client: &Client, name: Option<&str>, wanted: [StageKind; 2]) -> Result<Self> {
        let [best, other] = wanted;
        let Some(name) = name else {
            for job in pages(client, SEARCHED).await? {
                if let Some(found) = best_of(client, job.id, wanted).await? {
                    return Ok(found);
                }
            }
            bail!("no job has a checkpoint of a {best} or {other} stage yet: see `medley jobs`");
        };
        if let Ok(id) = name.parse::<CheckpointId>()
            && let Some(found) = by_id(client, id).await?
        {
            if wanted.contains(&found.kind) {
                return Ok(found);
            }
            let stage = &found.checkpoint.stage_name;
            bail!("--checkpoint {name} is of {stage}, which cannot do this: give one of a {best} or {other} stage");
        }
        let Ok(name) = name.parse::<JobName>();
        let jobs = jobs::find_all(client, &name).await;
        let jobs =
            jobs.context("--checkpoint is no file or folder here, and names nothing that the coordinator knows")?;
        for job in &jobs {
            if let Some(found) = best_of(client, *job, wanted).await? {
                return Ok(found);
            }
        }
        match jobs[..] {
            [job] => bail!("job {job} has no checkpoint of a {best} or {other} stage yet"),
            _ => bail!(
                "none of the {} jobs of this name has a checkpoint of a {best} or {other} stage yet",
                jobs.len()
            ),
        }
    }

    /// All that a worker must know of it when its objects lie in `store`.
    pub(super) async fn checkpoint(self, client: &Client, store: String) -> Result<Checkpoint> {
        let job = self.job.job.id;
        let datasets: Vec<DatasetView> = client.get(&format!("/jobs/{job}/datasets")).await.map_err(explain)?;
        // All versions of a job have one vocabulary.
        let first = datasets.into_iter().min_by_key(|dataset| dataset.version);
        let vocab = first
            .ok_or_else(|| anyhow!("job {job} has no dataset version, and so no vocabulary"))?
            .vocab;
        let view = self.checkpoint;
        Ok(Checkpoint {
            store,
            spec: self.job.spec,
            kind: self.kind,
            vocab,
            manifest: Manifest {
                id: view.id,
                stage: view.stage,
                step: view.step,
                state_bytes: view.state_bytes,
                parts: view.parts,
            },
        })
    }
}

/// The best checkpoint of a job.
async fn best_of(client: &Client, job: JobId, wanted: [StageKind; 2]) -> Result<Option<Found>> {
    let checkpoints = list(client, job).await?;
    if checkpoints.is_empty() {
        return Ok(None);
    }
    let job = jobs::detail(client, job).await?;
    let chosen = choose(&checkpoints, &job.stages, wanted).cloned();
    Ok(chosen.and_then(|checkpoint| found(job, checkpoint)))
}

/// The checkpoint of this id, whichever job it is of.
async fn by_id(client: &Client, id: CheckpointId) -> Result<Option<Found>> {
    for job in pages(client, SEARCHED).await? {
        let mut checkpoints = list(client, job.id).await?.into_iter();
        if let Some(checkpoint) = checkpoints.find(|checkpoint| checkpoint.id == id) {
            return Ok(found(jobs::detail(client, job.id).await?, checkpoint));
        }
    }
    Ok(None)
}

async fn list(client: &Client, job: JobId) -> Result<Vec<CheckpointView>> {
    client.get(&format!("/jobs/{job}/checkpoints")).await.map_err(explain)
}

fn found(job: JobDetail, checkpoint: CheckpointView) -> Option<Found> {
    let kind = kind_of(&checkpoint, &job.stages)?;
    Some(Found { job, kind, checkpoint })
}

fn kind_of(checkpoint: &CheckpointView, stages: &[StageView]) -> Option<StageKind> {
    stages
        .iter()
        .find(|stage| stage.id == checkpoint.stage)
        .map(|stage| stage.kind)
}

/// The newest checkpoint of the best kind there is.
fn choose<'a>(
    checkpoints: &'a [CheckpointView],
    stages: &[StageView],
    wanted: [StageKind; 2],
) -> Option<&'a CheckpointView> {
    wanted.into_iter().find_map(|kind| {
        let of_kind = checkpoints
            .iter()
            .filter(|checkpoint| kind_of(checkpoint, stages) == Some(kind));
        of_kind.max_by_key(|checkpoint| checkpoint.committed_at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{self, Coordinator};
    use StageKind::{Captioner, Filter, Pretrain};
    use medley_protocol::stage::StageState;

    /// A job with a checkpoint for each of these stages, the newest last.
    fn job(stages: &[(&str, StageKind)]) -> (JobDetail, Vec<CheckpointView>) {
        let mut job = fake::job("shapes");
        let stages = stages
            .iter()
            .map(|(name, kind)| fake::stage(name, *kind, StageState::Done));
        job.stages = stages.collect();
        let checkpoints = (0..).zip(&job.stages).map(|(at, stage)| fake::checkpoint(stage, at));
        let checkpoints = checkpoints.collect();
        (job, checkpoints)
    }

    const ALL: [(&str, StageKind); 4] = [
        ("pretrain-0", Pretrain),
        ("captioner-0", Captioner),
        ("filter-0", Filter),
        ("pretrain-1", Pretrain),
    ];

    #[test]
    fn a_fine_tuned_model_is_better_than_a_newer_pre_trained_one() {
        let (job, checkpoints) = job(&ALL);
        let chosen = |wanted| &choose(&checkpoints, &job.stages, wanted).unwrap().stage_name;
        assert_eq!(chosen([Captioner, Pretrain]), "captioner-0");
        assert_eq!(chosen([Filter, Pretrain]), "filter-0");
    }

    #[test]
    fn without_a_fine_tuned_model_the_newest_pre_trained_one_serves_and_no_other() {
        let (job, checkpoints) = job(&[("pretrain-0", Pretrain), ("pretrain-1", Pretrain), ("filter-0", Filter)]);
        let chosen = choose(&checkpoints, &job.stages, [Captioner, Pretrain]).unwrap();
        assert_eq!(chosen.stage_name, "pretrain-1");
        assert!(choose(&checkpoints[2..], &job.stages, [Captioner, Pretrain]).is_none());
    }

    #[tokio::test]
    async fn a_checkpoint_is_named_by_its_id_by_its_job_or_not_at_all() {
        let coordinator = Coordinator::start().await;
        let (job, checkpoints) = job(&ALL);
        coordinator.put_job(&job);
        checkpoints
            .iter()
            .for_each(|checkpoint| coordinator.put_checkpoint(checkpoint));
        let client = coordinator.client();
        let look = async |name: Option<&str>| Found::look(&client, name, [Captioner, Pretrain]).await;
        let (last, filter) = (checkpoints[3].id.to_string(), checkpoints[2].id.to_string());
        assert_eq!(look(Some(&last)).await.unwrap().checkpoint.id, checkpoints[3].id);
        for name in [None, Some("shapes"), Some(job.job.id.to_string().as_str())] {
            let found = look(name).await.unwrap();
            assert_eq!(
                (found.kind, found.checkpoint.id),
                (Captioner, checkpoints[1].id),
                "{name:?}"
            );
            assert!(found.to_string().starts_with("captioner-0 at step 1 of job"), "{found}");
        }
        let error = look(Some(&filter)).await.unwrap_err().to_string();
        assert!(
            error.contains("is of filter-0") && error.contains("captioner or pretrain"),
            "{error}"
        );
        let error = format!("{:#}", look(Some("nothing")).await.unwrap_err());
        assert!(error.contains("no job is called \"nothing\""), "{error}");
    }

    #[tokio::test]
    async fn a_newer_job_of_the_name_without_a_suitable_checkpoint_is_passed_over() {
        let coordinator = Coordinator::start().await;
        let (older, checkpoints) = job(&ALL);
        let (newer, unsuitable) = job(&[("filter-0", Filter)]);
        for job in [&older, &newer] {
            coordinator.put_job(job);
        }
        for checkpoint in checkpoints.iter().chain(&unsuitable) {
            coordinator.put_checkpoint(checkpoint);
        }
        let client = coordinator.client();
        let found = Found::look(&client, Some("shapes"), [Captioner, Pretrain])
            .await
            .unwrap();
        assert_eq!(found.job.job.id, older.job.id);
        coordinator.put_job(&fake::job("fresh"));
        coordinator.put_job(&fake::job("fresh"));
        let error = Found::look(&client, Some("fresh"), [Captioner, Pretrain])
            .await
            .unwrap_err();
        assert!(error.to_string().starts_with("none of the 2 jobs"), "{error}");
    }

    #[tokio::test]
    async fn jobs_without_a_suitable_checkpoint_are_told() {
        let coordinator = Coordinator::start().await;
        coordinator.put_job(&fake::job("fresh"));
        let error = Found::look(&coordinator.client(), None, [Filter, Pretrain])
            .await
            .unwrap_err();
        assert!(error.to_string().contains("filter or pretrain stage yet"), "{error}");
    }
}
