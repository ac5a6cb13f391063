//! Weights from elsewhere: what stages begin with, or what takes a stage's place.

use serde::{Deserialize, Serialize};

/// Files of weights, or directories of `transformers`, by absolute path, the same on every node. Those of one list are laid
/// over the seed's weights in order. Empty lists change nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartSpec {
    /// Every pre-training begins with these: an image tower and BERT, or a whole BLIP to go on from.
    #[serde(default)]
    pub initial: Vec<String>,
    /// In place of the first pre-training: fine-tuning begins with these.
    #[serde(default)]
    pub pretrained: Vec<String>,
    /// In place of the first fine-tuning of a captioner.
    #[serde(default)]
    pub captioner: Vec<String>,
    /// In place of the first fine-tuning of a filter.
    #[serde(default)]
    pub filter: Vec<String>,
}

impl StartSpec {
    /// The lists with their paths in the spec.
    pub fn lists(&self) -> [(&'static str, &[String]); 4] {
        [
            ("start.initial", &self.initial),
            ("start.pretrained", &self.pretrained),
            ("start.captioner", &self.captioner),
            ("start.filter", &self.filter),
        ]
    }
}
