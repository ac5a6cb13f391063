//! cuBLASLt, as far as it is needed: products `d = a·b + β·d` that are summed in single precision, possibly with a bias of the
//! result's format.

#![expect(unsafe_code, reason = "cuBLASLt is a C library")]

use super::driver::Stream;
use super::error::CudaError;
use super::format::Format;
use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{
    self, cublasComputeType_t, cublasLtEpilogue_t, cublasLtMatmulAlgo_t,
    cublasLtMatmulDescAttributes_t as DescAttribute, cublasLtMatmulPreferenceAttributes_t as Preference, cudaDataType,
};
use std::ptr;

/// Bytes that a product may use besides its operands; fixed, since the choice of the algorithm depends on it.
const WORKSPACE: usize = 32 << 20;

/// Schemes of splitting the inner dimension that add in a fixed order: none but through the workspace.
const REDUCTIONS: u32 = 2;

/// A column-major operand as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Stored {
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Elements from one column to the next.
    pub(super) stride: usize,
    pub(super) format: Format,
    /// Whether its transpose is meant; not for a result.
    pub(super) turned: bool,
    /// Bytes that its address is known to be a multiple of.
    pub(super) alignment: u32,
}

/// A row as long as the columns of a result that a product has to do with besides its operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Row {
    /// None.
    None,
    /// One that is added, with the result's format.
    Bias,
    /// The sums of `b` over the inner dimension, one for each column of the result; of the result's format.
    Sums,
}

/// Version of the library, as it writes it: major, minor and patch in one number.
///
/// # Errors
/// That the library is not there.
pub fn version() -> Result<usize, CudaError> {
    // SAFETY: loading the library runs its own initialisers only, and the call has no parameters.
    unsafe {
        if !sys::is_culib_present() {
            return Err(CudaError::NoCublas);
        }
        Ok(sys::cublasLtGetVersion())
    }
}

/// A handle of the library, with its workspace.
pub(super) struct Blas {
    handle: sys::cublasLtHandle_t,
    workspace: u64,
    stream: sys::cudaStream_t,
}

// SAFETY: the library locks what a handle names.
unsafe impl Send for Blas {}
// SAFETY: as above.
unsafe impl Sync for Blas {}

impl Blas {
    pub(super) fn new(stream: &Stream) -> Result<Self, CudaError> {
        // SAFETY: loading the library runs its own initialisers only.
        if !unsafe { sys::is_culib_present() } {
            return Err(CudaError::NoCublas);
        }
        let handle = result::create_handle().map_err(|error| CudaError::cublas("start", error))?;
        Ok(Self {
            handle,
            workspace: stream.allocate(WORKSPACE)?,
            stream: stream.raw().cast(),
        })
    }

    /// Address of the workspace, which the owner of the stream frees.
    pub(super) const fn workspace(&self) -> u64 {
        self.workspace
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        // SAFETY: made once, by `new`. Nobody is left to hear of an error.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

/// Everything about a product of one shape but its addresses.
pub(super) struct Plan {
    description: Description,
    a: Layout,
    b: Layout,
    d: Layout,
    algorithm: cublasLtMatmulAlgo_t,
}

// SAFETY: the descriptions are owned, and nothing in them belongs to a thread.
unsafe impl Send for Plan {}

impl Plan {
    /// The library's first choice for this shape; none if it has no algorithm for it.
    pub(super) fn new(blas: &Blas, a: Stored, b: Stored, d: Stored, row: Row) -> Result<Option<Self>, CublasError> {
        let description = Description::new(a.turned, b.turned, row)?;
        let [a_layout, b_layout, d_layout] = [Layout::new(a)?, Layout::new(b)?, Layout::new(d)?];
        let preference = Wish::new(a.alignment, b.alignment, d.alignment)?;
        // SAFETY: all of them live until the end of the function at least.
        let choice = unsafe {
            result::get_matmul_algo_heuristic(
                blas.handle,
                description.0,
                a_layout.0,
                b_layout.0,
                d_layout.0,
                d_layout.0,
                preference.0,
            )
        };
        match choice {
            Ok(choice) => Ok(Some(Self {
                description,
                a: a_layout,
                b: b_layout,
                d: d_layout,
                algorithm: choice.algo,
            })),
            Err(CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `d = a·b + beta·d`, or `a·b + bias`, at these addresses; the last is that of the plan's row, if it has one.
    pub(super) fn run(
        &self,
        blas: &Blas,
        (a, b, d): (u64, u64, u64),
        row: Option<u64>,
        beta: f32,
    ) -> Result<(), CublasError> {
        if let Some(row) = row {
            self.description
                .set(DescAttribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &row)?;
        }
        let alpha = 1.0f32;
        // SAFETY: the operands have the plan's shapes and lie in slices that outlive the call on this stream; the two numbers are
        // read during the call; nobody else uses the workspace, as all products run on one stream.
        unsafe {
            result::matmul(
                blas.handle,
                self.description.0,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                a as *const _,
                self.a.0,
                b as *const _,
                self.b.0,
                d as *const _,
                self.d.0,
                d as *mut _,
                self.d.0,
                &raw const self.algorithm,
                blas.workspace as *mut _,
                WORKSPACE,
                blas.stream,
            )
        }
    }
}

/// How operands are read and what is done to the result.
struct Description(sys::cublasLtMatmulDesc_t);

impl Description {
    fn new(a_turned: bool, b_turned: bool, row: Row) -> Result<Self, CublasError> {
        // Sums of plain single precision: no operand is rounded to fewer bits.
        let compute = cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let this = Self(result::create_matmul_desc(compute, cudaDataType::CUDA_R_32F)?);
        // The library's names for a matrix as it is, and for its transpose, are 0 and 1.
        this.set(DescAttribute::CUBLASLT_MATMUL_DESC_TRANSA, &i32::from(a_turned))?;
        this.set(DescAttribute::CUBLASLT_MATMUL_DESC_TRANSB, &i32::from(b_turned))?;
        let epilogue = match row {
            Row::None => return Ok(this),
            Row::Bias => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS,
            Row::Sums => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BGRADB,
        };
        this.set(DescAttribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
        Ok(this)
    }

    fn set<T>(&self, attribute: DescAttribute, value: &T) -> Result<(), CublasError> {
        // SAFETY: the description lives; the library copies the value, whose type is the attribute's.
        unsafe { result::set_matmul_desc_attribute(self.0, attribute, ptr::from_ref(value).cast(), size_of::<T>()) }
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: made once, by `new`.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

/// Shape of an operand.
struct Layout(sys::cublasLtMatrixLayout_t);

impl Layout {
    fn new(stored: Stored) -> Result<Self, CublasError> {
        let (rows, cols, stride) = (stored.rows as u64, stored.cols as u64, stored.stride as i64);
        let format = match stored.format {
            Format::F32 => cudaDataType::CUDA_R_32F,
            Format::Bf16 => cudaDataType::CUDA_R_16BF,
        };
        result::create_matrix_layout(format, rows, cols, stride).map(Self)
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: made once, by `new`.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

/// What the algorithm may rely on.
struct Wish(sys::cublasLtMatmulPreference_t);

impl Wish {
    fn new(a: u32, b: u32, d: u32) -> Result<Self, CublasError> {
        let this = Self(result::create_matmul_pref()?);
        this.set(Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &WORKSPACE)?;
        this.set(Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &REDUCTIONS)?;
        this.set(Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &a)?;
        this.set(Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &b)?;
        this.set(Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &d)?;
        this.set(Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &d)?;
        Ok(this)
    }

    fn set<T>(&self, attribute: Preference, value: &T) -> Result<(), CublasError> {
        // SAFETY: the preference lives; the library copies the value, whose type is the attribute's.
        unsafe { result::set_matmul_pref_attribute(self.0, attribute, ptr::from_ref(value).cast(), size_of::<T>()) }
    }
}

impl Drop for Wish {
    fn drop(&mut self) {
        // SAFETY: made once, by `new`.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}
