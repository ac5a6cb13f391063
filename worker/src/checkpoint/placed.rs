//! A state where its rank computes: in the memory of the process, or on its device.

use medley_model::blip::{Blip, Seen};
use medley_model::device::{Device, DeviceError};
use medley_model::params::Objective;
use medley_model::state::{Commit, Foreseen, Resident, State};
use medley_protocol::spec::TrainSpec;
use std::ops::Range;

/// If 1, the processor keeps a state as a GPU does, for ranks without a GPU to try that. Ranks compare their states, so it is set for
/// all of them or for none.
pub const APART: &str = "MEDLEY_STATE_APART";

/// A state, wherever it lies.
#[derive(Debug)]
pub enum Placed {
    /// In the memory of the process.
    Here(State),
    /// On a device.
    There(Resident),
}

impl Placed {
    /// All zeros, for lanes on this device.
    pub fn zeros(blip: &Blip, device: &Device) -> Self {
        match device {
            Device::Cpu if std::env::var(APART).is_ok_and(|value| value == "1") => {
                Self::There(Resident::zeros(blip, device))
            }
            Device::Cpu => Self::Here(State::zeros(blip)),
            #[cfg(feature = "cuda")]
            Device::Cuda(..) => Self::There(Resident::zeros(blip, device)),
        }
    }

    /// The state, if it lies in the memory of the process.
    pub fn here(&self) -> Option<&State> {
        match self {
            Self::Here(state) => Some(state),
            Self::There(_) => None,
        }
    }

    /// The same, to be changed.
    pub fn here_mut(&mut self) -> Option<&mut State> {
        match self {
            Self::Here(state) => Some(state),
            Self::There(_) => None,
        }
    }

    /// Has the system give memory for all of it now, where it does so late.
    pub fn claim_memory(&mut self) {
        if let Self::Here(state) = self {
            state.claim_memory();
        }
    }

    /// Takes over a state of the same model.
    ///
    /// # Errors
    /// [`DeviceError`]: this state is worthless then.
    pub fn load(&mut self, from: State) -> Result<(), DeviceError> {
        match self {
            Self::Here(state) => *state = from,
            Self::There(state) => {
                state.load(&from);
                state.device().check()?;
            }
        }
        Ok(())
    }

    /// Where it lies.
    pub fn device(&self) -> &Device {
        match self {
            Self::Here(_) => &Device::Cpu,
            Self::There(state) => state.device(),
        }
    }

    /// Steps that were committed.
    pub fn step(&self) -> u64 {
        match self {
            Self::Here(state) => state.step,
            Self::There(state) => state.step(),
        }
    }

    /// What a lane reads of it.
    pub fn seen(&self) -> Seen<'_> {
        match self {
            Self::Here(state) => state.into(),
            Self::There(state) => state.seen(),
        }
    }

    /// The learned temperature. Waits for a device.
    pub fn temperature(&self, blip: &Blip) -> f32 {
        match self {
            Self::Here(state) => state.temperature(blip),
            Self::There(state) => state.temperature(blip),
        }
    }

    /// See [`State::num_bytes`].
    pub fn num_bytes(&self) -> usize {
        match self {
            Self::Here(state) => state.num_bytes(),
            Self::There(state) => state.num_bytes(),
        }
    }

    /// See [`State::pieces`].
    pub fn pieces(&self, most: usize) -> Vec<Range<usize>> {
        match self {
            Self::Here(state) => state.pieces(most),
            Self::There(state) => state.pieces(most),
        }
    }

    /// See [`State::replaced_by`].
    pub fn replaced_by(&self, samples: usize) -> Vec<Range<usize>> {
        match self {
            Self::Here(state) => state.replaced_by(samples),
            Self::There(state) => state.replaced_by(samples),
        }
    }

    /// See [`State::write_bytes`] and [`Resident::write_bytes`]; [`taken`](Self::taken) comes behind the last.
    pub fn write_bytes(&mut self, offset: usize, bytes: &[u8]) {
        match self {
            Self::Here(state) => state.write_bytes(offset, bytes),
            Self::There(state) => state.write_bytes(offset, bytes),
        }
    }

    /// Ends taking over bytes.
    ///
    /// # Errors
    /// [`DeviceError`]: this state is worthless then.
    pub fn taken(&mut self) -> Result<(), DeviceError> {
        match self {
            Self::Here(_) => Ok(()),
            Self::There(state) => state.taken(),
        }
    }

    /// A digest of these canonical bytes, which compares with that of other states that lie on the same kind of device.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn digest(&self, ranges: &[Range<usize>]) -> Result<u64, DeviceError> {
        let state = match self {
            Self::Here(state) => state,
            Self::There(state) => return state.digest(ranges),
        };
        let mut hasher = blake3::Hasher::new();
        for range in ranges {
            state.for_bytes(range.clone(), |bytes| {
                hasher.update(bytes);
            });
        }
        let hash = hasher.finalize();
        let first = hash.as_bytes().first_chunk().expect("a hash has more than eight bytes");
        Ok(u64::from_le_bytes(*first))
    }

    /// See [`State::foresee`].
    ///
    /// # Errors
    /// [`DeviceError`]: the gradient is worthless.
    pub fn foresee(
        &self,
        blip: &Blip,
        objective: Objective,
        train: &TrainSpec,
        commit: Commit,
    ) -> Result<Foreseen, DeviceError> {
        match self {
            Self::Here(state) => Ok(state.foresee(blip, objective, train, commit)),
            Self::There(state) => state.foresee(blip, objective, train, commit),
        }
    }

    /// See [`State::commit`].
    pub fn commit(&mut self, blip: &Blip, objective: Objective, train: &TrainSpec, commit: Commit) {
        match self {
            Self::Here(state) => state.commit(blip, objective, train, commit),
            Self::There(state) => state.commit(blip, objective, train, commit),
        }
    }
}

impl From<State> for Placed {
    fn from(state: State) -> Self {
        Self::Here(state)
    }
}

impl From<Resident> for Placed {
    fn from(state: Resident) -> Self {
        Self::There(state)
    }
}
