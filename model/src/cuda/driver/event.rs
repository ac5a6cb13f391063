//! Marks in streams.

use super::Stream;
use crate::cuda::error::CudaError;
use cudarc::driver::sys::{self, CUevent_flags, CUresult};
use cudarc::driver::{DriverError, result};
use std::time::Duration;

/// A mark in a stream.
pub(in crate::cuda) struct Event {
    pub(super) raw: sys::CUevent,
}

impl Event {
    pub(in crate::cuda) fn new() -> Result<Self, CudaError> {
        Self::with(CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    /// A mark for a thread that has time: it sleeps while it waits, and leaves the processor to others.
    pub(in crate::cuda) fn slept_for() -> Result<Self, CudaError> {
        Self::with(CUevent_flags::CU_EVENT_BLOCKING_SYNC)
    }

    fn with(flags: CUevent_flags) -> Result<Self, CudaError> {
        let raw = result::event::create(flags);
        let raw = raw.map_err(|error| CudaError::driver("make an event", error))?;
        Ok(Self { raw })
    }

    /// A mark that tells when it was passed.
    pub(in crate::cuda) fn timed() -> Result<Self, CudaError> {
        let raw = result::event::create(CUevent_flags::CU_EVENT_DEFAULT);
        let raw = raw.map_err(|error| CudaError::driver("make an event", error))?;
        Ok(Self { raw })
    }

    /// Time between an earlier mark and this one, both [timed](Self::timed) and passed.
    pub(in crate::cuda) fn since(&self, earlier: &Self) -> Result<Duration, CudaError> {
        // SAFETY: both live.
        let millis = unsafe { result::event::elapsed(earlier.raw, self.raw) };
        let millis = millis.map_err(|error| CudaError::driver("time its work", error))?;
        Ok(Duration::from_secs_f64(f64::from(millis.max(0.0)) / 1e3))
    }

    /// Marks the present end of the stream.
    pub(in crate::cuda) fn record(&self, stream: &Stream) -> Result<(), CudaError> {
        // SAFETY: both live.
        let result = unsafe { result::event::record(self.raw, stream.raw) };
        result.map_err(|error| CudaError::driver("record an event", error))
    }

    /// Whether the stream has passed the mark; that is so if there is none.
    pub(in crate::cuda) fn has_passed(&self) -> Result<bool, CudaError> {
        // SAFETY: the event lives.
        match unsafe { result::event::query(self.raw) } {
            Ok(()) => Ok(true),
            Err(DriverError(CUresult::CUDA_ERROR_NOT_READY)) => Ok(false),
            Err(error) => Err(CudaError::driver("ask for an event", error)),
        }
    }

    /// Waits until the stream has passed the mark; at once if there is none.
    pub(in crate::cuda) fn wait(&self) -> Result<(), CudaError> {
        // SAFETY: the event lives.
        let result = unsafe { result::event::synchronize(self.raw) };
        result.map_err(|error| CudaError::driver("wait for an event", error))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made once, by `new`.
        let _ = unsafe { result::event::destroy(self.raw) };
    }
}
