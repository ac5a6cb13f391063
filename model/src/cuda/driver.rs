//! The CUDA driver, as far as it is needed: a context, a stream with its memory, pinned memory, events and kernels.
//!
//! Each type owns one thing and gives it back when dropped; the order in which they are dropped is the affair of
//! [`Cuda`](super::Cuda), which owns them all.

#![expect(unsafe_code, reason = "the driver is a C library")]

mod graph;

pub(super) use graph::Graph;

use super::error::CudaError;
use cudarc::driver::sys::{
    self, CUdevice_attribute, CUevent_flags, CUevent_wait_flags, CUfunction_attribute, CUmemPool_attribute, CUresult,
};
use cudarc::driver::{DriverError, result};
use std::ffi::{CString, c_void};
use std::ptr;
use std::time::Duration;

/// What a device is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Description {
    /// Its name, as the driver gives it.
    pub name: String,
    /// Compute capability, major and minor.
    pub compute: (u32, u32),
    /// Memory it has.
    pub total_bytes: usize,
    /// Memory that is free at present.
    pub free_bytes: usize,
    /// Version of CUDA the driver knows, major and minor.
    pub driver: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
}

/// A device as the driver lists it, without opening it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name, as the driver gives it.
    pub name: String,
    /// What no other device in the world has.
    pub uuid: String,
    /// Memory it has.
    pub total_bytes: usize,
}

/// The primary context of a device.
pub(super) struct Context {
    device: sys::CUdevice,
    raw: sys::CUcontext,
}

/// A handle of the driver, which may be used from any thread.
macro_rules! threads_share {
    ($($name:ident),+) => {
        $(
            // SAFETY: the driver locks what its handles name.
            unsafe impl Send for $name {}
            // SAFETY: as above.
            unsafe impl Sync for $name {}
        )+
    };
}

/// Loads and starts the driver; returns how many devices it sees.
fn start() -> Result<usize, CudaError> {
    // SAFETY: loading the driver's library runs its own initialisers only.
    if !unsafe { sys::is_culib_present() } {
        return Err(CudaError::NoDriver);
    }
    let at = |what| move |error| CudaError::driver(what, error);
    result::init().map_err(at("start the driver"))?;
    let count = result::device::get_count().map_err(at("count devices"))?;
    Ok(count as usize)
}

/// The device with this number.
fn find(ordinal: usize) -> Result<sys::CUdevice, CudaError> {
    let count = start()?;
    let at = |what| move |error| CudaError::driver(what, error);
    if ordinal >= count {
        return Err(CudaError::NoDevice { ordinal, count });
    }
    result::device::get(ordinal as i32).map_err(at("find the device"))
}

/// Name of a device, which is not opened.
///
/// # Errors
/// What is missing on this machine, or what the driver says.
pub fn device_name(ordinal: usize) -> Result<String, CudaError> {
    let name = result::device::get_name(find(ordinal)?);
    name.map_err(|error| CudaError::driver("tell its name", error))
}

/// The devices that the driver sees, in the order of their numbers.
///
/// # Errors
/// What is missing on this machine, or what the driver says.
pub fn devices() -> Result<Vec<Listed>, CudaError> {
    let list = |ordinal| {
        let device = result::device::get(ordinal as i32)?;
        // SAFETY: the device comes from the driver.
        let total_bytes = unsafe { result::device::total_mem(device) }?;
        Ok(Listed {
            name: result::device::get_name(device)?,
            uuid: uuid(device)?,
            total_bytes,
        })
    };
    let listed: Result<_, DriverError> = (0..start()?).map(list).collect();
    listed.map_err(|error| CudaError::driver("describe devices", error))
}

/// Version of CUDA that the driver knows, major and minor.
///
/// # Errors
/// What is missing on this machine, or what the driver says.
pub fn driver_version() -> Result<(u32, u32), CudaError> {
    // SAFETY: as in `start`.
    if !unsafe { sys::is_culib_present() } {
        return Err(CudaError::NoDriver);
    }
    let mut version = 0;
    // SAFETY: the number outlives the call, which needs no device.
    let result = unsafe { sys::cuDriverGetVersion(&raw mut version) }.result();
    result.map_err(|error| CudaError::driver("tell its version", error))?;
    Ok((version as u32 / 1000, version as u32 % 1000 / 10))
}

/// What no other device has, written as NVIDIA's tools write it.
fn uuid(device: sys::CUdevice) -> Result<String, DriverError> {
    let bytes = result::device::get_uuid(device)?.bytes.map(|byte| byte as u8);
    let hex = format!("{:032x}", u128::from_be_bytes(bytes));
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    Ok(format!("GPU-{}", parts.join("-")))
}

threads_share!(Context, Stream, Event, Function, Module);

impl Context {
    pub(super) fn open(ordinal: usize) -> Result<Self, CudaError> {
        let at = |what| move |error| CudaError::driver(what, error);
        let device = find(ordinal)?;
        // SAFETY: the device comes from the driver; the context is released once, by drop.
        let raw = unsafe { result::primary_ctx::retain(device) }.map_err(at("make a context"))?;
        let this = Self { device, raw };
        this.enter()?;
        this.set_up_pool().map_err(at("set up the memory pool"))?;
        Ok(this)
    }

    /// Makes the context current on this thread, for what is called next.
    pub(super) fn enter(&self) -> Result<(), CudaError> {
        // SAFETY: the context is retained for as long as `self` lives.
        let result = unsafe { result::ctx::set_current(self.raw) };
        result.map_err(|error| CudaError::driver("enter its context", error))
    }

    /// What no other device has.
    pub(super) fn uuid(&self) -> Result<String, CudaError> {
        uuid(self.device).map_err(|error| CudaError::driver("tell its UUID", error))
    }

    /// Keeps freed memory in the device's pool: giving it back at every wait would cost more than most kernels. And a stream never
    /// waits for another one that still uses what it has freed: one that computes would wait for one that waits for a peer.
    fn set_up_pool(&self) -> Result<(), DriverError> {
        let (mut threshold, mut waits) = (u64::MAX, 0_i32);
        // SAFETY: the device is valid, and the attributes are a u64 and an int.
        unsafe {
            let pool = result::device::get_default_mem_pool(self.device)?;
            let attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            result::mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast())?;
            let attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES;
            result::mem_pool::set_attribute(pool, attribute, (&raw mut waits).cast())
        }
    }

    pub(super) fn describe(&self) -> Result<Description, DriverError> {
        // SAFETY: the device is valid.
        let attribute = |name| unsafe { result::device::get_attribute(self.device, name) }.map(|value| value as u32);
        let (mut free_bytes, mut total_bytes, mut version) = (0, 0, 0);
        // SAFETY: the numbers outlive the calls.
        unsafe {
            sys::cuMemGetInfo_v2(&raw mut free_bytes, &raw mut total_bytes).result()?;
            sys::cuDriverGetVersion(&raw mut version).result()?;
        }
        Ok(Description {
            name: result::device::get_name(self.device)?,
            compute: (
                attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            total_bytes,
            free_bytes,
            driver: (version as u32 / 1000, version as u32 % 1000 / 10),
            multiprocessors: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once, by `open`. Nobody is left to hear of an error.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

/// A stream: work in the order in which it was asked for, and memory that is freed in the same order.
pub(super) struct Stream {
    raw: sys::CUstream,
}

impl Stream {
    pub(super) fn new() -> Result<Self, CudaError> {
        let raw = result::stream::create(result::stream::StreamKind::NonBlocking);
        let raw = raw.map_err(|error| CudaError::driver("make a stream", error))?;
        Ok(Self { raw })
    }

    pub(super) fn raw(&self) -> sys::CUstream {
        self.raw
    }

    pub(super) fn synchronize(&self) -> Result<(), CudaError> {
        // SAFETY: the stream lives as long as `self`.
        let result = unsafe { result::stream::synchronize(self.raw) };
        result.map_err(|error| CudaError::driver("finish its work", error))
    }

    /// Memory that can be used by whatever is called after this.
    pub(super) fn allocate(&self, bytes: usize) -> Result<u64, CudaError> {
        // SAFETY: the memory is used on this stream, or on one that follows it and was waited for; its owner frees it once.
        let address = unsafe { result::malloc_async(self.raw, bytes) };
        address.map_err(|error| match error.0 {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => CudaError::OutOfMemory { bytes },
            _ => CudaError::driver("allocate memory", error),
        })
    }

    /// Memory of zeros.
    pub(super) fn allocate_zeros(&self, bytes: usize) -> Result<u64, CudaError> {
        let address = self.allocate(bytes)?;
        // SAFETY: the memory has just been allocated on this stream, with as many bytes.
        let result = unsafe { result::memset_d8_async(address, 0, bytes, self.raw) };
        result.map_err(|error| CudaError::driver("clear memory", error))?;
        Ok(address)
    }

    /// Frees memory after what was called before this.
    pub(super) fn free(&self, address: u64) -> Result<(), CudaError> {
        // SAFETY: the owner of the memory frees it once, when it is dropped.
        let result = unsafe { result::free_async(address, self.raw) };
        result.map_err(|error| CudaError::driver("free memory", error))
    }

    /// What is called after this comes behind the mark as it is now.
    pub(super) fn wait(&self, mark: &Event) -> Result<(), CudaError> {
        // SAFETY: both live; the driver keeps of the event what it needs.
        let result =
            unsafe { result::stream::wait_event(self.raw, mark.raw, CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT) };
        result.map_err(|error| CudaError::driver("wait for another stream", error))
    }

    /// Copies within the device.
    pub(super) fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), CudaError> {
        // SAFETY: both come from slices of at least as many bytes that live on this stream.
        let result = unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, bytes, self.raw) }.result();
        result.map_err(|error| CudaError::driver("copy within its memory", error))
    }

    /// Copies pinned bytes to the device some time after the call: they must stay as they are until then.
    pub(super) fn to_device(&self, from: &Pinned, (start, len): (usize, usize), to: u64) -> Result<(), CudaError> {
        // SAFETY: the ring does not touch these bytes before an event behind this copy has passed.
        let result = unsafe { result::memcpy_htod_async(to, &from.bytes()[start..start + len], self.raw) };
        result.map_err(|error| CudaError::driver("copy from the host", error))
    }

    /// Copies to pinned memory some time after the call: nothing reads it before an event behind this copy has passed.
    pub(super) fn to_pinned(&self, from: u64, to: &mut Pinned, len: usize) -> Result<(), CudaError> {
        // SAFETY: `from` is memory of at least that many bytes; who owns the pinned memory reads it behind an event, and gives it
        // back to the driver behind the end of the stream.
        let result = unsafe { result::memcpy_dtoh_async(&mut to.bytes_mut()[..len], from, self.raw) };
        result.map_err(|error| CudaError::driver("copy to the host", error))
    }

    /// Copies to the host and waits.
    pub(super) fn to_host<T: bytemuck::Pod>(&self, from: u64, to: &mut [T]) -> Result<(), CudaError> {
        // SAFETY: `from` is memory of at least that many bytes, any of which are a T; the wait below outlasts the copy.
        let result = unsafe { result::memcpy_dtoh_async(to, from, self.raw) };
        let waited = self.synchronize();
        result.map_err(|error| CudaError::driver("copy to the host", error))?;
        waited
    }

    /// Runs a kernel: a grid of blocks of threads, with these argument words.
    pub(super) fn launch(
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

/// Host memory that the device can read and write.
pub(super) struct Pinned {
    start: *mut u8,
    len: usize,
}

// SAFETY: the memory is owned, and reached through `self` alone.
unsafe impl Send for Pinned {}

impl Pinned {
    pub(super) fn new(len: usize) -> Result<Self, CudaError> {
        // SAFETY: freed once, by drop.
        let start = unsafe { result::malloc_host(len, 0) };
        let start: *mut u8 = start
            .map_err(|error| CudaError::driver("pin host memory", error))?
            .cast();
        // SAFETY: the memory is `len` bytes long and nobody else's.
        unsafe { ptr::write_bytes(start, 0, len) };
        Ok(Self { start, len })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: `len` initialised bytes that live as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
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

/// A mark in a stream.
pub(super) struct Event {
    raw: sys::CUevent,
}

impl Event {
    pub(super) fn new() -> Result<Self, CudaError> {
        Self::with(CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    /// A mark for a thread that has time: it sleeps while it waits, and leaves the processor to others.
    pub(super) fn slept_for() -> Result<Self, CudaError> {
        Self::with(CUevent_flags::CU_EVENT_BLOCKING_SYNC)
    }

    fn with(flags: CUevent_flags) -> Result<Self, CudaError> {
        let raw = result::event::create(flags);
        let raw = raw.map_err(|error| CudaError::driver("make an event", error))?;
        Ok(Self { raw })
    }

    /// A mark that tells when it was passed.
    pub(super) fn timed() -> Result<Self, CudaError> {
        let raw = result::event::create(CUevent_flags::CU_EVENT_DEFAULT);
        let raw = raw.map_err(|error| CudaError::driver("make an event", error))?;
        Ok(Self { raw })
    }

    /// Time between an earlier mark and this one, both [timed](Self::timed) and passed.
    pub(super) fn since(&self, earlier: &Self) -> Result<Duration, CudaError> {
        // SAFETY: both live.
        let millis = unsafe { result::event::elapsed(earlier.raw, self.raw) };
        let millis = millis.map_err(|error| CudaError::driver("time its work", error))?;
        Ok(Duration::from_secs_f64(f64::from(millis.max(0.0)) / 1e3))
    }

    /// Marks the present end of the stream.
    pub(super) fn record(&self, stream: &Stream) -> Result<(), CudaError> {
        // SAFETY: both live.
        let result = unsafe { result::event::record(self.raw, stream.raw) };
        result.map_err(|error| CudaError::driver("record an event", error))
    }

    /// Whether the stream has passed the mark; that is so if there is none.
    pub(super) fn has_passed(&self) -> Result<bool, CudaError> {
        // SAFETY: the event lives.
        match unsafe { result::event::query(self.raw) } {
            Ok(()) => Ok(true),
            Err(DriverError(CUresult::CUDA_ERROR_NOT_READY)) => Ok(false),
            Err(error) => Err(CudaError::driver("ask for an event", error)),
        }
    }

    /// Waits until the stream has passed the mark; at once if there is none.
    pub(super) fn wait(&self) -> Result<(), CudaError> {
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

/// Most parameters of a kernel.
const MAX_ARGUMENTS: usize = 32;

/// A kernel.
pub(super) struct Function {
    name: &'static str,
    raw: sys::CUfunction,
    parameters: usize,
}

/// Loaded machine code.
pub(super) struct Module {
    raw: sys::CUmodule,
}

impl Module {
    /// Loads a fat binary, which must be aligned to 8 bytes.
    pub(super) fn load(image: &'static [u8]) -> Result<Self, CudaError> {
        assert_eq!(image.as_ptr().align_offset(8), 0, "fat binaries are aligned");
        // SAFETY: the image is a whole fat binary that the build made, and lives for ever.
        let raw = unsafe { result::module::load_data(image.as_ptr().cast()) };
        let raw = raw.map_err(|error| CudaError::driver("load the kernels", error))?;
        Ok(Self { raw })
    }

    /// A kernel of the module with so many parameters, allowed as much shared memory as `shared_bytes`.
    pub(super) fn function(
        &self,
        name: &'static str,
        parameters: usize,
        shared_bytes: u32,
    ) -> Result<Function, CudaError> {
        assert!(
            parameters <= MAX_ARGUMENTS,
            "{name} has more than {MAX_ARGUMENTS} parameters"
        );
        let at = |error| CudaError::driver(name, error);
        let c_name = CString::new(name).expect("names of kernels have no zero bytes");
        // SAFETY: the module is loaded.
        let raw = unsafe { result::module::get_function(self.raw, c_name) }.map_err(at)?;
        if shared_bytes > 0 {
            let most = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // As much of a multiprocessor's memory as can be is shared memory, so that as many blocks as fit are there at a time.
            let share = CUfunction_attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
            for (attribute, value) in [(most, shared_bytes as i32), (share, 100)] {
                // SAFETY: the function belongs to the loaded module.
                unsafe { result::function::set_function_attribute(raw, attribute, value) }.map_err(at)?;
            }
        }
        Ok(Function { name, raw, parameters })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: loaded once, by `load`.
        let _ = unsafe { result::module::unload(self.raw) };
    }
}
