//! The first dataset version: what is counted, left out and refused.

use super::super::index::listed;
use super::world::{HUMAN, TEST, WEB, World, dataset_of, shard_of};
use crate::rank::failure::Failure;
use crate::stage::patience::PATIENCE;
use medley_data::dataset::Version;
use medley_data::decode::{self, Rgb};
use medley_data::index::ShardIndex;
use medley_data::shards;
use medley_protocol::agent::StageInputs;
use medley_protocol::spec::Kind;
use medley_protocol::tasks::{Set, ShardName, TaskWork};
use serde_json::{Value, json};
use std::time::Instant;

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
fn damaged_shards_are_refused_by_name_however_many_broken_samples_are_tolerated() {
    let world = World::with(&json!({"data": {"max_broken": 1.0}, "lanes": {"batch": 2, "count": 4}}));
    let path = |set, shard: &str| world.set_dir(set).join(shard).display().to_string();
    let cut = path(Set::Human, "shard-000001.tar");
    std::fs::File::options()
        .write(true)
        .open(&cut)
        .unwrap()
        .set_len(600)
        .unwrap();
    let failure = world.version_0().unwrap_err();
    assert!(!failure.retry);
    let one = format!("a shard is damaged: {cut}: it is cut short");
    assert!(failure.reason.starts_with(&one), "{failure}");
    let [empty, zipped] = ["shard-000000.tar", "shard-000002.tar"].map(|shard| path(Set::Web, shard));
    std::fs::write(&empty, b"").unwrap();
    std::fs::write(&zipped, b"\x1f\x8b\x08\0").unwrap();
    let reason = world.version_0().unwrap_err().reason;
    for part in [
        format!("3 shards are damaged: {cut}: it is cut short").as_str(),
        &format!("; {empty}: it is empty; {zipped}: it looks gzip-compressed"),
        "restore what is damaged from where it came from and retry the job (`medley jobs retry`), or remove it from its folder and \
         submit the job again",
    ] {
        assert!(reason.contains(part), "{part:?} in {reason}");
    }
    for path in [cut, empty, zipped] {
        std::fs::remove_file(path).unwrap();
    }
    let (_, counts) = world.version_0().unwrap();
    assert_eq!(counts["pairs"], u64::from(HUMAN - 5 + WEB - 5 - 2));
}

#[test]
fn a_list_of_damaged_shards_that_is_too_long_says_how_many_more_there_are() {
    let names: Vec<String> = (0..1000)
        .map(|i| format!("/data/web/{i:06}.tar: it is empty"))
        .collect();
    let listed = listed(&names);
    assert!(listed.len() < 3900 && listed.starts_with("/data/web/000000.tar: it is empty; /data"));
    let named = listed.matches("it is empty").count();
    let rest = format!("; and {} more, which the rank's log names", 1000 - named);
    assert!(named > 50 && listed.ends_with(&rest), "{listed}");
}

#[test]
fn a_set_without_a_readable_sample_is_refused_by_name_if_the_spec_asks_for_it() {
    let world = World::with(&json!({"data": {"max_broken": 1.0}}));
    for shard in world.shards(Set::Web) {
        let files: [(&str, &[u8]); 2] = [("a.jpg", b"no picture"), ("a.txt", b"a cat")];
        let files = files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes));
        shards::write(&world.set_dir(Set::Web).join(shard.file), files).unwrap();
    }
    let failure = world.version_0().unwrap_err();
    let expected =
        "the web set has no readable sample: add some under data.web (web), or set data.web to \"\" for none";
    assert_eq!(failure, Failure::lasting(expected));
    let mut world = World::new();
    let mut shards = world.indexed();
    shards.retain(|made| made.shard.set != Set::Web);
    (world.spec.kind, world.spec.data.web) = (Kind::Pretrain, String::new());
    let merge = TaskWork::IndexMerge { shards };
    let (_, counts) = dataset_of(world.perform(&StageInputs::default(), &merge).unwrap());
    assert_eq!(counts["pairs"], u64::from(HUMAN));
}

#[test]
fn a_missing_shard_is_waited_for_and_then_tried_again_later() {
    let world = World::new();
    let shard = ShardName {
        set: Set::Web,
        file: "shard-000077.tar".into(),
    };
    let begun = Instant::now();
    let failure = world
        .perform(&StageInputs::default(), &TaskWork::IndexShard { shard })
        .unwrap_err();
    let path = world.set_dir(Set::Web).join("shard-000077.tar");
    assert!(failure.retry && begun.elapsed() >= PATIENCE, "{failure}");
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
