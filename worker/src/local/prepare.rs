//! The first dataset version and its vocabulary, made in this process.

use crate::objects::Objects;
use crate::stage::inputs::path_of;
use anyhow::{Context as _, ensure};
use medley_data::dataset::{Corpus, CorpusShard, Version, VersionShard};
use medley_data::text::{Vocabulary, WordCounts};
use medley_data::{index, shards};
use medley_protocol::agent::StageInputs;
use medley_protocol::spec::Spec;
use medley_protocol::tasks::{Set, ShardName};
use std::path::Path;

/// Indexes the human and web sets of the spec.
pub(super) fn index(spec: &Spec, objects: &Objects) -> anyhow::Result<StageInputs> {
    let mut corpus = Vec::new();
    let mut entries = Vec::new();
    let mut words = WordCounts::new();
    for shard in shard_names(spec)? {
        let path = path_of(&spec.data, &shard);
        let index = index::build(&path, &mut |_, _| {})?;
        for (word, count) in &index.words {
            *words.entry(word.clone()).or_default() += count;
        }
        entries.push(VersionShard {
            shard: shard.clone(),
            index: objects.put("indexes/shard", serde_json::to_vec(&index)?)?,
            overlay: None,
        });
        corpus.push(CorpusShard {
            name: shard,
            path,
            index,
            overlay: None,
        });
    }
    let corpus = Corpus::new(corpus, None)?;
    if let Some((set, share)) = corpus.too_broken(spec.data.max_broken) {
        ensure!(
            false,
            "data.max_broken: {share:.3} of the {} set is broken, {} is tolerated; found: {:?}",
            set.name(),
            spec.data.max_broken,
            corpus.counts()
        );
    }
    let vocabulary = if spec.vocab.file.is_empty() {
        Vocabulary::train(&words, spec.vocab.max_size as usize)
    } else {
        let text =
            std::fs::read_to_string(&spec.vocab.file).with_context(|| format!("vocab.file {}", spec.vocab.file))?;
        Vocabulary::parse(&text).with_context(|| format!("vocab.file {}", spec.vocab.file))?
    };
    let version = Version {
        parent: None,
        threshold: None,
        shards: entries,
    };
    Ok(StageInputs {
        dataset: Some(objects.put("datasets/version-0", serde_json::to_vec(&version)?)?),
        vocab: Some(objects.put("vocab/vocab", vocabulary.to_text().into_bytes())?),
        ..StageInputs::default()
    })
}

fn shard_names(spec: &Spec) -> anyhow::Result<Vec<ShardName>> {
    let mut names = Vec::new();
    for (set, directory) in [(Set::Human, &spec.data.human), (Set::Web, &spec.data.web)] {
        if directory.is_empty() {
            continue;
        }
        let files = shards::list(&Path::new(&spec.data.root).join(directory))
            .with_context(|| format!("data.{}", set.name()))?;
        names.extend(files.into_iter().map(|file| ShardName { set, file }));
    }
    Ok(names)
}
