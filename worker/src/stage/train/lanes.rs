//! Lanes on the rank's device.
//!
//! The state is the process's own: what is committed, compared, fed to others and written to checkpoints lies in its memory. A
//! GPU has a mirror of what lanes read, which follows the state from step to step. A lane's gradient is put where the caller
//! sums gradients: on the device, or in the memory of the process, with a copy on the way.

use medley_model::blip::{Blip, LaneBatch, LaneError, LaneOutput, LaneStep, Seen};
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

    /// Runs one lane, as [`Blip::lane_with`] does.
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
    ) -> Result<LaneOutput, LaneError> {
        let (activations, there) = self.follow(state);
        let Some(there) = there else {
            return blip.lane_with(state, batch, step, negatives, activations, gradient);
        };
        let seen = there.mirror.seen();
        let output = match gradient {
            Gradient {
                values: SpanMut::Host(home),
                ..
            } => {
                let device = activations.device().clone();
                let own = there.gradient.get_or_insert_with(|| device.buffer(home.len()));
                let output = blip.lane_with(seen, batch, step, negatives, activations, &mut *own)?;
                device.read(own.span(), home);
                output
            }
            #[cfg(feature = "cuda")]
            gradient => blip.lane_with(seen, batch, step, negatives, activations, gradient)?,
        };
        activations.check()?;
        Ok(output)
    }

    /// What the student sees of a lane, as [`Blip::student_features`].
    pub(super) fn student_features(
        &mut self,
        (blip, state): (&Blip, &State),
        batch: LaneBatch,
        step: LaneStep,
    ) -> (Vec<f32>, Vec<f32>) {
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
