//! Where texts end, and several texts of one image.

use super::world::{WEB, World, evaluation_of, shard_of};
use medley_data::dataset::Overlay;
use medley_protocol::agent::StageInputs;
use medley_protocol::tasks::{Set, TaskWork};
use serde_json::json;

#[test]
fn an_image_with_several_texts_is_captioned_once_and_each_text_is_judged_by_itself() {
    let world = World::with(&json!({"capfilt": {"threshold": 0.0}}));
    let overlay = |inputs: &StageInputs| {
        let shard = world.shards(Set::Web).remove(0);
        let work = TaskWork::CapfiltShard { shard };
        let (object, counts) = shard_of(world.perform(inputs, &work).unwrap());
        (world.read::<Overlay>(&object).entries, counts)
    };
    let before = world.for_capfilt();
    let (single, _) = overlay(&before);
    world.describe_again(Set::Web);
    let (mut inputs, counts) = world.version_0().unwrap();
    assert_eq!(counts["pairs.web"], u64::from(WEB) + 5);
    (inputs.captioner, inputs.filter) = (before.captioner.clone(), before.filter.clone());
    // The words are the same but for the counts of them: the first vocabulary goes with the checkpoints.
    inputs.vocab.clone_from(&before.vocab);
    let (mut entries, counts) = overlay(&inputs);
    assert_eq!((counts["pairs.web"], counts["pairs.synthetic"]), (10, 5));
    for (entry, single) in entries.iter_mut().zip(&single) {
        let more = std::mem::take(&mut entry.more);
        assert_eq!((&*entry, more.len()), (single, 1));
        assert_ne!(more[0], entry.web_probability);
    }
    assert_eq!(entries.len(), single.len());
}

#[test]
fn tasks_cut_texts_where_the_stage_did_that_trained_their_model() {
    let mut world = World::new();
    let mut inputs = world.for_capfilt();
    inputs.start = Some(world.checkpoint(&inputs, 32, 3));
    let work = TaskWork::CapfiltShard {
        shard: world.shards(Set::Web).remove(0),
    };
    let made = |world: &World| {
        let (overlay, _) = shard_of(world.perform(&inputs, &work).unwrap());
        let (details, _) = evaluation_of(world.perform(&inputs, &TaskWork::Evaluate).unwrap());
        (overlay, details)
    };
    let (overlay, details) = made(&world);
    world.spec.filter.max_tokens = 4;
    let (cut, same) = made(&world);
    assert_ne!(cut, overlay);
    assert_eq!(same, details);
    world.spec.pretrain.max_tokens = 4;
    let (same, other) = made(&world);
    assert_eq!(same, cut);
    assert_ne!(other, details);
}
