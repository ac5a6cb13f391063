//! One lane of a training step: the multimodal mixture of encoder-decoder on a lane's batch, forward and backward.
//!
//! The momentum encoders run first and record nothing; their features are keys and soft targets. Then the student: image
//! and text towers, the contrastive loss, hard negatives drawn from its logits, and one packed pass of 4b texts through the
//! multimodal layers, each image's keys and values computed once per layer.

use crate::flat::{Flat, Pool};
use crate::layout::{Layout, ParamId};
use crate::loss::itm::Negatives;
use crate::loss::{itc, itm, lm};
use crate::params::{self, Objective, Vocabulary};
use crate::random::{Purpose, Stream};
use crate::state::State;
use crate::tape::{Tape, Var, Weights, WriteCount};
use crate::text::{Grounding, Packed, Text};
use crate::vision::{Pair, Tokens, Vision};
use medley_protocol::spec::ModelSpec;
use std::rc::Rc;

/// Towers and projections over one layout.
pub struct Towers {
    /// Image tower.
    pub vision: Vision,
    /// Text towers.
    pub text: Text,
    vision_proj: Pair,
    text_proj: Pair,
}

impl Towers {
    fn new(model: &ModelSpec, layout: &Layout) -> Self {
        Self {
            vision: Vision::new(&model.vision, layout),
            text: Text::new(&model.text, layout),
            vision_proj: Pair::of(layout, "vision_proj"),
            text_proj: Pair::of(layout, "text_proj"),
        }
    }

    /// Unit features of class tokens.
    ///
    /// # Shapes
    /// b × width → b × e
    pub fn image_features(&self, tape: &mut Tape, class: Var) -> Var {
        let projected = self.vision_proj.linear(tape, class);
        tape.l2_norm(projected)
    }

    /// Unit features of texts' first tokens.
    ///
    /// # Shapes
    /// t × width → t × e
    pub fn text_features(&self, tape: &mut Tape, first: Var) -> Var {
        let projected = self.text_proj.linear(tape, first);
        tape.l2_norm(projected)
    }
}

/// BLIP at one image size.
pub struct Blip {
    /// Dimensions.
    pub model: ModelSpec,
    /// Special tokens.
    pub vocab: Vocabulary,
    /// Tokens of an image.
    pub image_tokens: usize,
    /// Side of an image in pixels.
    pub image_size: u32,
    /// What the trained parameters are.
    pub student_layout: Layout,
    /// What the momentum encoders are.
    pub momentum_layout: Layout,
    /// The trained towers.
    pub student: Towers,
    /// The momentum towers.
    pub teacher: Towers,
    /// Matching head.
    pub itm_head: Pair,
    /// Temperature.
    pub temperature: ParamId,
}

/// A lane's samples.
#[derive(Debug, Clone, Copy)]
pub struct LaneBatch<'a> {
    /// Normalised pixels, b × 3 × s × s.
    pub pixels: &'a [f32],
    /// Token ids of each text, `[CLS]` first and `[SEP]` last, without padding.
    pub texts: &'a [Vec<u32>],
}

/// What a lane's step depends on besides weights and samples.
#[derive(Debug, Clone, Copy)]
pub struct LaneStep {
    /// What is trained.
    pub objective: Objective,
    /// Seed of the stage.
    pub seed: u64,
    /// Number of the step.
    pub step: u64,
    /// The lane.
    pub lane: u32,
    /// Weight of the momentum targets.
    pub alpha: f32,
    /// Tokens of the prompt after the first, which are not predicted.
    pub prompt_tokens: usize,
}

/// What a lane's step yields, besides its gradient.
#[derive(Debug, Clone, PartialEq)]
pub struct LaneOutput {
    /// Contrastive, matching and language-modelling loss; 0 where the objective has none.
    pub losses: [f32; 3],
    /// The lane's momentum image features, b × e; empty where the objective has no contrastive loss.
    pub image_features: Vec<f32>,
    /// The lane's momentum text features, b × e.
    pub text_features: Vec<f32>,
}

impl Blip {
    /// The model at this image size.
    pub fn new(model: &ModelSpec, image_size: u32, vocab: Vocabulary) -> Self {
        let student_layout = params::student(model, image_size, vocab.size);
        let momentum_layout = params::momentum(model, image_size, vocab.size);
        Self {
            student: Towers::new(model, &student_layout),
            teacher: Towers::new(model, &momentum_layout),
            itm_head: Pair::of(&student_layout, "itm_head"),
            temperature: student_layout.id("temp"),
            image_tokens: params::num_patches(model, image_size) + 1,
            image_size,
            model: model.clone(),
            vocab,
            student_layout,
            momentum_layout,
        }
    }

    /// Runs one lane: its losses and momentum features are returned, the gradient of its mean loss is written to `grad`. Entries
    /// that the objective does not train are zeroed.
    ///
    /// # Errors
    /// [`WriteCount`] if a parameter's gradient is incomplete, which would be a fault of the model's code.
    pub fn lane(
        &self,
        state: &State,
        batch: LaneBatch,
        step: LaneStep,
        pool: &mut Pool,
        grad: &mut [f32],
    ) -> Result<LaneOutput, WriteCount> {
        self.lane_with(state, batch, step, None, pool, grad)
    }

    /// [`Blip::lane`] with negatives that are given instead of drawn.
    ///
    /// # Errors
    /// As [`Blip::lane`].
    pub fn lane_with(
        &self,
        state: &State,
        batch: LaneBatch,
        step: LaneStep,
        negatives: Option<&Negatives>,
        pool: &mut Pool,
        grad: &mut [f32],
    ) -> Result<LaneOutput, WriteCount> {
        let declared = params::declared_writes(&self.student_layout, step.objective);
        let trainable = params::trainable(&declared);
        for (id, entry) in self.student_layout.iter().filter(|(id, _)| !trainable[id.index()]) {
            debug_assert_eq!(declared[id.index()], 0);
            grad[entry.range()].fill(0.0);
        }
        let (image_features, text_features) = self.momentum_features(state, batch, step, pool);
        let keys = itc::Keys {
            image: &image_features,
            text: &text_features,
            image_queue: &state.image_queue,
            text_queue: &state.text_queue,
        };
        let weights = Weights {
            layout: &self.student_layout,
            data: &state.params,
        };
        let mut tape = Tape::training(weights, pool, grad, &trainable);
        let losses = self.losses(&mut tape, batch, step, keys, negatives);
        let terms: Vec<(Var, f32)> = losses.iter().flatten().map(|&loss| (loss, 1.0)).collect();
        let total = tape.weighted_sum(&terms);
        let losses = losses.map(|loss| loss.map_or(0.0, |v| tape.scalar(v)));
        tape.backward(total, 1.0);
        tape.check_writes(&declared)?;
        drop(tape);
        Ok(LaneOutput {
            losses,
            image_features,
            text_features,
        })
    }

    /// Unit features of the lane's images and texts by the momentum encoders, dropout and drop-path active as in the
    /// reference.
    fn momentum_features(
        &self,
        state: &State,
        batch: LaneBatch,
        step: LaneStep,
        pool: &mut Pool,
    ) -> (Vec<f32>, Vec<f32>) {
        if !step.objective.understands() {
            return (Vec::new(), Vec::new());
        }
        let weights = Weights {
            layout: &self.momentum_layout,
            data: &state.ema,
        };
        let mut tape = Tape::inference(weights, pool);
        let drop_path = step.stream(Purpose::DropPath, Pass::Teacher);
        let class = self.teacher.vision.forward(
            &mut tape,
            batch.pixels,
            batch.texts.len(),
            Some(drop_path),
            Tokens::Class,
        );
        let images = self.teacher.image_features(&mut tape, class);
        let texts = unimodal(batch.texts, self.vocab.cls);
        let dropout = step.stream(Purpose::Dropout, Pass::Teacher);
        let first = self.teacher.text.encode(&mut tape, &texts, Some(dropout));
        let texts = self.teacher.text_features(&mut tape, first);
        (tape.value(images).to_vec(), tape.value(texts).to_vec())
    }

    /// The losses of the objective, in the order ITC, ITM, LM.
    fn losses<'a>(
        &self,
        tape: &mut Tape<'a>,
        batch: LaneBatch,
        step: LaneStep,
        keys: itc::Keys<'a>,
        negatives: Option<&Negatives>,
    ) -> [Option<Var>; 3] {
        let b = batch.texts.len();
        let drop_path = step.stream(Purpose::DropPath, Pass::Student);
        let images = self
            .student
            .vision
            .forward(tape, batch.pixels, b, Some(drop_path), Tokens::All);
        let mut matching = (
            Packed::new(),
            Grounding {
                image_of: Vec::new(),
                tokens: self.image_tokens,
            },
        );
        let mut generated = (Packed::new(), matching.1.clone());
        let mut contrast = None;
        if step.objective.understands() {
            let found = self.contrast(tape, images, batch, step, keys);
            let (i2t, t2i) = (tape.value(found.image_to_text), tape.value(found.text_to_image));
            let drawn = || itm::draw(i2t, t2i, b, step.stream(Purpose::Negatives, Pass::Student));
            let negatives = negatives.cloned().unwrap_or_else(drawn);
            matching = itm::sequences(batch.texts, &negatives, self.vocab.enc, self.image_tokens);
            contrast = Some(found.loss);
        }
        if step.objective.generates() {
            generated = lm::sequences(batch.texts, self.vocab.dec, 3 * b as u32, self.image_tokens);
        }
        let image_keys = self.student.text.image_keys(tape, images);
        let dropout = step.stream(Purpose::Dropout, Pass::Multimodal);
        let (m, g) = self.student.text.multimodal(
            tape,
            (&matching.0, &matching.1),
            (&generated.0, &generated.1),
            &image_keys,
            Some(dropout),
        );
        let matched = m.map(|m| itm::matching(tape, m, self.itm_head));
        let smoothing = self.model.label_smoothing as f32;
        let modelled =
            g.map(|g| lm::modelling(tape, &self.student.text, g, &generated.0, step.prompt_tokens, smoothing));
        [contrast, matched, modelled]
    }

    fn contrast<'a>(
        &self,
        tape: &mut Tape<'a>,
        images: Var,
        batch: LaneBatch,
        step: LaneStep,
        keys: itc::Keys<'a>,
    ) -> itc::Contrast {
        let classes: Rc<[u32]> = (0..batch.texts.len()).map(|i| (i * self.image_tokens) as u32).collect();
        let class = tape.rows(images, &classes);
        let image = self.student.image_features(tape, class);
        let dropout = step.stream(Purpose::Dropout, Pass::Student);
        let first = self
            .student
            .text
            .encode(tape, &unimodal(batch.texts, self.vocab.cls), Some(dropout));
        let text = self.student.text_features(tape, first);
        itc::contrast(tape, image, text, keys, self.temperature, step.alpha)
    }
}

/// Passes of a step, which have random streams of their own.
#[derive(Clone, Copy)]
enum Pass {
    Student = 0,
    Teacher = 1,
    Multimodal = 2,
}

impl LaneStep {
    fn stream(&self, purpose: Purpose, pass: Pass) -> Stream {
        Stream::new(self.seed, purpose)
            .at(self.step)
            .at(u64::from(self.lane))
            .at(pass as u64)
    }
}

/// Texts for the unimodal encoder.
pub(crate) fn unimodal(texts: &[Vec<u32>], cls: u32) -> Packed {
    let mut packed = Packed::new();
    for (i, text) in texts.iter().enumerate() {
        packed.push(cls, text, i as u32);
    }
    packed
}

/// A zeroed gradient buffer for one lane.
pub fn gradient_buffer(blip: &Blip) -> Flat {
    Flat::zeros(blip.student_layout.len())
}
