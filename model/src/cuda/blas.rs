//! cuBLASLt, as far as it is needed: products `d = a·b + β·d` that are summed in single precision, possibly with a bias of the
//! result's format, and several of one shape at once.

#![expect(unsafe_code, reason = "cuBLASLt is a C library")]

use super::driver::Stream;
use super::error::CudaError;
use super::format::Format;
use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{
    self, cublasComputeType_t, cublasLtEpilogue_t, cublasLtMatmulAlgo_t,
    cublasLtMatmulDescAttributes_t as DescAttribute, cublasLtMatmulPreferenceAttributes_t as Preference,
    cublasLtMatrixLayoutAttribute_t as LayoutAttribute, cudaDataType,
};
use std::ptr;

/// Bytes that a product may use besides its operands; fixed, since the choice of the algorithm depends on it.
const WORKSPACE: usize = 32 << 20;

/// Major version of the library.
const MAJOR: usize = 13;

/// Schemes of splitting the inner dimension that add in a fixed order: none but through the workspace.
const REDUCTIONS: u32 = 2;

/// A column-major operand as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Stored {
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Elements from one column to the next.
    pub(super) stride: usize,
    /// Elements from the operand of one product to that of the next.
    pub(super) distance: usize,
    pub(super) format: Format,
    /// Whether its transpose is meant; not for a result.
    pub(super) turned: bool,
    /// Bytes that its address is known to be a multiple of.
    pub(super) alignment: u32,
}

/// Everything about products that are computed at once but their addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    /// Both factors and the result.
    pub(super) operands: [Stored; 3],
    /// Number of products.
    pub(super) count: usize,
    /// Elements from the bias of one product to that of the next, if biases are added.
    pub(super) bias: Option<usize>,
}

/// Version of the library, which is of the CUDA that the programs are built for.
///
/// # Errors
/// That the library is not there, or is another.
pub fn version() -> Result<String, CudaError> {
    // SAFETY: loading the library runs its own initialisers only, and the call has no parameters.
    let version = unsafe {
        if !sys::is_culib_present() {
            return Err(CudaError::NoCublas);
        }
        sys::cublasLtGetVersion()
    };
    let text = format!("{}.{}.{}", version / 10_000, version % 10_000 / 100, version % 100);
    if version / 10_000 == MAJOR {
        Ok(text)
    } else {
        Err(CudaError::OtherCublas(text))
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
        version()?;
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
    pub(super) fn new(blas: &Blas, shape: &Shape) -> Result<Option<Self>, CublasError> {
        let [a, b, d] = shape.operands;
        let description = Description::new(a.turned, b.turned, shape.bias)?;
        let layout = |stored| Layout::new(stored, shape.count);
        let [a_layout, b_layout, d_layout] = [layout(a)?, layout(b)?, layout(d)?];
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

    /// `d = a·b + beta·d`, or `a·b + bias` where the plan has one, at these addresses. The operands have so many columns as
    /// they are stored, which may be fewer than were planned.
    pub(super) fn run(
        &mut self,
        blas: &Blas,
        columns: [usize; 3],
        (a, b, d): (u64, u64, u64),
        bias: Option<u64>,
        beta: f32,
    ) -> Result<(), CublasError> {
        for (layout, columns) in [&mut self.a, &mut self.b, &mut self.d].into_iter().zip(columns) {
            layout.resize(columns)?;
        }
        if let Some(bias) = bias {
            self.description
                .set(DescAttribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)?;
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
    fn new(a_turned: bool, b_turned: bool, bias: Option<usize>) -> Result<Self, CublasError> {
        // Sums of plain single precision: no operand is rounded to fewer bits.
        let compute = cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let this = Self(result::create_matmul_desc(compute, cudaDataType::CUDA_R_32F)?);
        // The library's names for a matrix as it is, and for its transpose, are 0 and 1.
        this.set(DescAttribute::CUBLASLT_MATMUL_DESC_TRANSA, &i32::from(a_turned))?;
        this.set(DescAttribute::CUBLASLT_MATMUL_DESC_TRANSB, &i32::from(b_turned))?;
        if let Some(distance) = bias {
            let epilogue = cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS;
            this.set(DescAttribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
            if distance > 0 {
                let distance = distance as i64;
                this.set(DescAttribute::CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, &distance)?;
            }
        }
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

/// Whether the library has done nothing since it does not take what was asked for.
pub(super) const fn is_refusal(error: CublasError) -> bool {
    use sys::cublasStatus_t::{CUBLAS_STATUS_INVALID_VALUE, CUBLAS_STATUS_NOT_SUPPORTED};
    matches!(error.0, CUBLAS_STATUS_INVALID_VALUE | CUBLAS_STATUS_NOT_SUPPORTED)
}

/// Shape of an operand, and its columns.
struct Layout(sys::cublasLtMatrixLayout_t, usize);

impl Layout {
    fn new(stored: Stored, count: usize) -> Result<Self, CublasError> {
        let (rows, cols, stride) = (stored.rows as u64, stored.cols as u64, stored.stride as i64);
        let format = match stored.format {
            Format::F32 => cudaDataType::CUDA_R_32F,
            Format::Bf16 => cudaDataType::CUDA_R_16BF,
        };
        let layout = result::create_matrix_layout(format, rows, cols, stride)?;
        let this = Self(layout, stored.cols);
        if count > 1 {
            this.set(LayoutAttribute::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &(count as i32))?;
            let distance = stored.distance as i64;
            this.set(LayoutAttribute::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &distance)?;
        }
        Ok(this)
    }

    /// Gives it so many columns, which lie as far apart as before.
    fn resize(&mut self, columns: usize) -> Result<(), CublasError> {
        if self.1 == columns {
            return Ok(());
        }
        self.set(LayoutAttribute::CUBLASLT_MATRIX_LAYOUT_COLS, &(columns as u64))?;
        self.1 = columns;
        Ok(())
    }

    fn set<T>(&self, attribute: LayoutAttribute, value: &T) -> Result<(), CublasError> {
        // SAFETY: the layout lives; the library copies the value, whose type is the attribute's.
        unsafe { result::set_matrix_layout_attribute(self.0, attribute, ptr::from_ref(value).cast(), size_of::<T>()) }
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
