//! How long a training stage is, once the dataset version that it reads is known.

use medley_protocol::spec::{Length, Spec, TrainSpec};
use medley_protocol::stage::StageKind;
use medley_protocol::tasks::Counts;

/// Most epochs of a stage: each is a row of the job table.
pub const MAX_EPOCHS: u64 = 10_000;

/// The steps of a training stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Course {
    /// Steps in all.
    pub total_steps: u64,
    /// Steps of one pass over the dataset version.
    pub steps_per_epoch: u64,
}

/// A pass over the dataset version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epoch {
    /// Number, from 0.
    pub epoch: u64,
    /// First step.
    pub first_step: u64,
    /// Number of steps.
    pub steps: u64,
}

impl Course {
    /// The course of a training stage over a dataset version with these counts.
    ///
    /// # Errors
    /// Why the stage cannot be run, for people.
    pub fn new(kind: StageKind, spec: &Spec, counts: &Counts) -> Result<Self, String> {
        let (count_name, section, train) = source(kind, spec);
        let pairs = counts.get(count_name).copied().unwrap_or(0);
        let batch = spec.global_batch();
        let steps_per_epoch = pairs / batch;
        if steps_per_epoch == 0 {
            return Err(format!(
                "the dataset version has {pairs} pairs ({count_name}), fewer than the {batch} of one step; add data, \
                 or make lanes.count × lanes.batch smaller"
            ));
        }
        let total_steps = match train.length {
            Length::Epochs { count } => count.saturating_mul(steps_per_epoch),
            Length::Steps { count } => count,
        };
        let course = Self {
            total_steps,
            steps_per_epoch,
        };
        if course.num_epochs() > MAX_EPOCHS {
            return Err(format!(
                "{section}.length makes {} epochs of {steps_per_epoch} steps, at most {MAX_EPOCHS} are possible; make it \
                 shorter, or add data",
                course.num_epochs()
            ));
        }
        Ok(course)
    }

    /// Epochs in all; the last may be cut short.
    pub fn num_epochs(&self) -> u64 {
        self.total_steps.div_ceil(self.steps_per_epoch)
    }

    /// The epochs in order.
    pub fn epochs(&self) -> impl Iterator<Item = Epoch> + use<> {
        let Self {
            total_steps,
            steps_per_epoch,
        } = *self;
        (0..self.num_epochs()).map(move |epoch| {
            let first_step = epoch * steps_per_epoch;
            Epoch {
                epoch,
                first_step,
                steps: steps_per_epoch.min(total_steps - first_step),
            }
        })
    }
}

/// Which pairs a stage draws from, and where its length is written.
fn source(kind: StageKind, spec: &Spec) -> (&'static str, &'static str, &TrainSpec) {
    match kind {
        StageKind::Captioner => ("pairs.human", "captioner", &spec.captioner),
        StageKind::Filter => ("pairs.human", "filter", &spec.filter),
        _ => ("pairs", "pretrain", &spec.pretrain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(length: &serde_json::Value) -> Spec {
        let mut document = json!({"name": "j", "kind": "bootstrap", "preset": "nano", "data": {"root": "/d"}});
        document["pretrain"] = json!({"length": length, "warmup_steps": 0});
        document["captioner"] = json!({"length": {"by": "epochs", "count": 2}, "warmup_steps": 0});
        Spec::from_document(&document).unwrap()
    }

    fn counts(pairs: u64, human: u64) -> Counts {
        [("pairs".to_owned(), pairs), ("pairs.human".to_owned(), human)].into()
    }

    #[test]
    fn epochs_of_a_length_in_steps_end_with_a_short_one() {
        let spec = spec(&json!({"by": "steps", "count": 10}));
        let course = Course::new(StageKind::Pretrain, &spec, &counts(64 + 3, 16)).unwrap();
        let steps: Vec<u64> = course.epochs().map(|e| e.steps).collect();
        assert_eq!(steps, [4, 4, 2]);
        assert_eq!(course.epochs().last().unwrap().first_step, 8);
    }

    #[test]
    fn fine_tuning_counts_the_human_pairs_alone() {
        let spec = spec(&json!({"by": "epochs", "count": 3}));
        let of = |kind| Course::new(kind, &spec, &counts(160, 48)).unwrap().total_steps;
        assert_eq!((of(StageKind::Pretrain), of(StageKind::Captioner)), (30, 6));
    }

    #[test]
    fn too_little_data_is_said_with_the_numbers() {
        let spec = spec(&json!({"by": "epochs", "count": 3}));
        let refusal = Course::new(StageKind::Pretrain, &spec, &counts(15, 0)).unwrap_err();
        assert!(
            refusal.contains("15 pairs") && refusal.contains("16 of one step"),
            "{refusal}"
        );
    }

    #[test]
    fn more_epochs_than_rows_are_sensible_are_refused() {
        let spec = spec(&json!({"by": "epochs", "count": 10_001}));
        let refusal = Course::new(StageKind::Pretrain, &spec, &counts(16, 0)).unwrap_err();
        assert!(refusal.contains("pretrain.length"), "{refusal}");
    }
}
