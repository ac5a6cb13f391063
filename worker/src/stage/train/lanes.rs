//! Lanes on the rank's device.
//!
//! The state is the process's own: what is committed, compared, fed to others and written to checkpoints lies in its memory. A
//! GPU has a mirror of what lanes read, which follows the state from step to step. A lane's gradient is put where the caller
//! sums gradients: on the device, or in the memory of the process, with a copy on the way.

use medley_model::blip::{Blip, LaneBatch, LaneError, LaneOutput, LaneStep, LaneUnderway, Seen, Sight};
use medley_model::device::{Buffer, Device, Pool, SpanMut};
use medley_model::loss::itm::Negatives;
use medley_model::state::{Mirror, State};
use medley_model::tape::Gradient;

/// Computes lanes.
pub(super) struct Lanes {
    activations: Pool,
    /// Where the device is not the processor, once a state was followed.
    there: Option<There>,
}

/// What lies on a GPU.
struct There {
    mirror: Mirror,
    /// Of one lane, on its way to the memory of the process; made when first needed.
    gradient: Option<Buffer>,
    /// Committed steps of the state that is mirrored; none if that one is gone.
    follows: Option<u64>,
}

impl Lanes {
    /// Lanes of this device.
    pub(super) fn on(device: Device) -> Self {
        Self {
            activations: Pool::on(device),
            there: None,
        }
    }

    /// The state was replaced: what is mirrored is no longer it, whatever its step.
    pub(super) fn forget(&mut self) {
        if let Some(there) = &mut self.there {
            there.follows = None;
        }
    }

    /// Begins one lane, as [`Blip::begin_lane`] does.
    ///
    /// # Errors
    /// [`LaneError`].
    pub(super) fn run(
        &mut self,
        (blip, state): (&Blip, &State),
        batch: LaneBatch,
        step: LaneStep,
        negatives: Option<&Negatives>,
        gradient: Gradient,
    ) -> Result<LaneUnderway, LaneError> {
        let (activations, there) = self.follow(state);
        let Some(there) = there else {
            return blip.begin_lane(state, batch, step, negatives, activations, gradient);
        };
        let seen = there.mirror.seen();
        match gradient {
            Gradient {
                values: SpanMut::Host(home),
                ..
            } => {
                let device = activations.device().clone();
                let own = there.gradient.get_or_insert_with(|| device.buffer(home.len()));
                let underway = blip.begin_lane(seen, batch, step, negatives, activations, &mut *own)?;
                device.read(own.span(), home);
                Ok(underway)
            }
            #[cfg(feature = "cuda")]
            gradient => blip.begin_lane(seen, batch, step, negatives, activations, gradient),
        }
    }

    /// Waits for lanes that were begun, each with what goes along with it: the one wait of a step for its end.
    ///
    /// # Errors
    /// [`LaneError`] if the device failed at any of them: their gradients are worthless.
    pub(super) fn finish<T>(&self, begun: Vec<(LaneUnderway, T)>) -> Result<Vec<(LaneOutput, T)>, LaneError> {
        let finished = begun.into_iter().map(|(lane, with)| Ok((lane.finish()?, with)));
        let finished = finished.collect::<Result<_, LaneError>>()?;
        self.activations.check()?;
        Ok(finished)
    }

    /// What the student sees of a lane, as [`Blip::student_features`].
    pub(super) fn student_features(
        &mut self,
        (blip, state): (&Blip, &State),
        batch: LaneBatch,
        step: LaneStep,
    ) -> Sight {
        let (activations, there) = self.follow(state);
        let seen = there.map_or_else(|| Seen::from(state), |there| there.mirror.seen());
        blip.student_features(seen, batch, step, activations)
    }

    /// Brings the mirror up to the state.
    fn follow(&mut self, state: &State) -> (&mut Pool, Option<&mut There>) {
        let device = self.activations.device();
        if !matches!(device, Device::Cpu) {
            let there = self.there.get_or_insert_with(|| There {
                mirror: Mirror::of(state, device),
                gradient: None,
                follows: Some(state.step),
            });
            if there.follows != Some(state.step) {
                there.mirror.follow(state);
                there.follows = Some(state.step);
            }
        }
        (&mut self.activations, self.there.as_mut())
    }
}
