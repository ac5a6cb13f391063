//! The first dataset version: what is counted, left out and refused.

use super::world::{HUMAN, TEST, WEB, World, shard_of};
use medley_data::dataset::Version;
use medley_data::decode::{self, Rgb};
use medley_data::index::ShardIndex;
use medley_data::shards;
use medley_protocol::agent::StageInputs;
use medley_protocol::tasks::{Set, ShardName, TaskWork};
use serde_json::{Value, json};

#[test]
fn indexing_makes_the_first_version_and_its_vocabulary() {
    let world = World::new();
    let (inputs, counts) = world.version_0().unwrap();
    let expected = [
        ("pairs", HUMAN + WEB),
        ("pairs.human", HUMAN),
        ("test.pairs", TEST),
        ("broken.web", 0),
    ];
    for (name, count) in expected {
        assert_eq!(counts[name], u64::from(count), "{name}");
    }
    let version: Version = world.read(inputs.dataset.as_ref().unwrap());
    let sets: Vec<Set> = version.shards.iter().map(|entry| entry.shard.set).collect();
    assert_eq!(
        sets,
        [[Set::Human; 4].as_slice(), &[Set::Web; 3], &[Set::Test; 2]].concat()
    );
    let tokenizer = world.tokenizer(&inputs);
    assert_eq!(
        tokenizer.decode(&tokenizer.pieces("a red ring on black")),
        "a red ring on black"
    );
    assert!(tokenizer.vocabulary().id("red").is_some());
}

/// Writes a web shard of three samples, of which the first alone can be read.
fn write_broken_shard(world: &World) {
    let jpeg = decode::encode(&Rgb {
        width: 8,
        height: 8,
        data: vec![9; 192],
    });
    let files: [(&str, &[u8]); 6] = [
        ("a.jpg", &jpeg),
        ("a.txt", b"a red ring"),
        ("b.jpg", b"no picture"),
        ("b.txt", b"a cat"),
        ("c.jpg", &jpeg),
        ("c.txt", b" . "),
    ];
    let path = world.set_dir(Set::Web).join("shard-000009.tar");
    shards::write(&path, files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes))).unwrap();
}

#[test]
fn broken_samples_are_left_out_and_counted() {
    let world = World::with(&json!({"data": {"max_broken": 0.2}}));
    write_broken_shard(&world);
    let shard = world.shards(Set::Web).pop().unwrap();
    let (object, counts) = shard_of(
        world
            .perform(&StageInputs::default(), &TaskWork::IndexShard { shard })
            .unwrap(),
    );
    let expected = [
        ("samples", 1),
        ("texts", 1),
        ("broken.broken-image", 1),
        ("broken.empty-caption", 1),
    ];
    assert_eq!(counts, expected.map(|(name, n)| (name.to_owned(), n)).into());
    assert_eq!(world.read::<ShardIndex>(&object).samples.len(), 1);
    let (_, counts) = world.version_0().unwrap();
    assert_eq!((counts["pairs.web"], counts["broken.web"]), (u64::from(WEB) + 1, 2));
}

#[test]
fn too_many_broken_samples_are_refused_with_counts_places_and_advice() {
    let world = World::new();
    write_broken_shard(&world);
    let failure = world.version_0().unwrap_err();
    assert!(!failure.retry);
    for part in [
        "2 of 15 samples of the web set (13.33 %) cannot be read, data.max_broken allows 1.00 %",
        "broken-image 1, empty-caption 1",
        "shard-000009.tar b (broken-image: not a readable JPEG",
        "shard-000009.tar c (empty-caption); repair",
        "set data.max_broken to 0.1334 or more",
    ] {
        assert!(failure.reason.contains(part), "{part:?} in {}", failure.reason);
    }
}

#[test]
fn a_missing_shard_is_refused_for_good_with_its_path() {
    let world = World::new();
    let shard = ShardName {
        set: Set::Web,
        file: "shard-000077.tar".into(),
    };
    let failure = world
        .perform(&StageInputs::default(), &TaskWork::IndexShard { shard })
        .unwrap_err();
    let path = world.set_dir(Set::Web).join("shard-000077.tar");
    assert!(!failure.retry);
    assert!(
        failure
            .reason
            .starts_with(&format!("{}: there is no such shard", path.display()))
    );
    assert!(failure.reason.contains("put it back"));
}

#[test]
fn sets_too_small_for_one_step_are_refused() {
    let refused = |lanes: Value| World::with(&json!({"lanes": lanes})).version_0().unwrap_err();
    let failure = refused(json!({"batch": 3}));
    assert!(!failure.retry);
    assert!(failure.reason.starts_with("the human set"), "{failure}");
    assert!(failure.reason.contains("20 readable pairs"), "{failure}");
    assert!(failure.reason.contains("8 × 3 = 24"), "{failure}");
    assert!(
        refused(json!({"batch": 5}))
            .reason
            .starts_with("the training set has 32 readable pairs")
    );
}

#[test]
fn a_vocabulary_file_is_read_or_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("vocab.txt");
    let world = World::with(&json!({"vocab": {"file": file}}));
    let failure = world.version_0().unwrap_err();
    assert!(
        !failure.retry && failure.reason.contains(&format!("vocab.file {}", file.display())),
        "{failure}"
    );
    std::fs::write(&file, "[PAD]\n[UNK]\n[CLS]\nring\n").unwrap();
    assert!(world.version_0().unwrap_err().reason.ends_with("lacks the token [SEP]"));
    std::fs::write(&file, "[PAD]\n[UNK]\n[CLS]\n[SEP]\nring\n").unwrap();
    let (inputs, _) = world.version_0().unwrap();
    let tokens = world.objects.get(inputs.vocab.as_ref().unwrap()).unwrap();
    assert_eq!(tokens, b"[PAD]\n[UNK]\n[CLS]\n[SEP]\nring\n[DEC]\n[ENC]\n");
}
