use super::*;
use crate::dataset::CorpusShard;
use crate::index;
use crate::synth::{SynthSpec, generate};
use crate::text::Vocabulary;
use medley_protocol::spec::{Behaviour, Specials};
use medley_protocol::tasks::{Set, ShardName};

fn loader(dir: &std::path::Path) -> Loader {
    let spec = SynthSpec {
        seed: 1,
        human: 12,
        web: 1,
        test: 1,
        shard: 12,
        other: 0.0,
        half_true: 0.0,
        boilerplate: 0.0,
    };
    generate(&spec, dir, &mut |_, _| {}).unwrap();
    let path = dir.join("human/shard-000000.tar");
    let index = index::build(&path, &mut |_, _| {}).unwrap();
    let vocabulary = Vocabulary::train(&index.words, 100);
    let name = ShardName {
        set: Set::Human,
        file: "shard-000000.tar".into(),
    };
    let shard = CorpusShard {
        name,
        path,
        index,
        overlay: None,
    };
    let corpus = Corpus::new(vec![shard], None).unwrap();
    let pairs = corpus.training_pairs(true);
    let settings = Settings {
        seed: 3,
        lanes: 2,
        batch: 2,
        image_size: 16,
        augment: AugmentSpec::Reference {
            min_crop: 0.2,
            auto_contrast: Behaviour::Reference,
            enhance: Behaviour::Fixed,
            flip: Behaviour::Fixed,
            translate: Behaviour::Reference,
        },
        max_tokens: 20,
        prompt: "a picture of ".into(),
    };
    let tokenizer = Tokenizer::new(vocabulary, Specials::Reference);
    Loader::new(Arc::new(corpus), pairs, Arc::new(tokenizer), settings)
}

#[test]
fn any_lane_reads_a_sample_as_its_own_lane_does() {
    let dir = tempfile::tempdir().unwrap();
    let own = loader(dir.path());
    let another = own.another();
    for (step, lane) in (0..7).flat_map(|step| [(step, 0), (step, 1)]) {
        let batch = own.batch(step, lane).unwrap();
        let mut pixels = Vec::new();
        for sample in &batch.samples {
            another.pixels(step, *sample, &mut pixels).unwrap();
        }
        let texts: Vec<Vec<u32>> = batch.samples.iter().map(|sample| another.text(*sample)).collect();
        let identities: Vec<u64> = batch.samples.iter().map(|sample| another.identity(*sample)).collect();
        assert_eq!(
            (pixels, texts, identities),
            (batch.pixels, batch.texts, batch.identities)
        );
    }
}

#[test]
fn threads_of_its_own_make_the_same_batches() {
    let dir = tempfile::tempdir().unwrap();
    let mut alone = loader(dir.path());
    // Too little of an image to decode it.
    let corpus = Arc::make_mut(&mut alone.corpus);
    corpus.shards[0].index.samples[7].image.len = 3;
    let shared = alone.another().on_threads(3).unwrap();
    let mut replaced = 0;
    for (step, lane) in (0..7).flat_map(|step| [(step, 0), (step, 1)]) {
        let batch = alone.batch(step, lane).unwrap();
        assert_eq!(shared.batch(step, lane).unwrap(), batch);
        replaced += batch.replaced.len();
    }
    assert!(replaced > 0);
}

#[test]
fn an_epoch_reads_every_text_of_an_image_with_that_image() {
    let dir = tempfile::tempdir().unwrap();
    let Loader {
        corpus,
        tokenizer,
        settings,
        ..
    } = loader(dir.path());
    let mut corpus = Arc::unwrap_or_clone(corpus);
    corpus.shards[0].index.samples[3].more = ["a ring", "the disc"].map(str::to_owned).into();
    let shown = corpus.shards[0].index.samples[3].identity;
    let pairs = corpus.training_pairs(true);
    let loader = Loader::new(Arc::new(corpus), pairs, tokenizer, Settings { batch: 7, ..settings });
    assert_eq!(loader.steps_per_epoch(), 1);
    let batches = [0, 1].map(|lane| loader.batch(0, lane).unwrap());
    let of_image = |batch: &Batch| -> Vec<Vec<u32>> {
        let read = batch.identities.iter().zip(&batch.texts);
        read.filter(|(identity, _)| **identity == shown)
            .map(|(_, text)| text.clone())
            .collect()
    };
    let mut read: Vec<Vec<u32>> = batches.iter().flat_map(of_image).collect();
    let mut expected: Vec<Vec<u32>> = (3..6).map(|sample| loader.text(sample)).collect();
    read.sort();
    expected.sort();
    assert_eq!(read, expected);
    expected.dedup();
    assert_eq!(expected.len(), 3);
}

#[test]
fn a_sample_has_another_view_in_another_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let loader = loader(dir.path());
    let view = |loader: &Loader, step| {
        let mut pixels = Vec::new();
        loader.pixels(step, 5, &mut pixels).unwrap();
        pixels
    };
    assert_eq!(loader.steps_per_epoch(), 3);
    let first = view(&loader, 0);
    assert_eq!(view(&loader, 2), first);
    assert_ne!(view(&loader, 3), first);
}
