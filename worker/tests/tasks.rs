//! A rank process that works on leased tasks, as its agent sees it.
#![allow(clippy::unwrap_used, missing_docs)]

use medley_data::synth::{SynthSpec, generate};
use medley_protocol::agent::{Assignment, FromRank, RankState, StageInputs, ToRank};
use medley_protocol::ids::{JobId, LeaseToken, StageId, TaskId};
use medley_protocol::spec::Spec;
use medley_protocol::stage::StageKind;
use medley_protocol::tasks::{Lease, Set, ShardName, ShardObject, TaskOutput, TaskWork};
use medley_worker::supervise::{Event, RankProcess};
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_mins(1);

fn assignment(dir: &Path) -> Assignment {
    let document = serde_json::json!({
        "name": "t", "kind": "pretrain", "preset": "nano",
        "data": {"root": dir.join("data"), "web": "", "test": ""},
    });
    Assignment {
        job: JobId::generate(),
        stage: StageId::generate(),
        stage_name: "index-0".into(),
        kind: StageKind::Index,
        generation: 1,
        ranks: vec![0],
        world: 1,
        members: Vec::new(),
        secret: String::new(),
        spec: Spec::from_document(&document).unwrap(),
        store: format!("file://{}/store", dir.display()),
        inputs: StageInputs::default(),
        checkpoint_after: None,
        without: Vec::new(),
        distrusts: 0,
        parting: None,
    }
}

fn lease(work: TaskWork) -> Lease {
    Lease {
        task: TaskId::generate(),
        token: LeaseToken::generate(),
        lease_ms: 30_000,
        work,
    }
}

struct Rank {
    process: RankProcess,
    events: Receiver<Event>,
}

impl Rank {
    fn start(dir: &Path) -> Self {
        let (tx, events) = mpsc::channel();
        let program = Path::new(env!("CARGO_BIN_EXE_medley-worker"));
        let process = RankProcess::spawn(program, None, Stdio::inherit(), move |event| {
            let _ = tx.send(event);
        });
        let process = process.unwrap();
        let start = ToRank::Start {
            assignment: Box::new(assignment(dir)),
            rank: 0,
            host: "127.0.0.1".into(),
            threads: 1,
            device: "cpu".into(),
        };
        process.tell(&start).unwrap();
        Self { process, events }
    }

    fn offer(&self, lease: Option<Lease>) {
        self.process.tell(&ToRank::Lease { lease }).unwrap();
    }

    /// What the rank says next, renewals of its lease aside.
    fn hears(&self) -> FromRank {
        loop {
            match self.events.recv_timeout(PATIENCE).unwrap() {
                Event::Said(FromRank::TaskProgress { .. } | FromRank::Pulse { .. }) => {}
                Event::Said(said) => return said,
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn a_rank_works_on_one_lease_after_the_other_until_it_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = SynthSpec {
        seed: 1,
        human: 20,
        web: 0,
        test: 0,
        shard: 20,
        other: 0.0,
        half_true: 0.0,
        boilerplate: 0.0,
    };
    generate(&corpus, &dir.path().join("data"), &mut |_, _| {}).unwrap();
    let rank = Rank::start(dir.path());
    let state = |state| FromRank::State { generation: 1, state };
    assert_eq!(rank.hears(), state(RankState::Starting));
    assert_eq!(rank.hears(), state(RankState::Running { committed: 0 }));
    assert_eq!(rank.hears(), FromRank::LeaseWanted);

    // There is nothing yet: the rank waits, and says nothing, until its agent has found something.
    rank.offer(None);
    let shard = |file: &str| ShardName {
        set: Set::Human,
        file: file.into(),
    };
    std::fs::create_dir(dir.path().join("data/human/shard-9.tar")).unwrap();
    let folder = lease(TaskWork::IndexShard {
        shard: shard("shard-9.tar"),
    });
    rank.offer(Some(folder.clone()));
    let FromRank::TaskFailed {
        lease: failed, retry, ..
    } = rank.hears()
    else {
        panic!("a folder cannot be indexed");
    };
    assert_eq!((failed, retry), (folder, false));
    assert_eq!(rank.hears(), FromRank::LeaseWanted);

    let first = shard("shard-000000.tar");
    let indexing = lease(TaskWork::IndexShard { shard: first.clone() });
    rank.offer(Some(indexing.clone()));
    let FromRank::TaskDone {
        lease: done, output, ..
    } = rank.hears()
    else {
        panic!("the shard is readable");
    };
    assert_eq!(done, indexing);
    let TaskOutput::Shard { object, counts } = output else {
        panic!("a shard makes an object");
    };
    assert_eq!(counts["samples"], 20);
    assert_eq!(rank.hears(), FromRank::LeaseWanted);

    let shards = vec![ShardObject { shard: first, object }];
    rank.offer(Some(lease(TaskWork::IndexMerge { shards })));
    let FromRank::TaskDone { output, .. } = rank.hears() else {
        panic!("one shard makes a version");
    };
    assert!(matches!(output, TaskOutput::Dataset { counts, .. } if counts["pairs"] == 20));
    assert_eq!(rank.hears(), FromRank::LeaseWanted);

    rank.process.tell(&ToRank::Stop).unwrap();
    assert!(matches!(rank.events.recv_timeout(PATIENCE).unwrap(), Event::Exited(_)));
}
