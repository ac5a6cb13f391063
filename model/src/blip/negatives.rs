//! Hard negatives: which images and texts the matching head is given that do not belong together.
//!
//! They are drawn from the similarities of unit features, either among the samples of the lane while its pass is on the tape, or
//! from all lanes before the pass, whose first of two passes are [`Blip::student_features`].

use super::{Blip, Candidates, LaneStep};
use crate::device::Asked;
use crate::loss::itc;
use crate::loss::itm::{self, Negatives};
use crate::params::Objective;
use crate::tape::{Tape, Var};

impl Blip {
    /// Draws the negatives of a lane of b samples from all lanes, at the learned temperature `t`: numbers of candidates.
    pub fn draw(&self, t: f32, candidates: Candidates, step: LaneStep, b: usize) -> Negatives {
        let width = self.model.embed_dim as usize;
        let first = step.lane as usize * b;
        let own = first * width..(first + b) * width;
        let (images, texts) = (candidates.image_features, candidates.text_features);
        let image_to_text = itm::logits(&images[own.clone()], texts, width, t);
        let text_to_image = itm::logits(&texts[own], images, width, t);
        let identities = step.identities(candidates.identities, candidates.identities.len());
        step.drawing(&identities, first)
            .negatives(&image_to_text, &text_to_image, b)
    }

    /// Asks for what the negatives of a lane are drawn from, if that is the lane itself.
    pub(super) fn ask_for_drawing(
        &self,
        tape: &mut Tape,
        (image, text): (Var, Var),
        found: itc::Contrast,
        objective: Objective,
    ) -> Ground {
        if objective == Objective::Pretrain {
            let b = tape.dims(image).0;
            let logits = [found.image_to_text, found.text_to_image];
            return Ground::Logits(logits.map(|logits| tape.ask_columns(logits, b)));
        }
        Ground::Features {
            temperature: tape.ask_weight(self.temperature),
            image: tape.ask(image),
            text: tape.ask(text),
        }
    }

    /// Draws the negatives of a lane from the lane itself, once what was asked for is there.
    pub(super) fn draw_in_lane(&self, ground: Ground, identities: &[u64], step: LaneStep) -> Negatives {
        let (drawing, b) = (step.drawing(identities, 0), identities.len());
        match ground {
            Ground::Logits(logits) => {
                let [i2t, t2i] = logits.map(Asked::wait);
                drawing.negatives(&i2t, &t2i, b)
            }
            Ground::Features {
                temperature,
                image,
                text,
            } => {
                let (t, width) = (temperature.wait()[0], self.model.embed_dim as usize);
                let (image, text) = (image.wait(), text.wait());
                let image_to_text = itm::logits(&image, &text, width, t);
                let text_to_image = itm::logits(&text, &image, width, t);
                drawing.negatives(&image_to_text, &text_to_image, b)
            }
        }
    }
}

/// What negatives are drawn from, on its way to the memory of the process.
pub(super) enum Ground {
    /// Of the contrastive loss, image to text and text to image, b × b.
    Logits([Asked; 2]),
    /// The student's unit features, b × e, and the learned temperature.
    Features {
        temperature: Asked,
        image: Asked,
        text: Asked,
    },
}
