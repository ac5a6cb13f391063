//! NCCL, as far as it is needed: a communicator none of whose calls wait, and groups of sends and receives.
//!
//! The library is loaded when it is first asked for. Packages bring it as `libnccl.so.2`, a name that `cudarc` does not look for,
//! and without a library `cudarc` panics; so the few functions are declared here.
//!
//! What a communicator does goes into a stream of its own, which [`follows`](Cuda::follow) that of the lanes where it reads what they
//! have made. So exchanges go on while lanes are computed, and what was received can be added at once, in the
//! same stream. Whoever waits for an exchange asks [`has_passed`](Communicator::has_passed), again and again, and never waits for
//! the stream: a peer that is gone would hold it for ever.

#![expect(unsafe_code, reason = "NCCL is a C library")]

use super::Cuda;
use super::driver::Event;
use super::error::CudaError;
use super::format::Format;
use super::memory::{Slice, SliceMut};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::{mem, ptr};

/// Names of the library, the one of packages first.
const NAMES: [&CStr; 2] = [c"libnccl.so.2", c"libnccl.so"];
/// Before this version a communicator cannot be told all that is set here.
const OLDEST: u32 = 21_700;
const SUCCESS: c_int = 0;
/// What a peer's end or the network has done.
const REMOTE_ERROR: c_int = 6;
const IN_PROGRESS: c_int = 7;
/// The library's name for single precision.
const FLOAT32: c_int = 7;
/// Its word for what is not set.
const UNSET: c_int = c_int::MIN;

/// What the members of a communicator know each other by: made by one of them, told to all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct UniqueId(pub [u8; 128]);

impl UniqueId {
    /// A new one; from now on this process answers to those who begin a communicator with it.
    ///
    /// # Errors
    /// What is missing on this machine, or what the library says.
    pub fn generate() -> Result<Self, CudaError> {
        let library = Library::get()?;
        let mut id = Self([0; 128]);
        // SAFETY: the id outlives the call, and is as large as the library's.
        let code = unsafe { (library.get_unique_id)(&raw mut id) };
        library.done("make an id", code).map(|_| id)
    }
}

/// Version of the library in its own coding, in which 2.30.7 is 23007, and where it was found.
///
/// # Errors
/// What is missing on this machine.
pub fn version() -> Result<(u32, PathBuf), CudaError> {
    Library::get().map(|library| (library.version, library.path.clone()))
}

/// `ncclConfig_t` as of version 2.17 and a field of later ones in its padding; the library takes the rest for not set.
#[repr(C)]
struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
    cga_cluster_size: c_int,
    min_ctas: c_int,
    max_ctas: c_int,
    net_name: *const c_char,
    split_share: c_int,
    traffic_class: c_int,
}

impl Config {
    /// Calls do not wait.
    const fn new() -> Self {
        Self {
            size: size_of::<Self>(),
            magic: 0xcafe_beef,
            version: OLDEST,
            blocking: 0,
            cga_cluster_size: UNSET,
            min_ctas: UNSET,
            max_ctas: UNSET,
            net_name: ptr::null(),
            split_share: UNSET,
            traffic_class: UNSET,
        }
    }
}

/// The library's handle of a communicator.
type Raw = *mut c_void;
type Send = unsafe extern "C" fn(*const c_void, usize, c_int, c_int, Raw, *mut c_void) -> c_int;
type Receive = unsafe extern "C" fn(*mut c_void, usize, c_int, c_int, Raw, *mut c_void) -> c_int;

/// The functions of the loaded library.
struct Library {
    version: u32,
    path: PathBuf,
    get_unique_id: unsafe extern "C" fn(*mut UniqueId) -> c_int,
    init: unsafe extern "C" fn(*mut Raw, c_int, UniqueId, c_int, *mut Config) -> c_int,
    async_error: unsafe extern "C" fn(Raw, *mut c_int) -> c_int,
    abort: unsafe extern "C" fn(Raw) -> c_int,
    group_start: unsafe extern "C" fn() -> c_int,
    group_end: unsafe extern "C" fn() -> c_int,
    send: Send,
    receive: Receive,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
}

impl Library {
    /// The library, loaded once.
    fn get() -> Result<&'static Self, CudaError> {
        static LIBRARY: OnceLock<Result<Library, CudaError>> = OnceLock::new();
        LIBRARY.get_or_init(Self::load).as_ref().map_err(CudaError::clone)
    }

    fn load() -> Result<Self, CudaError> {
        let handle = open()?;
        // SAFETY: the types are those of the library's header, which has kept them since version 2.17.
        unsafe {
            let get_version: unsafe extern "C" fn(*mut c_int) -> c_int = symbol(handle, c"ncclGetVersion")?;
            let mut version = 0;
            get_version(&raw mut version);
            let version = version as u32;
            if version < OLDEST {
                let why = format!("its version is {version}, where {OLDEST} is the oldest that serves");
                return Err(CudaError::NoNccl { why });
            }
            Ok(Self {
                version,
                path: path_of(get_version as *const c_void),
                get_unique_id: symbol(handle, c"ncclGetUniqueId")?,
                init: symbol(handle, c"ncclCommInitRankConfig")?,
                async_error: symbol(handle, c"ncclCommGetAsyncError")?,
                abort: symbol(handle, c"ncclCommAbort")?,
                group_start: symbol(handle, c"ncclGroupStart")?,
                group_end: symbol(handle, c"ncclGroupEnd")?,
                send: symbol(handle, c"ncclSend")?,
                receive: symbol(handle, c"ncclRecv")?,
                error_string: symbol(handle, c"ncclGetErrorString")?,
            })
        }
    }

    /// Whether a call is done, or goes on by itself.
    fn done(&self, what: &'static str, code: c_int) -> Result<bool, CudaError> {
        match code {
            SUCCESS => Ok(true),
            IN_PROGRESS => Ok(false),
            number => {
                // SAFETY: the library returns a text of its own for every number.
                let text = unsafe { CStr::from_ptr((self.error_string)(number)) };
                Err(CudaError::Nccl {
                    what,
                    code: text.to_string_lossy().into_owned(),
                    is_remote: number == REMOTE_ERROR,
                })
            }
        }
    }
}

/// Loads the library; it stays.
fn open() -> Result<*mut c_void, CudaError> {
    let mut why = String::new();
    for name in NAMES {
        // SAFETY: loading the library runs its own initialisers only; the loader's text is copied before the next call.
        unsafe {
            let handle = libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
            if !handle.is_null() {
                return Ok(handle);
            }
            let text = libc::dlerror();
            if why.is_empty() && !text.is_null() {
                why = CStr::from_ptr(text).to_string_lossy().into_owned();
            }
        }
    }
    Err(CudaError::NoNccl { why })
}

/// A function of the library.
///
/// # Safety
/// `F` is the type of the pointer to it.
unsafe fn symbol<F: Copy>(handle: *mut c_void, name: &CStr) -> Result<F, CudaError> {
    assert_eq!(
        size_of::<F>(),
        size_of::<*mut c_void>(),
        "a function is named by a pointer"
    );
    // SAFETY: the handle is the loaded library's.
    let address = unsafe { libc::dlsym(handle, name.as_ptr()) };
    if address.is_null() {
        let why = format!("it has no {}", name.to_string_lossy());
        return Err(CudaError::NoNccl { why });
    }
    // SAFETY: the caller vouches for the type, whose size was compared.
    Ok(unsafe { mem::transmute_copy(&address) })
}

/// The file that holds a function.
fn path_of(function: *const c_void) -> PathBuf {
    // SAFETY: all-zero is a valid value, which the call overwrites if it finds the function.
    let info = unsafe {
        let mut info: libc::Dl_info = mem::zeroed();
        libc::dladdr(function, &raw mut info);
        info
    };
    if info.dli_fname.is_null() {
        return PathBuf::new();
    }
    // SAFETY: the loader's own text, which stays as the library does.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    PathBuf::from(name.to_string_lossy().into_owned())
}

/// A rank's end of a communicator. Dropping it gives up whatever is under way, also on the peers' side.
pub struct Communicator {
    library: &'static Library,
    cuda: Arc<Cuda>,
    raw: Raw,
    end: Event,
}

// SAFETY: the library lets any thread call, one at a time.
unsafe impl std::marker::Send for Communicator {}

impl Communicator {
    /// Begins to connect with the other ranks that know `id`; [`is_ready`](Self::is_ready) says when that is done. Exchanges go into
    /// the stream of `cuda`, which nobody else uses without asking whether that is so.
    ///
    /// # Errors
    /// What is missing on this machine, or what the library says.
    pub fn begin(cuda: &Arc<Cuda>, id: UniqueId, (rank, ranks): (u32, u32)) -> Result<Self, CudaError> {
        let library = Library::get()?;
        // The library takes the device whose context is current.
        cuda.stream();
        let end = Event::new()?;
        let (mut raw, mut config) = (ptr::null_mut(), Config::new());
        // SAFETY: handle and configuration outlive the call, which copies what it keeps.
        let code = unsafe { (library.init)(&raw mut raw, ranks as c_int, id, rank as c_int, &raw mut config) };
        // Owned from here on, whatever the code says.
        let this = Self {
            library,
            cuda: cuda.clone(),
            raw,
            end,
        };
        library.done("begin a communicator", code)?;
        Ok(this)
    }

    /// Whether what was asked so far has been handed to the device; until then nothing else may be asked, nor of its stream.
    ///
    /// # Errors
    /// What has gone wrong, here or at a peer: what was received so far is worthless.
    pub fn is_ready(&self) -> Result<bool, CudaError> {
        if let Some(error) = self.cuda.failure() {
            return Err(error);
        }
        let mut state = SUCCESS;
        // SAFETY: the communicator lives, and the number outlives the call.
        let code = unsafe { (self.library.async_error)(self.raw, &raw mut state) };
        self.library.done("tell how it does", code)?;
        self.library.done("go on", state)
    }

    /// Asks for all of this at once: each peer is sent to and received from in the order given here, which must be its order.
    ///
    /// # Errors
    /// What the library says, or what the device said before.
    pub fn exchange(
        &mut self,
        sends: &[(u32, Slice<'_>)],
        receives: &mut [(u32, SliceMut<'_>)],
    ) -> Result<(), CudaError> {
        // Memory that could not be had has no address.
        if let Some(error) = self.cuda.failure() {
            return Err(error);
        }
        let formats = sends.iter().map(|(_, x)| x.format());
        let mut formats = formats.chain(receives.iter().map(|(_, y)| y.format()));
        assert!(
            formats.all(|format| format == Format::F32),
            "sums are of single precision"
        );
        let stream = self.cuda.stream().raw().cast();
        let library = self.library;
        // SAFETY: addresses are those of slices whose memory is freed on this stream, or once it was waited for.
        unsafe {
            library.done("begin a group", (library.group_start)())?;
            let mut asked = Ok(true);
            for (to, x) in sends {
                let code = (library.send)(
                    x.address() as *const _,
                    x.len(),
                    FLOAT32,
                    *to as c_int,
                    self.raw,
                    stream,
                );
                asked = asked.and(library.done("send", code));
            }
            for (from, y) in receives {
                let code = (library.receive)(
                    y.address() as *mut _,
                    y.len(),
                    FLOAT32,
                    *from as c_int,
                    self.raw,
                    stream,
                );
                asked = asked.and(library.done("receive", code));
            }
            // A group that was begun is ended, whatever happened in it.
            let ended = library.done("end a group", (library.group_end)());
            asked.and(ended).map(|_| ())
        }
    }

    /// Marks the end of what the device was asked so far.
    ///
    /// # Errors
    /// What the driver says.
    pub fn mark(&mut self) -> Result<(), CudaError> {
        self.end.record(self.cuda.stream())
    }

    /// Whether the device has done all before the mark, and all of it well.
    ///
    /// # Errors
    /// What has gone wrong, here or at a peer: what was received is worthless.
    pub fn has_passed(&self) -> Result<bool, CudaError> {
        let passed = self.end.has_passed()?;
        // An exchange that was given up passes too, so this is asked afterwards.
        Ok(self.is_ready()? && passed)
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        if !self.raw.is_null() {
            self.cuda.stream();
            // SAFETY: begun once, by `begin`, and not used any more. Nobody is left to hear of an error.
            let _ = unsafe { (self.library.abort)(self.raw) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_has_the_length_of_the_oldest_one() {
        assert_eq!(size_of::<Config>(), 48);
        assert_eq!(Config::new().size, 48);
    }

    #[test]
    fn the_library_is_found_or_its_absence_explained() {
        match (version(), UniqueId::generate()) {
            (Ok((version, path)), Ok(id)) => {
                assert!(version >= OLDEST && path.to_string_lossy().contains("nccl"), "{path:?}");
                assert_ne!(id, UniqueId([0; 128]));
            }
            (Err(error), Err(_)) => assert!(error.to_string().contains("LD_LIBRARY_PATH"), "{error}"),
            (found, made) => panic!("{found:?}, yet {made:?}"),
        }
    }
}
