//! One training stage: length, schedule, optimiser, distillation and augmentation.

use serde::{Deserialize, Serialize};

/// How a model is trained in one stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSpec {
    /// How long.
    pub length: Length,
    /// Peak learning rate, reached after the warm-up.
    pub peak_lr: f64,
    /// The learning rate never falls below this once warmed up.
    pub min_lr: f64,
    /// Learning rate of step 0 when there is a warm-up.
    pub warmup_lr: f64,
    /// Steps of linear warm-up; 0 for none.
    pub warmup_steps: u64,
    /// How the learning rate falls after its peak.
    pub decay: Decay,
    /// Decoupled weight decay, on every parameter as in the reference.
    pub weight_decay: f64,
    /// AdamW's β₁.
    pub beta1: f64,
    /// AdamW's β₂.
    pub beta2: f64,
    /// AdamW's ε.
    pub eps: f64,
    /// Factor on the learning rate of the temperature (1 in the reference).
    pub temperature_lr: f64,
    /// Momentum of the momentum encoders (0.995).
    pub momentum: f64,
    /// Largest weight of the momentum targets in ITC (0.4).
    pub alpha: f64,
    /// Epochs over which alpha rises linearly from 0 (2 in pre-training).
    pub alpha_ramp_epochs: f64,
    /// Side of the input in pixels in this stage; the position table is interpolated when it differs.
    pub image_size: u32,
    /// Image augmentation.
    pub augment: AugmentSpec,
    /// Text put before every caption in the language-modelling loss, its tokens not predicted ("a picture of " in
    /// captioning, empty in pre-training).
    pub prompt: String,
}

/// Length of a training stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Length {
    /// This many passes over the dataset version, each of `floor(samples / global batch)` steps.
    Epochs {
        /// Number of epochs.
        count: u64,
    },
    /// This many steps, whatever the size of the dataset version.
    Steps {
        /// Number of steps.
        count: u64,
    },
}

/// Fall of the learning rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Decay {
    /// `max(min_lr, peak_lr · factorᵉ)` in epoch `e` (0.85 in the paper, 0.9 in the released configuration).
    Epoch {
        /// Factor per epoch.
        factor: f64,
    },
    /// Half a cosine from the peak to `min_lr`, evaluated once per epoch (the reference's fine-tuning).
    CosineEpoch,
    /// Half a cosine from the peak to `min_lr`, evaluated at every step.
    CosineStep,
}

/// Image augmentation of a training stage.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "kebab-case", deny_unknown_fields)]
pub enum AugmentSpec {
    /// Resize and normalise only.
    None,
    /// Random resized crop, flip and two random operations, as the reference.
    Reference {
        /// Smallest share of the image's area that a crop keeps (0.2 in pre-training, 0.5 in fine-tuning).
        min_crop: f64,
        /// The reference's AutoContrast whitens channels whose minimum is not 0; `fixed` stretches them.
        auto_contrast: AutoContrast,
    },
}

/// Which AutoContrast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AutoContrast {
    /// With the reference's overflow.
    Reference,
    /// As meant.
    Fixed,
}
