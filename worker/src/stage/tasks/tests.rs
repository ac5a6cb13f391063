//! Every kind of task on a small generated corpus, a real store and fresh weights.

mod capfilt;
mod evaluate;
mod index;
mod texts;
mod world;

use super::{Desk, Given, object_name, report};
use crate::rank::failure::Failure;
use medley_model::device::Device;
use medley_protocol::agent::FromRank;
use medley_protocol::checkpoint::ObjectRef;
use medley_protocol::ids::{LeaseToken, TaskId};
use medley_protocol::tasks::{Counts, Lease, Set, ShardName, TaskOutput, TaskWork};
use serde_json::json;
use world::World;

#[test]
fn a_desk_keeps_its_models_and_tells_its_progress() {
    let world = World::with(&json!({"capfilt": {"batch": 2}}));
    let inputs = world.for_capfilt();
    let given = Given {
        spec: &world.spec,
        inputs: &inputs,
        objects: &world.objects,
        device: &Device::Cpu,
    };
    let mut desk = Desk::new(given);
    let mut shards = world.shards(Set::Web).into_iter();
    let mut told = Vec::new();
    let mut work = || {
        let shard = shards.next().unwrap();
        let work = TaskWork::CapfiltShard { shard };
        desk.perform(&work, &mut |done, total| told.push((done, total)))
            .unwrap();
    };
    work();
    // Without the checkpoints' objects the second shard can only use what is loaded.
    for manifest in [&inputs.captioner, &inputs.filter] {
        let key = &manifest.as_ref().unwrap().parts[0].object.key;
        std::fs::remove_file(world.dir.path().join("store").join(key)).unwrap();
    }
    work();
    assert_eq!(told, [[(2, 5), (4, 5), (5, 5)]; 2].concat());
}

#[test]
fn a_result_is_reported_with_its_lease() {
    let lease = Lease {
        task: TaskId::generate(),
        token: LeaseToken::generate(),
        lease_ms: 1,
        work: TaskWork::Evaluate,
    };
    let failed = report(lease.clone(), Err(Failure::passing("the store is away")));
    let expected = FromRank::TaskFailed {
        lease: lease.clone(),
        reason: "the store is away".into(),
        retry: true,
    };
    assert_eq!(failed, expected);
    let output = TaskOutput::Shard {
        object: ObjectRef {
            key: "k".into(),
            blake3: String::new(),
            size_bytes: 0,
        },
        counts: Counts::new(),
    };
    let done = report(lease.clone(), Ok(output.clone()));
    let FromRank::TaskDone {
        lease: of,
        output: made,
        peak_bytes: Some(1..),
    } = done
    else {
        panic!("{done:?}");
    };
    assert_eq!((of, made), (lease, output));
}

#[test]
fn any_shard_name_makes_a_valid_key() {
    for file in ["Shard 1.TAR", "..tar", "ü/\\.tar", &"x".repeat(400)] {
        let shard = ShardName {
            set: Set::Web,
            file: file.into(),
        };
        let name = object_name("overlays", &shard);
        assert!(ObjectRef::is_valid_key(&format!("{name}-{}", "0".repeat(64))), "{name}");
    }
}
