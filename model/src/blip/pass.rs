//! A lane's pass: forwards through the towers to the losses of the objective, and back.
//!
//! The momentum encoders run first and record nothing; their features are keys and soft targets. Then the student: image
//! and text towers, the contrastive loss, hard negatives drawn from its logits, and one packed pass of 4b texts through the
//! multimodal layers, each image's keys and values computed once per layer.
//!
//! On a GPU the processor only asks: it waits once, for the logits of the draw, while the images' keys and values are computed.
//! What the lane yields comes home when it is there.

use super::lane::Pass;
use super::{Blip, LaneBatch, LaneError, LaneStep, LaneUnderway, Seen, Towers};
use crate::device::{Buffer, Pool, Use};
use crate::loss::itm::Negatives;
use crate::loss::{itc, itm, lm};
use crate::ops::meter::{self, Part};
use crate::params;
use crate::random::Purpose;
use crate::tape::{Gradient, Tape, Var, Watch, Weights};
use crate::text::{Grounding, ImageKeys, Packed};
use crate::vision::Tokens;
use medley_protocol::spec::SameImage;
use std::rc::Rc;

impl Blip {
    /// Runs one lane, on threads that are there for it.
    pub(super) fn run_lane(
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
    ) -> Result<LaneUnderway, LaneError> {
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
        // Asked for before the backward pass consumes them.
        let losses = all.map(|loss| loss.map(|loss| tape.ask(loss)));
        let features = taught.map(|(image, text)| [image, text].map(|features| tape.ask(features)));
        tape.backward(total, 1.0);
        tape.check_writes(&declared)?;
        drop(tape);
        let device = pool.device().clone();
        Ok(LaneUnderway {
            device,
            losses,
            features,
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

    /// What towers see of a batch.
    pub(super) fn features(
        &self,
        towers: &Towers,
        mut tape: Tape,
        batch: LaneBatch,
        step: LaneStep,
        pass: Pass,
    ) -> Features {
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
        let part = meter::part(Part::Contrast);
        let drawn = negatives.is_none().then_some(contrast).flatten();
        let ground = drawn.map(|(features, found)| self.ask_for_drawing(tape, features, found, step.objective));
        drop(part);
        // Before negatives are drawn, so that a device has work while the processor draws.
        let part = meter::part(Part::ImageKeys);
        let image_keys = self.student.text.image_keys(tape, images);
        drop(part);
        let part = meter::part(Part::Contrast);
        let drawn = ground.map(|ground| self.draw_in_lane(ground, &identities, step));
        drop(part);
        // Negatives that were given to a lane without a contrastive loss are nobody's.
        let negatives = contrast.and(drawn.as_ref().or(negatives));
        let matching = negatives.map(|drawn| itm::sequences(batch.texts, drawn, self.vocab.enc, self.image_tokens));
        let generates = step.objective.generates();
        let generated = generates.then(|| lm::sequences(own.texts, self.vocab.dec, 3 * b as u32, self.image_tokens));
        let [matched, modelled] = self.multimodal_losses(tape, step, &image_keys, matching, generated);
        Losses {
            all: [contrast.map(|(_, found)| found.loss), matched, modelled],
            taught,
        }
    }

    /// Losses of the texts that are matched with images, and of those that are generated: one packed pass through the multimodal
    /// layers.
    fn multimodal_losses(
        &self,
        tape: &mut Tape,
        step: LaneStep,
        image_keys: &[ImageKeys],
        matching: Option<(Packed, Grounding)>,
        generated: Option<(Packed, Grounding)>,
    ) -> [Option<Var>; 2] {
        let none = || {
            let nowhere = Grounding {
                image_of: Vec::new(),
                tokens: self.image_tokens,
            };
            (Packed::new(), nowhere)
        };
        let (matching, generated) = (matching.unwrap_or_else(none), generated.unwrap_or_else(none));
        let part = meter::part(Part::Multimodal);
        let dropout = step.stream(Purpose::Dropout, Pass::Multimodal);
        let (m, g) = self.student.text.multimodal(
            tape,
            (&matching.0, &matching.1),
            (&generated.0, &generated.1),
            image_keys,
            Some(dropout),
        );
        drop(part);
        let _part = meter::part(Part::Heads);
        let matched = m.map(|m| itm::matching(tape, m, self.itm_head));
        let smoothing = self.model.label_smoothing as f32;
        let modelled =
            g.map(|g| lm::modelling(tape, &self.student.text, g, &generated.0, step.prompt_tokens, smoothing));
        [matched, modelled]
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
}

/// What towers saw of a lane, on their device.
pub(super) struct Features {
    /// Its images cut into patches.
    pub(super) patches: Buffer,
    /// Unit features of its images, b × e.
    pub(super) image: Buffer,
    /// Unit features of its texts, b × e.
    pub(super) text: Buffer,
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
