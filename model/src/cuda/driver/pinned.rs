//! Pinned memory.

use crate::cuda::error::CudaError;
use cudarc::driver::result;
use std::ptr;

/// Host memory that the device can read and write.
pub(in crate::cuda) struct Pinned {
    start: *mut u8,
    len: usize,
}

// SAFETY: the memory is owned, and reached through `self` alone.
unsafe impl Send for Pinned {}

impl Pinned {
    pub(in crate::cuda) fn new(len: usize) -> Result<Self, CudaError> {
        // SAFETY: freed once, by drop.
        let start = unsafe { result::malloc_host(len, 0) };
        let start: *mut u8 = start
            .map_err(|error| CudaError::driver("pin host memory", error))?
            .cast();
        // SAFETY: the memory is `len` bytes long and nobody else's.
        unsafe { ptr::write_bytes(start, 0, len) };
        Ok(Self { start, len })
    }

    pub(in crate::cuda) fn bytes(&self) -> &[u8] {
        // SAFETY: `len` initialised bytes that live as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    pub(in crate::cuda) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; what the device writes is awaited before it is read.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: allocated once, by `new`.
        let _ = unsafe { result::free_host(self.start.cast()) };
    }
}
