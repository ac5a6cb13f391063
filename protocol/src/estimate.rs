//! How much memory a rank of a training stage takes, before it has run.
//!
//! What is alive when a lane's backward pass begins is counted operation by operation, as the model runs them: every
//! intermediate result is kept until then, and little is added before the first are given back. Beside it lie the state, one
//! gradient for each sum of the lane tree that waits, and what an exchange and a checkpoint copy: on a GPU all of it in the GPU's
//! memory, since the state is committed there. The machine besides has the state while it is loaded, a checkpoint's part while it
//! is written, and sums that do not go from GPU to GPU. Texts are taken for half as long as they may be. What the data sets' indexes take is not known before they are made.
//!
//! Axes: b samples of a lane, n tokens of an image, t tokens of a text.

use crate::spec::{Kind, Negatives, Precision, Spec, TrainSpec};
use crate::stage::StageKind;
use serde::{Deserialize, Serialize};

/// Bytes of a number in single precision. All is counted in floating point: a spec may name sizes whose product is beyond whole
/// numbers.
const EXACT: f64 = 4.0;
/// Buffers are made in sizes a quarter of an octave apart: this share of them is no use, on average.
const ROUNDING: f64 = 0.1;
/// A process without a model: its program, its threads, a batch that is read ahead.
const PROCESS_BYTES: f64 = 32.0 * MIB;
/// What CUDA takes of a GPU for itself, its libraries and kernels. Not measured, and rather too much than too little.
const CUDA_BYTES: f64 = 768.0 * MIB;
const MIB: f64 = (1 << 20) as f64;
/// Words of the vocabularies that are given as files: BERT's, with two more.
const GIVEN_VOCABULARY: u32 = 30_524;

/// Memory of the rank of a training stage that runs the most lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estimate {
    /// The stage's kind.
    pub stage: StageKind,
    /// Lanes that the rank runs, one after the other.
    pub lanes: u32,
    /// On a GPU, of that GPU.
    pub gpu_bytes: u64,
    /// On a GPU, of the machine besides.
    pub gpu_host_bytes: u64,
    /// On the processor, of the machine; none if the job's precision takes a GPU.
    pub host_bytes: Option<u64>,
}

impl Estimate {
    /// What ranks of a stage take that run at most so many lanes each; none for stages that do not train.
    pub fn of(spec: &Spec, stage: StageKind, lanes: u32) -> Option<Self> {
        let passes = |contrast, generate| Passes { contrast, generate };
        let (train, passes) = match stage {
            StageKind::Pretrain => (&spec.pretrain, passes(true, true)),
            StageKind::Captioner => (&spec.captioner, passes(false, true)),
            StageKind::Filter => (&spec.filter, passes(true, false)),
            StageKind::Index | StageKind::Capfilt | StageKind::Evaluate => return None,
        };
        let sizes = Sizes::of(spec, train);
        let [student, momentum] = [sizes.student(), sizes.momentum()];
        let (gradient, state) = (student * EXACT, sizes.state_bytes());
        let ranks = f64::from(spec.lanes.count.div_ceil(lanes));
        // Sums that wait for others while lanes are added, and what is sent and received meanwhile.
        let sums = f64::from(lanes.ilog2() + 1) + if ranks > 1.0 { 2.0 } else { 0.0 };
        let pixels = sizes.images * 3.0 * f64::from(train.image_size).powi(2) * EXACT;
        // Of the lane that is computed, the next one, and the one behind it while it is read or sent.
        let pixels = 3.0 * pixels;
        let process = PROCESS_BYTES + pixels + state + state / ranks;
        let precision = spec.precision();
        let rounded = match precision {
            Precision::Fp32 => 0.0,
            Precision::Bf16 => (student + momentum) * size(precision),
        };
        // Beside the lane as on the processor: the state, what a checkpoint copies, and sums.
        let committed = state + state / ranks + sums * gradient + rounded;
        let passing = if ranks > 1.0 { sums * gradient } else { 0.0 };
        let alive = |is_gpu| sizes.alive(passes, is_gpu).bytes(precision);
        Some(Self {
            stage,
            lanes,
            gpu_bytes: (CUDA_BYTES + pixels + committed + alive(true)) as u64,
            gpu_host_bytes: (process + passing) as u64,
            host_bytes: (precision == Precision::Fp32).then(|| (process + sums * gradient + alive(false)) as u64),
        })
    }

    /// What ranks of each kind of stage take that trains in this job, on so many ranks.
    pub fn of_job(spec: &Spec, ranks: u32) -> Vec<Self> {
        let all = [StageKind::Pretrain, StageKind::Captioner, StageKind::Filter];
        let stages = if spec.kind == Kind::Bootstrap {
            &all[..]
        } else {
            &all[..1]
        };
        let lanes = spec.lanes.count.div_ceil(ranks.clamp(1, spec.lanes.count));
        stages
            .iter()
            .filter_map(|stage| Self::of(spec, *stage, lanes))
            .collect()
    }
}

/// Bytes of a number that is computed in this.
const fn size(precision: Precision) -> f64 {
    match precision {
        Precision::Fp32 => EXACT,
        Precision::Bf16 => 2.0,
    }
}

/// What a lane's pass computes.
#[derive(Clone, Copy)]
struct Passes {
    /// Contrast, and matching with negatives.
    contrast: bool,
    /// Language modelling.
    generate: bool,
}

/// Elements that are alive at once.
#[derive(Default)]
struct Alive {
    /// In the format that the device computes in.
    activations: f64,
    /// Always in single precision.
    exact: f64,
}

impl Alive {
    fn bytes(&self, precision: Precision) -> f64 {
        (self.activations * size(precision) + self.exact * EXACT) * (1.0 + ROUNDING)
    }

    /// So many results of operations, rows × width each.
    fn keep(&mut self, results: f64, rows: f64, width: f64) {
        self.activations += results * rows * width;
    }
}

/// The numbers that everything is counted from.
struct Sizes {
    batch: f64,
    /// Images that the lane looks at: with negatives from all lanes, up to one more for each of its own.
    images: f64,
    /// Tokens of an image.
    image: f64,
    /// Elements of a patch.
    patch: f64,
    vision: Tower,
    /// 1 if branches of the image tower may be dropped.
    drops_path: f64,
    text: Tower,
    positions: f64,
    vocabulary: f64,
    /// Tokens of a text.
    tokens: f64,
    /// 1 if hidden states of the text towers are.
    drops_out: f64,
    embed: f64,
    queue: f64,
}

/// A transformer.
struct Tower {
    width: f64,
    /// Width of the feed-forward network's hidden layer.
    hidden: f64,
    depth: f64,
    heads: f64,
}

impl Sizes {
    fn of(spec: &Spec, train: &TrainSpec) -> Self {
        let (vision, text, batch) = (&spec.model.vision, &spec.model.text, f64::from(spec.lanes.batch));
        let given = if spec.vocab.file.is_empty() {
            0
        } else {
            GIVEN_VOCABULARY
        };
        Self {
            batch,
            images: batch * if train.negatives == Negatives::All { 2.0 } else { 1.0 },
            image: 1.0 + f64::from(train.image_size / vision.patch).powi(2),
            patch: 3.0 * f64::from(vision.patch).powi(2),
            vision: Tower {
                width: vision.width.into(),
                hidden: vision.mlp.into(),
                depth: vision.depth.into(),
                heads: vision.heads.into(),
            },
            drops_path: if vision.drop_path > 0.0 { 1.0 } else { 0.0 },
            text: Tower {
                width: text.width.into(),
                hidden: text.ffn.into(),
                depth: text.depth.into(),
                heads: text.heads.into(),
            },
            positions: text.positions.into(),
            vocabulary: spec.vocab.max_size.max(given).into(),
            tokens: spec.max_tokens(train).div_ceil(2) as f64,
            drops_out: if text.dropout > 0.0 { 1.0 } else { 0.0 },
            embed: spec.model.embed_dim.into(),
            queue: spec.model.queue.into(),
        }
    }

    /// Trained parameters.
    fn student(&self) -> f64 {
        let Tower { width, depth, .. } = self.text;
        let cross = depth * attention(width, self.vision.width);
        let decoder = depth * attention(width, width) + self.vocabulary + linear(width, width) + 2.0 * width;
        let temperature = 1.0;
        self.momentum() + cross + linear(width, 2.0) + decoder + temperature
    }

    /// Parameters of the momentum encoders.
    fn momentum(&self) -> f64 {
        let (vision, text) = (&self.vision, &self.text);
        let d = vision.width;
        let block = 4.0 * d + linear(d, 3.0 * d) + linear(d, d) + feed(vision);
        let image = (1.0 + self.image) * d + linear(self.patch, d) + vision.depth * block + 2.0 * d;
        let w = text.width;
        let layer = attention(w, w) + feed(text) + 2.0 * w;
        let words = (self.vocabulary + self.positions + 2.0) * w + text.depth * layer;
        image + words + linear(d, self.embed) + linear(w, self.embed)
    }

    fn queues_bytes(&self) -> f64 {
        2.0 * self.queue * self.embed * EXACT
    }

    /// Parameters, both moments, momentum encoders and queues.
    fn state_bytes(&self) -> f64 {
        (3.0 * self.student() + self.momentum()) * EXACT + self.queues_bytes()
    }

    /// What is alive when a lane's backward pass begins.
    fn alive(&self, passes: Passes, is_gpu: bool) -> Alive {
        let mut alive = Alive::default();
        self.image_tower(&mut alive, is_gpu);
        let rows = self.batch * self.tokens;
        if passes.contrast {
            self.unimodal(&mut alive, rows, is_gpu);
            // Logits and targets of both directions.
            alive.exact += 4.0 * self.batch * (self.batch + self.queue);
        }
        // Keys and values for cross-attention.
        alive.keep(2.0 * self.text.depth, self.images * self.image, self.text.width);
        let matching = if passes.contrast { 3.0 * rows } else { 0.0 };
        let generated = if passes.generate { rows } else { 0.0 };
        self.multimodal(&mut alive, (matching, generated), is_gpu);
        if passes.generate {
            let predicted = self.batch * (self.tokens - 1.0);
            alive.keep(4.0, predicted, self.text.width);
            alive.keep(1.0, predicted, self.vocabulary);
        }
        alive
    }

    fn image_tower(&self, alive: &mut Alive, is_gpu: bool) {
        let (rows, tower) = (self.images * self.image, &self.vision);
        let (width, depth) = (tower.width, tower.depth);
        alive.keep(1.0, self.images * (self.image - 1.0), self.patch + width);
        // The tokens and the last norm; in a block both norms, queries, keys and values, attention, its projection, both sums
        // and what comes out of the hidden layer, which is kept before and after its GELU.
        alive.keep(2.0 + 10.0 * depth, rows, width);
        alive.keep(2.0 * depth, rows, tower.hidden);
        alive.keep(2.0 * (depth - 1.0) * self.drops_path, rows, width);
        alive.exact += 2.0 * rows + depth * (4.0 * rows + kept(is_gpu, tower, rows));
    }

    /// The text encoder for the contrastive loss, whose last layer computes keys and values of all tokens and little more.
    fn unimodal(&self, alive: &mut Alive, rows: f64, is_gpu: bool) {
        let (tower, layers, dropped) = (&self.text, self.text.depth - 1.0, self.drops_out);
        alive.keep(2.0 + dropped + 2.0, rows, tower.width);
        alive.keep(layers * (10.0 + 2.0 * dropped), rows, tower.width);
        alive.keep(layers * 2.0, rows, tower.hidden);
        alive.exact += 2.0 * rows + layers * (4.0 * rows + kept(is_gpu, tower, rows));
    }

    /// Matching and generated texts in one packed batch: self-attention apart, the rest together. Of matching texts the last
    /// layer computes the first token alone.
    fn multimodal(&self, alive: &mut Alive, (matching, generated): (f64, f64), is_gpu: bool) {
        let (tower, layers, dropped) = (&self.text, self.text.depth - 1.0, self.drops_out);
        // Where there are both, they are split and joined again.
        let copied = if matching > 0.0 && generated > 0.0 { 1.0 } else { 0.0 };
        alive.keep(2.0 + dropped + copied, matching + generated, tower.width);
        alive.keep(layers * (7.0 + dropped), matching, tower.width);
        let asking = matching / self.tokens;
        alive.keep(2.0, matching, tower.width);
        alive.keep(6.0 + dropped, asking, tower.width);
        alive.keep(self.text.depth * (7.0 + dropped), generated, tower.width);
        // Rows of all layers together, from cross-attention on.
        let rows = layers * (matching + generated) + asking + generated;
        alive.keep(8.0 + 2.0 * (dropped + copied), rows, tower.width);
        alive.keep(2.0, rows, tower.hidden);
        alive.exact += 2.0 * (matching + generated) + 6.0 * rows + 2.0 * kept(is_gpu, tower, rows);
    }
}

/// What attention keeps of each query for its backward pass.
const fn kept(is_gpu: bool, tower: &Tower, rows: f64) -> f64 {
    if is_gpu { 2.0 * tower.heads * rows } else { 0.0 }
}

const fn linear(from: f64, to: f64) -> f64 {
    from * to + to
}

/// Queries, keys and values, output and its norm.
const fn attention(width: f64, keys: f64) -> f64 {
    2.0 * linear(width, width) + 2.0 * linear(keys, width) + 2.0 * width
}

/// Both layers of a feed-forward network.
const fn feed(tower: &Tower) -> f64 {
    linear(tower.width, tower.hidden) + linear(tower.hidden, tower.width)
}

#[cfg(test)]
mod tests;
