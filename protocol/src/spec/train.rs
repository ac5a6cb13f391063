//! One training stage: length, schedule, optimiser, distillation and augmentation.

use serde::{Deserialize, Serialize};

/// What GPUs compute in. Parameters and their gradients are of single precision all the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// Single precision, as on the processor.
    #[default]
    Fp32,
    /// Activations and matrix products in bf16: on GPUs alone.
    Bf16,
}

impl Precision {
    /// The name users write.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Bf16 => "bf16",
        }
    }
}

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
    /// Epochs over which alpha rises linearly from 0 (2 in pre-training, 1 in the filter's fine-tuning).
    pub alpha_ramp_epochs: f64,
    /// Temperature that divides the teacher's logits in ITC; 0 for the student's learned one, as in the reference.
    pub teacher_temperature: f64,
    /// What ITC and ITM take other texts of the same image for.
    pub same_image: SameImage,
    /// Where ITM draws its negatives from.
    pub negatives: Negatives,
    /// Side of the input in pixels in this stage; the position table is interpolated when it differs.
    pub image_size: u32,
    /// Longest text in tokens; `[CLS]`, `[SEP]` and the prompt count, and what is longer loses its end (30 in
    /// pre-training, 40 in captioning, 35 in retrieval). Read by [`Spec::max_tokens`](super::Spec::max_tokens).
    #[serde(default)]
    pub max_tokens: u32,
    /// Image augmentation.
    pub augment: AugmentSpec,
    /// Text put before every caption in the language-modelling loss, its tokens not predicted ("a picture of " in
    /// captioning, empty in pre-training).
    pub prompt: String,
    /// What GPUs compute in: said in pre-training alone, and true of all stages of the job. Read by
    /// [`Spec::precision`](super::Spec::precision).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<Precision>,
    /// Whether a lane keeps of a block's activations the input alone and computes the others again on the way back: the same bits
    /// in less memory and more time.
    #[serde(default)]
    pub recompute: bool,
}

/// What another text of the same image is to ITC and ITM. Images are the same if their files have the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SameImage {
    /// A negative like any other: only a pair's own text matches (the reference's pre-training).
    Negative,
    /// A match: ITC's targets are spread evenly over all texts of an image, in the lane and in the queue, and ITM never
    /// draws one as a negative (the reference's retrieval fine-tuning).
    Positive,
}

/// Where ITM's negatives come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Negatives {
    /// From the sample's own lane (the reference's pre-training, and its retrieval on Flickr30K).
    Lane,
    /// From all lanes (the reference's retrieval on COCO, which the filter's recipe is). The student looks at every sample
    /// twice, and at up to one more image per sample.
    All,
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
    /// Random resized crop, flip and two random operations, as the reference. Each of its oddities is a switch, `reference`
    /// unless the spec says `fixed`.
    Reference {
        /// Smallest share of the image's area that a crop keeps (0.2 in pre-training, 0.5 in fine-tuning).
        min_crop: f64,
        /// AutoContrast whitens every channel whose minimum is not 0; `fixed` stretches it.
        #[serde(default)]
        auto_contrast: Behaviour,
        /// Brightness and Sharpness have factor 1 at the strength that is used, and change nothing; `fixed` takes 0.55 or 1.45.
        #[serde(default)]
        enhance: Behaviour,
        /// Every image may be mirrored; `fixed` spares those whose text says "left" or "right".
        #[serde(default)]
        flip: Behaviour,
        /// Translations are 5 pixels whatever the image's size; `fixed` keeps the share that they have at 224 pixels.
        #[serde(default)]
        translate: Behaviour,
    },
}

/// How an oddity of the reference is taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Behaviour {
    /// As the released code does it.
    #[default]
    Reference,
    /// As it was meant.
    Fixed,
}
