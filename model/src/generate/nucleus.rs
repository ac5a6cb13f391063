//! Choosing the next token (Holtzman et al., "The curious case of neural text degeneration").

use crate::ops::cross_entropy::softmax_row;

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

/// Chooses a token from `logits`, given the tokens present, tokens that may not come now, and a uniform number.
///
/// The order is the reference's: penalty, bans, top-k, top-p (the token that crosses the threshold is kept), draw. Equal
/// logits rank by token id, so the choice is a function of its inputs.
pub fn choose(logits: &mut [f32], present: &[u32], banned: &[u32], sampling: &Sampling, u: f32) -> u32 {
    penalise(logits, present, sampling.repetition_penalty);
    for &token in banned {
        logits[token as usize] = f32::NEG_INFINITY;
    }
    let mut ranked: Vec<u32> = (0..logits.len() as u32).collect();
    ranked.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
    if sampling.top_p <= 0.0 {
        return ranked[0];
    }
    if sampling.top_k > 0 {
        ranked.truncate(sampling.top_k);
    }
    let mut probabilities: Vec<f32> = ranked.iter().map(|&token| logits[token as usize]).collect();
    softmax_row(&mut probabilities);
    let mut mass = 0.0;
    let kept = probabilities.iter().take_while(|&&p| {
        let before = mass;
        mass += p;
        before < sampling.top_p
    });
    let kept: Vec<f32> = kept.copied().collect();
    let mut left = u * kept.iter().fold(0.0, |a, b| a + b);
    for (&token, p) in ranked.iter().zip(&kept) {
        if left < *p {
            return token;
        }
        left -= p;
    }
    ranked[kept.len() - 1]
}

fn penalise(logits: &mut [f32], present: &[u32], penalty: f32) {
    if penalty == 1.0 {
        return;
    }
    let mut tokens = present.to_vec();
    tokens.sort_unstable();
    tokens.dedup();
    for token in tokens {
        let logit = &mut logits[token as usize];
        *logit = if *logit > 0.0 {
            *logit / penalty
        } else {
            *logit * penalty
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
            &[],
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
        assert_eq!(choose(&mut logits, &[], &[1], &GREEDY, 0.0), 0);
    }

    #[test]
    fn repetition_lowers_both_signs() {
        let mut logits = [2.0, -2.0, 1.9];
        let sampling = Sampling {
            repetition_penalty: 1.1,
            ..GREEDY
        };
        assert_eq!(choose(&mut logits, &[0, 1, 0], &[], &sampling, 0.0), 2);
        assert!((logits[1] + 2.2).abs() < 1e-6);
    }
}
