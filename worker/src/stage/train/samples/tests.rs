use super::*;
use medley_data::dataset::{Corpus, CorpusShard};
use medley_data::index;
use medley_data::loader::Settings;
use medley_data::synth::{SynthSpec, generate};
use medley_data::text::{Tokenizer, Vocabulary};
use medley_protocol::agent::StepPhase;
use medley_protocol::spec::{AugmentSpec, Specials};
use medley_protocol::tasks::{Set, ShardName};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

fn batch(number: u64) -> Batch {
    Batch {
        epoch: 0,
        position: number,
        pixels: vec![number as f32; 12],
        texts: vec![vec![1, number as u32, 2]],
        identities: vec![number + 1],
        samples: vec![number],
        replaced: Vec::new(),
    }
}

/// The processor plays the device: what is sent to it is a copy.
fn sent(batches: Vec<Result<Batch, Fault>>) -> Batches {
    let (to, read) = mpsc::sync_channel(batches.len());
    for batch in batches {
        to.send(Word::Next(batch)).unwrap();
    }
    Batches::Sent(send_ahead(read, Device::Cpu).unwrap())
}

fn next(batches: &Batches) -> Option<Result<Loaded, Failure>> {
    match batches.next()? {
        Word::Waits => panic!("nothing is waited for"),
        Word::Next(next) => Some(next),
    }
}

#[test]
fn batches_keep_their_order_and_their_pixels_when_they_are_sent() {
    let sent = sent((0..5).map(|i| Ok(batch(i))).collect());
    let received: Vec<Loaded> = std::iter::from_fn(|| next(&sent)).map(Result::unwrap).collect();
    assert_eq!(received.len(), 5);
    for (number, loaded) in received.iter().enumerate() {
        let own = loaded.own();
        assert!(loaded.sent.is_some() && own.pixels.host().as_ptr() != loaded.pixels.as_ptr());
        assert_eq!(own.pixels.host(), batch(number as u64).pixels);
        assert_eq!((own.texts, own.identities), (&loaded.texts[..], &loaded.identities[..]));
    }
}

#[test]
fn a_batch_that_is_kept_or_changed_is_no_longer_what_was_sent() {
    let sent = sent(vec![Ok(batch(3)), Ok(batch(4))]);
    let kept = next(&sent).unwrap().unwrap().kept();
    assert_eq!(kept.own().pixels.host().as_ptr(), kept.pixels.as_ptr());
    let mut guested = next(&sent).unwrap().unwrap();
    guested.change().pixels.extend([7.0; 12]);
    assert_eq!(guested.own().pixels.host(), [[4.0; 12], [7.0; 12]].concat());
}

#[test]
fn a_fault_is_told_in_its_place() {
    let fault = || Fault::Undecodable {
        path: "a.tar".into(),
        tries: 2,
    };
    let sent = sent(vec![Ok(batch(0)), Err(fault())]);
    assert!(next(&sent).unwrap().is_ok());
    assert_eq!(next(&sent).unwrap().err(), Some(fault().into()));
    assert!(next(&sent).is_none());
}

/// A loader of one shard, as often as it is asked for, and the shard.
fn loader(dir: &Path) -> (impl Fn() -> Loader, PathBuf) {
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
        path: path.clone(),
        index,
        overlay: None,
    };
    let corpus = Arc::new(Corpus::new(vec![shard], None).unwrap());
    let tokenizer = Arc::new(Tokenizer::new(vocabulary, Specials::Reference));
    let settings = Settings {
        seed: 3,
        lanes: 2,
        batch: 2,
        image_size: 16,
        augment: AugmentSpec::None,
        max_tokens: 20,
        prompt: String::new(),
    };
    let new = move || {
        let pairs = corpus.training_pairs(true);
        Loader::new(Arc::clone(&corpus), pairs, Arc::clone(&tokenizer), settings.clone())
    };
    (new, path)
}

#[test]
fn samples_are_waited_for_whose_shard_is_moved_away_and_come_as_if_it_had_never_been() {
    let dir = tempfile::tempdir().unwrap();
    let (loader, path) = loader(dir.path());
    let expected = loader().batch(0, 1).unwrap();
    let away = path.with_extension("away");
    fs::rename(&path, &away).unwrap();
    let activity = Activity::default();
    activity.enter(0, StepPhase::Computing, 1);
    let mut samples = Samples::new(loader(), 9, &Device::Cpu, activity.clone());
    samples.begin(vec![1], 0).unwrap();
    let batch = thread::scope(|scope| {
        let next = scope.spawn(|| samples.next());
        while activity.look().unwrap().phase != StepPhase::Reading {
            assert!(!next.is_finished(), "nobody has waited");
            thread::sleep(Duration::from_millis(5));
        }
        fs::rename(&away, &path).unwrap();
        next.join().unwrap().unwrap()
    });
    assert_eq!(*batch, expected);
    assert_eq!(activity.look().unwrap().phase, StepPhase::Computing);
}

#[test]
fn a_shard_that_stays_away_is_a_passing_failure_and_one_that_changed_a_lasting_one() {
    let dir = tempfile::tempdir().unwrap();
    let (loader, path) = loader(dir.path());
    let failure = || {
        let mut samples = Samples::new(loader(), 9, &Device::Cpu, Activity::default());
        samples.begin(vec![1], 0).unwrap();
        samples.next().err().unwrap()
    };
    fs::write(&path, b"another file").unwrap();
    let changed = failure();
    assert!(
        !changed.retry && changed.reason.contains("must not change"),
        "{changed}"
    );
    fs::remove_file(&path).unwrap();
    let missing = failure();
    assert!(missing.retry && missing.reason.contains("put it back"), "{missing}");
}
