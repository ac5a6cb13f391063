//! Scores of retrieval and captions.

use crate::random::Key;
use medley_protocol::tasks::{Interval, Recall};
use std::collections::HashMap;

/// Recall@1, 5 and 10 from the rank (0 is best) of the right answer of each query, with 95 % bootstrap intervals.
pub fn recall(ranks: &[usize], resamples: u32, seed: u64) -> Recall {
    let at = |k: usize| {
        let hits: Vec<f64> = ranks.iter().map(|&r| f64::from(u8::from(r < k))).collect();
        bootstrap(&hits, resamples, Key::new(seed).at(k as u64))
    };
    Recall {
        at_1: at(1),
        at_5: at(5),
        at_10: at(10),
    }
}

/// The mean with its percentile bootstrap interval.
fn bootstrap(values: &[f64], resamples: u32, key: Key) -> Interval {
    let mean = |sum: f64| {
        if values.is_empty() {
            0.0
        } else {
            sum / values.len() as f64
        }
    };
    let mut means: Vec<f64> = (0..u64::from(resamples))
        .map(|r| {
            mean(
                (0..values.len())
                    .map(|i| values[key.at(r).below(i as u64, values.len())])
                    .sum(),
            )
        })
        .collect();
    means.sort_by(f64::total_cmp);
    let value = mean(values.iter().sum());
    let quantile = |q: f64| {
        means
            .get((q * (means.len().max(1) - 1) as f64).round() as usize)
            .copied()
            .unwrap_or(value)
    };
    Interval {
        value,
        low: quantile(0.025),
        high: quantile(0.975),
    }
}

/// Corpus BLEU-4 of candidates, each against its references (Papineni et al., 2002): the geometric mean of clipped n-gram
/// precisions times the brevity penalty. An n-gram counts as often as in the reference that has most of it; the length that
/// counts is that of the reference nearest in length, the shorter of two.
pub fn bleu_4(pairs: &[(String, Vec<String>)]) -> f64 {
    let (mut hits, mut all) = ([0u64; 4], [0u64; 4]);
    let (mut candidate_length, mut reference_length) = (0u64, 0u64);
    for (candidate, references) in pairs {
        let candidate: Vec<&str> = candidate.split_whitespace().collect();
        let references: Vec<Vec<&str>> = references
            .iter()
            .map(|text| text.split_whitespace().collect())
            .collect();
        candidate_length += candidate.len() as u64;
        let lengths = references.iter().map(Vec::len);
        let nearest = lengths.min_by_key(|length| (length.abs_diff(candidate.len()), *length));
        reference_length += nearest.unwrap_or(0) as u64;
        for n in 1..=4 {
            let mut available: HashMap<&[&str], u64> = HashMap::new();
            for (gram, count) in references.iter().flat_map(|reference| ngrams(reference, n)) {
                let most = available.entry(gram).or_default();
                *most = count.max(*most);
            }
            for (gram, count) in ngrams(&candidate, n) {
                hits[n - 1] += count.min(available.get(&gram).copied().unwrap_or(0));
                all[n - 1] += count;
            }
        }
    }
    if hits.contains(&0) {
        return 0.0;
    }
    let log_precision: f64 = hits
        .iter()
        .zip(&all)
        .map(|(&h, &a)| libm::log(h as f64 / a as f64) / 4.0)
        .sum();
    let brevity = (1.0 - reference_length as f64 / candidate_length as f64).min(0.0);
    libm::exp(log_precision + brevity)
}

fn ngrams<'a>(words: &'a [&'a str], n: usize) -> HashMap<&'a [&'a str], u64> {
    let mut counts = HashMap::new();
    for gram in words.windows(n) {
        *counts.entry(gram).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(a: &str, b: &str) -> (String, Vec<String>) {
        (a.to_owned(), vec![b.to_owned()])
    }

    #[test]
    fn bleu_is_one_for_equal_texts_and_falls_with_brevity() {
        assert!((bleu_4(&[pair("a small red ring left", "a small red ring left")]) - 1.0).abs() < 1e-12);
        let short = bleu_4(&[pair("a small red ring", "a small red ring left")]);
        assert!((short - libm::exp(-0.25)).abs() < 1e-12);
        assert_eq!(bleu_4(&[pair("x y z w", "a b c d")]), 0.0);
    }

    #[test]
    fn bleu_clips_repeated_words() {
        let (candidate, reference) = ("the the the the cat sat on mats", "the cat sat on mats today at noon");
        let expected = (5.0f64 / 8.0 * 4.0 / 7.0 * 3.0 / 6.0 * 2.0 / 5.0).powf(0.25);
        assert!((bleu_4(&[pair(candidate, reference)]) - expected).abs() < 1e-12);
    }

    #[test]
    fn bleu_takes_from_each_reference_what_it_has() {
        let references = ["a red ring at the left side", "red ring left today", "ring"].map(str::to_owned);
        let found = bleu_4(&[("a red ring left today".to_owned(), references.to_vec())]);
        // All n-grams but "a red ring left" are in some reference; of the lengths 7, 4 and 1 the nearest to 5 is 4.
        assert!((found - 0.5f64.powf(0.25)).abs() < 1e-12, "{found}");
    }

    #[test]
    fn intervals_hold_the_figure() {
        let ranks: Vec<usize> = (0..200).map(|i| i % 20).collect();
        let recall = recall(&ranks, 500, 1);
        assert!((recall.at_1.value - 0.05).abs() < 1e-12 && (recall.at_10.value - 0.5).abs() < 1e-12);
        assert!(recall.at_5.low < 0.25 && recall.at_5.high > 0.25);
        assert!(recall.at_5.high - recall.at_5.low < 0.15);
    }
}
