//! Work that is leased rather than run in lock-step: shards, and the merge that follows them.
//!
//! A lease has a token. Finishing a task is one guarded update with that token, and results are objects named by
//! content, so an expired lease is harmless even when two ranks finish the same task: the first counts.

use crate::checkpoint::ObjectRef;
use crate::ids::{LeaseToken, TaskId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Which set a shard belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Set {
    /// Human-annotated.
    Human,
    /// From the web, noisy.
    Web,
    /// Held out.
    Test,
}

impl Set {
    /// The name used in URLs, logs and storage.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Human => "human",
            Self::Web => "web",
            Self::Test => "test",
        }
    }
}

/// One shard of a set: a tar file's name within the set's directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardName {
    /// The set.
    pub set: Set,
    /// The file's name, without directories.
    pub file: String,
}

/// A finished shard task: the shard and the object made from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardObject {
    /// The shard.
    pub shard: ShardName,
    /// Its index, or its overlay.
    pub object: ObjectRef,
}

/// What a leased task asks for. Inputs common to the stage are in the assignment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "kebab-case")]
pub enum TaskWork {
    /// Read every sample of a shard; list the readable and the broken.
    IndexShard {
        /// The shard.
        shard: ShardName,
    },
    /// Check the share of broken samples, train or read the vocabulary, make the first dataset version.
    IndexMerge {
        /// All shards with their indexes.
        shards: Vec<ShardObject>,
    },
    /// Caption every image of a web shard and score both texts.
    CapfiltShard {
        /// The shard.
        shard: ShardName,
    },
    /// Apply the threshold to all overlays and make the next dataset version.
    CapfiltMerge {
        /// All web shards with their overlays.
        overlays: Vec<ShardObject>,
    },
    /// Evaluate on the held-out set.
    Evaluate,
}

/// A leased task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The task.
    pub task: TaskId,
    /// Proves the lease.
    pub token: LeaseToken,
    /// The lease ends so many milliseconds after it was granted or renewed, by the database's clock.
    pub lease_ms: u64,
    /// What to do.
    pub work: TaskWork,
}

/// Counts of a dataset version, by name; what people see of it.
pub type Counts = BTreeMap<String, u64>;

/// What a finished task hands in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "output", rename_all = "kebab-case")]
pub enum TaskOutput {
    /// Of a shard task.
    Shard {
        /// The index or overlay.
        object: ObjectRef,
        /// Samples by what became of them.
        counts: Counts,
    },
    /// Of a merge that makes a dataset version.
    Dataset {
        /// The dataset version's manifest.
        dataset: ObjectRef,
        /// The vocabulary, one token a line.
        vocab: ObjectRef,
        /// Pairs by source; broken samples by reason.
        counts: Counts,
    },
    /// Of an evaluation.
    Evaluation {
        /// Captions, ranks and everything the figures were computed from.
        details: ObjectRef,
        /// The figures.
        figures: Evaluation,
    },
}

/// Recall of one direction, as shares between 0 and 1, each with a 95 % bootstrap interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Recall {
    /// Recall@1 with its interval's ends.
    pub at_1: Interval,
    /// Recall@5 with its interval's ends.
    pub at_5: Interval,
    /// Recall@10 with its interval's ends.
    pub at_10: Interval,
}

/// A figure with its 95 % bootstrap interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The figure.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Figures of a held-out evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Pairs evaluated.
    pub pairs: u64,
    /// Text → image with ITC alone.
    pub text_to_image_itc: Recall,
    /// Image → text with ITC alone.
    pub image_to_text_itc: Recall,
    /// Text → image, ITC's best re-ranked with ITM.
    pub text_to_image_itm: Recall,
    /// Image → text, ITC's best re-ranked with ITM.
    pub image_to_text_itm: Recall,
    /// BLEU-4 of greedy captions against the held-out texts, between 0 and 1.
    pub bleu_4: f64,
}
