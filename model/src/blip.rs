//! One lane of a training step: the multimodal mixture of encoder-decoder on a lane's batch, forward and backward.
//!
//! The momentum encoders run first and record nothing; their features are keys and soft targets. Then the student: image
//! and text towers, the contrastive loss, hard negatives drawn from its logits, and one packed pass of 4b texts through the
//! multimodal layers, each image's keys and values computed once per layer.

mod lane;

pub use lane::{Candidates, Guest, LaneBatch, LaneError, LaneOutput, LaneStep, Seen};

use crate::device::{Buffer, Pool, Use};
use crate::flat::Flat;
use crate::layout::{Layout, ParamId};
use crate::loss::itm::Negatives;
use crate::loss::{itc, itm, lm};
use crate::ops::blocks::on_threads;
use crate::ops::meter::{self, Part};
use crate::params::{self, Objective, Vocabulary};
use crate::random::Purpose;
use crate::state::State;
use crate::tape::{Gradient, Tape, Var, Watch, Weights};
use crate::text::{Grounding, Packed, Text};
use crate::vision::{Pair, Tokens, Vision};
use lane::Pass;
use medley_protocol::spec::{ModelSpec, SameImage};
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

    /// Weights that are factors of products and nothing else.
    fn factors(&self) -> impl Iterator<Item = ParamId> {
        let projections = [self.vision_proj.w, self.text_proj.w];
        self.vision.factors().chain(self.text.factors()).chain(projections)
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
    /// Whether a lane keeps of a block's activations the input alone, and computes the others again on the way back: the same bits
    /// in less memory and more time. A new model keeps them.
    pub recomputes: bool,
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
            recomputes: false,
        }
    }

    /// Weights of the student that are factors of products and nothing else.
    pub(crate) fn factors(&self) -> Vec<ParamId> {
        self.student.factors().chain([self.itm_head.w]).collect()
    }

    /// Runs one lane: its losses and momentum features are returned, the gradient of its mean loss is written to `grad`. Entries
    /// that the objective does not train are zeroed. Negatives are drawn from the lane.
    ///
    /// State, pool and gradient are of one device. A gradient's [`Watch`] hears on the way what is final of it, which holds if the
    /// lane succeeds.
    ///
    /// # Errors
    /// [`LaneError`] if the device failed, or a parameter's gradient is incomplete, which would be a fault of the model's code.
    pub fn lane<'s, 'g>(
        &self,
        state: impl Into<Seen<'s>>,
        batch: LaneBatch,
        step: LaneStep,
        pool: &mut Pool,
        grad: impl Into<Gradient<'g>>,
    ) -> Result<LaneOutput, LaneError> {
        self.lane_with(state, batch, step, None, pool, grad)
    }

    /// [`Blip::lane`] with negatives that are given instead of drawn: from b on they are guests.
    ///
    /// # Errors
    /// As [`Blip::lane`].
    pub fn lane_with<'s, 'g>(
        &self,
        state: impl Into<Seen<'s>>,
        batch: LaneBatch,
        step: LaneStep,
        negatives: Option<&Negatives>,
        pool: &mut Pool,
        grad: impl Into<Gradient<'g>>,
    ) -> Result<LaneOutput, LaneError> {
        let (state, grad) = (state.into(), grad.into());
        on_threads(|| self.run_lane(state, batch, step, negatives, pool, grad))
    }

    fn run_lane(
        &self,
        state: Seen,
        batch: LaneBatch,
        step: LaneStep,
        negatives: Option<&Negatives>,
        pool: &mut Pool,
        Gradient {
            values: mut grad,
            watch,
        }: Gradient,
    ) -> Result<LaneOutput, LaneError> {
        let declared = params::declared_writes(&self.student_layout, step.objective);
        let trainable = params::trainable(&declared);
        for (id, entry) in self.student_layout.iter().filter(|(id, _)| !trainable[id.index()]) {
            debug_assert_eq!(declared[id.index()], 0);
            pool.device().fill(grad.reborrow().range(entry.range()), 0.0);
        }
        let taught = self.taught(state, batch, step, pool);
        let queues = itc::Queues {
            image: state.image_queue,
            text: state.text_queue,
            identities: match step.same_image {
                SameImage::Negative => &[],
                SameImage::Positive => state.queued_identities,
            },
        };
        let weights = Weights::new(&self.student_layout, state.params);
        let mut tape = Tape::training(weights, pool, grad, &trainable)
            .recomputing(self.recomputes)
            .telling(&declared, watch.map(|watch| watch as Watch));
        let Losses { all, taught } = self.losses(&mut tape, batch, step, (taught, queues), negatives);
        let terms: Vec<(Var, f32)> = all.iter().flatten().map(|&loss| (loss, 1.0)).collect();
        let total = tape.weighted_sum(&terms);
        // Read at the end: whoever reads from a device waits for it.
        let losses = all.map(|loss| loss.map(|loss| tape.copy(loss)));
        tape.backward(total, 1.0);
        tape.check_writes(&declared)?;
        let losses = losses.map(|loss| loss.map_or(0.0, |loss| tape.spend(loss)[0]));
        let features = taught.map(|(image, text)| (tape.read(image), tape.read(text)));
        let (image_features, text_features) = features.unwrap_or_default();
        drop(tape);
        pool.check()?;
        Ok(LaneOutput {
            losses,
            image_features,
            text_features,
        })
    }

    /// What the momentum encoders see of the lane, dropout and drop-path active as in the reference; nothing where the
    /// objective does not ask.
    fn taught(&self, state: Seen, batch: LaneBatch, step: LaneStep, pool: &mut Pool) -> Option<Features> {
        step.objective.understands().then(|| {
            let weights = Weights::new(&self.momentum_layout, state.ema);
            let tape = Tape::inference(weights, pool);
            self.features(&self.teacher, tape, batch.own(), step, Pass::Teacher)
        })
    }

    /// Unit features of the lane's images and texts by the student, those that its step will find: the first of two passes
    /// when negatives come from all lanes.
    ///
    /// # Shapes
    /// b × e each
    pub fn student_features<'s>(
        &self,
        state: impl Into<Seen<'s>>,
        batch: LaneBatch,
        step: LaneStep,
        pool: &mut Pool,
    ) -> (Vec<f32>, Vec<f32>) {
        let state = state.into();
        let weights = Weights::new(&self.student_layout, state.params);
        on_threads(|| {
            let tape = Tape::inference(weights, pool);
            let seen = self.features(&self.student, tape, batch.own(), step, Pass::Student);
            pool.give(seen.patches);
            (pool.spend(seen.image), pool.spend(seen.text))
        })
    }

    fn features(&self, towers: &Towers, mut tape: Tape, batch: LaneBatch, step: LaneStep, pass: Pass) -> Features {
        let (image_part, text_part) = match pass {
            Pass::Teacher => (Part::MomentumImage, Part::MomentumText),
            Pass::Student | Pass::Multimodal => (Part::Image, Part::Text),
        };
        let part = meter::part(image_part);
        let seats = step.seats(batch, pass);
        let b = seats.len();
        let patches = towers.vision.patches(&mut tape, batch.pixels, b);
        let class = towers
            .vision
            .forward_patches(&mut tape, patches, b, Some(&seats), Tokens::Class);
        let images = towers.image_features(&mut tape, class);
        drop(part);
        let _part = meter::part(text_part);
        let texts = unimodal(batch.texts, self.vocab.cls);
        let dropout = step.stream(Purpose::Dropout, pass);
        let first = towers.text.encode(&mut tape, &texts, Some(dropout));
        let texts = towers.text_features(&mut tape, first);
        Features {
            patches: tape.detach(patches),
            image: tape.detach(images),
            text: tape.detach(texts),
        }
    }

    /// Draws the negatives of a lane of b samples from all lanes: numbers of candidates.
    pub fn draw(&self, state: &State, candidates: Candidates, step: LaneStep, b: usize) -> Negatives {
        let (width, t) = (self.model.embed_dim as usize, state.temperature(self));
        let first = step.lane as usize * b;
        let own = first * width..(first + b) * width;
        let (images, texts) = (candidates.image_features, candidates.text_features);
        let image_to_text = itm::logits(&images[own.clone()], texts, width, t);
        let text_to_image = itm::logits(&texts[own], images, width, t);
        let identities = step.identities(candidates.identities, candidates.identities.len());
        step.drawing(&identities, first)
            .negatives(&image_to_text, &text_to_image, b)
    }

    /// The losses of the objective, in the order ITC, ITM, LM.
    fn losses<'a>(
        &self,
        tape: &mut Tape<'a>,
        batch: LaneBatch,
        step: LaneStep,
        (taught, queues): (Option<Features>, itc::Queues<'a>),
        negatives: Option<&Negatives>,
    ) -> Losses {
        let own = batch.own();
        let b = own.texts.len();
        let part = meter::part(Part::Image);
        let (patches, taught) = self.adopt(tape, batch, taught);
        let seats = step.seats(batch, Pass::Student);
        let vision = &self.student.vision;
        let images = vision.forward_patches(tape, patches, seats.len(), Some(&seats), Tokens::All);
        drop(part);
        let identities = step.identities(batch.identities, b);
        let contrast = taught.map(|(image, text)| {
            let features = self.student_vars(tape, images, own, step);
            let _part = meter::part(Part::Contrast);
            let keys = itc::Keys {
                image,
                text,
                identities: &identities,
                queues,
            };
            let found = itc::contrast(tape, features, keys, self.temperature, step.distillation);
            (features, found)
        });
        // Before negatives are drawn, so that a device has work while the processor draws.
        let part = meter::part(Part::ImageKeys);
        let image_keys = self.student.text.image_keys(tape, images);
        drop(part);
        let nowhere = Grounding {
            image_of: Vec::new(),
            tokens: self.image_tokens,
        };
        let mut matching = (Packed::new(), nowhere.clone());
        let mut generated = (Packed::new(), nowhere);
        if let Some((features, found)) = contrast {
            let _part = meter::part(Part::Contrast);
            let drawn = || self.draw_in_lane(tape, features, found, &identities, step);
            let negatives = negatives.cloned().unwrap_or_else(drawn);
            matching = itm::sequences(batch.texts, &negatives, self.vocab.enc, self.image_tokens);
        }
        if step.objective.generates() {
            generated = lm::sequences(own.texts, self.vocab.dec, 3 * b as u32, self.image_tokens);
        }
        let part = meter::part(Part::Multimodal);
        let dropout = step.stream(Purpose::Dropout, Pass::Multimodal);
        let (m, g) = self.student.text.multimodal(
            tape,
            (&matching.0, &matching.1),
            (&generated.0, &generated.1),
            &image_keys,
            Some(dropout),
        );
        drop(part);
        let _part = meter::part(Part::Heads);
        let matched = m.map(|m| itm::matching(tape, m, self.itm_head));
        let smoothing = self.model.label_smoothing as f32;
        let modelled =
            g.map(|g| lm::modelling(tape, &self.student.text, g, &generated.0, step.prompt_tokens, smoothing));
        Losses {
            all: [contrast.map(|(_, found)| found.loss), matched, modelled],
            taught,
        }
    }

    /// Puts on the tape what the momentum encoders saw, and the lane's patches: those that they read, or with its guests' more.
    fn adopt(&self, tape: &mut Tape, batch: LaneBatch, taught: Option<Features>) -> (Var, Option<(Var, Var)>) {
        let b = batch.len() + batch.guests.len();
        let Some(Features { patches, image, text }) = taught else {
            return (self.student.vision.patches(tape, batch.pixels, b), None);
        };
        let width = self.model.embed_dim as usize;
        let own = tape.adopt(patches, self.student.vision.patch_len(), Use::Activation);
        let features = [image, text].map(|features| tape.adopt(features, width, Use::Exact));
        let patches = if batch.guests.is_empty() {
            own
        } else {
            self.student.vision.patches(tape, batch.pixels, b)
        };
        (patches, Some(features.into()))
    }

    /// Unit features of the lane's images and texts on the tape.
    fn student_vars(&self, tape: &mut Tape, images: Var, batch: LaneBatch, step: LaneStep) -> (Var, Var) {
        let part = meter::part(Part::Image);
        let classes: Rc<[u32]> = (0..batch.texts.len()).map(|i| (i * self.image_tokens) as u32).collect();
        let class = tape.rows(images, &classes);
        let image = self.student.image_features(tape, class);
        drop(part);
        let _part = meter::part(Part::Text);
        let dropout = step.stream(Purpose::Dropout, Pass::Student);
        let first = self
            .student
            .text
            .encode(tape, &unimodal(batch.texts, self.vocab.cls), Some(dropout));
        (image, self.student.text_features(tape, first))
    }

    fn draw_in_lane(
        &self,
        tape: &mut Tape,
        (image, text): (Var, Var),
        found: itc::Contrast,
        identities: &[u64],
        step: LaneStep,
    ) -> Negatives {
        let (b, width) = tape.dims(image);
        let drawing = step.drawing(identities, 0);
        if step.objective == Objective::Pretrain {
            let logits = [found.image_to_text, found.text_to_image];
            let [i2t, t2i] = logits.map(|logits| tape.read_columns(logits, b));
            return drawing.negatives(&i2t, &t2i, b);
        }
        let t = tape.read_weight(self.temperature)[0];
        let (image, text) = (tape.read(image), tape.read(text));
        let image_to_text = itm::logits(&image, &text, width, t);
        let text_to_image = itm::logits(&text, &image, width, t);
        drawing.negatives(&image_to_text, &text_to_image, b)
    }
}

/// What towers saw of a lane, on their device.
struct Features {
    /// Its images cut into patches.
    patches: Buffer,
    /// Unit features of its images, b × e.
    image: Buffer,
    /// Unit features of its texts, b × e.
    text: Buffer,
}

/// Losses on a tape.
struct Losses {
    /// Contrastive, matching and language-modelling.
    all: [Option<Var>; 3],
    /// Momentum features of images and texts, where there are any.
    taught: Option<(Var, Var)>,
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
