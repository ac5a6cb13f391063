//! Image-text matching with hard negatives drawn from the contrastive logits (BLIP, section 3.2).

use crate::ops::cross_entropy::softmax_row;
use crate::random::Stream;
use crate::tape::{Tape, Var};
use crate::text::{Grounding, Packed};
use crate::vision::Pair;
use std::rc::Rc;

/// Added to every weight, so that an easy negative can still be drawn.
const FLOOR: f32 = 1e-4;

/// Which of a lane's own samples serve as negatives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negatives {
    /// For each text, an image that is not its own.
    pub image_of_text: Vec<u32>,
    /// For each image, a text that is not its own.
    pub text_of_image: Vec<u32>,
}

/// Draws one negative of each kind per sample, with probability `softmax(logits over the lane's own b columns) + 1e-4`, never
/// itself.
///
/// # Shapes
/// both logits: b × (b + q), the first b columns used
pub fn draw(image_to_text: &[f32], text_to_image: &[f32], b: usize, stream: Stream) -> Negatives {
    let kind = |logits: &[f32], kind: u32| -> Vec<u32> {
        let cols = logits.len() / b;
        let rows = logits.chunks_exact(cols).enumerate();
        rows.map(|(i, row)| draw_one(&row[..b], i, stream.uniform([i as u32, kind, 0, 0])))
            .collect()
    };
    Negatives {
        image_of_text: kind(text_to_image, 0),
        text_of_image: kind(image_to_text, 1),
    }
}

/// Inverts the cumulated weights of a row at `u`; sums run in order of the columns.
fn draw_one(row: &[f32], own: usize, u: f32) -> u32 {
    let mut weights = row.to_vec();
    softmax_row(&mut weights);
    weights.iter_mut().for_each(|w| *w += FLOOR);
    weights[own] = 0.0;
    let total: f32 = weights.iter().fold(0.0, |a, b| a + b);
    let mut left = u * total;
    let mut last = own;
    for (j, &w) in weights.iter().enumerate().filter(|(j, _)| *j != own) {
        last = j;
        if left < w {
            return j as u32;
        }
        left -= w;
    }
    // Rounding may leave a rest after the last weight.
    last as u32
}

/// The 3b matching sequences of a lane: (text, image), (text, negative image), (negative text, image).
pub fn sequences(texts: &[Vec<u32>], negatives: &Negatives, first: u32, tokens: usize) -> (Packed, Grounding) {
    let b = texts.len() as u32;
    let mut packed = Packed::new();
    let mut image_of = Vec::with_capacity(3 * texts.len());
    let negative_texts = negatives.text_of_image.iter().copied();
    let triples = (0..b)
        .map(|i| (i, i))
        .chain((0..b).zip(negatives.image_of_text.iter().copied()));
    for (sample, (text, image)) in triples.chain(negative_texts.zip(0..b)).enumerate() {
        packed.push(first, &texts[text as usize], sample as u32);
        image_of.push(image);
    }
    (packed, Grounding { image_of, tokens })
}

/// Cross-entropy of the matching head: the first third match, the others do not; mean over all 3b.
///
/// # Shapes
/// states: 3b × d
pub fn matching(tape: &mut Tape, states: Var, head: Pair) -> Var {
    let rows = tape.dims(states).0;
    let logits = head.linear(tape, states);
    let targets: Rc<[u32]> = (0..rows).map(|i| u32::from(i < rows / 3)).collect();
    tape.cross_entropy(logits, &targets, 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;

    #[test]
    fn a_sample_is_never_its_own_negative() {
        let b = 5;
        let logits: Vec<f32> = (0..b * 9)
            .map(|i| if i / 9 == i % 9 { 50.0 } else { (i % 7) as f32 })
            .collect();
        for step in 0..200 {
            let drawn = draw(&logits, &logits, b, Stream::new(1, Purpose::Negatives).at(step));
            for list in [drawn.image_of_text, drawn.text_of_image] {
                assert!(
                    list.iter()
                        .enumerate()
                        .all(|(i, &j)| i != j as usize && (j as usize) < b)
                );
            }
        }
    }

    #[test]
    fn hard_negatives_are_drawn_most_often() {
        let row = [0.0, 0.0, 3.0, 0.0];
        let stream = Stream::new(2, Purpose::Negatives);
        let hits = (0..4000)
            .filter(|&i| draw_one(&row, 0, stream.uniform([i, 0, 0, 0])) == 2)
            .count();
        // e³ / (e³ + 2) = 0.909, a little less with the floor.
        assert!((3560..3720).contains(&hits), "{hits}");
    }
}
