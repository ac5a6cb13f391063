//! Image-text contrastive loss with momentum encoders, queues and soft targets (BLIP, section 3.2; Li et al., "Align before
//! fuse", section 3.2 and equation 6).
//!
//! Axes: b samples of the lane, q entries of a queue, e width of the contrastive space.

use crate::layout::ParamId;
use crate::ops::cross_entropy::softmax;
use crate::tape::{Tape, Var, similarities};
use std::rc::Rc;

/// Unit features of the momentum encoders, and the queues of earlier ones: constants of the step.
#[derive(Debug, Clone, Copy)]
pub struct Keys<'a> {
    /// The lane's own images, b × e.
    pub image: &'a [f32],
    /// The lane's own texts, b × e.
    pub text: &'a [f32],
    /// Earlier images, q × e.
    pub image_queue: &'a [f32],
    /// Earlier texts, q × e.
    pub text_queue: &'a [f32],
}

/// The contrastive loss and the logits that negatives are drawn from.
#[derive(Debug, Clone, Copy)]
pub struct Contrast {
    /// Half the sum of both directions.
    pub loss: Var,
    /// Image → text logits, b × (b + q).
    pub image_to_text: Var,
    /// Text → image logits, b × (b + q).
    pub text_to_image: Var,
}

/// Targets of one direction: `alpha · softmax(teacher logits) + (1 − alpha) · identity` over the lane's own b columns
/// and the queue.
///
/// # Shapes
/// query: b × e; keys: (b + q) × e → b × (b + q)
pub fn targets(query: &[f32], keys: &[&[f32]], width: usize, temperature: f32, alpha: f32) -> Rc<[f32]> {
    let b = query.len() / width;
    let cols = keys.iter().map(|k| k.len() / width).sum();
    let mut t = vec![0.0; b * cols];
    if alpha > 0.0 {
        similarities(query, width, keys, &mut t, cols);
        t.iter_mut().for_each(|v| *v /= temperature);
        softmax(&mut t, cols);
        t.iter_mut().for_each(|v| *v *= alpha);
    }
    for (i, row) in t.chunks_exact_mut(cols).enumerate() {
        row[i] += 1.0 - alpha;
    }
    t.into()
}

/// The loss of a lane: student features against momentum keys, both directions. Gradients go to the student's features
/// and to the temperature, none to keys or targets.
///
/// # Shapes
/// image, text: b × e
pub fn contrast<'a>(
    tape: &mut Tape<'a>,
    image: Var,
    text: Var,
    keys: Keys<'a>,
    temperature: ParamId,
    alpha: f32,
) -> Contrast {
    let width = tape.dims(image).1;
    let t = tape.weights().get(temperature)[0];
    let (texts, images) = ([keys.text, keys.text_queue], [keys.image, keys.image_queue]);
    let image_targets = targets(keys.image, &texts, width, t, alpha);
    let text_targets = targets(keys.text, &images, width, t, alpha);
    let image_to_text = tape.logits(image, &texts, temperature);
    let text_to_image = tape.logits(text, &images, temperature);
    let a = tape.soft_cross_entropy(image_to_text, image_targets);
    let b = tape.soft_cross_entropy(text_to_image, text_targets);
    let loss = tape.weighted_sum(&[(a, 0.5), (b, 0.5)]);
    Contrast {
        loss,
        image_to_text,
        text_to_image,
    }
}
