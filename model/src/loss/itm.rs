//! Image-text matching with hard negatives drawn from the contrastive logits (BLIP, section 3.2).
//!
//! Pre-training draws by the logits of the student's queries and the momentum encoders' keys; fine-tuning for retrieval draws
//! by the similarities of the student's own features, from the lane or from all lanes. No gradient goes through a draw.

use crate::ops::cross_entropy::softmax_row;
use crate::ops::gemm::{Mat, Start, gemm};
use crate::random::Stream;
use crate::tape::{Tape, Var};
use crate::text::{Grounding, Packed};
use crate::vision::Pair;
use std::rc::Rc;

/// What pre-training adds to every probability.
pub const FLOOR: f32 = 1e-4;

/// Which images and texts serve as negatives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negatives {
    /// For each text, an image that is not its own.
    pub image_of_text: Vec<u32>,
    /// For each image, a text that is not its own.
    pub text_of_image: Vec<u32>,
}

/// How negatives are drawn.
#[derive(Debug, Clone, Copy)]
pub struct Draw<'a> {
    /// Identities of the candidates' images: none of a sample's own identity is drawn for it.
    pub identities: &'a [u64],
    /// Which candidate the lane's first sample is; its others follow.
    pub first: usize,
    /// Added to every probability, so that an easy negative can still be drawn.
    pub floor: f32,
    /// Where the random numbers come from.
    pub stream: Stream,
}

impl Draw<'_> {
    /// One negative of each kind for each of the lane's b samples, with probability `softmax(logits over the n candidates) +
    /// floor`. Where every candidate has the sample's identity, any but the sample itself serves.
    ///
    /// # Shapes
    /// both logits: b × (n or more), the first n columns used
    pub fn negatives(&self, image_to_text: &[f32], text_to_image: &[f32], b: usize) -> Negatives {
        let kind = |logits: &[f32], kind: u32| -> Vec<u32> {
            let rows = logits.chunks_exact(logits.len() / b).enumerate();
            let rows = rows.map(|(i, row)| {
                let u = self.stream.uniform([i as u32, kind, 0, 0]);
                self.one(&row[..self.identities.len()], self.first + i, u)
            });
            rows.collect()
        };
        Negatives {
            image_of_text: kind(text_to_image, 0),
            text_of_image: kind(image_to_text, 1),
        }
    }

    /// Inverts the cumulated weights of a row at `u`; sums run in order of the columns.
    fn one(&self, row: &[f32], own: usize, u: f32) -> u32 {
        let differs = |j: usize| self.identities[j] != self.identities[own];
        let alone = !(0..row.len()).any(differs);
        let allowed = |j: usize| differs(j) || (alone && j != own);
        let mut weights = row.to_vec();
        if self.floor == 0.0 {
            // The same distribution, and no danger that all that is left underflows.
            let masked = weights.iter_mut().enumerate().filter(|(j, _)| !allowed(*j));
            masked.for_each(|(_, w)| *w = f32::NEG_INFINITY);
        }
        softmax_row(&mut weights);
        let weights = weights.iter().enumerate().filter(|(j, _)| allowed(*j));
        let weights: Vec<(usize, f32)> = weights.map(|(j, w)| (j, w + self.floor)).collect();
        let total: f32 = weights.iter().fold(0.0, |sum, (_, w)| sum + w);
        let mut left = u * total;
        let mut last = own;
        for (j, w) in weights {
            last = j;
            if left < w {
                break;
            }
            left -= w;
        }
        // Rounding may leave a rest after the last weight.
        last as u32
    }
}

/// Logits by which a lane's samples draw among candidates: `queries·candidatesᵀ / t`.
///
/// # Shapes
/// queries: b × width; candidates: n × width → b × n
pub fn logits(queries: &[f32], candidates: &[f32], width: usize, temperature: f32) -> Vec<f32> {
    let n = candidates.len() / width;
    let mut logits = vec![0.0; queries.len() / width * n];
    let (left, right) = (Mat::new(queries, width), Mat::new(candidates, width).t());
    gemm(left, right, &mut logits, Start::Zero);
    logits.iter_mut().for_each(|v| *v /= temperature);
    logits
}

/// Negatives of a lane that were drawn among the samples of all lanes, seen from the lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seated {
    /// The negatives: below b the lane's own samples, from b on the guests.
    pub negatives: Negatives,
    /// Candidates whose images are guests, each once.
    pub images: Vec<u32>,
    /// Candidates whose texts are guests, each once.
    pub texts: Vec<u32>,
}

impl Negatives {
    /// These negatives, numbers of candidates, as a lane sees them whose b samples are the candidates from `first` on.
    pub fn seat(&self, first: u32, b: u32) -> Seated {
        let (image_of_text, images) = seat(&self.image_of_text, first, b);
        let (text_of_image, texts) = seat(&self.text_of_image, first, b);
        let negatives = Self {
            image_of_text,
            text_of_image,
        };
        Seated {
            negatives,
            images,
            texts,
        }
    }
}

fn seat(drawn: &[u32], first: u32, b: u32) -> (Vec<u32>, Vec<u32>) {
    let own = first..first + b;
    let mut guests = Vec::new();
    let mut seat_of = |candidate: u32| {
        if own.contains(&candidate) {
            return candidate - first;
        }
        let seat = guests.iter().position(|guest| *guest == candidate).unwrap_or_else(|| {
            guests.push(candidate);
            guests.len() - 1
        });
        b + seat as u32
    };
    let seated = drawn.iter().map(|candidate| seat_of(*candidate)).collect();
    (seated, guests)
}

/// The 3b matching sequences of a lane: (text, image), (text, negative image), (negative text, image).
pub fn sequences(texts: &[Vec<u32>], negatives: &Negatives, first: u32, tokens: usize) -> (Packed, Grounding) {
    let b = negatives.image_of_text.len() as u32;
    let mut packed = Packed::new();
    let mut image_of = Vec::with_capacity(3 * b as usize);
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

    fn draw(identities: &[u64], floor: f32, step: u64) -> Draw<'_> {
        Draw {
            identities,
            first: 0,
            floor,
            stream: Stream::new(1, Purpose::Negatives).at(step),
        }
    }

    #[test]
    fn a_sample_is_never_its_own_negative() {
        let b = 5;
        let logits: Vec<f32> = (0..b * 9)
            .map(|i| if i / 9 == i % 9 { 50.0 } else { (i % 7) as f32 })
            .collect();
        for (step, floor) in (0..200).flat_map(|step| [(step, 0.0), (step, 1e-4)]) {
            let drawn = draw(&[1, 2, 3, 4, 5], floor, step).negatives(&logits, &logits, b);
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
    fn no_sample_of_the_same_image_is_drawn_however_alike() {
        let logits = [9.0, 9.0, -9.0, 9.0].repeat(4);
        for (step, floor) in (0..200).flat_map(|step| [(step, 0.0), (step, 1e-4)]) {
            let drawn = draw(&[7, 7, 8, 7], floor, step).negatives(&logits, &logits, 4);
            assert_eq!(
                [drawn.image_of_text[0], drawn.image_of_text[1], drawn.text_of_image[3]],
                [2; 3]
            );
        }
    }

    #[test]
    fn a_lane_of_one_image_draws_other_samples_of_it() {
        let logits = [100.0, 0.0, 0.0].repeat(3);
        for step in 0..50 {
            let drawn = draw(&[7, 7, 7], 0.0, step).negatives(&logits, &logits, 3);
            assert!((0..3).all(|i| drawn.image_of_text[i] != i as u32));
        }
    }

    #[test]
    fn without_a_floor_only_the_logits_of_candidates_count() {
        // The own logit is so large that all others underflow beside it.
        let logits = [1000.0, 0.0, 3.0, 0.0];
        let identities = [1, 2, 3, 4];
        let rule = draw(&identities, 0.0, 0);
        let stream = Stream::new(2, Purpose::Negatives);
        let hits = (0..4000)
            .filter(|&i| rule.one(&logits, 0, stream.uniform([i, 0, 0, 0])) == 2)
            .count();
        // e³ / (e³ + 2) = 0.909
        assert!((3560..3720).contains(&hits), "{hits}");
    }

    #[test]
    fn hard_negatives_are_drawn_most_often() {
        let row = [0.0, 0.0, 3.0, 0.0];
        let identities = [1, 2, 3, 4];
        let rule = draw(&identities, 1e-4, 0);
        let stream = Stream::new(2, Purpose::Negatives);
        let hits = (0..4000)
            .filter(|&i| rule.one(&row, 0, stream.uniform([i, 0, 0, 0])) == 2)
            .count();
        // e³ / (e³ + 2) = 0.909, a little less with the floor.
        assert!((3560..3720).contains(&hits), "{hits}");
    }

    #[test]
    fn the_lane_draws_from_its_own_row_among_all_candidates() {
        // Candidates 2 and 3 are the lane's; 3 shows what 0 shows.
        let mut rule = draw(&[5, 6, 7, 5], 0.0, 0);
        rule.first = 2;
        let logits = [0.0, -200.0, 0.0, -200.0, 0.0, 0.0, -200.0, 0.0];
        let drawn = rule.negatives(&logits, &logits, 2);
        assert_eq!(drawn.image_of_text, [0, 1]);
    }

    #[test]
    fn guests_are_seated_once_after_the_lanes_own() {
        let drawn = Negatives {
            image_of_text: vec![9, 4, 9],
            text_of_image: vec![5, 0, 1],
        };
        let seated = drawn.seat(3, 3);
        assert_eq!(seated.negatives.image_of_text, [3, 1, 3]);
        assert_eq!(seated.negatives.text_of_image, [2, 3, 4]);
        assert_eq!((seated.images, seated.texts), (vec![9], vec![0, 1]));
    }
}
