//! Every kind of task on a small generated corpus, a real store and fresh weights.

mod texts;
mod world;

use super::*;
use medley_data::dataset::{Overlay, Version};
use medley_data::decode::{self, Rgb};
use medley_data::evaluation::{Details, Row, rank_of};
use medley_data::index::ShardIndex;
use medley_data::shards;
use medley_model::device::Device;
use medley_model::generate::Reader;
use medley_model::ops::sum::dot;
use medley_model::weights::export::Kind;
use medley_protocol::ids::{LeaseToken, TaskId};
use medley_protocol::tasks::{Counts, Set, ShardObject};
use serde_json::{Value, json};
use world::{HUMAN, TEST, WEB, World, dataset_of, evaluation_of, shard_of};

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
fn ranks_are_those_of_scoring_every_pair_by_itself() {
    const TEXTS: u32 = TEST + 5;
    let world = World::with(&json!({"evaluate": {"rerank": TEXTS, "batch": 4, "resamples": 50}}));
    world.describe_again(Set::Test);
    let (mut inputs, _) = world.version_0().unwrap();
    inputs.start = Some(world.checkpoint(&inputs, 32, 3));
    let mut told = (0, 0);
    let given = Given {
        spec: &world.spec,
        inputs: &inputs,
        objects: &world.objects,
        device: &Device::Cpu,
    };
    let output = Desk::new(given).perform(&TaskWork::Evaluate, &mut |done, total| told = (done, total));
    let (details, figures) = evaluation_of(output.unwrap());
    assert_eq!(told, (2 * u64::from(TEST), 2 * u64::from(TEST)));
    let rows = world.read::<Details>(&details).rows;
    assert_eq!((rows.len(), figures.pairs), (TEXTS as usize, u64::from(TEXTS)));
    let (itc, itm) = all_scores(&world, &inputs, &rows);
    // The first row of each image.
    let images: Vec<usize> = (0..rows.len())
        .filter(|i| *i == 0 || rows[*i].image != rows[i - 1].image)
        .collect();
    assert_eq!(images.len(), TEST as usize);
    for (i, row) in rows.iter().enumerate() {
        let own = images.iter().position(|image| rows[*image].image == row.image).unwrap();
        assert_eq!(row.caption, rows[images[own]].caption);
        let of_text =
            |scores: &[Vec<f32>]| rank_of(own, &images.iter().map(|image| scores[*image][i]).collect::<Vec<_>>());
        assert_eq!(row.image_to_text.itc, rank_of(i, &itc[i]));
        assert_eq!(row.image_to_text.itm, rank_of(i, &itm[i]));
        assert_eq!(row.text_to_image.itc, of_text(&itc));
        assert_eq!(row.text_to_image.itm, of_text(&itm));
    }
    let first = rows.iter().filter(|row| row.text_to_image.itc == 0).count() as f64;
    assert!((figures.text_to_image_itc.at_1.value - first / f64::from(TEXTS)).abs() < 1e-12);
}

/// Cosine, and score of the matching head, of every (image, text), one pair at a time.
fn all_scores(world: &World, inputs: &StageInputs, rows: &[Row]) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let (blip, state) = world.model(inputs, 32, 3);
    let (tokenizer, mut reader) = (world.tokenizer(inputs), Reader::new(blip, state.params, &Device::Cpu));
    let (mut itc, mut itm) = (Vec::new(), Vec::new());
    for image in rows {
        let pixels = pixels_of(world, image);
        let image = reader.image_features(&pixels, 1).unwrap();
        let mut of_text = |row: &Row| {
            let text = [tokenizer.encode(&row.text, 20)];
            let cosine = dot(&image, &reader.text_features(&text).unwrap());
            let logits = reader.match_logits(&pixels, 1, &text, &[(0, 0)]).unwrap();
            (cosine, logits[0][1] + cosine)
        };
        let (cosines, scores) = rows.iter().map(&mut of_text).unzip();
        itc.push(cosines);
        itm.push(scores);
    }
    (itc, itm)
}

fn pixels_of(world: &World, row: &Row) -> Vec<f32> {
    let path = world.set_dir(Set::Test).join(&row.shard);
    let found = shards::members(&path).unwrap().members;
    let image = found.iter().find(|m| m.key == row.key && m.extension == "jpg").unwrap();
    let bytes = shards::read(&mut std::fs::File::open(path).unwrap(), image.extent).unwrap();
    let mut pixels = vec![0.0; 3 * 32 * 32];
    decode::normalise(&decode::jpeg(&bytes).unwrap(), &mut pixels);
    pixels
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
fn a_stage_without_its_checkpoint_says_which() {
    let world = World::new();
    let (inputs, _) = world.version_0().unwrap();
    let failure = world.perform(&inputs, &TaskWork::Evaluate).unwrap_err();
    assert_eq!(
        failure,
        Failure::lasting("the assignment names no checkpoint to evaluate")
    );
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
