//! Learning rate and alpha: pure functions of the committed step.

use libm::{cos, pow};
use medley_protocol::spec::{Decay, Length, TrainSpec};

/// The course of a training stage over a dataset version.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// The stage's settings.
    pub train: TrainSpec,
    /// Steps of one epoch.
    pub steps_per_epoch: u64,
}

impl Schedule {
    /// A schedule for a dataset version of `samples` samples and steps of `global_batch`; none if not even one step fits.
    pub fn new(train: &TrainSpec, samples: u64, global_batch: u64) -> Option<Self> {
        let steps_per_epoch = samples / global_batch;
        (steps_per_epoch > 0).then(|| Self {
            train: train.clone(),
            steps_per_epoch,
        })
    }

    /// Steps in all.
    pub fn total_steps(&self) -> u64 {
        match self.train.length {
            Length::Epochs { count } => count * self.steps_per_epoch,
            Length::Steps { count } => count,
        }
    }

    /// Epoch of a step.
    pub fn epoch(&self, step: u64) -> u64 {
        step / self.steps_per_epoch
    }

    /// Epochs in all, the last of which may be cut short.
    pub fn total_epochs(&self) -> u64 {
        self.total_steps().div_ceil(self.steps_per_epoch)
    }

    /// Learning rate of a step: linear warm-up over the first steps, then the decay.
    pub fn lr(&self, step: u64) -> f64 {
        let t = &self.train;
        if step < t.warmup_steps {
            let share = step as f64 / t.warmup_steps as f64;
            return (t.warmup_lr + (t.peak_lr - t.warmup_lr) * share).min(t.peak_lr);
        }
        match t.decay {
            Decay::Epoch { factor } => (t.peak_lr * pow(factor, self.epoch(step) as f64)).max(t.min_lr),
            Decay::CosineEpoch => self.cosine(self.epoch(step) as f64 / self.total_epochs() as f64),
            Decay::CosineStep => {
                let (done, all) = (step - t.warmup_steps, self.total_steps() - t.warmup_steps);
                self.cosine(done as f64 / all as f64)
            }
        }
    }

    fn cosine(&self, share: f64) -> f64 {
        let t = &self.train;
        t.min_lr + 0.5 * (t.peak_lr - t.min_lr) * (1.0 + cos(std::f64::consts::PI * share))
    }

    /// Weight of the momentum targets in a step: rises linearly from 0 over the first epochs.
    pub fn alpha(&self, step: u64) -> f64 {
        let ramp = self.train.alpha_ramp_epochs * self.steps_per_epoch as f64;
        if ramp <= 0.0 {
            self.train.alpha
        } else {
            self.train.alpha * (step as f64 / ramp).min(1.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use medley_protocol::spec::Spec;

    fn schedule(preset: &str, samples: u64) -> Schedule {
        let document = serde_json::json!({"name": "t", "kind": "bootstrap", "preset": preset, "data": {"root": "/d"}});
        let spec = Spec::from_document(&document).unwrap();
        Schedule::new(&spec.pretrain, samples, spec.global_batch()).unwrap()
    }

    #[test]
    fn the_papers_rate_warms_up_and_falls_by_epochs() {
        let s = schedule("vit-b", 14_400_000);
        assert_eq!(s.steps_per_epoch, 5000);
        assert_eq!(s.total_steps(), 100_000);
        assert!((s.lr(0) - 1e-6).abs() < 1e-18);
        assert!((s.lr(1500) - (1e-6 + (3e-4 - 1e-6) * 0.5)).abs() < 1e-15);
        assert!((s.lr(3000) - 3e-4).abs() < 1e-15);
        assert!((s.lr(10_000) - 3e-4 * 0.85 * 0.85).abs() < 1e-15);
        assert!((s.lr(99_999) - 3e-4 * 0.85f64.powi(19)).abs() < 1e-15);
    }

    #[test]
    fn alpha_rises_over_two_epochs() {
        let s = schedule("vit-b", 14_400_000);
        assert_eq!(s.alpha(0), 0.0);
        assert!((s.alpha(5000) - 0.2).abs() < 1e-15);
        assert_eq!(s.alpha(10_000), 0.4);
        assert_eq!(s.alpha(50_000), 0.4);
    }

    #[test]
    fn a_dataset_smaller_than_a_step_has_no_schedule() {
        let s = schedule("tiny", 6500);
        assert!(Schedule::new(&s.train, 31, 32).is_none());
    }

    #[test]
    fn cosine_per_step_ends_at_the_minimum() {
        let s = schedule("tiny", 6500);
        assert!(s.lr(s.total_steps() - 1) < 1e-5 * s.train.peak_lr * 10.0);
        assert!((s.lr(s.train.warmup_steps) - s.train.peak_lr).abs() < 1e-15);
    }
}
