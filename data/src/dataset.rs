//! Dataset versions: shards, their indexes and overlays, and a threshold.
//!
//! A version is immutable and names everything it was made from. Version 0 has no overlays; CapFilt adds to each web shard an
//! overlay with the synthetic caption of every image and the match probabilities of both texts. The threshold is applied here, so
//! it can change without captioning again. Images are never copied.

use crate::index::ShardIndex;
use medley_protocol::checkpoint::ObjectRef;
use medley_protocol::tasks::{Counts, Set, ShardName};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What CapFilt found for one image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OverlayEntry {
    /// Match probability of the web text.
    pub web_probability: f32,
    /// The caption made.
    pub synthetic: String,
    /// Its match probability.
    pub synthetic_probability: f32,
    /// Its log-probability under the captioner.
    pub log_probability: f32,
}

/// CapFilt's results for a shard, one entry per readable sample, in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Overlay {
    /// The entries.
    pub entries: Vec<OverlayEntry>,
}

/// A shard of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionShard {
    /// The shard.
    pub shard: ShardName,
    /// Its index.
    pub index: ObjectRef,
    /// Its overlay, from version 1 on.
    pub overlay: Option<ObjectRef>,
}

/// The manifest of a dataset version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Version {
    /// The version it was made from.
    pub parent: Option<ObjectRef>,
    /// Texts with at least this match probability are kept; none in version 0, which keeps all.
    pub threshold: Option<f64>,
    /// Every shard, sorted.
    pub shards: Vec<VersionShard>,
}

/// Where the text of a pair comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// Human-annotated.
    Human,
    /// The web's.
    Web,
    /// The captioner's.
    Synthetic,
}

/// An image with one of its texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pair {
    /// Position of the shard in the corpus.
    pub shard: u32,
    /// Position of the sample in the shard's index.
    pub sample: u32,
    /// Which text.
    pub source: Source,
}

/// A loaded shard: its file, index and overlay.
#[derive(Debug, Clone)]
pub struct CorpusShard {
    /// Which shard.
    pub name: ShardName,
    /// Its file.
    pub path: PathBuf,
    /// Its index.
    pub index: ShardIndex,
    /// Its overlay.
    pub overlay: Option<Overlay>,
}

/// A dataset version with everything it names loaded, but the images.
#[derive(Debug, Clone)]
pub struct Corpus {
    /// The shards, as in the version.
    pub shards: Vec<CorpusShard>,
    /// The version's threshold.
    pub threshold: Option<f64>,
}

/// A version's object does not fit another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the overlay of shard {shard} has {found} entries for {expected} samples")]
pub struct Mismatch {
    /// The shard's file.
    pub shard: String,
    /// Entries.
    pub found: usize,
    /// Samples.
    pub expected: usize,
}

/// The file of a shard.
pub fn shard_path(root: &Path, sub_directory: &str, shard: &ShardName) -> PathBuf {
    root.join(sub_directory).join(&shard.file)
}

impl Corpus {
    /// Puts shards together.
    ///
    /// # Errors
    /// [`Mismatch`] if an overlay does not belong to its index.
    pub fn new(shards: Vec<CorpusShard>, threshold: Option<f64>) -> Result<Self, Mismatch> {
        for shard in &shards {
            let (found, expected) = (
                shard.overlay.as_ref().map(|o| o.entries.len()),
                shard.index.samples.len(),
            );
            if let Some(found) = found.filter(|found| *found != expected) {
                return Err(Mismatch {
                    shard: shard.name.file.clone(),
                    found,
                    expected,
                });
            }
        }
        Ok(Self { shards, threshold })
    }

    /// The pairs of the training set: human, then web (kept ones, where there are overlays), then kept synthetic ones; with
    /// `human_only`, the first alone.
    pub fn training_pairs(&self, human_only: bool) -> Vec<Pair> {
        let mut pairs = self.pairs_of(Set::Human, Source::Human);
        if !human_only {
            pairs.extend(self.pairs_of(Set::Web, Source::Web));
            pairs.extend(self.pairs_of(Set::Web, Source::Synthetic));
        }
        pairs
    }

    /// The pairs of the held-out set.
    pub fn test_pairs(&self) -> Vec<Pair> {
        self.pairs_of(Set::Test, Source::Human)
    }

    fn pairs_of(&self, set: Set, source: Source) -> Vec<Pair> {
        let shards = self
            .shards
            .iter()
            .enumerate()
            .filter(|(_, shard)| shard.name.set == set);
        shards
            .flat_map(|(s, shard)| {
                (0..shard.index.samples.len())
                    .filter(move |&i| self.keeps(shard, i, source))
                    .map(move |i| Pair {
                        shard: s as u32,
                        sample: i as u32,
                        source,
                    })
            })
            .collect()
    }

    fn keeps(&self, shard: &CorpusShard, sample: usize, source: Source) -> bool {
        let entry = shard.overlay.as_ref().map(|overlay| &overlay.entries[sample]);
        let kept = |p: f32| f64::from(p) >= self.threshold.unwrap_or(0.0);
        match (source, entry) {
            (Source::Human, _) | (Source::Web, None) => true,
            (Source::Web, Some(entry)) => kept(entry.web_probability),
            (Source::Synthetic, None) => false,
            (Source::Synthetic, Some(entry)) => kept(entry.synthetic_probability) && !entry.synthetic.is_empty(),
        }
    }

    /// The text of a pair.
    pub fn text(&self, pair: Pair) -> &str {
        let shard = &self.shards[pair.shard as usize];
        match (pair.source, &shard.overlay) {
            (Source::Synthetic, Some(overlay)) => &overlay.entries[pair.sample as usize].synthetic,
            _ => &shard.index.samples[pair.sample as usize].text,
        }
    }

    /// What tells the image of a pair from others, the same whatever its text; never 0.
    pub fn identity(&self, pair: Pair) -> u64 {
        self.shards[pair.shard as usize].index.samples[pair.sample as usize].identity
    }

    /// Counts for people: pairs by source, what was dropped, broken samples by reason.
    pub fn counts(&self) -> Counts {
        let pairs = self.training_pairs(false);
        let of = |source| pairs.iter().filter(|p| p.source == source).count() as u64;
        let mut counts = Counts::from([("pairs".to_owned(), pairs.len() as u64)]);
        let images = self.pairs_without_threshold();
        for (name, source) in [
            ("human", Source::Human),
            ("web", Source::Web),
            ("synthetic", Source::Synthetic),
        ] {
            counts.insert(format!("pairs.{name}"), of(source));
            if self.threshold.is_some() && source != Source::Human {
                counts.insert(format!("dropped.{name}"), images - of(source));
            }
        }
        for broken in self.shards.iter().flat_map(|shard| &shard.index.broken) {
            *counts.entry(format!("broken.{}", broken.reason.name())).or_default() += 1;
        }
        counts
    }

    fn pairs_without_threshold(&self) -> u64 {
        let web = self.shards.iter().filter(|shard| shard.name.set == Set::Web);
        web.map(|shard| shard.index.samples.len() as u64).sum()
    }

    /// The first set whose share of broken samples exceeds `limit`, with that share.
    pub fn too_broken(&self, limit: f64) -> Option<(Set, f64)> {
        [Set::Human, Set::Web, Set::Test].into_iter().find_map(|set| {
            let shards = self.shards.iter().filter(|shard| shard.name.set == set);
            let (good, bad) = shards.fold((0, 0), |(good, bad), shard| {
                (good + shard.index.samples.len(), bad + shard.index.broken.len())
            });
            let share = bad as f64 / (good + bad).max(1) as f64;
            (share > limit).then_some((set, share))
        })
    }
}
