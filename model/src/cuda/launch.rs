//! The kernels and how they are called.

use super::driver::{Function, Module, Stream};
use super::error::CudaError;
use super::memory::{Scratch, Slice, SliceMut};

/// Threads of a block, unless a kernel says otherwise.
pub(super) const THREADS: u32 = 256;

/// Rows of a block of kernels that give each row a warp.
pub(super) const WARPS: u32 = THREADS / 32;

/// Elements a thread takes at once.
pub(super) const AT_ONCE: u32 = 4;

/// Blocks that fill any device several times; loops over elements go round when there are more elements.
const MANY: u32 = 1 << 14;

/// A fat binary where the driver wants it.
#[repr(C, align(16))]
struct Image<Bytes: ?Sized>(Bytes);

macro_rules! kernels {
    ($($file:literal { $($kernel:ident = $name:literal),+ $(,)? })+) => {
        /// A kernel.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Kernel { $($($kernel),+),+ }

        /// Loads every module and its kernels, in the order of [`Kernel`].
        fn load() -> Result<Kernels, CudaError> {
            let (mut modules, mut functions) = (Vec::new(), Vec::new());
            $(
                let module = Module::load(image!($file))?;
                $(functions.push(module.function($name, shared_bytes(Kernel::$kernel))?);)+
                modules.push(module);
            )+
            Ok(Kernels { functions, _modules: modules })
        }

        /// Name of each kernel and the source it is in.
        #[cfg(test)]
        const SOURCES: &[(&str, &str)] = &[$($(($name, include_str!(concat!("kernels/", $file, ".cu")))),+),+];
    };
}

macro_rules! image {
    ($file:literal) => {{
        static IMAGE: &Image<[u8]> = &Image(*include_bytes!(concat!(env!("OUT_DIR"), "/", $file, ".fatbin")));
        &IMAGE.0
    }};
}

kernels! {
    "elementwise" {
        Fill = "fill", Add = "add", SumOf = "sum_of", Scale = "scale", Divide = "divide", DivideBy = "divide_by",
        ScaleByInverse = "scale_by_inverse",
        Clamp = "clamp_to", Gelu = "gelu", GeluBackward = "gelu_backward", CopyRows = "copy_rows",
        ScaleSamples = "scale_samples", Dropout = "dropout", AddAt = "add_at",
    }
    "norm" {
        LayerNorm = "layer_norm", LayerNormBackward = "layer_norm_backward", LayerNormParams = "layer_norm_params",
        L2Norm = "l2_norm", L2NormBackward = "l2_norm_backward", SumColumns = "sum_columns", SumPartials = "sum_partials",
    }
    "embedding" {
        Embed = "embed", Gather = "gather", ScatterAdd = "scatter_add", Tokens = "tokens", Patches = "patches",
    }
    "attention" {
        Attention = "attention", AttentionAlong = "attention_along", AttentionQueries = "attention_queries",
        AttentionKeys = "attention_keys",
    }
    "loss" {
        Smoothed = "smoothed", SmoothedBackward = "smoothed_backward", Soft = "soft", SoftBackward = "soft_backward",
        Softmax = "softmax", MeanLoss = "mean_loss", Weighted = "weighted", DotPartials = "dot_partials", Slope = "slope",
    }
    "optim" {
        AdamW = "adamw", MomentumAverage = "momentum_average", SquarePartials = "square_partials",
        SumSquares = "sum_squares",
    }
}

/// Bytes of a tile of attention: 64 rows of 64 numbers, 4 more in each so that columns lie in different banks.
const TILE_BYTES: u32 = 64 * 68 * 4;

/// Shared memory that the caller of a kernel sets aside.
const fn shared_bytes(kernel: Kernel) -> u32 {
    match kernel {
        Kernel::Attention => 4 * TILE_BYTES,
        Kernel::AttentionQueries => 5 * TILE_BYTES,
        Kernel::AttentionKeys => 6 * TILE_BYTES,
        _ => 0,
    }
}

/// All kernels, loaded.
pub(super) struct Kernels {
    functions: Vec<Function>,
    _modules: Vec<Module>,
}

impl Kernels {
    pub(super) fn load() -> Result<Self, CudaError> {
        load()
    }

    pub(super) fn launch(
        &self,
        stream: &Stream,
        kernel: Kernel,
        grid: (u32, u32),
        threads: u32,
        args: &[Arg],
    ) -> Result<(), CudaError> {
        let mut words: Vec<u64> = args.iter().map(|arg| arg.0).collect();
        let function = &self.functions[kernel as usize];
        stream.launch(function, (grid, threads, shared_bytes(kernel)), &mut words)
    }
}

/// Argument of a kernel: its bytes, lowest first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arg(u64);

impl From<u64> for Arg {
    fn from(value: u64) -> Self {
        Self(value)
    }
}

impl From<u32> for Arg {
    fn from(value: u32) -> Self {
        Self(value.into())
    }
}

impl From<usize> for Arg {
    fn from(value: usize) -> Self {
        Self(value as u64)
    }
}

impl From<bool> for Arg {
    fn from(value: bool) -> Self {
        Self(value.into())
    }
}

impl From<f32> for Arg {
    fn from(value: f32) -> Self {
        Self(value.to_bits().into())
    }
}

impl From<Slice<'_>> for Arg {
    fn from(slice: Slice) -> Self {
        Self(slice.address())
    }
}

impl From<&SliceMut<'_>> for Arg {
    fn from(slice: &SliceMut) -> Self {
        Self(slice.address())
    }
}

impl From<&Scratch<'_>> for Arg {
    fn from(scratch: &Scratch) -> Self {
        Self(scratch.address())
    }
}

/// Arguments of a kernel, in its order.
macro_rules! args {
    ($($value:expr),* $(,)?) => { &[$($crate::cuda::launch::Arg::from($value)),*] as &[$crate::cuda::launch::Arg] };
}
pub(super) use args;

/// Blocks for a loop over `n` elements, four to a thread.
pub(super) fn loop_grid(n: usize) -> (u32, u32) {
    (n.div_ceil((THREADS * AT_ONCE) as usize).min(MANY as usize) as u32, 1)
}

/// Blocks for a loop over rows of `cols` elements, four columns to a thread.
pub(super) fn rows_grid(rows: usize, cols: usize) -> (u32, u32) {
    let fours = rows * cols.div_ceil(AT_ONCE as usize);
    assert!(
        u32::try_from(fours).is_ok(),
        "{rows} × {cols} is more than a kernel counts"
    );
    (fours.div_ceil(THREADS as usize).min(MANY as usize) as u32, 1)
}

/// Blocks that give each row a warp.
pub(super) fn warps_grid(rows: usize) -> (u32, u32) {
    (rows.div_ceil(WARPS as usize) as u32, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_is_in_its_source() {
        for (name, source) in SOURCES {
            assert!(source.contains(&format!(" {name}(")), "{name}");
        }
    }

    #[test]
    fn arguments_stand_in_the_low_bytes_of_their_words() {
        let args = args![1.0f32, 7u32, true, 1usize << 40];
        let words: Vec<u64> = args.iter().map(|arg| arg.0).collect();
        assert_eq!(words, [0x3f80_0000, 7, 1, 1 << 40]);
    }
}
