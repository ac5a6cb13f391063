//! Data, vocabulary, lanes, cluster, CapFilt, evaluation and checkpoints.

use serde::{Deserialize, Serialize};

/// Where the samples lie: directories of webdataset tar shards under one root that every node can read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSpec {
    /// Absolute path of the directory that holds the sets.
    pub root: String,
    /// Sub-directory of the human-annotated set.
    pub human: String,
    /// Sub-directory of the web set; empty for none.
    pub web: String,
    /// Sub-directory of the held-out set; read by `evaluate` only.
    pub test: String,
    /// Largest share of unreadable samples, of each set, that is tolerated when the set is indexed; shards that are damaged as a
    /// whole never are.
    pub max_broken: f64,
}

/// The WordPiece vocabulary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VocabSpec {
    /// Absolute path of an uncased BERT's `vocab.txt` or `tokenizer.json`; empty to train one on the texts of the human and
    /// web sets.
    pub file: String,
    /// Largest size of a trained vocabulary.
    pub max_size: u32,
    /// What the name of a special token, such as `[SEP]`, is where it stands in a text.
    #[serde(default)]
    pub specials: Specials,
}

/// What the name of a special token is where it stands in a text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Specials {
    /// The special token, as the reference's tokenizer has it: a text can end itself.
    Reference,
    /// A bracket, a word and a bracket.
    #[default]
    Fixed,
}

/// The lanes of a training step: its arithmetic depends on these, never on how many ranks run them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaneSpec {
    /// Number of lanes V.
    pub count: u32,
    /// Samples per lane.
    pub batch: u32,
}

/// What a job asks of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterSpec {
    /// Fewest ranks a training stage starts with.
    pub min_ranks: u32,
    /// Most ranks a training stage uses; at most the number of lanes is useful.
    pub max_ranks: u32,
    /// Jobs with a higher priority are placed first.
    pub priority: i32,
    /// What a training stage does that has lost ranks while others still hold its state.
    #[serde(default)]
    pub on_loss: OnLoss,
    /// How the gradients of a training stage travel between its ranks; their sums have the same bits in either way.
    #[serde(default)]
    pub collective: Collective,
}

/// How gradients travel between ranks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Collective {
    /// Over NCCL where all ranks of a generation can, over TCP elsewhere.
    #[default]
    Auto,
    /// Over TCP.
    Tcp,
    /// Over NCCL; where that cannot be, the stage stops and says why.
    Nccl,
}

/// What a training stage does that has lost ranks, if at least [`min_ranks`](ClusterSpec::min_ranks) others hold its state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnLoss {
    /// `"go-on"`: it goes on with those ranks at once, and gets others back while it trains.
    #[default]
    GoOn,
    /// `{ "wait_s": N }`: it waits up to N seconds (1 to 60) until it can have as many ranks as before, and then goes on with
    /// what is left. For steps that take so long on fewer ranks that waiting is the shorter way.
    #[serde(rename = "wait_s")]
    Wait(u32),
}

/// Captioning and filtering of the web set (BLIP, section 3.3).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CapfiltSpec {
    /// Nucleus of the sampled captions (0.9 in the paper).
    pub top_p: f64,
    /// Only the k likeliest tokens are sampled from; 0 for all (the released code silently uses 50).
    pub top_k: u32,
    /// Divides (multiplies, when negative) the logits of tokens already present (1.1 in the released code).
    pub repetition_penalty: f64,
    /// Shortest sequence, prompt included.
    pub min_tokens: u32,
    /// Longest sequence, prompt included.
    pub max_tokens: u32,
    /// A text is kept if its match probability is at least this.
    pub threshold: f64,
    /// Images per batch.
    pub batch: u32,
}

/// Held-out evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluateSpec {
    /// Candidates re-ranked with ITM for each query.
    pub rerank: u32,
    /// Resamples of the bootstrap interval.
    pub resamples: u32,
    /// Images, or pairs, per batch.
    pub batch: u32,
}

/// When checkpoints are taken, and which of a stage's are kept; one is always taken at the end of a training stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointSpec {
    /// Every so many steps; 0 for only at epochs' ends.
    pub every_steps: u64,
    /// How many of a stage's last checkpoints are kept.
    pub keep: u32,
    /// Besides those, every checkpoint at a multiple of so many steps is kept; 0 for none.
    #[serde(default)]
    pub keep_every_steps: u64,
    /// Besides those, so many are kept before which the mean loss was lowest, counted from the checkpoint before; 0 for none.
    #[serde(default)]
    pub keep_best: u32,
}
