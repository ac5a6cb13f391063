//! What a training step commits: parameters, moments, momentum encoder, queues and the step counter.
//!
//! The state is replicated on every rank and changes in one place, [`State::commit`], as one local act without network or
//! cancellation point. Its canonical [`bytes`] are what checkpoints hold, hashes cover and ranks compare. A [`Resident`] is a
//! state on a device, with the same commit and the same canonical bytes, and a [`Snapshot`] some of these as they were.

mod bytes;
mod commit;
mod places;
mod resident;
mod snapshot;
mod tensors;
#[cfg(test)]
mod tests;

pub use bytes::WrongSize;
pub use commit::{Commit, Foreseen, gradient_norm};
pub use resident::Resident;
pub use snapshot::Snapshot;
pub use tensors::Tensor;

use crate::blip::Blip;
use crate::flat::Flat;
use crate::init;
use crate::loss::itc::UNKNOWN;
use crate::params;
use crate::positions;

/// State after some committed steps.
#[derive(Debug, Clone)]
pub struct State {
    /// Committed steps of this stage.
    pub step: u64,
    /// Where the next features go in both queues.
    pub queue_next: u64,
    /// Trained parameters.
    pub params: Flat,
    /// First moments.
    pub m: Flat,
    /// Second moments.
    pub v: Flat,
    /// Momentum encoders.
    pub ema: Flat,
    /// Momentum features of earlier images, queue × e.
    pub image_queue: Flat,
    /// Momentum features of earlier texts, queue × e.
    pub text_queue: Flat,
    /// Identities of the queues' images; [`UNKNOWN`] until the entry is written in this stage.
    pub queued_identities: Vec<u64>,
}

impl State {
    /// Fresh weights; the momentum encoders are copies, the queues random.
    pub fn fresh(blip: &Blip, seed: u64) -> Self {
        let mut state = Self::zeros(blip);
        init::weights(&blip.model, &blip.student_layout, seed, &mut state.params);
        for (entry, id) in blip
            .momentum_layout
            .entries()
            .iter()
            .zip(params::followed(&blip.student_layout, &blip.momentum_layout))
        {
            let from = blip.student_layout.entry(id).range();
            state.ema[entry.range()].copy_from_slice(&state.params[from]);
        }
        let width = blip.model.embed_dim as usize;
        init::queue("image_queue", seed, width, &mut state.image_queue);
        init::queue("text_queue", seed, width, &mut state.text_queue);
        state
    }

    /// All zeros, to be loaded into.
    pub fn zeros(blip: &Blip) -> Self {
        let queue = (blip.model.queue * blip.model.embed_dim) as usize;
        let (student, momentum) = (blip.student_layout.len(), blip.momentum_layout.len());
        Self {
            step: 0,
            queue_next: 0,
            params: Flat::zeros(student),
            m: Flat::zeros(student),
            v: Flat::zeros(student),
            ema: Flat::zeros(momentum),
            image_queue: Flat::zeros(queue),
            text_queue: Flat::zeros(queue),
            queued_identities: vec![UNKNOWN; blip.model.queue as usize],
        }
    }

    /// The start of a fine-tuning stage from this state: weights, momentum encoders and queues stay, the optimiser and the
    /// counters begin anew, as when the reference loads a pre-trained checkpoint. What the queues' images are is forgotten:
    /// the reference's pre-training does not keep it.
    pub fn begin_stage(&mut self) {
        self.step = 0;
        self.queue_next = 0;
        self.m.fill(0.0);
        self.v.fill(0.0);
        self.queued_identities.fill(UNKNOWN);
    }

    /// This state for the model at another image size: the image towers' position tables are resampled, in parameters and
    /// momentum encoders; everything else is copied. Moments are not carried over: a stage begins after this.
    pub fn at_image_size(self, from: &Blip, to: &Blip) -> Self {
        if from.image_size == to.image_size {
            return self;
        }
        let mut state = Self::zeros(to);
        positions::adapt(
            (&from.student_layout, &self.params),
            (&to.student_layout, &mut state.params),
        );
        positions::adapt(
            (&from.momentum_layout, &self.ema),
            (&to.momentum_layout, &mut state.ema),
        );
        Self {
            step: self.step,
            queue_next: self.queue_next,
            image_queue: self.image_queue,
            text_queue: self.text_queue,
            queued_identities: self.queued_identities,
            ..state
        }
    }

    /// The learned temperature.
    pub fn temperature(&self, blip: &Blip) -> f32 {
        self.params[blip.student_layout.entry(blip.temperature).offset]
    }
}
