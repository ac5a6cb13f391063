//! Captions and match probabilities of single images: what `medley caption` and `medley match` ask `medley-worker infer`,
//! and what that answers.
//!
//! A [`Request`] is one JSON document on standard input; the [`Answer`]s are JSON lines on standard output, one for each image
//! in the order asked for, each as soon as it is known.

use crate::checkpoint::{Manifest, ObjectRef};
use crate::spec::Spec;
use crate::stage::StageKind;
use serde::{Deserialize, Serialize};

/// What is to be done, and with which model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// The model.
    pub weights: Weights,
    /// The work.
    pub work: Work,
}

/// Where a trained model lies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "kebab-case")]
pub enum Weights {
    /// In a file of weights, or a directory with one; vocabulary and dimensions lie beside it.
    Files {
        /// Path of the file or directory.
        path: String,
    },
    /// In an object store.
    Checkpoint(Box<Checkpoint>),
}

/// A checkpoint of a training stage with all that is needed to use it, besides the objects that it names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// URL of the store that holds the objects.
    pub store: String,
    /// The completed spec of the job.
    pub spec: Spec,
    /// The kind of the stage.
    pub kind: StageKind,
    /// The vocabulary.
    pub vocab: ObjectRef,
    /// The weights.
    pub manifest: Manifest,
}

impl Checkpoint {
    /// The objects that are read: vocabulary and weights.
    pub fn objects(&self) -> impl Iterator<Item = &ObjectRef> {
        std::iter::once(&self.vocab).chain(self.manifest.weights().map(|part| &part.object))
    }
}

/// The work of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Work {
    /// Caption images.
    Caption {
        /// Paths of JPEG or PNG files.
        images: Vec<String>,
        /// How.
        how: Captioning,
    },
    /// Tell how well texts match an image.
    Match {
        /// Path of a JPEG or PNG file.
        image: String,
        /// The texts.
        texts: Vec<String>,
    },
}

impl Work {
    /// The kinds of stages whose models can do it, the best first.
    pub const fn stages(&self) -> [StageKind; 2] {
        match self {
            Self::Caption { .. } => [StageKind::Captioner, StageKind::Pretrain],
            Self::Match { .. } => [StageKind::Filter, StageKind::Pretrain],
        }
    }
}

/// Most captions of an image.
pub const MAX_COUNT: u32 = 16;

/// How captions are made. What is not said is as the job's spec has it for CapFilt; for files of weights, as in the released
/// code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Captioning {
    /// How tokens are chosen.
    pub search: Search,
    /// Captions of an image, at most [`MAX_COUNT`].
    pub count: u32,
    /// What every caption begins with. Not said: what the stage was trained with; nothing for files of weights.
    pub prompt: Option<String>,
    /// Shortest sequence of tokens, prompt included.
    pub min_tokens: Option<u32>,
    /// Longest sequence of tokens, prompt included.
    pub max_tokens: Option<u32>,
    /// Seed of the draws.
    pub seed: Option<u64>,
}

/// How tokens are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Search {
    /// The likeliest token, always.
    Greedy,
    /// Beam search with three beams, or as many as there are captions.
    Beam,
    /// Nucleus sampling.
    Nucleus,
}

/// What was found out about one image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// Its captions; of a beam search best first.
    Captions {
        /// Path of the image.
        image: String,
        /// The captions.
        captions: Vec<CaptionText>,
    },
    /// How well each text matches, in the order asked for.
    Matches {
        /// Path of the image.
        image: String,
        /// The texts.
        matches: Vec<Matched>,
    },
    /// It is no image that can be read.
    Unreadable {
        /// Path of the file.
        image: String,
        /// Why, for people.
        reason: String,
    },
}

/// A caption.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaptionText {
    /// The text, without the prompt.
    pub text: String,
    /// Natural logarithm of its probability by the model.
    pub log_probability: f32,
}

/// How well a text matches an image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Matched {
    /// The text.
    pub text: String,
    /// Probability of a match, by the matching head.
    pub probability: f32,
    /// Cosine of the features of image and text.
    pub cosine: f32,
    /// Words of the text that the vocabulary does not have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_survives_json() {
        let document = serde_json::json!({"name": "t", "kind": "bootstrap", "preset": "nano", "data": {"root": "/d"}});
        let object = |key: &str| ObjectRef {
            key: key.into(),
            blake3: "00".into(),
            size_bytes: 1,
        };
        let request = Request {
            weights: Weights::Checkpoint(Box::new(Checkpoint {
                store: "file:///store".into(),
                spec: Spec::from_document(&document).unwrap(),
                kind: StageKind::Captioner,
                vocab: object("vocab"),
                manifest: Manifest {
                    id: crate::ids::CheckpointId::generate(),
                    stage: crate::ids::StageId::generate(),
                    step: 7,
                    state_bytes: 0,
                    parts: Vec::new(),
                },
            })),
            work: Work::Match {
                image: "a.png".into(),
                texts: vec!["a".into()],
            },
        };
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
    }
}
