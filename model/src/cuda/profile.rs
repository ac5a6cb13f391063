//! Where a stream's time goes: an event before and behind each operation.
//!
//! Events cost the host more than a launch does, so a profile tells how long operations take on the device, not how long a step does.

use super::Cuda;
use super::device::locked;
use super::driver::Event;
use super::error::CudaError;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Operations as they are called, if they are noted at present.
#[derive(Default)]
pub(super) struct Profile {
    is_on: AtomicBool,
    noted: Mutex<Vec<Noted>>,
}

struct Noted {
    name: String,
    begins: Event,
    ends: Event,
}

impl Cuda {
    /// From now on notes the time of every kernel, product and copy.
    pub fn start_profile(&self) {
        locked(&self.profile.noted).clear();
        self.profile.is_on.store(true, Ordering::Relaxed);
    }

    /// Waits, and returns what was called since the profile began, with the time that it took on the device.
    ///
    /// # Errors
    /// What the driver says.
    pub fn end_profile(&self) -> Result<Vec<(String, Duration)>, CudaError> {
        self.profile.is_on.store(false, Ordering::Relaxed);
        self.synchronize();
        let noted = std::mem::take(&mut *locked(&self.profile.noted));
        noted
            .into_iter()
            .map(|Noted { name, begins, ends }| Ok((name, ends.since(&begins)?)))
            .collect()
    }

    /// Whether operations are noted at present.
    pub(super) fn is_profiled(&self) -> bool {
        self.profile.is_on.load(Ordering::Relaxed)
    }

    /// Calls an operation, and notes it if there is a profile.
    pub(super) fn noting<R>(&self, name: impl FnOnce() -> String, operation: impl FnOnce() -> R) -> R {
        if !self.is_profiled() || self.has_failed() {
            return operation();
        }
        let mark = || {
            let event = Event::timed()?;
            event.record(self.stream())?;
            Ok(event)
        };
        let begins = mark();
        let result = operation();
        match begins.and_then(|begins| Ok((begins, mark()?))) {
            Ok((begins, ends)) => locked(&self.profile.noted).push(Noted {
                name: name(),
                begins,
                ends,
            }),
            Err(error) => {
                self.note(Err(error));
            }
        }
        result
    }
}
