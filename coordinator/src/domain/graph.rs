//! From a spec to the graph of its job.
//!
//! `index-0` comes first. Each round pre-trains, fine-tunes captioner and filter from the result, and makes the next
//! dataset version with them; then comes one more pre-training. The first and the last pre-trained model are evaluated,
//! so that what the bootstrap gained can be seen. Weights that the spec names take the place of the first stage of their kind.

use super::stage::{Facts, Setbacks, State, Tasks};
use super::{Job, Mint, Stage, job};
use chrono::{DateTime, Utc};
use medley_protocol::ids::{JobId, StageId, TaskId};
use medley_protocol::spec::{Kind, Spec};
use medley_protocol::stage::StageKind;
use medley_protocol::tasks::{Set, ShardName, TaskWork};
use std::sync::Arc;

/// Shards of the sets that a spec names, listed when it was submitted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shards {
    /// Human-annotated.
    pub human: Vec<String>,
    /// From the web.
    pub web: Vec<String>,
    /// Held out.
    pub test: Vec<String>,
}

/// A task of a new job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTask {
    /// Identity.
    pub id: TaskId,
    /// Its stage.
    pub stage: StageId,
    /// Order among the stage's tasks.
    pub position: u32,
    /// What to do.
    pub work: TaskWork,
}

/// A new job with its tasks; merges are added once their shards are done.
pub fn new_job(spec: Spec, shards: &Shards, submitted_at: DateTime<Utc>, mint: &mut dyn Mint) -> (Job, Vec<NewTask>) {
    let mut graph = Graph {
        stages: Vec::new(),
        mint,
    };
    let index = graph.add(StageKind::Index, 0, &[]);
    let start = &spec.start;
    let mut pretrain = graph.unless(!start.pretrained.is_empty(), StageKind::Pretrain, 0, index);
    let evaluates = !shards.test.is_empty();
    if evaluates {
        graph.add(StageKind::Evaluate, 0, &[pretrain]);
    }
    let rounds = if spec.kind == Kind::Bootstrap { spec.rounds } else { 0 };
    for round in 0..rounds {
        let given = |files: &[String]| round == 0 && !files.is_empty();
        let captioner = graph.unless(given(&start.captioner), StageKind::Captioner, round, pretrain);
        let filter = graph.unless(given(&start.filter), StageKind::Filter, round, pretrain);
        let mut judges = vec![captioner, filter];
        judges.dedup();
        let capfilt = graph.add(StageKind::Capfilt, round, &judges);
        pretrain = graph.add(StageKind::Pretrain, round + 1, &[capfilt]);
    }
    if evaluates && rounds > 0 {
        graph.add(StageKind::Evaluate, rounds, &[pretrain]);
    }
    let mut stages = graph.stages;
    let tasks = stages.iter_mut().flat_map(|stage| tasks(stage, shards, mint)).collect();
    let job = Job {
        id: JobId::from_uuid(mint.uuid()),
        version: 1,
        spec: Arc::new(spec),
        submitted_at,
        state: job::State::Queued,
        stages,
        datasets: Vec::new(),
    };
    (job, tasks)
}

struct Graph<'a> {
    stages: Vec<Stage>,
    mint: &'a mut dyn Mint,
}

impl Graph<'_> {
    /// A stage, or the one before it where files take its place.
    fn unless(&mut self, given: bool, kind: StageKind, round: u32, needs: StageId) -> StageId {
        if given { needs } else { self.add(kind, round, &[needs]) }
    }

    fn add(&mut self, kind: StageKind, round: u32, needs: &[StageId]) -> StageId {
        let id = StageId::from_uuid(self.mint.uuid());
        self.stages.push(Stage {
            id,
            name: format!("{kind}-{round}"),
            kind,
            round,
            needs: needs.to_vec(),
            state: State::Blocked,
            generation: 0,
            world: 0,
            setbacks: Setbacks::default(),
            forgiven: 0,
            course: None,
            facts: Facts::default(),
        });
        id
    }
}

fn tasks(stage: &mut Stage, shards: &Shards, mint: &mut dyn Mint) -> Vec<NewTask> {
    let named = |set, files: &[String]| -> Vec<ShardName> {
        files
            .iter()
            .map(|file| ShardName {
                set,
                file: file.clone(),
            })
            .collect()
    };
    let works: Vec<TaskWork> = match stage.kind {
        StageKind::Index => {
            let sets = [
                (Set::Human, &shards.human),
                (Set::Web, &shards.web),
                (Set::Test, &shards.test),
            ];
            let all = sets.into_iter().flat_map(|(set, files)| named(set, files));
            all.map(|shard| TaskWork::IndexShard { shard }).collect()
        }
        StageKind::Capfilt => {
            let web = named(Set::Web, &shards.web).into_iter();
            web.map(|shard| TaskWork::CapfiltShard { shard }).collect()
        }
        StageKind::Evaluate => vec![TaskWork::Evaluate],
        StageKind::Pretrain | StageKind::Captioner | StageKind::Filter => Vec::new(),
    };
    stage.facts.tasks = Tasks {
        unfinished: works.len() as u64,
        ..Tasks::default()
    };
    let new = |(position, work)| NewTask {
        id: TaskId::from_uuid(mint.uuid()),
        stage: stage.id,
        position: position as u32,
        work,
    };
    works.into_iter().enumerate().map(new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::CountingMint;
    use serde_json::json;

    fn graph(kind: &str, rounds: u32, test: &[&str]) -> (Job, Vec<NewTask>) {
        graph_from(&json!({}), kind, rounds, test)
    }

    fn graph_from(start: &serde_json::Value, kind: &str, rounds: u32, test: &[&str]) -> (Job, Vec<NewTask>) {
        let mut document = json!({"name": "j", "kind": kind, "preset": "nano", "data": {"root": "/d"}, "start": start});
        if kind == "bootstrap" {
            document["rounds"] = json!(rounds);
        }
        let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let shards = Shards {
            human: owned(&["h0.tar"]),
            web: owned(&["w0.tar", "w1.tar"]),
            test: owned(test),
        };
        let spec = Spec::from_document(&document).unwrap();
        new_job(spec, &shards, DateTime::UNIX_EPOCH, &mut CountingMint::default())
    }

    fn edges(job: &Job) -> Vec<String> {
        let name = |id: &StageId| job.stage(*id).unwrap().name.clone();
        let line = |stage: &Stage| {
            let needs: Vec<String> = stage.needs.iter().map(name).collect();
            format!("{} < {}", stage.name, needs.join(" "))
        };
        job.stages.iter().map(line).collect()
    }

    #[test]
    fn a_pretrain_job_indexes_trains_and_evaluates() {
        let (job, _) = graph("pretrain", 0, &["t.tar"]);
        assert_eq!(
            edges(&job),
            ["index-0 < ", "pretrain-0 < index-0", "evaluate-0 < pretrain-0"]
        );
        let (job, _) = graph("pretrain", 0, &[]);
        assert_eq!(edges(&job).len(), 2);
    }

    #[test]
    fn a_bootstrap_job_repeats_its_rounds() {
        let (job, _) = graph("bootstrap", 2, &["t.tar"]);
        let expected = [
            "index-0 < ",
            "pretrain-0 < index-0",
            "evaluate-0 < pretrain-0",
            "captioner-0 < pretrain-0",
            "filter-0 < pretrain-0",
            "capfilt-0 < captioner-0 filter-0",
            "pretrain-1 < capfilt-0",
            "captioner-1 < pretrain-1",
            "filter-1 < pretrain-1",
            "capfilt-1 < captioner-1 filter-1",
            "pretrain-2 < capfilt-1",
            "evaluate-2 < pretrain-2",
        ];
        assert_eq!(edges(&job), expected);
    }

    #[test]
    fn given_weights_take_the_place_of_first_stages() {
        let (job, _) = graph_from(&json!({"pretrained": ["/w"]}), "bootstrap", 1, &["t.tar"]);
        let expected = [
            "index-0 < ",
            "evaluate-0 < index-0",
            "captioner-0 < index-0",
            "filter-0 < index-0",
            "capfilt-0 < captioner-0 filter-0",
            "pretrain-1 < capfilt-0",
            "evaluate-1 < pretrain-1",
        ];
        assert_eq!(edges(&job), expected);
        let both = json!({"pretrained": ["/w"], "captioner": ["/c"], "filter": ["/f"]});
        let (job, _) = graph_from(&both, "bootstrap", 2, &["t.tar"]);
        let edges = edges(&job);
        assert!(edges.contains(&"capfilt-0 < index-0".to_owned()), "{edges:?}");
        assert!(edges.contains(&"captioner-1 < pretrain-1".to_owned()), "{edges:?}");
    }

    #[test]
    fn needs_come_before_the_stages_that_need_them() {
        let (job, _) = graph("bootstrap", 3, &["t.tar"]);
        for (i, stage) in job.stages.iter().enumerate() {
            let before = &job.stages[..i];
            assert!(
                stage.needs.iter().all(|need| before.iter().any(|s| s.id == *need)),
                "{}",
                stage.name
            );
        }
    }

    #[test]
    fn every_shard_is_indexed_and_web_shards_are_filtered() {
        let (job, tasks) = graph("bootstrap", 1, &["t.tar"]);
        let of = |name: &str| {
            let stage = job.stages.iter().find(|s| s.name == name).unwrap();
            tasks.iter().filter(|t| t.stage == stage.id).count()
        };
        assert_eq!(
            (of("index-0"), of("capfilt-0"), of("evaluate-1"), of("pretrain-0")),
            (4, 2, 1, 0)
        );
    }
}
