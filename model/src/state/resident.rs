//! A state on a device, or what steps read of one.

use super::State;
use super::commit::Held;
use crate::blip::Seen;
use crate::device::{Buffer, Device, DeviceError, OwnParameters, Span};

/// What lanes read of a state, on a device: a copy that follows the state, which is committed elsewhere.
pub struct Mirror {
    device: Device,
    params: OwnParameters,
    ema: OwnParameters,
    image_queue: Buffer,
    text_queue: Buffer,
    queued_identities: Vec<u64>,
}

/// A state on a device: steps read it there and commit to it there. What leaves the device goes through a [`State`].
pub struct Resident {
    mirror: Mirror,
    step: u64,
    queue_next: u64,
    m: Buffer,
    v: Buffer,
}

impl Mirror {
    /// A copy of the state.
    pub fn of(state: &State, device: &Device) -> Self {
        Self {
            device: device.clone(),
            params: OwnParameters::copy(&state.params, device),
            ema: OwnParameters::copy(&state.ema, device),
            image_queue: device.upload(&state.image_queue),
            text_queue: device.upload(&state.text_queue),
            queued_identities: state.queued_identities.clone(),
        }
    }

    /// Copies the state again.
    pub fn follow(&mut self, state: &State) {
        self.params.write(&state.params, &self.device);
        self.ema.write(&state.ema, &self.device);
        let parts = [
            (&state.image_queue, &mut self.image_queue),
            (&state.text_queue, &mut self.text_queue),
        ];
        for (from, to) in parts {
            self.device.write(from, to.span_mut());
        }
        self.queued_identities.clone_from(&state.queued_identities);
    }

    /// What a lane reads.
    pub fn seen(&self) -> Seen<'_> {
        Seen {
            params: (&self.params).into(),
            ema: (&self.ema).into(),
            image_queue: self.image_queue.span(),
            text_queue: self.text_queue.span(),
            queued_identities: &self.queued_identities,
        }
    }
}

impl Resident {
    /// A copy of the state.
    pub fn of(state: &State, device: &Device) -> Self {
        Self {
            mirror: Mirror::of(state, device),
            step: state.step,
            queue_next: state.queue_next,
            m: device.upload(&state.m),
            v: device.upload(&state.v),
        }
    }

    /// Steps that were committed.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// What a lane reads of it.
    pub fn seen(&self) -> Seen<'_> {
        self.mirror.seen()
    }

    /// Copies it to a state of the same model, after all that was asked of the device.
    ///
    /// # Errors
    /// [`DeviceError`] if the device failed since the last check; the copy is worthless then.
    pub fn store(&self, state: &mut State) -> Result<(), DeviceError> {
        let mirror = &self.mirror;
        let parts: [(Span, &mut [f32]); 6] = [
            (mirror.params.exact(), &mut state.params),
            (self.m.span(), &mut state.m),
            (self.v.span(), &mut state.v),
            (mirror.ema.exact(), &mut state.ema),
            (mirror.image_queue.span(), &mut state.image_queue),
            (mirror.text_queue.span(), &mut state.text_queue),
        ];
        for (from, to) in parts {
            mirror.device.read(from, to);
        }
        state.queued_identities.clone_from(&mirror.queued_identities);
        (state.step, state.queue_next) = (self.step, self.queue_next);
        mirror.device.check()
    }

    pub(super) fn held(&mut self) -> Held<'_> {
        let mirror = &mut self.mirror;
        Held {
            device: &mirror.device,
            step: &mut self.step,
            queue_next: &mut self.queue_next,
            params: mirror.params.both_mut(),
            m: self.m.span_mut(),
            v: self.v.span_mut(),
            ema: mirror.ema.both_mut(),
            image_queue: mirror.image_queue.span_mut(),
            text_queue: mirror.text_queue.span_mut(),
            queued_identities: &mut mirror.queued_identities,
        }
    }
}
