//! Image-text contrastive loss with momentum encoders, queues and soft targets (BLIP, section 3.2; Li et al., "Align before
//! fuse", section 3.2 and equation 6).
//!
//! Axes: b samples of the lane, q entries of a queue, e width of the contrastive space.

use crate::device::{Span, Temperature};
use crate::layout::ParamId;
use crate::tape::{Tape, Teaching, Var};

/// The identity of no image: what a queue's entry has of which nobody knows what it shows. It matches nothing.
pub const UNKNOWN: u64 = 0;

/// Unit features of the momentum encoders, and the queues of earlier ones: constants of the step.
#[derive(Debug, Clone, Copy)]
pub struct Keys<'a, 'q> {
    /// The lane's own images, b × e.
    pub image: Var,
    /// The lane's own texts, b × e.
    pub text: Var,
    /// Identities of the lane's own images, b: pairs of equal identity match each other.
    pub identities: &'a [u64],
    /// Those of earlier steps.
    pub queues: Queues<'q>,
}

/// Features of earlier steps.
#[derive(Debug, Clone, Copy)]
pub struct Queues<'a> {
    /// Images, q × e.
    pub image: Span<'a>,
    /// Texts, q × e.
    pub text: Span<'a>,
    /// Identities of the images, q; empty where nothing in the queue matches.
    pub identities: &'a [u64],
}

/// What the momentum encoders teach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distillation {
    /// Weight of their targets; 0 for none: they then give keys alone.
    pub alpha: f32,
    /// Divides their logits; none for the student's learned temperature.
    pub temperature: Option<f32>,
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

/// Columns that match each of the lane's rows: equal identities in the lane, then in the queue.
pub fn positives(identities: &[u64], queued: &[u64]) -> Vec<Vec<usize>> {
    debug_assert!(!identities.contains(&UNKNOWN));
    // A lane has few identities and a queue has many: each of those is looked up once.
    let mut own = identities.to_vec();
    own.sort_unstable();
    own.dedup();
    let mut columns = vec![Vec::new(); own.len()];
    for (column, identity) in identities.iter().chain(queued).enumerate() {
        if let Ok(at) = own.binary_search(identity) {
            columns[at].push(column);
        }
    }
    let of_row = |identity| {
        own.binary_search(identity)
            .map_or_else(|_| Vec::new(), |at| columns[at].clone())
    };
    identities.iter().map(of_row).collect()
}

/// The loss of a lane: student features against momentum keys, both directions. Gradients go to the student's features
/// and to the temperature, none to keys or targets.
///
/// # Shapes
/// image, text: b × e
pub fn contrast<'a>(
    tape: &mut Tape<'a>,
    (image, text): (Var, Var),
    keys: Keys<'_, 'a>,
    temperature: ParamId,
    distillation: Distillation,
) -> Contrast {
    let learned = Temperature::Learned(tape.weights().get(temperature));
    let teaching = Teaching {
        temperature: distillation.temperature.map_or(learned, Temperature::Given),
        alpha: distillation.alpha,
        positives: &positives(keys.identities, keys.queues.identities),
    };
    let image_targets = tape.targets(keys.image, keys.text, keys.queues.text, teaching);
    let text_targets = tape.targets(keys.text, keys.image, keys.queues.image, teaching);
    let image_to_text = tape.logits(image, keys.text, keys.queues.text, temperature);
    let text_to_image = tape.logits(text, keys.image, keys.queues.image, temperature);
    let a = tape.soft_cross_entropy(image_to_text, image_targets);
    let b = tape.soft_cross_entropy(text_to_image, text_targets);
    let loss = tape.weighted_sum(&[(a, 0.5), (b, 0.5)]);
    Contrast {
        loss,
        image_to_text,
        text_to_image,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Pool;
    use crate::layout::Layout;
    use crate::tape::Weights;

    /// Two features of width 2, and a queue of two.
    const QUERY: [f32; 4] = [1.0, 0.0, 0.6, 0.8];
    const OWN: [f32; 4] = [0.8, 0.6, 0.0, 1.0];
    const QUEUE: [f32; 4] = [-1.0, 0.0, 0.6, -0.8];

    /// The first sample's image is also the second of the queue's.
    fn row(alpha: f32, temperature: f32) -> Vec<f32> {
        let (layout, mut pool) = (Layout::default(), Pool::default());
        let mut tape = Tape::inference(Weights::new(&layout, &[][..]), &mut pool);
        let (query, own) = (tape.constant(&QUERY, 2), tape.constant(&OWN, 2));
        let teaching = Teaching {
            temperature: Temperature::Given(temperature),
            alpha,
            positives: &positives(&[5, 6], &[UNKNOWN, 5]),
        };
        let targets = tape.targets(query, own, QUEUE[..].into(), teaching);
        tape.read(targets)[..4].to_vec()
    }

    fn close(found: &[f32], expected: [f64; 4]) {
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                (f64::from(*found) - expected).abs() < 1e-6,
                "{found} against {expected}"
            );
        }
    }

    /// `alpha · softmax(x / t) + (1 − alpha) · (½, 0, 0, ½)` in double precision; x = query · keys.
    fn plain(alpha: f64, t: f64) -> [f64; 4] {
        let e = [0.8, 0.0, -1.0, 0.6].map(|x: f64| (x / t).exp());
        let sum: f64 = e.iter().sum();
        let hard = [0.5, 0.0, 0.0, 0.5];
        std::array::from_fn(|i| alpha * e[i] / sum + (1.0 - alpha) * hard[i])
    }

    #[test]
    fn without_distillation_the_texts_of_an_image_share_the_target() {
        assert_eq!(row(0.0, 0.5), [0.5, 0.0, 0.0, 0.5]);
    }

    #[test]
    fn targets_are_the_teachers_as_far_as_alpha_says() {
        for alpha in [0.0, 0.25, 0.4, 1.0] {
            for temperature in [0.07, 0.5, 2.0] {
                close(&row(alpha as f32, temperature as f32), plain(alpha, temperature));
            }
        }
    }

    #[test]
    fn a_queue_of_unknown_images_matches_nothing() {
        assert_eq!(positives(&[5, 6], &[UNKNOWN, UNKNOWN]), [[0], [1]]);
        assert_eq!(positives(&[5, 6, 5], &[6]), [vec![0, 2], vec![1, 3], vec![0, 2]]);
    }
}
