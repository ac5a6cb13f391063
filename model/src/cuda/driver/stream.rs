//! A stream of work, with its memory.

use super::{Event, Function, MAX_ARGUMENTS, Pinned};
use crate::cuda::error::CudaError;
use cudarc::driver::result;
use cudarc::driver::sys::{self, CUevent_wait_flags, CUresult};
use std::ffi::c_void;
use std::ptr;

/// A stream: work in the order in which it was asked for, and memory that is freed in the same order.
pub(in crate::cuda) struct Stream {
    pub(super) raw: sys::CUstream,
}

impl Stream {
    pub(in crate::cuda) fn new() -> Result<Self, CudaError> {
        let raw = result::stream::create(result::stream::StreamKind::NonBlocking);
        let raw = raw.map_err(|error| CudaError::driver("make a stream", error))?;
        Ok(Self { raw })
    }

    pub(in crate::cuda) fn raw(&self) -> sys::CUstream {
        self.raw
    }

    pub(in crate::cuda) fn synchronize(&self) -> Result<(), CudaError> {
        // SAFETY: the stream lives as long as `self`.
        let result = unsafe { result::stream::synchronize(self.raw) };
        result.map_err(|error| CudaError::driver("finish its work", error))
    }

    /// Memory that can be used by whatever is called after this.
    pub(in crate::cuda) fn allocate(&self, bytes: usize) -> Result<u64, CudaError> {
        // SAFETY: the memory is used on this stream, or on one that follows it and was waited for; its owner frees it once.
        let address = unsafe { result::malloc_async(self.raw, bytes) };
        address.map_err(|error| match error.0 {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => CudaError::OutOfMemory { bytes },
            _ => CudaError::driver("allocate memory", error),
        })
    }

    /// Memory of zeros.
    pub(in crate::cuda) fn allocate_zeros(&self, bytes: usize) -> Result<u64, CudaError> {
        let address = self.allocate(bytes)?;
        // SAFETY: the memory has just been allocated on this stream, with as many bytes.
        let result = unsafe { result::memset_d8_async(address, 0, bytes, self.raw) };
        result.map_err(|error| CudaError::driver("clear memory", error))?;
        Ok(address)
    }

    /// Frees memory after what was called before this.
    pub(in crate::cuda) fn free(&self, address: u64) -> Result<(), CudaError> {
        // SAFETY: the owner of the memory frees it once, when it is dropped.
        let result = unsafe { result::free_async(address, self.raw) };
        result.map_err(|error| CudaError::driver("free memory", error))
    }

    /// What is called after this comes behind the mark as it is now.
    pub(in crate::cuda) fn wait(&self, mark: &Event) -> Result<(), CudaError> {
        // SAFETY: both live; the driver keeps of the event what it needs.
        let result =
            unsafe { result::stream::wait_event(self.raw, mark.raw, CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT) };
        result.map_err(|error| CudaError::driver("wait for another stream", error))
    }

    /// Copies within the device.
    pub(in crate::cuda) fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), CudaError> {
        // SAFETY: both come from slices of at least as many bytes that live on this stream.
        let result = unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, bytes, self.raw) }.result();
        result.map_err(|error| CudaError::driver("copy within its memory", error))
    }

    /// Copies pinned bytes to the device some time after the call: they must stay as they are until then.
    pub(in crate::cuda) fn to_device(
        &self,
        from: &Pinned,
        (start, len): (usize, usize),
        to: u64,
    ) -> Result<(), CudaError> {
        // SAFETY: the ring does not touch these bytes before an event behind this copy has passed.
        let result = unsafe { result::memcpy_htod_async(to, &from.bytes()[start..start + len], self.raw) };
        result.map_err(|error| CudaError::driver("copy from the host", error))
    }

    /// Copies to pinned memory some time after the call: nothing reads it before an event behind this copy has passed.
    pub(in crate::cuda) fn to_pinned(&self, from: u64, to: &mut Pinned, len: usize) -> Result<(), CudaError> {
        // SAFETY: `from` is memory of at least that many bytes; who owns the pinned memory reads it behind an event, and gives it
        // back to the driver behind the end of the stream.
        let result = unsafe { result::memcpy_dtoh_async(&mut to.bytes_mut()[..len], from, self.raw) };
        result.map_err(|error| CudaError::driver("copy to the host", error))
    }

    /// Copies to the host and waits.
    pub(in crate::cuda) fn to_host<T: bytemuck::Pod>(&self, from: u64, to: &mut [T]) -> Result<(), CudaError> {
        // SAFETY: `from` is memory of at least that many bytes, any of which are a T; the wait below outlasts the copy.
        let result = unsafe { result::memcpy_dtoh_async(to, from, self.raw) };
        let waited = self.synchronize();
        result.map_err(|error| CudaError::driver("copy to the host", error))?;
        waited
    }

    /// Runs a kernel: a grid of blocks of threads, with these argument words.
    pub(in crate::cuda) fn launch(
        &self,
        function: &Function,
        (grid, threads, shared_bytes): ((u32, u32), u32, u32),
        words: &mut [u64],
    ) -> Result<(), CudaError> {
        let (name, parameters) = (function.name, function.parameters);
        assert_eq!(words.len(), parameters, "{name} has as many arguments as parameters");
        let mut pointers: [*mut c_void; MAX_ARGUMENTS] = [ptr::null_mut(); MAX_ARGUMENTS];
        for (pointer, word) in pointers.iter_mut().zip(words.iter_mut()) {
            *pointer = ptr::from_mut(word).cast();
        }
        // SAFETY: the driver reads each parameter from the low bytes of its word; addresses come from slices whose bounds the
        // operations check.
        let result = unsafe {
            result::launch_kernel(
                function.raw,
                (grid.0, grid.1, 1),
                (threads, 1, 1),
                shared_bytes,
                self.raw,
                &mut pointers[..words.len()],
            )
        };
        result.map_err(|error| CudaError::driver(function.name, error))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: made once, by `new`.
        let _ = unsafe { result::stream::destroy(self.raw) };
    }
}
