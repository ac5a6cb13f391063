//! What a held-out evaluation found, pair by pair, and the figures that follow from it.
//!
//! A *query* (a text, or an image) orders all candidates of the other kind by score; its *rank* is the place of its true
//! partner, 0 being best; of its best one, where an image has several texts. Equal scores are ordered by the candidates'
//! numbers, so a model that tells nothing apart gets the recall of chance. Re-ranking (BLIP, section 4.1) gives the best
//! candidates of the contrastive similarity new scores; everything behind them keeps its place.

use crate::metrics::{bleu_4, recall};
use crate::text::words;
use medley_protocol::tasks::{Evaluation, Recall};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::HashMap;

/// Ranks of one query's true partner; 0 is best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranks {
    /// By contrastive similarity alone.
    pub itc: u32,
    /// With the best of those re-ranked by the matching head.
    pub itm: u32,
}

/// What was found for one pair of the held-out set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// File of the sample's shard.
    pub shard: String,
    /// Its key there.
    pub key: String,
    /// Identity of its image, shared by all rows of the image. None in details from before images had several texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<u64>,
    /// Its text.
    pub text: String,
    /// The model's greedy caption of its image.
    pub caption: String,
    /// The caption's log-probability.
    pub log_probability: f32,
    /// Where its image stands for its text.
    pub text_to_image: Ranks,
    /// Where its text stands for its image.
    pub image_to_text: Ranks,
}

/// Everything the figures are computed from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Details {
    /// One row per pair, in the order of the dataset version.
    pub rows: Vec<Row>,
}

impl Details {
    /// The figures, with bootstrap intervals of so many resamples.
    pub fn figures(&self, resamples: u32, seed: u64) -> Evaluation {
        let images = self.by_image();
        let of_texts = |rank: fn(&Row) -> u32| -> Recall {
            let ranks: Vec<usize> = self.rows.iter().map(|row| rank(row) as usize).collect();
            recall(&ranks, resamples, seed)
        };
        // Any of its texts answers an image: the best one counts.
        let of_images = |rank: fn(&Row) -> u32| -> Recall {
            let best = images.iter().filter_map(|rows| rows.iter().map(|row| rank(row)).min());
            let ranks: Vec<usize> = best.map(|rank| rank as usize).collect();
            recall(&ranks, resamples, seed)
        };
        // Both sides are split as the tokenizer does, since a caption's pieces are joined by blanks.
        let split = |text: &str| words(text).join(" ");
        let caption = |rows: &Vec<&Row>| {
            let references = rows.iter().map(|row| split(&row.text));
            (split(&rows[0].caption), references.collect())
        };
        Evaluation {
            pairs: self.rows.len() as u64,
            text_to_image_itc: of_texts(|row| row.text_to_image.itc),
            image_to_text_itc: of_images(|row| row.image_to_text.itc),
            text_to_image_itm: of_texts(|row| row.text_to_image.itm),
            image_to_text_itm: of_images(|row| row.image_to_text.itm),
            bleu_4: bleu_4(&images.iter().map(caption).collect::<Vec<_>>()),
        }
    }

    /// The rows of each image, at least one, in the order of their first rows.
    fn by_image(&self) -> Vec<Vec<&Row>> {
        let mut groups: Vec<Vec<&Row>> = Vec::new();
        let mut places: HashMap<u64, usize> = HashMap::new();
        for row in &self.rows {
            let place = row
                .image
                .map_or(groups.len(), |image| *places.entry(image).or_insert(groups.len()));
            match groups.get_mut(place) {
                Some(group) => group.push(row),
                None => groups.push(vec![row]),
            }
        }
        groups
    }
}

/// The place of candidate `truth` by falling score.
pub fn rank_of(truth: usize, scores: &[f32]) -> u32 {
    let own = scores[truth];
    let ahead = |(i, score): &(usize, &f32)| match score.total_cmp(&own) {
        Ordering::Greater => true,
        Ordering::Equal => *i < truth,
        Ordering::Less => false,
    };
    scores.iter().enumerate().filter(ahead).count() as u32
}

/// The `k` best candidates by falling score.
pub fn best(k: usize, scores: &[f32]) -> Vec<u32> {
    let mut ranked: Vec<u32> = (0..scores.len() as u32).collect();
    let order = |a: &u32, b: &u32| {
        let (left, right) = (scores[*a as usize], scores[*b as usize]);
        right.total_cmp(&left).then(a.cmp(b))
    };
    if k < ranked.len() {
        ranked.select_nth_unstable_by(k, order);
        ranked.truncate(k);
    }
    ranked.sort_unstable_by(order);
    ranked
}

/// The place of `truth` once the best candidates, `retained`, have the scores `rescored`; it was at `before`.
pub fn rank_after(truth: u32, before: u32, retained: &[u32], rescored: &[f32]) -> u32 {
    match retained.iter().position(|candidate| *candidate == truth) {
        Some(at) => rank_of(at, rescored),
        None => before,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_model_that_tells_nothing_apart_has_the_ranks_of_chance() {
        let ranks: Vec<u32> = (0..4).map(|truth| rank_of(truth, &[0.5; 4])).collect();
        assert_eq!(ranks, [0, 1, 2, 3]);
    }

    #[test]
    fn re_ranking_moves_only_what_it_retains() {
        let scores = [0.9, 0.8, 0.7, 0.1];
        let retained = best(3, &scores);
        assert_eq!(retained, [0, 1, 2]);
        let rescored = [0.0, 1.0, 2.0];
        let after = |truth| rank_after(truth, rank_of(truth as usize, &scores), &retained, &rescored);
        assert_eq!([after(0), after(1), after(2), after(3)], [2, 1, 0, 3]);
    }

    proptest! {
        #[test]
        fn the_best_are_those_with_the_lowest_ranks(scores in proptest::collection::vec(-3i8..3, 1..40), k in 0usize..50) {
            let scores: Vec<f32> = scores.into_iter().map(f32::from).collect();
            let ranked = best(k, &scores);
            prop_assert_eq!(ranked.len(), k.min(scores.len()));
            for (place, candidate) in ranked.into_iter().enumerate() {
                prop_assert_eq!(rank_of(candidate as usize, &scores), place as u32);
            }
        }
    }

    #[test]
    fn figures_follow_from_the_rows() {
        let row = |rank, caption: &str| Row {
            shard: "s.tar".into(),
            key: "0".into(),
            image: None,
            text: "it's a small red ring".into(),
            caption: caption.into(),
            log_probability: -1.0,
            text_to_image: Ranks { itc: rank, itm: 0 },
            image_to_text: Ranks { itc: 20, itm: rank },
        };
        let caption = "it ' s a small red ring";
        let details = Details {
            rows: vec![row(0, caption), row(4, caption), row(7, caption), row(30, caption)],
        };
        let figures = details.figures(100, 1);
        assert_eq!(figures.pairs, 4);
        let t2i = figures.text_to_image_itc;
        assert_eq!((t2i.at_1.value, t2i.at_5.value, t2i.at_10.value), (0.25, 0.5, 0.75));
        assert_eq!(figures.image_to_text_itc.at_10.value, 0.0);
        assert_eq!(figures.text_to_image_itm.at_1.value, 1.0);
        assert_eq!(figures.image_to_text_itm.at_5.value, 0.5);
        assert!(
            (figures.bleu_4 - 1.0).abs() < 1e-12,
            "splitting punctuation costs nothing"
        );
    }

    #[test]
    fn an_image_with_several_texts_is_one_query_answered_by_any_of_them() {
        let row = |image, text: &str, rank| Row {
            shard: "s.tar".into(),
            key: "0".into(),
            image: Some(image),
            text: text.into(),
            caption: "a small red ring".into(),
            log_probability: -1.0,
            text_to_image: Ranks { itc: rank, itm: rank },
            image_to_text: Ranks { itc: rank, itm: rank },
        };
        let details = Details {
            rows: vec![
                row(7, "nothing like it", 3),
                row(8, "a small red ring", 9),
                row(7, "a small red ring", 0),
            ],
        };
        let figures = details.figures(100, 1);
        assert_eq!(figures.pairs, 3);
        assert!((figures.text_to_image_itc.at_1.value - 1.0 / 3.0).abs() < 1e-12);
        for of_images in [figures.image_to_text_itc, figures.image_to_text_itm] {
            assert_eq!(
                (of_images.at_1.value, of_images.at_5.value, of_images.at_10.value),
                (0.5, 0.5, 1.0)
            );
        }
        assert!((figures.bleu_4 - 1.0).abs() < 1e-12);
    }
}
