//! Hard negatives: which images and texts the matching head is given that do not belong together.
//!
//! They are drawn from the similarities of unit features, either among the samples of the lane while its pass is on the tape, or
//! from all lanes before the pass, whose first of two passes are [`Blip::student_features`].

use super::{Blip, Candidates, LaneStep};
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

    /// Draws the negatives of a lane from the lane itself.
    pub(super) fn draw_in_lane(
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
