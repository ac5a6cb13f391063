//! The numbers of a model and a lane that memory is counted from.
//!
//! Axes: b samples of a lane, n tokens of an image, t tokens of a text.

use super::{EXACT, size};
use crate::spec::{Negatives, Precision, Spec, TrainSpec};

/// Buffers are made in sizes a quarter of an octave apart: this share of them is no use, on average.
const ROUNDING: f64 = 0.1;
/// Words of the vocabularies that are given as files: BERT's, with two more.
const GIVEN_VOCABULARY: u32 = 30_524;

/// What a lane's pass computes.
#[derive(Clone, Copy)]
pub(super) struct Passes {
    /// Contrast, and matching with negatives.
    pub(super) contrast: bool,
    /// Language modelling.
    pub(super) generate: bool,
}

/// Elements that are alive at once.
#[derive(Default)]
pub(super) struct Alive {
    /// In the format that the device computes in.
    activations: f64,
    /// Always in single precision.
    exact: f64,
}

impl Alive {
    pub(super) fn bytes(&self, precision: Precision) -> f64 {
        (self.activations * size(precision) + self.exact * EXACT) * (1.0 + ROUNDING)
    }

    /// So many results of operations, rows × width each.
    fn keep(&mut self, results: f64, rows: f64, width: f64) {
        self.activations += results * rows * width;
    }
}

/// The numbers that everything is counted from.
pub(super) struct Sizes {
    batch: f64,
    /// Images that the lane looks at: with negatives from all lanes, up to one more for each of its own.
    images: f64,
    /// Side of an image in pixels.
    side: f64,
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
    pub(super) tokens: f64,
    /// 1 if hidden states of the text towers are.
    drops_out: f64,
    embed: f64,
    queue: f64,
    /// Whether of a block the input alone is kept, and the rest computed again on the way back.
    pub(super) recomputes: bool,
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
    pub(super) fn of(spec: &Spec, train: &TrainSpec) -> Self {
        let (vision, text, batch) = (&spec.model.vision, &spec.model.text, f64::from(spec.lanes.batch));
        let given = if spec.vocab.file.is_empty() {
            0
        } else {
            GIVEN_VOCABULARY
        };
        Self {
            batch,
            images: batch * if train.negatives == Negatives::All { 2.0 } else { 1.0 },
            side: train.image_size.into(),
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
            recomputes: train.recompute,
        }
    }

    /// Trained parameters.
    pub(super) fn student(&self) -> f64 {
        let Tower { width, depth, .. } = self.text;
        let cross = depth * attention(width, self.vision.width);
        let decoder = depth * attention(width, width) + self.vocabulary + linear(width, width) + 2.0 * width;
        let temperature = 1.0;
        self.momentum() + cross + linear(width, 2.0) + decoder + temperature
    }

    /// Parameters of the momentum encoders.
    pub(super) fn momentum(&self) -> f64 {
        let (vision, text) = (&self.vision, &self.text);
        let d = vision.width;
        let block = 4.0 * d + linear(d, 3.0 * d) + linear(d, d) + feed(vision);
        let image = (1.0 + self.image) * d + linear(self.patch, d) + vision.depth * block + 2.0 * d;
        let w = text.width;
        let layer = attention(w, w) + feed(text) + 2.0 * w;
        let words = (self.vocabulary + self.positions + 2.0) * w + text.depth * layer;
        image + words + linear(d, self.embed) + linear(w, self.embed)
    }

    /// Numbers of the pixels of a lane's images.
    pub(super) fn pixels(&self) -> f64 {
        self.images * 3.0 * self.side.powi(2)
    }

    fn queues_bytes(&self) -> f64 {
        2.0 * self.queue * self.embed * EXACT
    }

    /// Parameters, both moments, momentum encoders and queues.
    pub(super) fn state_bytes(&self) -> f64 {
        (3.0 * self.student() + self.momentum()) * EXACT + self.queues_bytes()
    }

    /// What is alive when a lane's backward pass begins, or on the way back, if that is more.
    pub(super) fn alive(&self, passes: Passes, is_gpu: bool) -> Alive {
        let (mut images, mut texts) = (Alive::default(), Alive::default());
        self.image_tower(&mut images, is_gpu);
        let rows = self.batch * self.tokens;
        if passes.contrast {
            self.unimodal(&mut texts, rows, is_gpu);
            // Logits and targets of both directions.
            texts.exact += 4.0 * self.batch * (self.batch + self.queue);
        }
        let keys = 2.0 * self.text.depth * self.images * self.image * self.text.width;
        texts.activations += keys;
        let matching = if passes.contrast { 3.0 * rows } else { 0.0 };
        let generated = if passes.generate { rows } else { 0.0 };
        self.multimodal(&mut texts, (matching, generated), is_gpu);
        let mut heads = Alive::default();
        if passes.generate {
            let predicted = self.batch * (self.tokens - 1.0);
            heads.keep(4.0, predicted, self.text.width);
            heads.keep(1.0, predicted, self.vocabulary);
        }
        let mut most = texts.activations + heads.activations;
        if self.recomputes {
            // Once the heads are done, the gradients of all keys and values gather, until the last layer is computed again. When
            // it is the image tower's turn, nothing is left of texts.
            let layer = self.layer_again((matching, generated));
            most = most.max(texts.activations + keys + layer).max(self.block_again());
        }
        Alive {
            activations: images.activations + most,
            exact: images.exact + texts.exact,
        }
    }

    fn image_tower(&self, alive: &mut Alive, is_gpu: bool) {
        let (rows, tower) = (self.images * self.image, &self.vision);
        let (width, depth) = (tower.width, tower.depth);
        alive.keep(1.0, self.images * (self.image - 1.0), self.patch + width);
        // The tokens and the last norm.
        alive.keep(2.0, rows, width);
        if self.recomputes {
            alive.keep(depth, rows, width);
        } else {
            // Both norms, queries, keys and values, attention, its projection, both sums and what comes out of the hidden layer,
            // which is kept before and after its GELU.
            alive.keep(10.0 * depth, rows, width);
            alive.keep(2.0 * depth, rows, tower.hidden);
            alive.keep(2.0 * (depth - 1.0) * self.drops_path, rows, width);
        }
        alive.exact += 2.0 * rows + depth * (4.0 * rows + kept(is_gpu, tower, rows));
    }

    /// Of a block of the image tower what its way back reads, with the gradients of its hidden layer, of its branch and of its
    /// result. The tower's last norm is no more.
    fn block_again(&self) -> f64 {
        let Tower { width, hidden, .. } = self.vision;
        self.images * self.image * ((9.0 + self.drops_path) * width + 3.0 * hidden)
    }

    /// The text encoder for the contrastive loss, whose last layer computes keys and values of all tokens and little more.
    fn unimodal(&self, alive: &mut Alive, rows: f64, is_gpu: bool) {
        let (tower, layers, dropped) = (&self.text, self.text.depth - 1.0, self.drops_out);
        alive.keep(2.0 + dropped, rows, tower.width);
        if self.recomputes {
            alive.keep(layers, rows, tower.width);
        } else {
            alive.keep(2.0 + layers * (10.0 + 2.0 * dropped), rows, tower.width);
            alive.keep(layers * 2.0, rows, tower.hidden);
        }
        alive.exact += 2.0 * rows + layers * (4.0 * rows + kept(is_gpu, tower, rows));
    }

    /// Matching and generated texts in one packed batch: self-attention apart, the rest together. Of matching texts the last
    /// layer computes the first token alone.
    fn multimodal(&self, alive: &mut Alive, (matching, generated): (f64, f64), is_gpu: bool) {
        let (tower, layers, dropped) = (&self.text, self.text.depth - 1.0, self.drops_out);
        let copied = copied((matching, generated));
        alive.keep(2.0 + dropped + copied, matching + generated, tower.width);
        let asking = matching / self.tokens;
        // Rows of all layers together, from cross-attention on.
        let rows = layers * (matching + generated) + asking + generated;
        if self.recomputes {
            alive.keep(1.0, rows, tower.width);
        } else {
            alive.keep(layers * (7.0 + dropped), matching, tower.width);
            alive.keep(2.0, matching, tower.width);
            alive.keep(6.0 + dropped, asking, tower.width);
            alive.keep(self.text.depth * (7.0 + dropped), generated, tower.width);
            alive.keep(8.0 + 2.0 * (dropped + copied), rows, tower.width);
            alive.keep(2.0, rows, tower.hidden);
        }
        alive.exact += 2.0 * (matching + generated) + 6.0 * rows + 2.0 * kept(is_gpu, tower, rows);
    }

    /// Of the first multimodal layer what its way back reads, with the gradients of its hidden layer and of two results. Those of
    /// the layers behind it are no more. Where it is the only one, it computes of matching texts the first token alone.
    fn layer_again(&self, (matching, generated): (f64, f64)) -> f64 {
        let (
            Tower {
                width, hidden, depth, ..
            },
            dropped,
        ) = (&self.text, self.drops_out);
        let asking = if *depth > 1.0 { matching } else { matching / self.tokens };
        let (rows, known) = (asking + generated, matching - asking);
        let results = (7.0 + dropped) + (7.0 + 2.0 * dropped + copied((matching, generated))) + 2.0;
        rows * (results * width + 3.0 * hidden) + 2.0 * known * width - (depth - 1.0) * rows * width
    }
}

/// 1 if there are matching and generated texts, which are split and joined again.
fn copied((matching, generated): (f64, f64)) -> f64 {
    if matching > 0.0 && generated > 0.0 { 1.0 } else { 0.0 }
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
