//! What a batch takes in memory; a process of its own, whose peak tells.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use medley_data::dataset::{Corpus, CorpusShard};
use medley_data::decode::{Rgb, encode};
use medley_data::loader::{Loader, Settings};
use medley_data::text::{Tokenizer, Vocabulary};
use medley_data::{index, shards};
use medley_protocol::spec::{AugmentSpec, Behaviour, Specials};
use medley_protocol::tasks::{Set, ShardName};
use std::sync::Arc;

/// Images of the batch, and their sides: decoded, each has 27 MB.
const IMAGES: u32 = 16;
const SIDE: u32 = 3000;
const MOST_KIB: u64 = 250 << 10;

#[test]
fn a_batch_holds_one_decoded_image_a_thread() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.tar");
    let plain = Rgb {
        width: SIDE,
        height: SIDE,
        data: vec![90; 3 * (SIDE * SIDE) as usize],
    };
    let jpeg = encode(&plain);
    drop(plain);
    // Trailing bytes make them different files.
    let files = (0..IMAGES).flat_map(|i| [(format!("{i}.jpg"), [&jpeg[..], &[i as u8]].concat()), text(i)]);
    let files: Vec<(String, Vec<u8>)> = files.collect();
    shards::write(&path, files.iter().map(|(name, bytes)| (name.clone(), &bytes[..]))).unwrap();
    let index = index::build(&path, &mut |_, _| {}).unwrap();
    let vocabulary = Vocabulary::train(&index.words, 100);
    let shard = CorpusShard {
        name: ShardName {
            set: Set::Human,
            file: "0.tar".into(),
        },
        path,
        index,
        overlay: None,
    };
    let corpus = Corpus::new(vec![shard], None).unwrap();
    let pairs = corpus.training_pairs(true);
    let settings = Settings {
        seed: 3,
        lanes: 1,
        batch: IMAGES,
        image_size: 16,
        augment: AugmentSpec::Reference {
            min_crop: 0.2,
            auto_contrast: Behaviour::Reference,
            enhance: Behaviour::Fixed,
            flip: Behaviour::Fixed,
            translate: Behaviour::Reference,
        },
        max_tokens: 20,
        prompt: String::new(),
    };
    let tokenizer = Tokenizer::new(vocabulary, Specials::Reference);
    let loader = Loader::new(Arc::new(corpus), pairs, Arc::new(tokenizer), settings);
    let reader = loader.another().on_threads(2).unwrap();
    assert_eq!(reader.batch(0, 0).unwrap().samples.len(), IMAGES as usize);
    assert!(peak_kib() < MOST_KIB, "{} KiB", peak_kib());
}

fn text(i: u32) -> (String, Vec<u8>) {
    (format!("{i}.txt"), b"a grey wall".to_vec())
}

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}
