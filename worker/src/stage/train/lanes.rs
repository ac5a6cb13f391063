//! Lanes on the rank's device.
//!
//! They read the state where it lies, which is on the same device. A lane's gradient is put where the caller sums gradients: on the
//! device, or in the memory of the process, with a copy on the way.

use medley_model::blip::{Blip, LaneBatch, LaneError, LaneOutput, LaneStep, LaneUnderway, Seen, Sight};
use medley_model::device::{Buffer, Device, Pool, SpanMut};
use medley_model::loss::itm::Negatives;
use medley_model::tape::Gradient;

/// Computes lanes.
pub(super) struct Lanes {
    activations: Pool,
    /// On a GPU, of one lane, on its way to the memory of the process; made when first needed.
    gradient: Option<Buffer>,
}

impl Lanes {
    /// Lanes of this device.
    pub(super) fn on(device: Device) -> Self {
        Self {
            activations: Pool::on(device),
            gradient: None,
        }
    }

    /// Begins one lane, as [`Blip::begin_lane`] does.
    ///
    /// # Errors
    /// [`LaneError`].
    pub(super) fn run(
        &mut self,
        (blip, state): (&Blip, Seen),
        batch: LaneBatch,
        step: LaneStep,
        negatives: Option<&Negatives>,
        gradient: Gradient,
    ) -> Result<LaneUnderway, LaneError> {
        let activations = &mut self.activations;
        let device = activations.device().clone();
        if matches!(device, Device::Cpu) {
            return blip.begin_lane(state, batch, step, negatives, activations, gradient);
        }
        match gradient {
            Gradient {
                values: SpanMut::Host(home),
                ..
            } => {
                let own = self.gradient.get_or_insert_with(|| device.buffer(home.len()));
                let underway = blip.begin_lane(state, batch, step, negatives, activations, &mut *own)?;
                device.read(own.span(), home);
                Ok(underway)
            }
            #[cfg(feature = "cuda")]
            gradient => blip.begin_lane(state, batch, step, negatives, activations, gradient),
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
    pub(super) fn student_features(&mut self, (blip, state): (&Blip, Seen), batch: LaneBatch, step: LaneStep) -> Sight {
        blip.student_features(state, batch, step, &mut self.activations)
    }
}
