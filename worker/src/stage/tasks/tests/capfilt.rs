//! Overlays, and the dataset version that a merge makes of them.

use super::world::{HUMAN, WEB, World, dataset_of, shard_of};
use crate::rank::failure::Failure;
use medley_data::dataset::{Overlay, Version};
use medley_data::shards;
use medley_model::weights::export::Kind;
use medley_protocol::tasks::{Set, ShardObject, TaskWork};
use serde_json::json;

#[test]
fn capfilt_makes_the_next_version_of_the_texts_that_match() {
    let world = World::with(&json!({"capfilt": {"threshold": 0.45}}));
    let inputs = world.for_capfilt();
    let mut made = Vec::new();
    let mut entries = Vec::new();
    for shard in world.shards(Set::Web) {
        let work = TaskWork::CapfiltShard { shard: shard.clone() };
        let (object, _) = shard_of(world.perform(&inputs, &work).unwrap());
        entries.extend(world.read::<Overlay>(&object).entries);
        made.push(ShardObject { shard, object });
    }
    assert_eq!(entries.len(), WEB as usize);
    let merge = TaskWork::CapfiltMerge { overlays: made.clone() };
    let (next, counts) = dataset_of(world.perform(&inputs, &merge).unwrap());
    let kept = |p: f32| f64::from(p) >= 0.45;
    let web = entries.iter().filter(|e| kept(e.web_probability)).count() as u64;
    let synthetic = entries
        .iter()
        .filter(|e| kept(e.synthetic_probability) && !e.synthetic.is_empty());
    let synthetic = synthetic.count() as u64;
    assert_eq!(
        (counts["pairs.web"], counts["dropped.web"]),
        (web, u64::from(WEB) - web)
    );
    assert_eq!(counts["pairs.synthetic"], synthetic);
    assert_eq!(counts["pairs"], u64::from(HUMAN) + web + synthetic);
    assert_eq!(next.vocab, inputs.vocab);
    let version: Version = world.read(next.dataset.as_ref().unwrap());
    assert_eq!(
        (version.parent, version.threshold),
        (inputs.dataset.clone(), Some(0.45))
    );

    let lacking = TaskWork::CapfiltMerge {
        overlays: made[1..].to_vec(),
    };
    let failure = world.perform(&inputs, &lacking).unwrap_err();
    assert_eq!(failure, Failure::lasting("web shard shard-000000.tar has no overlay"));
}

#[test]
fn an_overlay_is_the_same_bytes_for_any_batch_size() {
    let mut world = World::new();
    let inputs = world.for_capfilt();
    let shard = world.shards(Set::Web).remove(0);
    let work = TaskWork::CapfiltShard { shard };
    let mut overlays = Vec::new();
    for batch in [1, 3, 50] {
        world.spec.capfilt.batch = batch;
        overlays.push(shard_of(world.perform(&inputs, &work).unwrap()).0);
    }
    assert_eq!(overlays[0], overlays[1]);
    assert_eq!(overlays[0], overlays[2]);
    let entries = world.read::<Overlay>(&overlays[0]).entries;
    let mut captions: Vec<&str> = entries.iter().map(|entry| entry.synthetic.as_str()).collect();
    captions.dedup();
    assert_eq!(captions.len(), 5, "each image has draws of its own: {captions:?}");
}

#[test]
fn files_of_weights_serve_as_captioner_and_filter_where_no_stage_trained_them() {
    let mut world = World::new();
    let mut inputs = world.for_capfilt();
    let shard = world.shards(Set::Web).remove(0);
    let work = TaskWork::CapfiltShard { shard };
    let (trained, _) = shard_of(world.perform(&inputs, &work).unwrap());
    (inputs.captioner, inputs.filter) = (None, None);
    let failure = world.perform(&inputs, &work).unwrap_err();
    assert_eq!(failure, Failure::lasting("the assignment names no captioner"));
    world.spec.start.captioner = vec![world.export(&inputs, (32, 1), Kind::HfCaption)];
    world.spec.start.filter = vec![world.export(&inputs, (16, 2), Kind::HfRetrieval)];
    let (given, _) = shard_of(world.perform(&inputs, &work).unwrap());
    assert_eq!(given, trained, "the same weights write the same overlay");
}

#[test]
fn a_shard_that_changed_since_it_was_indexed_is_refused() {
    let world = World::new();
    let inputs = world.for_capfilt();
    let shard = world.shards(Set::Web).remove(0);
    let path = world.set_dir(Set::Web).join(&shard.file);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend([0; 512]);
    std::fs::write(&path, bytes).unwrap();
    let failure = world.perform(&inputs, &TaskWork::CapfiltShard { shard }).unwrap_err();
    assert!(
        !failure.retry && failure.reason.contains("must not change"),
        "{failure}"
    );
}

#[test]
fn an_image_that_was_damaged_since_it_was_indexed_is_named_wherever_it_stands() {
    let mut world = World::new();
    world.spec.capfilt.batch = 1;
    let inputs = world.for_capfilt();
    let shard = world.shards(Set::Web).remove(0);
    let path = world.set_dir(Set::Web).join(&shard.file);
    let whole = std::fs::read(&path).unwrap();
    let members = shards::members(&path).unwrap().members;
    let images: Vec<_> = members.iter().filter(|member| member.extension == "jpg").collect();
    assert!(images.len() > 2);
    for image in [images[0], images[1], images[images.len() - 1]] {
        let mut bytes = whole.clone();
        let (first, len) = (image.extent.offset as usize, image.extent.len as usize);
        bytes[first..first + len].fill(0);
        std::fs::write(&path, bytes).unwrap();
        let work = TaskWork::CapfiltShard { shard: shard.clone() };
        let failure = world.perform(&inputs, &work).unwrap_err();
        let named = format!("the image of sample {} does not decode", image.key);
        assert!(!failure.retry && failure.reason.contains(&named), "{failure}");
    }
}
