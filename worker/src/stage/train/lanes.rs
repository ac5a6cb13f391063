//! Lanes on the rank's device.
//!
//! The state is the process's own: what is committed, compared, fed to others and written to checkpoints lies in its memory. A
//! GPU has a mirror of what lanes read, which follows the state from step to step, and hands each lane's gradient back.

use medley_model::blip::{Blip, LaneBatch, LaneError, LaneOutput, LaneStep, Seen};
use medley_model::device::{Buffer, Device, Pool};
use medley_model::loss::itm::Negatives;
use medley_model::state::{Mirror, State};

/// Computes lanes.
pub(super) struct Lanes {
    activations: Pool,
    /// Where the device is not the processor, once a state was followed.
    there: Option<There>,
}

/// What lies on a GPU.
struct There {
    mirror: Mirror,
    /// Of one lane.
    gradient: Buffer,
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
        gradient: &mut [f32],
    ) -> Result<LaneOutput, LaneError> {
        let (activations, there) = self.follow(blip, state);
        let Some(there) = there else {
            return blip.lane_with(state, batch, step, negatives, activations, gradient);
        };
        let (seen, own) = (there.mirror.seen(), &mut there.gradient);
        let output = blip.lane_with(seen, batch, step, negatives, activations, own)?;
        activations.device().read(there.gradient.span(), gradient);
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
        let (activations, there) = self.follow(blip, state);
        let seen = there.map_or_else(|| Seen::from(state), |there| there.mirror.seen());
        blip.student_features(seen, batch, step, activations)
    }

    /// Brings the mirror up to the state.
    fn follow(&mut self, blip: &Blip, state: &State) -> (&mut Pool, Option<&mut There>) {
        let device = self.activations.device();
        if !matches!(device, Device::Cpu) {
            let there = self.there.get_or_insert_with(|| There {
                mirror: Mirror::of(state, device),
                gradient: device.buffer(blip.student_layout.len()),
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
