//! What a step makes of the state: the commit, and the digests that ranks compare.

use super::super::Stop;
use super::super::place::Place;
use super::super::shares::Gathered;
use super::{Report, Trainer};
use crate::checkpoint::part_range;
use crate::collective::nccl::Library;
use crate::collective::reduce::share;
use crate::rank::membership::dissenters;
use medley_model::device::{Buffer, DeviceError, Span};
use medley_model::state::{Commit, Foreseen};
use medley_protocol::doubt::{COMPARED_WITHIN, Doubt};
use medley_protocol::metrics::StepMetrics;
use std::iter;
use std::ops::Range;

const LOSS_NAMES: [&str; 3] = ["ITC", "ITM", "LM"];

/// All that a step commits.
pub(super) struct Prepared {
    /// Where the state lies.
    pub(super) gradient: Buffer,
    pub(super) gathered: Gathered,
    pub(super) foreseen: Foreseen,
    /// Whether gradients travelled over NCCL.
    over_nccl: bool,
}

impl Prepared {
    /// The first term that is not finite.
    pub(super) fn not_finite(&self) -> Option<&'static str> {
        let losses = self.gathered.losses.iter().zip(LOSS_NAMES);
        let mut terms = losses.chain([(&self.foreseen.gradient_norm, "gradient")]);
        terms.find(|(value, _)| !value.is_finite()).map(|(_, name)| name)
    }
}

impl Trainer {
    /// Completes what the next commit needs: the sum of the gradients comes to where the state lies. Here a step waits for its
    /// device.
    pub(super) fn complete(
        &mut self,
        total: Buffer,
        gathered: Gathered,
        over_nccl: bool,
    ) -> Result<Prepared, DeviceError> {
        let gradient = self.gradients.bring(total, self.state.device());
        let commit = self.commit_of(gradient.span(), &gathered);
        let foreseen = self
            .state
            .foresee(&self.blip, self.objective, &self.schedule.train, commit)?;
        Ok(Prepared {
            gradient,
            gathered,
            foreseen,
            over_nccl,
        })
    }

    fn commit_of<'a>(&self, gradient: Span<'a>, gathered: &'a Gathered) -> Commit<'a> {
        Commit {
            gradient,
            lanes: self.lanes,
            image_features: &gathered.image_features,
            text_features: &gathered.text_features,
            identities: &gathered.identities,
            lr: self.schedule.lr(self.state.step()),
        }
    }

    /// The step's one act on the state: no network, no cancellation point. A device is only asked for it; whatever comes next
    /// comes behind it.
    pub(super) fn commit(&mut self, prepared: Prepared) -> Report {
        let (step, lr) = (self.state.step(), self.schedule.lr(self.state.step()));
        let commit = self.commit_of(prepared.gradient.span(), &prepared.gathered);
        // Waits while the state before this step is being copied for a checkpoint.
        self.state
            .change()
            .commit(&self.blip, self.objective, &self.schedule.train, commit);
        self.gradients.give(prepared.gradient);
        if prepared.over_nccl {
            self.nccl.record().committed();
        }
        let [itc, itm, lm] = prepared.gathered.losses;
        let metrics = StepMetrics {
            step,
            epoch: self.schedule.epoch(step),
            itc,
            itm,
            lm,
            lr,
            alpha: self.schedule.alpha(step),
            temperature: f64::from(prepared.foreseen.temperature),
            grad_norm: prepared.foreseen.gradient_norm,
        };
        (metrics, self.lane_share.entry(step, prepared.gathered.lanes))
    }

    pub(super) fn drop_prepared(&mut self) {
        if let Some(prepared) = self.prepared.take() {
            self.gradients.give(prepared.gradient);
        }
    }

    /// The bytes of the state before the step that are compared between the ranks: a rotating part, and what the step's samples
    /// replace in the queues; before the last step all, because nothing is compared after it.
    pub(super) fn compared(&self, samples: usize) -> Vec<Range<usize>> {
        let bytes = self.state.num_bytes();
        if self.state.step() + 1 == self.schedule.total_steps() {
            return iter::once(0..bytes).collect();
        }
        let part = self.state.step() % COMPARED_WITHIN;
        let part = part_range(bytes as u64, part as u32, COMPARED_WITHIN as u32);
        let mut compared = self.state.replaced_by(samples);
        compared.push(part.start as usize..part.end as usize);
        compared
    }

    /// Compares all of the state with the other ranks', as all of them do now.
    pub(super) fn compare_all(&self, place: &mut Place) -> Result<Option<Doubt>, Stop> {
        place.exchange += 1;
        let all: Vec<Range<usize>> = iter::once(0..self.state.num_bytes()).collect();
        let own = self.state.digest(&all)?.to_le_bytes();
        let shares = share(own.to_vec(), place.exchange, place.mesh)?;
        let digest = |share: &Vec<u8>| share.as_slice().try_into().map_or(0, u64::from_le_bytes);
        let digests: Vec<u64> = shares.values().map(digest).collect();
        let doubt = |minority| Doubt::new(self.state.step(), self.loaded, minority);
        Ok(dissenters(&digests).map(doubt))
    }
}
