//! Images through the image tower, for whoever reads them.

use crate::blip::Blip;
use crate::device::Ahead;
use crate::ops::meter::{self, Part};
use crate::tape::{Tape, Var};
use crate::text::ImageKeys;
use crate::vision::Tokens;

/// Images that are sent to a GPU together: enough to keep it busy while the next ones are on their way.
const SENT_AT_ONCE: usize = 64;

impl Blip {
    /// Image embeddings. On a GPU, to which `ahead` sends, they are computed a part of the batch at a time, and while one is computed the
    /// pixels of the next are sent.
    ///
    /// # Shapes
    /// pixels: b × 3 × s × s → (b·n) × d, or b × d for [`Tokens::Class`]
    pub(super) fn images(
        &self,
        tape: &mut Tape,
        ahead: &mut Option<Ahead>,
        pixels: &[f32],
        b: usize,
        wanted: Tokens,
    ) -> Var {
        let (vision, parts) = (&self.student.vision, b.div_ceil(SENT_AT_ONCE));
        let Some(ahead) = ahead.as_mut().filter(|_| parts > 1) else {
            return vision.forward(tape, pixels, b, None, wanted);
        };
        let rows = match wanted {
            Tokens::All => self.image_tokens,
            Tokens::Class => 1,
        };
        let all = tape.room(b * rows, self.model.vision.width as usize);
        let (mark, len) = (tape.mark(), pixels.len() / b);
        for part in 0..parts {
            let (first, end) = (b * part / parts, b * (part + 1) / parts);
            let sent = ahead.send(&pixels[first * len..end * len]);
            let patches = vision.patches(tape, sent.span(), end - first);
            // Its place may take the next ones as soon as these are cut.
            drop(sent);
            let images = vision.forward_patches(tape, patches, end - first, None, wanted);
            tape.put_rows(images, all, first * rows);
            tape.rewind(mark);
        }
        all
    }

    /// Keys and values of images for whatever texts read them.
    ///
    /// # Shapes
    /// pixels: b × 3 × s × s
    pub(super) fn look(&self, tape: &mut Tape, ahead: &mut Option<Ahead>, pixels: &[f32], b: usize) -> Vec<ImageKeys> {
        let part = meter::part(Part::Image);
        let images = self.images(tape, ahead, pixels, b, Tokens::All);
        drop(part);
        let _part = meter::part(Part::ImageKeys);
        self.student.text.image_keys(tape, images)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Device, Pool};
    use crate::params::Vocabulary;
    use crate::random::{Purpose, Stream};
    use crate::state::State;
    use crate::tape::Weights;
    use medley_protocol::spec::Spec;

    #[test]
    fn images_that_are_sent_in_parts_are_the_same() {
        const SIDE: u32 = 16;
        let document = serde_json::json!({"name": "t", "kind": "pretrain", "preset": "nano", "data": {"root": "/d"},
            "model": {"vision": {"image_size": SIDE}}, "pretrain": {"image_size": SIDE}});
        let vocab = Vocabulary {
            size: 40,
            pad: 0,
            cls: 2,
            sep: 3,
            dec: 4,
            enc: 5,
        };
        let blip = Blip::new(&Spec::from_document(&document).unwrap().model, SIDE, vocab);
        let params = State::fresh(&blip, 3).params;
        let b = 2 * SENT_AT_ONCE + 3;
        let noise = |i: u32| Stream::new(7, Purpose::Init).normals([i, 0, 0, 0])[0];
        let pixels: Vec<f32> = (0..b as u32 * 3 * SIDE * SIDE).map(noise).collect();
        for wanted in [Tokens::All, Tokens::Class] {
            let seen = |mut ahead: Option<Ahead>| {
                let mut pool = Pool::default();
                let mut tape = Tape::inference(Weights::new(&blip.student_layout, &params), &mut pool);
                let images = blip.images(&mut tape, &mut ahead, &pixels, b, wanted);
                (tape.dims(images), tape.read(images))
            };
            let sent = Ahead::to(&Device::Cpu).unwrap();
            assert_eq!(seen(Some(sent)), seen(None));
        }
    }
}
