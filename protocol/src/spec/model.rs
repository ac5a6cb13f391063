//! Architecture and initialisation (BLIP, section 3.1; the released code for every number).

use super::Problem;
use serde::{Deserialize, Serialize};

/// Most columns of a head that GPUs attend with.
pub const MAX_GPU_HEAD: u32 = 64;

/// The multimodal mixture of encoder-decoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// The image tower.
    pub vision: VisionSpec,
    /// The text towers.
    pub text: TextSpec,
    /// Width of the contrastive space (256 in the paper).
    pub embed_dim: u32,
    /// Entries of each feature queue (57,600 in the paper). Any length at least one step's samples.
    pub queue: u32,
    /// Label smoothing of the language-modelling loss (0.1).
    pub label_smoothing: f64,
    /// The learned temperature of the contrastive logits.
    pub temperature: TemperatureSpec,
    /// How fresh weights are drawn.
    pub init: InitSpec,
}

impl ModelSpec {
    /// What GPUs cannot compute of this model, by the fields to change.
    pub fn not_for_gpus(&self) -> Vec<Problem> {
        let towers = [
            ("model.vision.heads", self.vision.width, self.vision.heads),
            ("model.text.heads", self.text.width, self.text.heads),
        ];
        let is_wide = |(_, width, heads): &(&str, u32, u32)| width.checked_div(*heads) > Some(MAX_GPU_HEAD);
        let problem = |(path, width, heads): (&str, u32, u32)| Problem {
            path: path.into(),
            message: format!(
                "is {heads}: GPUs compute heads of at most {MAX_GPU_HEAD} columns, and these have {}; use at least {}",
                width / heads,
                width.div_ceil(MAX_GPU_HEAD)
            ),
        };
        towers.into_iter().filter(is_wide).map(problem).collect()
    }
}

/// A vision transformer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VisionSpec {
    /// Side of the square input in pixels during pre-training; a multiple of `patch`.
    pub image_size: u32,
    /// Side of a patch in pixels.
    pub patch: u32,
    /// Width of a token.
    pub width: u32,
    /// Number of blocks.
    pub depth: u32,
    /// Attention heads; divides `width`.
    pub heads: u32,
    /// Width of the MLP's hidden layer (4 × width in ViT).
    pub mlp: u32,
    /// Largest drop-path rate; rises linearly from 0 over the blocks.
    pub drop_path: f64,
}

/// The text transformer; encoder and decoder share all but self-attention.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextSpec {
    /// Width of a token.
    pub width: u32,
    /// Number of layers.
    pub depth: u32,
    /// Attention heads; divides `width`.
    pub heads: u32,
    /// Width of the feed-forward network's hidden layer.
    pub ffn: u32,
    /// Rows of the position table (512 in BERT).
    pub positions: u32,
    /// Longest text of all stages in tokens: only in specs that were completed before each stage had its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// Dropout on hidden states and attention probabilities (0.1 in BERT).
    pub dropout: f64,
}

/// The scalar that divides contrastive logits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemperatureSpec {
    /// Start value (0.07).
    pub initial: f64,
    /// Clamped to at least this before each step (0.001 in the reference).
    pub min: f64,
    /// Clamped to at most this before each step (0.5 in the reference).
    pub max: f64,
}

/// Standard deviations of fresh weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitSpec {
    /// Linear layers of both transformers (0.02).
    pub linear: f64,
    /// Word and text-position embeddings, and the class token (0.02).
    pub embedding: f64,
    /// Position table of the image tower (0.02).
    pub image_positions: f64,
}
