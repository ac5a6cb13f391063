//! Choosing the next token (Holtzman et al., "The curious case of neural text degeneration").

use crate::ops::cross_entropy::softmax_row;
use crate::ops::sum;

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Smallest set of likeliest tokens whose probabilities reach this; 0 takes the likeliest token always.
    pub top_p: f32,
    /// At most this many tokens; 0 for all.
    pub top_k: usize,
    /// Divides (multiplies, when negative) the logits of tokens already present.
    pub repetition_penalty: f32,
}

/// The likeliest token, always.
pub const GREEDY: Sampling = Sampling {
    top_p: 0.0,
    top_k: 0,
    repetition_penalty: 1.0,
};

/// Chooses the next token of a text as [`choose`] does; the second number is its log-probability, by the model before penalty and
/// cuts.
pub fn next(logits: &mut [f32], present: &[u32], banned: Option<u32>, sampling: &Sampling, u: f32) -> (u32, f32) {
    let log_probabilities = log_softmax(logits);
    let token = choose(logits, present, banned, sampling, u);
    (token, log_probabilities[token as usize])
}

/// Logarithms of the probabilities.
pub(super) fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let top = sum::max(logits);
    let mass = logits
        .iter()
        .fold(0.0f64, |mass, &l| mass + libm::exp(f64::from(l - top)));
    let log_mass = libm::log(mass) as f32;
    logits.iter().map(|l| l - top - log_mass).collect()
}

/// Chooses a token from `logits`, given the tokens present, a token that may not come now, and a uniform number.
pub fn choose(logits: &mut [f32], present: &[u32], banned: Option<u32>, sampling: &Sampling, u: f32) -> u32 {
    let kept = nucleus(logits, present, banned, sampling);
    let mut left = u * kept.iter().fold(0.0, |mass, (_, p)| mass + p);
    for &(token, p) in &kept {
        if left < p {
            return token;
        }
        left -= p;
    }
    kept[kept.len() - 1].0
}

/// The tokens that may be drawn, likeliest first, with their probabilities before the last cut.
///
/// The order is the reference's: penalty, ban, top-k, top-p (the token that crosses the threshold is kept). Equal logits rank
/// by token id, so the result is a function of the inputs.
pub fn nucleus(logits: &mut [f32], present: &[u32], banned: Option<u32>, sampling: &Sampling) -> Vec<(u32, f32)> {
    penalise(logits, present, sampling.repetition_penalty);
    if let Some(token) = banned {
        logits[token as usize] = f32::NEG_INFINITY;
    }
    let most = if sampling.top_p <= 0.0 { 1 } else { sampling.top_k };
    let ranked = likeliest(logits, if most == 0 { logits.len() } else { most });
    let mut probabilities: Vec<f32> = ranked.iter().map(|&token| logits[token as usize]).collect();
    softmax_row(&mut probabilities);
    let mut mass = 0.0;
    let kept = probabilities.iter().take_while(|&&p| {
        let before = mass;
        mass += p;
        before <= sampling.top_p
    });
    ranked.into_iter().zip(kept.copied()).collect()
}

/// The `k` highest entries, highest first; equal ones by index.
pub(super) fn likeliest(scores: &[f32], k: usize) -> Vec<u32> {
    let order = |&a: &u32, &b: &u32| scores[b as usize].total_cmp(&scores[a as usize]).then(a.cmp(&b));
    let mut ranked: Vec<u32> = (0..scores.len() as u32).collect();
    if k < ranked.len() {
        ranked.select_nth_unstable_by(k, order);
        ranked.truncate(k);
    }
    ranked.sort_unstable_by(order);
    ranked
}

/// Lowers the scores of tokens that are present, each once.
pub(super) fn penalise(scores: &mut [f32], present: &[u32], penalty: f32) {
    if penalty == 1.0 {
        return;
    }
    let mut tokens = present.to_vec();
    tokens.sort_unstable();
    tokens.dedup();
    for token in tokens {
        let score = &mut scores[token as usize];
        *score = if *score < 0.0 {
            *score * penalty
        } else {
            *score / penalty
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(top_p: f32, top_k: usize, u: f32) -> u32 {
        // Probabilities 0.5, 0.25, 0.125, 0.125.
        let mut logits = [0.25f32.ln(), 0.5f32.ln(), 0.125f32.ln(), 0.125f32.ln()];
        choose(
            &mut logits,
            &[],
            None,
            &Sampling {
                top_p,
                top_k,
                repetition_penalty: 1.0,
            },
            u,
        )
    }

    #[test]
    fn the_token_that_crosses_the_threshold_is_kept() {
        assert_eq!(chosen(0.6, 0, 0.999), 0);
        assert_eq!(chosen(0.6, 0, 0.6), 1);
        assert_eq!(chosen(0.4, 0, 0.999), 1);
    }

    #[test]
    fn top_k_cuts_first() {
        assert_eq!(chosen(1.0, 1, 0.999), 1);
        assert_eq!(chosen(1.0, 0, 0.999), 3);
    }

    #[test]
    fn a_banned_token_never_comes() {
        let mut logits = [1.0, 5.0];
        assert_eq!(choose(&mut logits, &[], Some(1), &GREEDY, 0.0), 0);
    }

    #[test]
    fn repetition_lowers_both_signs() {
        let mut logits = [2.0, -2.0, 1.9];
        let sampling = Sampling {
            repetition_penalty: 1.1,
            ..GREEDY
        };
        assert_eq!(choose(&mut logits, &[0, 1, 0], None, &sampling, 0.0), 2);
        assert!((logits[1] + 2.2).abs() < 1e-6);
    }
}
