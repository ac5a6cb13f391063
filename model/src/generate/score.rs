//! Features for retrieval and match probabilities for filtering.

use super::reader::Reader;
use crate::blip::{Blip, unimodal};
use crate::device::DeviceError;
use crate::ops::meter::{self, Part};
use crate::tape::{Tape, Var};
use crate::text::{Grounding, ImageKeys, Packed};
use crate::vision::Tokens;

/// Pairs that go through the multimodal layers together: bounds memory, and on the processor does not change a bit of the result.
const PAIRS_AT_ONCE: usize = 64;
/// The same on a GPU, where a pair of 30 tokens takes about a MiB of activations in bf16.
const PAIRS_AT_ONCE_ON_GPU: usize = 1024;

impl Reader {
    /// Unit features of images.
    ///
    /// # Shapes
    /// pixels: b × 3 × s × s → b × e
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn image_features(&mut self, pixels: &[f32], b: usize) -> Result<Vec<f32>, DeviceError> {
        self.run(|blip, mut tape| {
            let class = blip.student.vision.forward(&mut tape, pixels, b, None, Tokens::Class);
            let features = blip.student.image_features(&mut tape, class);
            tape.read(features)
        })
    }

    /// Unit features of texts (`[CLS]` first, `[SEP]` last).
    ///
    /// # Shapes
    /// t texts → t × e
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn text_features(&mut self, texts: &[Vec<u32>]) -> Result<Vec<f32>, DeviceError> {
        self.run(|blip, mut tape| {
            let texts = unimodal(texts, blip.vocab.cls);
            let first = blip.student.text.encode(&mut tape, &texts, None);
            let features = blip.student.text_features(&mut tape, first);
            tape.read(features)
        })
    }

    /// Matching logits (no match, match) of pairs: `pairs` names an image of the batch and a text of `texts` each. An image's
    /// keys and values are computed once, however many texts are scored against it.
    ///
    /// # Shapes
    /// pixels: b × 3 × s × s; p pairs → p × 2
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn match_logits(
        &mut self,
        pixels: &[f32],
        b: usize,
        texts: &[Vec<u32>],
        pairs: &[(u32, u32)],
    ) -> Result<Vec<[f32; 2]>, DeviceError> {
        self.run(|blip, mut tape| {
            let keys = blip.look(&mut tape, pixels, b);
            let mark = tape.mark();
            let mut logits = Vec::with_capacity(pairs.len());
            let at_once = if tape.device().is_gpu() {
                PAIRS_AT_ONCE_ON_GPU
            } else {
                PAIRS_AT_ONCE
            };
            for pairs in pairs.chunks(at_once) {
                let matched = blip.match_some(&mut tape, &keys, texts, pairs);
                logits.extend(tape.read(matched).chunks_exact(2).map(|row| [row[0], row[1]]));
                tape.rewind(mark);
            }
            logits
        })
    }
}

impl Blip {
    /// Keys and values of images for whatever texts read them.
    ///
    /// # Shapes
    /// pixels: b × 3 × s × s
    pub(super) fn look(&self, tape: &mut Tape, pixels: &[f32], b: usize) -> Vec<ImageKeys> {
        let part = meter::part(Part::Image);
        let images = self.student.vision.forward(tape, pixels, b, None, Tokens::All);
        drop(part);
        let _part = meter::part(Part::ImageKeys);
        self.student.text.image_keys(tape, images)
    }

    /// Matching logits of a few pairs.
    ///
    /// # Shapes
    /// p pairs → p × 2
    fn match_some(&self, tape: &mut Tape, keys: &[ImageKeys], texts: &[Vec<u32>], pairs: &[(u32, u32)]) -> Var {
        let _part = meter::part(Part::Multimodal);
        let mut packed = Packed::new();
        for (i, &(_, text)) in pairs.iter().enumerate() {
            packed.push(self.vocab.enc, &texts[text as usize], i as u32);
        }
        let grounding = |image_of| Grounding {
            image_of,
            tokens: self.image_tokens,
        };
        let matching = grounding(pairs.iter().map(|&(image, _)| image).collect());
        let (nothing, nowhere) = (Packed::new(), grounding(Vec::new()));
        let (states, _) = self
            .student
            .text
            .multimodal(tape, (&packed, &matching), (&nothing, &nowhere), keys, None);
        self.itm_head.linear(tape, states.expect("matching texts were given"))
    }
}

/// Probability of "match" from matching logits.
pub fn match_probability(logits: [f32; 2]) -> f32 {
    1.0 / (1.0 + libm::expf(logits[0] - logits[1]))
}
