//! Which model it is: dimensions, token ids and hyper-parameters, as JSON.

use super::source::{Error, Problem, refuse_if_any};
use crate::blip::Blip;
use crate::blip::LaneStep;
use crate::loss::itc::Distillation;
use crate::params::{Objective, Vocabulary};
use medley_protocol::spec::{ModelSpec, SameImage, Spec, TemperatureSpec, TextSpec, TrainSpec, VisionSpec};
use serde::{Deserialize, Serialize};

/// Bound on widths, vocabulary and queue.
const MAX_DIM: u32 = 1 << 20;
/// Bound on the number of layers.
const MAX_DEPTH: u32 = 1024;
/// Bound on the side of an image.
const MAX_IMAGE: u32 = 1 << 14;
/// Bound on the elements of all parameters, and on those of a queue: four times ViT-L.
const MAX_ELEMENTS: u64 = 1 << 31;

/// The model and its optimiser. What has a default has the reference's value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The image tower.
    pub vision: VisionDims,
    /// The text towers.
    pub text: TextDims,
    /// Size of the vocabulary, and its special tokens.
    pub vocab: Ids,
    /// Width of the contrastive space.
    pub embed_dim: u32,
    /// Entries of each feature queue.
    pub queue: u32,
    /// What is trained.
    #[serde(default)]
    pub objective: Objective,
    /// Tokens of the prompt after the first, which are not predicted.
    #[serde(default)]
    pub prompt_tokens: u32,
    /// Lanes that a batch is divided into: ranks of the reference.
    #[serde(default = "one")]
    pub lanes: u32,
    /// When the temperature is clamped and the momentum encoders follow.
    #[serde(default)]
    pub order: Order,
    /// AdamW.
    #[serde(default)]
    pub optimiser: Optimiser,
    /// Momentum of the momentum encoders.
    #[serde(default = "momentum")]
    pub momentum: f64,
    /// Lower and upper bound of the temperature.
    #[serde(default = "temperature")]
    pub temperature: [f64; 2],
    /// Label smoothing of the language-modelling loss.
    #[serde(default = "label_smoothing")]
    pub label_smoothing: f64,
}

/// Dimensions of the image tower.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VisionDims {
    /// Side of an image in pixels.
    pub image_size: u32,
    /// Side of a patch in pixels.
    pub patch: u32,
    /// Width of a token.
    pub width: u32,
    /// Number of blocks.
    pub depth: u32,
    /// Attention heads.
    pub heads: u32,
    /// Width of the hidden layer of a block's MLP.
    pub mlp: u32,
}

/// Dimensions of the text towers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextDims {
    /// Width of a token.
    pub width: u32,
    /// Number of layers.
    pub depth: u32,
    /// Attention heads.
    pub heads: u32,
    /// Width of the hidden layer of the feed-forward network.
    pub ffn: u32,
    /// Rows of the position table.
    pub positions: u32,
}

/// The vocabulary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ids {
    /// Number of tokens.
    pub size: u32,
    /// First token of every text as it is given.
    pub cls: u32,
    /// First token for the decoder.
    pub dec: u32,
    /// First token for the image-grounded encoder.
    pub enc: u32,
}

/// Where a step begins and ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// A step begins with the clamp of the temperature and the average of the momentum encoders, as in the released code: the
    /// state between two steps is what its `state_dict` holds.
    #[default]
    Reference,
    /// A step ends with them, as a commit of Medley does.
    Medley,
}

/// AdamW.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Optimiser {
    /// Decoupled weight decay, on every parameter.
    pub weight_decay: f64,
    /// β₁.
    pub beta1: f64,
    /// β₂.
    pub beta2: f64,
    /// ε.
    pub eps: f64,
}

impl Default for Optimiser {
    fn default() -> Self {
        Self {
            weight_decay: 0.05,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
        }
    }
}

fn one() -> u32 {
    1
}

fn momentum() -> f64 {
    0.995
}

fn temperature() -> [f64; 2] {
    [0.001, 0.5]
}

fn label_smoothing() -> f64 {
    0.1
}

impl Config {
    /// Reads and checks a configuration; `file` is its name in errors.
    ///
    /// # Errors
    /// [`Error`] that names every field that does not fit.
    pub fn read(file: &str, json: &str) -> Result<Self, Error> {
        let config: Self = serde_json::from_str(json).map_err(|e| Error::Syntax {
            file: file.to_owned(),
            problem: e.to_string(),
        })?;
        refuse_if_any(file, config.problems())?;
        let elements = config.blip().student_layout.num_params() as u64;
        let queue = u64::from(config.queue) * u64::from(config.embed_dim);
        if elements.max(queue) > MAX_ELEMENTS {
            let message = format!("{elements} parameters and {queue} elements of a queue: at most {MAX_ELEMENTS} each");
            refuse_if_any(file, vec![Problem::new("dimensions", message)])?;
        }
        Ok(config)
    }

    /// The model.
    pub fn blip(&self) -> Blip {
        let vocab = Vocabulary {
            size: self.vocab.size,
            // Texts come with masks, and nothing is generated: neither of these is read.
            pad: u32::MAX,
            sep: u32::MAX,
            cls: self.vocab.cls,
            dec: self.vocab.dec,
            enc: self.vocab.enc,
        };
        Blip::new(&self.model(), self.vision.image_size, vocab)
    }

    /// The optimiser's settings.
    pub fn train(&self) -> TrainSpec {
        TrainSpec {
            weight_decay: self.optimiser.weight_decay,
            beta1: self.optimiser.beta1,
            beta2: self.optimiser.beta2,
            eps: self.optimiser.eps,
            momentum: self.momentum,
            ..paper().pretrain
        }
    }

    /// What a lane's step depends on. Texts of one image match it in the filter alone, as in the reference.
    pub fn lane_step(&self, step: u64, lane: u32, alpha: f64) -> LaneStep {
        LaneStep {
            objective: self.objective,
            seed: 0,
            step,
            lane,
            distillation: Distillation {
                alpha: alpha as f32,
                temperature: None,
            },
            same_image: self.same_image(),
            prompt_tokens: self.prompt_tokens as usize,
        }
    }

    pub(super) fn same_image(&self) -> SameImage {
        if self.objective == Objective::Filter {
            SameImage::Positive
        } else {
            SameImage::Negative
        }
    }

    fn model(&self) -> ModelSpec {
        let base = paper().model;
        let [min, max] = self.temperature;
        ModelSpec {
            vision: VisionSpec {
                image_size: self.vision.image_size,
                patch: self.vision.patch,
                width: self.vision.width,
                depth: self.vision.depth,
                heads: self.vision.heads,
                mlp: self.vision.mlp,
                drop_path: 0.0,
            },
            text: TextSpec {
                width: self.text.width,
                depth: self.text.depth,
                heads: self.text.heads,
                ffn: self.text.ffn,
                positions: self.text.positions,
                max_tokens: None,
                dropout: 0.0,
            },
            embed_dim: self.embed_dim,
            queue: self.queue,
            label_smoothing: self.label_smoothing,
            temperature: TemperatureSpec {
                min,
                max,
                ..base.temperature
            },
            ..base
        }
    }

    fn problems(&self) -> Vec<Problem> {
        let (vision, text, vocab) = (&self.vision, &self.text, &self.vocab);
        let mut problems = self.out_of_bounds();
        let mut require = |ok: bool, field: &str, message: String| {
            if !ok {
                problems.push(Problem::new(field, message));
            }
        };
        let divides = |whole: u32, part: u32| part > 0 && whole.is_multiple_of(part);
        for (field, heads, width) in [
            ("vision.heads", vision.heads, vision.width),
            ("text.heads", text.heads, text.width),
        ] {
            let message = format!("is {heads}: must divide the width, {width}");
            require(divides(width, heads), field, message);
        }
        let (patch, side) = (vision.patch, vision.image_size);
        let message = format!("is {patch}: must divide vision.image_size, {side}");
        require(divides(side, patch), "vision.patch", message);
        for (field, id) in [
            ("vocab.cls", vocab.cls),
            ("vocab.dec", vocab.dec),
            ("vocab.enc", vocab.enc),
        ] {
            let message = format!("is {id}: must be below vocab.size, {}", vocab.size);
            require(id < vocab.size, field, message);
        }
        let (prompt, longest) = (self.prompt_tokens, text.positions.saturating_sub(2));
        let message = format!("is {prompt}: use 0 to text.positions - 2, {longest}");
        require(prompt <= longest, "prompt_tokens", message);
        let [min, max] = self.temperature;
        let message = "use two numbers above 0, ascending".to_owned();
        require(0.0 < min && min <= max, "temperature", message);
        for (field, value) in [
            ("momentum", self.momentum),
            ("label_smoothing", self.label_smoothing),
            ("optimiser.weight_decay", self.optimiser.weight_decay),
            ("optimiser.beta1", self.optimiser.beta1),
            ("optimiser.beta2", self.optimiser.beta2),
            ("optimiser.eps", self.optimiser.eps),
        ] {
            let message = format!("is {value}: use 0 to 1");
            require((0.0..=1.0).contains(&value), field, message);
        }
        problems
    }

    /// Dimensions that are zero or absurd.
    fn out_of_bounds(&self) -> Vec<Problem> {
        let (vision, text) = (&self.vision, &self.text);
        let bounded = [
            ("vision.image_size", vision.image_size, MAX_IMAGE),
            ("vision.patch", vision.patch, MAX_IMAGE),
            ("vision.width", vision.width, MAX_DIM),
            ("vision.depth", vision.depth, MAX_DEPTH),
            ("vision.heads", vision.heads, MAX_DIM),
            ("vision.mlp", vision.mlp, MAX_DIM),
            ("text.width", text.width, MAX_DIM),
            ("text.depth", text.depth, MAX_DEPTH),
            ("text.heads", text.heads, MAX_DIM),
            ("text.ffn", text.ffn, MAX_DIM),
            ("text.positions", text.positions, MAX_DIM),
            ("vocab.size", self.vocab.size, MAX_DIM),
            ("embed_dim", self.embed_dim, MAX_DIM),
            ("queue", self.queue, MAX_DIM),
            ("lanes", self.lanes, self.queue),
        ];
        let outside = bounded
            .into_iter()
            .filter(|(_, value, max)| !(1..=*max).contains(value));
        outside
            .map(|(field, value, max)| Problem::new(field, format!("is {value}: use 1 to {max}")))
            .collect()
    }
}

/// The paper's settings, for everything that a replayed step does not read.
fn paper() -> Spec {
    let document = serde_json::json!({"name": "replay", "kind": "pretrain", "preset": "vit-b", "data": {"root": "/"}});
    Spec::from_document(&document).expect("the paper's preset is valid")
}
