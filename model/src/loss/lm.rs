//! Language modelling: each token is predicted from the image and the tokens before it (BLIP, section 3.2).

use crate::tape::{Tape, Var};
use crate::text::{Grounding, Packed, Text};
use std::rc::Rc;

/// The generated sequences of a lane, one per image, `[DEC]` first; samples are numbered from `first_sample`.
pub fn sequences(texts: &[Vec<u32>], first: u32, first_sample: u32, tokens: usize) -> (Packed, Grounding) {
    let mut packed = Packed::new();
    for (i, text) in texts.iter().enumerate() {
        packed.push(first, text, first_sample + i as u32);
    }
    (
        packed,
        Grounding {
            image_of: (0..texts.len() as u32).collect(),
            tokens,
        },
    )
}

/// Rows whose next token is predicted, and those tokens. The last token of a text predicts nothing; the first
/// `prompt` tokens after the first are given, not predicted.
pub fn predicted(texts: &Packed, prompt: usize) -> (Rc<[u32]>, Rc<[u32]>) {
    let rows: Vec<u32> = (0..texts.len())
        .flat_map(|i| {
            let rows = texts.rows(i);
            (rows.start + prompt.min(rows.len() - 1)..rows.end - 1).map(|row| row as u32)
        })
        .collect();
    let targets = rows.iter().map(|&row| texts.ids[row as usize + 1]).collect();
    (rows.into(), targets)
}

/// Cross-entropy with label smoothing, mean over the predicted tokens.
///
/// # Shapes
/// states: rows of `texts` × d
pub fn modelling(tape: &mut Tape, text: &Text, states: Var, texts: &Packed, prompt: usize, smoothing: f32) -> Var {
    let (rows, targets) = predicted(texts, prompt);
    let asking = tape.rows(states, &rows);
    let logits = text.predict(tape, asking);
    tape.cross_entropy(logits, &targets, smoothing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_but_the_first_is_predicted_once() {
        let (packed, _) = sequences(&[vec![2, 7, 8, 3], vec![2, 9, 3]], 4, 0, 1);
        let (rows, targets) = predicted(&packed, 0);
        assert_eq!(rows[..], [0, 1, 2, 4, 5]);
        assert_eq!(targets[..], [7, 8, 3, 9, 3]);
        assert_eq!(packed.ids[0], 4);
    }

    #[test]
    fn prompt_tokens_are_not_predicted() {
        let (packed, _) = sequences(&[vec![2, 7, 8, 9, 3]], 4, 0, 1);
        assert_eq!(predicted(&packed, 2).1[..], [9, 3]);
    }
}
