//! Kernels.

use crate::cuda::error::CudaError;
use cudarc::driver::result;
use cudarc::driver::sys::{self, CUfunction_attribute};
use std::ffi::CString;

/// Most parameters of a kernel.
pub(super) const MAX_ARGUMENTS: usize = 32;

/// A kernel.
pub(in crate::cuda) struct Function {
    pub(super) name: &'static str,
    pub(super) raw: sys::CUfunction,
    pub(super) parameters: usize,
}

/// Loaded machine code.
pub(in crate::cuda) struct Module {
    raw: sys::CUmodule,
}

impl Module {
    /// Loads a fat binary, which must be aligned to 8 bytes.
    pub(in crate::cuda) fn load(image: &'static [u8]) -> Result<Self, CudaError> {
        assert_eq!(image.as_ptr().align_offset(8), 0, "fat binaries are aligned");
        // SAFETY: the image is a whole fat binary that the build made, and lives for ever.
        let raw = unsafe { result::module::load_data(image.as_ptr().cast()) };
        let raw = raw.map_err(|error| CudaError::driver("load the kernels", error))?;
        Ok(Self { raw })
    }

    /// A kernel of the module with so many parameters, allowed as much shared memory as `shared_bytes`.
    pub(in crate::cuda) fn function(
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
