//! The CUDA driver, as far as it is needed: a context, a stream with its memory, pinned memory, events and kernels.
//!
//! Each type owns one thing and gives it back when dropped; the order in which they are dropped is the affair of
//! [`Cuda`](super::Cuda), which owns them all.

#![expect(unsafe_code, reason = "the driver is a C library")]

mod event;
mod graph;
mod module;
mod pinned;
mod stream;

pub(super) use event::Event;
pub(super) use graph::Graph;
use module::MAX_ARGUMENTS;
pub(super) use module::{Function, Module};
pub(super) use pinned::Pinned;
pub(super) use stream::Stream;

use super::error::CudaError;
use cudarc::driver::sys::{self, CUdevice_attribute, CUmemPool_attribute};
use cudarc::driver::{DriverError, result};

/// The oldest CUDA that the driver may be for: that of the libraries.
const OLDEST_DRIVER: (u32, u32) = (13, 0);
/// The oldest compute capability that kernels are built for.
const OLDEST_COMPUTE: (u32, u32) = (8, 0);
/// The latest major compute capability that there is machine code for: the driver makes that of later ones.
const LATEST_COMPILED: u32 = 9;

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
    /// Compute capability, major and minor.
    pub compute: (u32, u32),
    /// Memory it has.
    pub total_bytes: usize,
}

impl Listed {
    /// Whether the driver and the device run the kernels and the libraries.
    ///
    /// # Errors
    /// What of them is too old.
    pub fn check(&self) -> Result<(), CudaError> {
        let driver = driver_version()?;
        if driver < OLDEST_DRIVER {
            return Err(CudaError::OldDriver(driver));
        }
        if self.compute < OLDEST_COMPUTE {
            let (name, compute) = (self.name.clone(), self.compute);
            return Err(CudaError::OldDevice { name, compute });
        }
        Ok(())
    }
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

/// The devices that the driver sees, in the order of their numbers.
///
/// # Errors
/// What is missing on this machine, or what the driver says.
pub fn devices() -> Result<Vec<Listed>, CudaError> {
    let listed: Result<_, DriverError> = (0..start()?)
        .map(|ordinal| list(result::device::get(ordinal as i32)?))
        .collect();
    listed.map_err(|error| CudaError::driver("describe devices", error))
}

fn list(device: sys::CUdevice) -> Result<Listed, DriverError> {
    Ok(Listed {
        name: result::device::get_name(device)?,
        uuid: uuid(device)?,
        compute: (
            attribute(device, CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(device, CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        // SAFETY: the device comes from the driver.
        total_bytes: unsafe { result::device::total_mem(device) }?,
    })
}

fn attribute(device: sys::CUdevice, name: CUdevice_attribute) -> Result<u32, DriverError> {
    // SAFETY: the device comes from the driver.
    unsafe { result::device::get_attribute(device, name) }.map(|value| value as u32)
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

/// What the bits of a device's results depend on besides the program and the format: its model, the version of the library of
/// matrix products, and that of a driver which makes the kernels' machine code itself.
///
/// # Errors
/// Why the device cannot compute.
pub fn numerics(device: &Listed) -> Result<String, CudaError> {
    device.check()?;
    let numerics = format!("{} cuBLASLt {}", device.name, super::blas::version()?);
    if device.compute.0 <= LATEST_COMPILED {
        return Ok(numerics);
    }
    let (major, minor) = driver_version()?;
    Ok(format!("{numerics} CUDA {major}.{minor}"))
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
        list(device).map_err(at("describe the device"))?.check()?;
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
        let (mut free_bytes, mut total_bytes, mut version) = (0, 0, 0);
        // SAFETY: the numbers outlive the calls.
        unsafe {
            sys::cuMemGetInfo_v2(&raw mut free_bytes, &raw mut total_bytes).result()?;
            sys::cuDriverGetVersion(&raw mut version).result()?;
        }
        let Listed { name, compute, .. } = list(self.device)?;
        Ok(Description {
            name,
            compute,
            total_bytes,
            free_bytes,
            driver: (version as u32 / 1000, version as u32 % 1000 / 10),
            multiprocessors: attribute(
                self.device,
                CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
            )?,
        })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once, by `open`. Nobody is left to hear of an error.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}
