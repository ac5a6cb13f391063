//! Indexing: what can be read in every shard, and the first dataset version made of it.

use super::{Given, object_name, put_json};
use crate::rank::failure::Failure;
use crate::stage::inputs;
use crate::stage::patience::{error_may_pass, patiently};
use medley_data::dataset::{Corpus, Version, VersionShard};
use medley_data::index::{self, Broken};
use medley_data::shards;
use medley_data::text::{Vocabulary, WordCounts};
use medley_protocol::spec::{DataSpec, Kind, Spec, VocabSpec};
use medley_protocol::tasks::{Counts, Set, ShardName, ShardObject, TaskOutput};
use std::io::ErrorKind;
use std::path::Path;

/// Broken samples that a refusal names.
const NAMED: usize = 5;
/// Characters that a list of damaged shards takes in a refusal, which is kept to 4,000.
const LISTED: usize = 3000;

/// Reads every sample of a shard and writes the shard's index.
pub(super) fn shard(
    given: Given,
    shard: &ShardName,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<TaskOutput, Failure> {
    let path = inputs::path_of(&given.spec.data, shard);
    let may_pass =
        |error: &shards::Error, _: bool| matches!(error, shards::Error::Io { source, .. } if error_may_pass(source));
    let index = patiently(|| index::build(&path, progress), may_pass, || true).map_err(unreadable)?;
    let mut counts = Counts::from([
        ("samples".to_owned(), index.samples.len() as u64),
        ("texts".to_owned(), index.num_texts() as u64),
    ]);
    add_reasons(&mut counts, &index.broken);
    let object = put_json(given.objects, &object_name("indexes", shard), &index)?;
    Ok(TaskOutput::Shard { object, counts })
}

fn unreadable(error: shards::Error) -> Failure {
    match &error {
        shards::Error::Io { path, source } if source.kind() == ErrorKind::NotFound => Failure::passing(format!(
            "{}: there is no such shard, though there was when the job was submitted: put it back, and if the job has failed \
             retry it (`medley jobs retry`), or submit another; every node must see the same files under data.root",
            path.display()
        )),
        shards::Error::Io { path, source } if source.kind() == ErrorKind::PermissionDenied => {
            Failure::passing(format!("{}: {source}: let the agents' user read it", path.display()))
        }
        shards::Error::Io { source, .. } => Failure::new(error.to_string(), error_may_pass(source)),
        _ => Failure::passing(error.to_string()),
    }
}

/// Checks what can be read, reads or trains the vocabulary, and makes dataset version 0.
pub(super) fn merge(given: Given, shards: &[ShardObject]) -> Result<TaskOutput, Failure> {
    let Given { spec, objects, .. } = given;
    let mut shards: Vec<VersionShard> = shards.iter().map(without_overlay).collect();
    shards.sort_by(|a, b| a.shard.cmp(&b.shard));
    let version = Version {
        parent: None,
        threshold: None,
        shards,
    };
    let corpus = inputs::corpus(objects, &spec.data, &version, |_| true)?;
    check_damage(&corpus)?;
    check_broken(&corpus, spec.data.max_broken)?;
    check_empty(&corpus, &spec.data)?;
    check_sizes(&corpus, spec)?;
    let vocabulary = if spec.vocab.file.is_empty() {
        trained(&corpus, spec.vocab.max_size)
    } else {
        read(&spec.vocab)?
    };
    let vocab = objects.put("vocabularies/wordpiece", vocabulary.to_text().into_bytes())?;
    Ok(TaskOutput::Dataset {
        dataset: put_json(objects, "datasets/version", &version)?,
        vocab,
        counts: version_counts(&corpus),
    })
}

fn without_overlay(shard: &ShardObject) -> VersionShard {
    VersionShard {
        shard: shard.shard.clone(),
        index: shard.object.clone(),
        overlay: None,
    }
}

/// Counts of a dataset version for people: those of the training set, then held-out pairs and broken samples by set.
pub(super) fn version_counts(corpus: &Corpus) -> Counts {
    let mut counts = corpus.counts();
    counts.insert("test.pairs".to_owned(), corpus.test_pairs().len() as u64);
    for shard in &corpus.shards {
        let broken = shard.index.broken.len() as u64;
        *counts.entry(format!("broken.{}", shard.name.set.name())).or_default() += broken;
    }
    counts
}

fn add_reasons(counts: &mut Counts, broken: &[Broken]) {
    for sample in broken {
        *counts.entry(format!("broken.{}", sample.reason.name())).or_default() += 1;
    }
}

/// Refuses shards that are damaged as a whole. How many samples are lost with one cannot be known, so no share of them is tolerated.
fn check_damage(corpus: &Corpus) -> Result<(), Failure> {
    let mut damaged = Vec::new();
    for shard in &corpus.shards {
        if let Some(damage) = &shard.index.damage {
            let named = format!("{}: {damage}", shard.path.display());
            tracing::error!("{named}");
            damaged.push(named);
        }
    }
    let first = match &damaged[..] {
        [] => return Ok(()),
        [one] => format!("a shard is damaged: {one}"),
        all => format!("{} shards are damaged: {}", all.len(), listed(all)),
    };
    Err(Failure::lasting(format!(
        "{first}; how many samples that costs cannot be known, so data.max_broken does not cover it: restore what is damaged from \
         where it came from and retry the job (`medley jobs retry`), or remove it from its folder and submit the job again"
    )))
}

/// As many of them as a refusal has room for.
pub(super) fn listed(all: &[String]) -> String {
    let mut room = LISTED;
    let fits = |named: &&String| {
        let is_enough = room >= named.len();
        room = room.saturating_sub(named.len());
        is_enough
    };
    let first: Vec<&str> = all.iter().take_while(fits).map(String::as_str).collect();
    match all.len() - first.len() {
        0 => first.join("; "),
        more => format!("{}; and {more} more, which the rank's log names", first.join("; ")),
    }
}

/// Refuses a set of which too large a share cannot be read.
fn check_broken(corpus: &Corpus, limit: f64) -> Result<(), Failure> {
    let Some((set, share)) = corpus.too_broken(limit) else {
        return Ok(());
    };
    let shards = || corpus.shards.iter().filter(|shard| shard.name.set == set);
    let mut reasons = Counts::new();
    shards().for_each(|shard| add_reasons(&mut reasons, &shard.index.broken));
    let bad: u64 = reasons.values().sum();
    let good: usize = shards().map(|shard| shard.index.num_texts()).sum();
    let reasons: Vec<String> = reasons
        .iter()
        .map(|(name, count)| format!("{} {count}", name.trim_start_matches("broken.")))
        .collect();
    let first = shards().flat_map(|shard| shard.index.broken.iter().map(|sample| named(&shard.name.file, sample)));
    let first: Vec<String> = first.take(NAMED).collect();
    Err(Failure::lasting(format!(
        "{bad} of {} samples of the {} set ({:.2} %) cannot be read, data.max_broken allows {:.2} %: {}; the first: {}; repair or \
         remove them, or set data.max_broken to {} or more",
        bad + good as u64,
        set.name(),
        share * 100.0,
        limit * 100.0,
        reasons.join(", "),
        first.join("; "),
        (share * 1e4).ceil() / 1e4,
    )))
}

fn named(file: &str, sample: &Broken) -> String {
    let place = [file, &sample.key].join(" ");
    let why = sample.reason.name();
    if sample.detail.is_empty() {
        format!("{} ({why})", place.trim_end())
    } else {
        format!("{} ({why}: {})", place.trim_end(), sample.detail)
    }
}

/// Refuses a set that the spec asks for and that has no sample.
fn check_empty(corpus: &Corpus, data: &DataSpec) -> Result<(), Failure> {
    let sets = [
        (Set::Human, &data.human),
        (Set::Web, &data.web),
        (Set::Test, &data.test),
    ];
    for (set, directory) in sets {
        let mut shards = corpus.shards.iter().filter(|shard| shard.name.set == set);
        if !directory.is_empty() && shards.all(|shard| shard.index.samples.is_empty()) {
            let name = set.name();
            return Err(Failure::lasting(format!(
                "the {name} set has no readable sample: add some under data.{name} ({directory}), or set data.{name} to \"\" for none"
            )));
        }
    }
    Ok(())
}

/// Refuses sets too small for what the job does with them.
fn check_sizes(corpus: &Corpus, spec: &Spec) -> Result<(), Failure> {
    let enough = |pairs: usize, of_what: &str| {
        let step = spec.global_batch();
        if pairs as u64 >= step {
            return Ok(());
        }
        Err(Failure::lasting(format!(
            "{of_what} has {pairs} readable pairs, not enough for one step, which takes lanes.count × lanes.batch = {} × {} = {step}: \
             add samples, or lower lanes.count or lanes.batch",
            spec.lanes.count, spec.lanes.batch
        )))
    };
    enough(corpus.training_pairs(false).len(), "the training set")?;
    if spec.kind == Kind::Bootstrap {
        enough(
            corpus.training_pairs(true).len(),
            "the human set, which captioner and filter are trained on,",
        )?;
    }
    Ok(())
}

/// A vocabulary of the words of the training sets; the held-out set's are not looked at.
fn trained(corpus: &Corpus, max_size: u32) -> Vocabulary {
    let mut words = WordCounts::new();
    for shard in corpus.shards.iter().filter(|shard| shard.name.set != Set::Test) {
        for (word, count) in &shard.index.words {
            *words.entry(word.clone()).or_default() += count;
        }
    }
    Vocabulary::train(&words, max_size as usize)
}

fn read(spec: &VocabSpec) -> Result<Vocabulary, Failure> {
    let advice = "that every node can read, or leave it empty to train a vocabulary";
    inputs::vocabulary(Path::new(&spec.file), advice)
        .map_err(|cause| Failure::lasting(format!("vocab.file {}: {cause}", spec.file)))
}
