//! The model that is trained here: one number that depends on every sample of every step, and on their order.
//!
//! A lane's contribution is a function of the state before the step, as a gradient is, so a rank whose state is another
//! one is found out at once. A state that is right after the last step proves that each step was committed once.

use super::objects::Objects;
use medley_data::random::Key;
use medley_protocol::agent::Assignment;
use medley_protocol::metrics::StepMetrics;

/// Size of the canonical state.
pub(super) const STATE_BYTES: u64 = 16;

/// Steps between two that compare the states of all ranks.
const COMPARED_EVERY: u64 = 6;

/// A state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Toy {
    /// Committed steps.
    pub(super) step: u64,
    sum: u64,
}

/// A number that stands for these bytes.
pub(super) fn number(bytes: &[u8]) -> u64 {
    let key = bytes.iter().fold(Key::new(7), |key, byte| key.at(u64::from(*byte)));
    key.word(bytes.len() as u64)
}

impl Toy {
    /// The first state of a stage that starts from `origin`.
    pub(super) fn fresh(origin: u64) -> Self {
        Self { step: 0, sum: origin }
    }

    /// The first state of a stage that is fine-tuned from this one.
    pub(super) fn tuned(self, stage: u64) -> Self {
        Self::fresh(Key::new(self.sum).word(stage))
    }

    /// What is compared before the next step, of `total`: nothing before most, as if it were another part of a larger state.
    pub(super) fn digest(self, total: u64) -> u64 {
        let is_compared = self.step.is_multiple_of(COMPARED_EVERY) || self.step + 1 == total;
        if is_compared { self.sum } else { 0 }
    }

    /// The state after a bit flipped.
    pub(super) fn flipped(self, bit: u32) -> Self {
        Self {
            sum: self.sum ^ (1 << bit),
            ..self
        }
    }

    /// What a lane contributes to the next step, reading the dataset version `data`.
    pub(super) fn lane(self, data: u64, lane: u32) -> u64 {
        Key::new(self.sum).at(data).at(self.step).word(u64::from(lane))
    }

    /// Commits the next step with the contributions of all lanes, in order.
    pub(super) fn commit(self, lanes: &[u64]) -> Self {
        let key = lanes
            .iter()
            .fold(Key::new(self.sum).at(self.step), |key, lane| key.at(*lane));
        Self {
            step: self.step + 1,
            sum: key.word(0),
        }
    }

    /// The row of the step that led to this state: a function of the state, as in truth.
    pub(super) fn metrics(self) -> StepMetrics {
        StepMetrics {
            step: self.step - 1,
            epoch: 0,
            itc: f64::from((self.sum >> 32) as u32),
            itm: 0.0,
            lm: 0.0,
            lr: 0.0,
            alpha: 0.0,
            temperature: 0.0,
            grad_norm: 0.0,
        }
    }

    pub(super) fn bytes(self) -> Vec<u8> {
        [self.step.to_le_bytes(), self.sum.to_le_bytes()].concat()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (step, sum) = bytes.split_first_chunk::<8>()?;
        Some(Self {
            step: u64::from_le_bytes(*step),
            sum: u64::from_le_bytes(sum.try_into().ok()?),
        })
    }
}

/// What the stage reads.
pub(super) fn data(assignment: &Assignment) -> u64 {
    let dataset = assignment.inputs.dataset.as_ref();
    number(dataset.map_or("", |dataset| dataset.key.as_str()).as_bytes())
}

/// The stage's own checkpoint if it has one; else what it is fine-tuned from; else a fresh state.
pub(super) fn initial(assignment: &Assignment, objects: &Objects) -> Option<Toy> {
    let inputs = &assignment.inputs;
    match (&inputs.resume, &inputs.start) {
        (Some(resume), _) => objects.load(resume),
        (None, Some(start)) => Some(objects.load(start)?.tuned(number(assignment.stage_name.as_bytes()))),
        (None, None) => Some(Toy::fresh(data(assignment))),
    }
}
