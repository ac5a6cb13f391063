//! Features for retrieval and match probabilities for filtering.

use crate::blip::{Blip, unimodal};
use crate::flat::Pool;
use crate::tape::{Tape, Weights};
use crate::text::{Grounding, Packed};
use crate::vision::Tokens;

impl Blip {
    /// Unit features of images.
    ///
    /// # Shapes
    /// pixels: b × 3 × s × s → b × e
    pub fn image_features(&self, params: &[f32], pixels: &[f32], b: usize, pool: &mut Pool) -> Vec<f32> {
        let mut tape = Tape::inference(
            Weights {
                layout: &self.student_layout,
                data: params,
            },
            pool,
        );
        let class = self.student.vision.forward(&mut tape, pixels, b, None, Tokens::Class);
        let features = self.student.image_features(&mut tape, class);
        tape.value(features).to_vec()
    }

    /// Unit features of texts ([CLS] first, [SEP] last).
    ///
    /// # Shapes
    /// t texts → t × e
    pub fn text_features(&self, params: &[f32], texts: &[Vec<u32>], pool: &mut Pool) -> Vec<f32> {
        let mut tape = Tape::inference(
            Weights {
                layout: &self.student_layout,
                data: params,
            },
            pool,
        );
        let first = self
            .student
            .text
            .encode(&mut tape, &unimodal(texts, self.vocab.cls), None);
        let features = self.student.text_features(&mut tape, first);
        tape.value(features).to_vec()
    }

    /// Matching logits (no match, match) of pairs: `pairs` names an image of the batch and a text of `texts` each. An image's
    /// keys and values are computed once, however many texts are scored against it.
    ///
    /// # Shapes
    /// pixels: b × 3 × s × s; p pairs → p × 2
    pub fn match_logits(
        &self,
        params: &[f32],
        pixels: &[f32],
        b: usize,
        texts: &[Vec<u32>],
        pairs: &[(u32, u32)],
        pool: &mut Pool,
    ) -> Vec<[f32; 2]> {
        let mut tape = Tape::inference(
            Weights {
                layout: &self.student_layout,
                data: params,
            },
            pool,
        );
        let images = self.student.vision.forward(&mut tape, pixels, b, None, Tokens::All);
        let keys = self.student.text.image_keys(&mut tape, images);
        let mut packed = Packed::new();
        for (i, &(_, text)) in pairs.iter().enumerate() {
            packed.push(self.vocab.enc, &texts[text as usize], i as u32);
        }
        let image_of = pairs.iter().map(|&(image, _)| image).collect();
        let grounding = Grounding {
            image_of,
            tokens: self.image_tokens,
        };
        let none = (
            Packed::new(),
            Grounding {
                image_of: Vec::new(),
                tokens: self.image_tokens,
            },
        );
        let (states, _) =
            self.student
                .text
                .multimodal(&mut tape, (&packed, &grounding), (&none.0, &none.1), &keys, None);
        let states = states.expect("matching texts were given");
        let logits = self.itm_head.linear(&mut tape, states);
        tape.value(logits).chunks_exact(2).map(|row| [row[0], row[1]]).collect()
    }
}

/// Probability of "match" from matching logits.
pub fn match_probability(logits: [f32; 2]) -> f32 {
    1.0 / (1.0 + libm::expf(logits[0] - logits[1]))
}
