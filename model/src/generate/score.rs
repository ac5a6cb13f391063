//! Features for retrieval and match probabilities for filtering.

use crate::blip::{Blip, unimodal};
use crate::device::{Parameters, Pool};
use crate::ops::blocks::on_threads;
use crate::tape::{Tape, Var, Weights};
use crate::text::{Grounding, ImageKeys, Packed};
use crate::vision::Tokens;

/// Pairs that go through the multimodal layers together: bounds memory, and does not change a bit of the result.
const PAIRS_AT_ONCE: usize = 64;

impl Blip {
    /// Unit features of images.
    ///
    /// # Shapes
    /// pixels: b × 3 × s × s → b × e
    pub fn image_features<'s>(
        &self,
        params: impl Into<Parameters<'s>>,
        pixels: &[f32],
        b: usize,
        pool: &mut Pool,
    ) -> Vec<f32> {
        let params: Parameters = params.into();
        let mut tape = Tape::inference(Weights::new(&self.student_layout, params), pool);
        let class = self.student.vision.forward(&mut tape, pixels, b, None, Tokens::Class);
        let features = self.student.image_features(&mut tape, class);
        tape.read(features)
    }

    /// Unit features of texts (`[CLS]` first, `[SEP]` last).
    ///
    /// # Shapes
    /// t texts → t × e
    pub fn text_features<'s>(
        &self,
        params: impl Into<Parameters<'s>>,
        texts: &[Vec<u32>],
        pool: &mut Pool,
    ) -> Vec<f32> {
        let params: Parameters = params.into();
        let mut tape = Tape::inference(Weights::new(&self.student_layout, params), pool);
        let first = self
            .student
            .text
            .encode(&mut tape, &unimodal(texts, self.vocab.cls), None);
        let features = self.student.text_features(&mut tape, first);
        tape.read(features)
    }

    /// Matching logits (no match, match) of pairs: `pairs` names an image of the batch and a text of `texts` each. An image's
    /// keys and values are computed once, however many texts are scored against it.
    ///
    /// # Shapes
    /// pixels: b × 3 × s × s; p pairs → p × 2
    pub fn match_logits<'s>(
        &self,
        params: impl Into<Parameters<'s>>,
        pixels: &[f32],
        b: usize,
        texts: &[Vec<u32>],
        pairs: &[(u32, u32)],
        pool: &mut Pool,
    ) -> Vec<[f32; 2]> {
        let params = params.into();
        on_threads(|| self.match_all(params, pixels, b, texts, pairs, pool))
    }

    fn match_all(
        &self,
        params: Parameters,
        pixels: &[f32],
        b: usize,
        texts: &[Vec<u32>],
        pairs: &[(u32, u32)],
        pool: &mut Pool,
    ) -> Vec<[f32; 2]> {
        let mut tape = Tape::inference(Weights::new(&self.student_layout, params), pool);
        let images = self.student.vision.forward(&mut tape, pixels, b, None, Tokens::All);
        let keys = self.student.text.image_keys(&mut tape, images);
        let mark = tape.mark();
        let mut logits = Vec::with_capacity(pairs.len());
        for pairs in pairs.chunks(PAIRS_AT_ONCE) {
            let matched = self.match_some(&mut tape, &keys, texts, pairs);
            logits.extend(tape.read(matched).chunks_exact(2).map(|row| [row[0], row[1]]));
            tape.rewind(mark);
        }
        logits
    }

    /// Matching logits of a few pairs.
    ///
    /// # Shapes
    /// p pairs → p × 2
    fn match_some(&self, tape: &mut Tape, keys: &[ImageKeys], texts: &[Vec<u32>], pairs: &[(u32, u32)]) -> Var {
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
