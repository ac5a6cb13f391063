//! How well the models retrieve and caption the held-out set, and whether a difference is more than chance.

use super::captions::{CaptionQuality, is_exact, score};
use super::filtering::known;
use super::inputs::{Evaluated, Inputs};
use anyhow::{Result, anyhow};
use medley_data::evaluation::Row;
use medley_data::random::Key;
use medley_data::synth::{Scene, Truth};
use medley_protocol::tasks::{Evaluation, Interval};
use serde::Serialize;

/// One evaluated model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Model {
    /// What it was trained on.
    pub(crate) name: String,
    /// The stage that evaluated it.
    pub(crate) stage: String,
    /// Retrieval, with 95 % bootstrap intervals, and BLEU-4 of its captions.
    pub(crate) figures: Evaluation,
    /// Truth of its captions.
    pub(crate) captions: CaptionQuality,
}

/// What recall would be by guessing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[expect(clippy::struct_field_names, reason = "the names of the recalls it is compared with")]
pub(crate) struct Chance {
    /// Recall@1.
    pub(crate) at_1: f64,
    /// Recall@5.
    pub(crate) at_5: f64,
    /// Recall@10.
    pub(crate) at_10: f64,
}

impl Chance {
    /// Among so many candidates.
    pub(crate) fn among(candidates: u64) -> Self {
        let at = |k: f64| (k / candidates.max(1) as f64).min(1.0);
        Self {
            at_1: at(1.0),
            at_5: at(5.0),
            at_10: at(10.0),
        }
    }
}

/// The last model against the first, on the same pairs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Difference {
    /// What is compared.
    pub(crate) measure: String,
    /// The first model's figure.
    pub(crate) raw: f64,
    /// The last model's figure.
    pub(crate) bootstrapped: f64,
    /// Bootstrapped − raw, with the 95 % interval of a paired bootstrap over the pairs.
    pub(crate) gain: Interval,
    /// What may be said.
    pub(crate) verdict: Verdict,
}

/// What a difference allows to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    /// The interval lies above 0.
    Better,
    /// The interval holds 0.
    NoClearDifference,
    /// The interval lies below 0.
    Worse,
}

impl Verdict {
    fn of(gain: &Interval) -> Self {
        if gain.low > 0.0 {
            Self::Better
        } else if gain.high < 0.0 {
            Self::Worse
        } else {
            Self::NoClearDifference
        }
    }

    /// For people.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::NoClearDifference => "no clear difference",
            Self::Worse => "worse",
        }
    }
}

/// All evaluated models, in order.
///
/// # Errors
/// Names a pair that the truth does not know.
pub(super) fn models(inputs: &Inputs) -> Result<Vec<Model>> {
    let last = inputs.evaluations.len().saturating_sub(1);
    let evaluated = inputs.evaluations.iter().enumerate();
    let models = evaluated.map(|(i, evaluation)| {
        let scenes = scenes(evaluation, &inputs.test)?;
        let captions = evaluation.details.rows.iter().map(|row| row.caption.as_str());
        Ok(Model {
            name: match i {
                0 => "raw".into(),
                i if i == last => "bootstrapped".into(),
                i => format!("after round {i}"),
            },
            stage: evaluation.stage.clone(),
            figures: evaluation.figures.clone(),
            captions: score(captions.zip(scenes)),
        })
    });
    models.collect()
}

fn scenes<'a>(evaluation: &Evaluated, test: &'a [Truth]) -> Result<Vec<&'a Scene>> {
    let known = known(test);
    let rows = evaluation.details.rows.iter();
    rows.map(|row| {
        let truth = known.get(&(row.shard.as_str(), row.key.as_str()));
        truth
            .map(|truth| &truth.scene)
            .ok_or_else(|| anyhow!("no truth is known about {} in {}", row.key, row.shard))
    })
    .collect()
}

type Measure = (&'static str, fn(&Row, Scene) -> bool);

const MEASURES: [Measure; 5] = [
    ("text to image R@1, ITC", |row, _| row.text_to_image.itc == 0),
    ("image to text R@1, ITC", |row, _| row.image_to_text.itc == 0),
    ("text to image R@1, re-ranked", |row, _| row.text_to_image.itm == 0),
    ("image to text R@1, re-ranked", |row, _| row.image_to_text.itm == 0),
    ("exact captions", |row, scene| is_exact(&row.caption, scene)),
];

/// Compares the last evaluated model with the first; empty if there are not two.
///
/// # Errors
/// When they were not evaluated on the same pairs.
pub(super) fn differences(inputs: &Inputs) -> Result<Vec<Difference>> {
    let [first, .., last] = &inputs.evaluations[..] else {
        return Ok(Vec::new());
    };
    let place = |row: &Row| (row.shard.clone(), row.key.clone());
    if !first
        .details
        .rows
        .iter()
        .map(place)
        .eq(last.details.rows.iter().map(place))
    {
        return Err(anyhow!(
            "{} and {} were not evaluated on the same pairs",
            first.stage,
            last.stage
        ));
    }
    let scenes = scenes(first, &inputs.test)?;
    let (resamples, seed) = (inputs.job.spec.evaluate.resamples, inputs.job.spec.seed);
    let compare = |(number, (measure, hit)): (usize, &Measure)| {
        let hits = |of: &Evaluated| -> Vec<f64> {
            let rows = of.details.rows.iter().zip(&scenes);
            rows.map(|(row, scene)| f64::from(u8::from(hit(row, **scene))))
                .collect()
        };
        let key = Key::new(seed).at(number as u64);
        difference(measure, &hits(first), &hits(last), resamples, key)
    };
    Ok(MEASURES.iter().enumerate().map(compare).collect())
}

fn difference(measure: &str, raw: &[f64], bootstrapped: &[f64], resamples: u32, key: Key) -> Difference {
    let each: Vec<f64> = bootstrapped.iter().zip(raw).map(|(b, a)| b - a).collect();
    let gain = bootstrap(&each, resamples, key);
    Difference {
        measure: measure.into(),
        raw: mean(raw.iter().copied(), raw.len()),
        bootstrapped: mean(bootstrapped.iter().copied(), bootstrapped.len()),
        verdict: Verdict::of(&gain),
        gain,
    }
}

fn mean(values: impl Iterator<Item = f64>, count: usize) -> f64 {
    values.sum::<f64>() / count.max(1) as f64
}

/// The mean with its 95 % percentile bootstrap interval.
fn bootstrap(values: &[f64], resamples: u32, key: Key) -> Interval {
    let n = values.len();
    let value = mean(values.iter().copied(), n);
    if n == 0 || resamples == 0 {
        return Interval {
            value,
            low: value,
            high: value,
        };
    }
    let resample = |r: u32| {
        let key = key.at(u64::from(r));
        mean((0..n).map(|i| values[key.below(i as u64, n)]), n)
    };
    let mut means: Vec<f64> = (0..resamples).map(resample).collect();
    means.sort_by(f64::total_cmp);
    let quantile = |q: f64| means[(q * (means.len() - 1) as f64).round() as usize];
    Interval {
        value,
        low: quantile(0.025),
        high: quantile(0.975),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(raw: &[f64], bootstrapped: &[f64]) -> Difference {
        difference("m", raw, bootstrapped, 500, Key::new(1))
    }

    #[test]
    fn a_large_difference_is_better_and_its_mirror_image_is_worse() {
        let (low, high) = ([0.0; 100], [1.0; 100]);
        let mixed: Vec<f64> = (0..100).map(|i| f64::from(u8::from(i % 3 == 0))).collect();
        assert_eq!(compare(&low, &mixed).verdict, Verdict::Better);
        assert_eq!(compare(&high, &mixed).verdict, Verdict::Worse);
    }

    #[test]
    fn a_difference_within_the_noise_is_not_called_better() {
        let mut almost = [0.0; 100];
        let mut other = [0.0; 100];
        (almost[3], other[4], other[5]) = (1.0, 1.0, 1.0);
        let found = compare(&almost, &other);
        assert!((found.gain.value - 0.01).abs() < 1e-12);
        assert_eq!(found.verdict, Verdict::NoClearDifference);
    }

    #[test]
    fn chance_is_one_in_so_many() {
        let chance = Chance::among(500);
        assert_eq!((chance.at_1, chance.at_5, chance.at_10), (0.002, 0.01, 0.02));
        assert_eq!(Chance::among(4).at_10, 1.0);
    }
}
