//! Dataset versions: shards, their indexes and overlays, and a threshold.
//!
//! A version is immutable and names everything it was made from. Version 0 has no overlays; CapFilt adds to each web shard an
//! overlay with the synthetic caption of every image and the match probabilities of both texts. The threshold is applied here, so
//! it can change without captioning again. Images are never copied.

use crate::index::{Sample, ShardIndex};
use medley_protocol::checkpoint::ObjectRef;
use medley_protocol::tasks::{Counts, Set, ShardName};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What CapFilt found for one image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OverlayEntry {
    /// Match probability of the web text; of the first, where there are several.
    pub web_probability: f32,
    /// Match probabilities of its other web texts.
    #[serde(default, skip_serializing_if = "<[f32]>::is_empty")]
    pub more: Box<[f32]>,
    /// The caption made.
    pub synthetic: String,
    /// Its match probability.
    pub synthetic_probability: f32,
    /// Its log-probability under the captioner.
    pub log_probability: f32,
}

impl OverlayEntry {
    /// Match probabilities of the image's web texts.
    pub fn web_probabilities(&self) -> impl Iterator<Item = f32> {
        [&self.web_probability].into_iter().chain(&self.more).copied()
    }
}

/// CapFilt's results for a shard, one entry per readable sample, in order: an image is captioned once, however many texts it
/// has.
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
    /// Which of the image's texts of this source.
    pub text: u16,
    /// Where the text comes from.
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
#[error("the overlay of shard {shard} does not belong to its index: it has {found} web texts for {expected}")]
pub struct Mismatch {
    /// The shard's file.
    pub shard: String,
    /// Texts of the overlay.
    pub found: usize,
    /// Texts of the index.
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
            let Some(overlay) = &shard.overlay else { continue };
            let found = overlay.entries.iter().map(|entry| 1 + entry.more.len());
            if !found.clone().eq(shard.index.samples.iter().map(Sample::num_texts)) {
                return Err(Mismatch {
                    shard: shard.name.file.clone(),
                    found: found.sum(),
                    expected: shard.index.num_texts(),
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
        let of_shard = |(s, shard): (usize, &'_ CorpusShard)| {
            let samples = shard.index.samples.iter().enumerate();
            let pairs = samples.flat_map(move |(i, sample)| {
                let texts = match source {
                    Source::Human | Source::Web => sample.num_texts(),
                    Source::Synthetic => 1,
                };
                (0..texts).map(move |text| Pair {
                    shard: s as u32,
                    sample: i as u32,
                    text: text as u16,
                    source,
                })
            });
            pairs.filter(|pair| self.keeps(*pair)).collect::<Vec<_>>()
        };
        shards.flat_map(of_shard).collect()
    }

    fn keeps(&self, pair: Pair) -> bool {
        let overlay = self.shards[pair.shard as usize].overlay.as_ref();
        let entry = overlay.map(|overlay| &overlay.entries[pair.sample as usize]);
        let kept = |p: f32| f64::from(p) >= self.threshold.unwrap_or(0.0);
        match (pair.source, entry) {
            (Source::Human, _) | (Source::Web, None) => true,
            (Source::Web, Some(entry)) => entry.web_probabilities().nth(pair.text as usize).is_some_and(kept),
            (Source::Synthetic, None) => false,
            (Source::Synthetic, Some(entry)) => kept(entry.synthetic_probability) && !entry.synthetic.is_empty(),
        }
    }

    /// The text of a pair.
    pub fn text(&self, pair: Pair) -> &str {
        let shard = &self.shards[pair.shard as usize];
        if let (Source::Synthetic, Some(overlay)) = (pair.source, &shard.overlay) {
            return &overlay.entries[pair.sample as usize].synthetic;
        }
        let mut texts = shard.index.samples[pair.sample as usize].texts();
        texts
            .nth(pair.text as usize)
            .expect("pairs are made of texts that are there")
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
        let web = || self.shards.iter().filter(|shard| shard.name.set == Set::Web);
        let texts: usize = web().map(|shard| shard.index.num_texts()).sum();
        // One text is made for each image.
        let images: usize = web().map(|shard| shard.index.samples.len()).sum();
        for (name, source, all) in [
            ("human", Source::Human, None),
            ("web", Source::Web, self.threshold.and(Some(texts))),
            ("synthetic", Source::Synthetic, self.threshold.and(Some(images))),
        ] {
            counts.insert(format!("pairs.{name}"), of(source));
            if let Some(all) = all {
                counts.insert(format!("dropped.{name}"), all as u64 - of(source));
            }
        }
        for broken in self.shards.iter().flat_map(|shard| &shard.index.broken) {
            *counts.entry(format!("broken.{}", broken.reason.name())).or_default() += 1;
        }
        counts
    }

    /// The first set whose share of broken samples exceeds `limit`, with that share.
    pub fn too_broken(&self, limit: f64) -> Option<(Set, f64)> {
        [Set::Human, Set::Web, Set::Test].into_iter().find_map(|set| {
            let shards = self.shards.iter().filter(|shard| shard.name.set == set);
            let (good, bad) = shards.fold((0, 0), |(good, bad), shard| {
                (good + shard.index.num_texts(), bad + shard.index.broken.len())
            });
            let share = bad as f64 / (good + bad).max(1) as f64;
            (share > limit).then_some((set, share))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::{Broken, Reason};
    use crate::shards::Extent;
    use crate::text::WordCounts;

    /// Two images, the first with three texts.
    fn shard(set: Set, entries: Option<Vec<OverlayEntry>>) -> CorpusShard {
        let sample = |identity: u64, text: &str, more: &[&str]| Sample {
            key: identity.to_string(),
            image: Extent { offset: 0, len: 1 },
            identity,
            text: text.into(),
            more: more.iter().map(|text| (*text).to_owned()).collect(),
        };
        CorpusShard {
            name: ShardName {
                set,
                file: "s.tar".into(),
            },
            path: PathBuf::new(),
            index: ShardIndex {
                size_bytes: 1,
                blake3: String::new(),
                samples: vec![sample(7, "a", &["b", "c"]), sample(8, "d", &[])],
                broken: vec![Broken {
                    key: "9".into(),
                    reason: Reason::EmptyCaption,
                    detail: String::new(),
                }],
                damage: None,
                words: WordCounts::new(),
            },
            overlay: entries.map(|entries| Overlay { entries }),
        }
    }

    fn entry(web: &[f32], synthetic_probability: f32) -> OverlayEntry {
        OverlayEntry {
            web_probability: web[0],
            more: web[1..].into(),
            synthetic: "made".into(),
            synthetic_probability,
            log_probability: -1.0,
        }
    }

    fn listed(corpus: &Corpus) -> Vec<(u64, &str)> {
        let pairs = corpus.training_pairs(false).into_iter();
        pairs.map(|pair| (corpus.identity(pair), corpus.text(pair))).collect()
    }

    #[test]
    fn each_text_of_an_image_is_a_pair_with_its_identity() {
        let corpus = Corpus::new(vec![shard(Set::Human, None)], None).unwrap();
        assert_eq!(listed(&corpus), [(7, "a"), (7, "b"), (7, "c"), (8, "d")]);
        assert_eq!(corpus.counts()["pairs.human"], 4);
        assert_eq!(corpus.too_broken(0.21), None);
        assert_eq!(corpus.too_broken(0.19), Some((Set::Human, 0.2)));
    }

    #[test]
    fn each_web_text_is_kept_or_dropped_by_itself() {
        let entries = vec![entry(&[0.2, 0.9, 0.5], 0.8), entry(&[0.6], 0.1)];
        let corpus = Corpus::new(vec![shard(Set::Web, Some(entries))], Some(0.5)).unwrap();
        assert_eq!(listed(&corpus), [(7, "b"), (7, "c"), (8, "d"), (7, "made")]);
        let counts = corpus.counts();
        assert_eq!((counts["pairs.web"], counts["dropped.web"]), (3, 1));
        assert_eq!((counts["pairs.synthetic"], counts["dropped.synthetic"]), (1, 1));
    }

    #[test]
    fn an_overlay_of_other_texts_is_refused() {
        let entries = vec![entry(&[0.2], 0.8), entry(&[0.6, 0.9, 0.5], 0.1)];
        let mismatch = Corpus::new(vec![shard(Set::Web, Some(entries))], Some(0.5)).unwrap_err();
        assert_eq!((mismatch.found, mismatch.expected), (4, 4));
        let entries = vec![entry(&[0.2, 0.9, 0.5], 0.8)];
        let mismatch = Corpus::new(vec![shard(Set::Web, Some(entries))], Some(0.5)).unwrap_err();
        assert_eq!((mismatch.found, mismatch.expected), (3, 4));
    }

    #[test]
    fn an_overlay_of_single_texts_is_read_as_before_there_were_several() {
        let json = r#"{"web_probability":0.5,"synthetic":"made","synthetic_probability":0.25,"log_probability":-1.0}"#;
        let read: OverlayEntry = serde_json::from_str(json).unwrap();
        assert_eq!(read, entry(&[0.5], 0.25));
        assert_eq!(serde_json::to_string(&read).unwrap(), json);
    }
}
