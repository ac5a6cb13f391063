//! The kernels and how they are called.

use super::driver::{Function, Module, Stream};
use super::error::CudaError;
use super::flash;
use super::format::Format;
use super::memory::{Scratch, Slice, SliceMut};
use super::tables::Table;
use std::fmt;

/// Threads of a block, unless a kernel says otherwise.
pub(super) const THREADS: u32 = 256;

/// Rows of a block of kernels that give each row a warp.
const WARPS: u32 = THREADS / 32;

/// Blocks that fill any device several times; loops over elements go round when there are more elements.
const MANY: u32 = 1 << 14;

/// A fat binary where the driver wants it.
#[repr(C, align(16))]
struct Image<Bytes: ?Sized>(Bytes);

macro_rules! kernels {
    ($(
        $file:literal
        both { $($typed:ident = $typed_name:literal),* $(,)? }
        single { $($kernel:ident = $name:literal),* $(,)? }
    )+) => {
        /// A kernel.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Kernel { $($($typed,)* $($kernel,)*)+ }

        /// Loads every module and its kernels, in the order of [`Kernel`].
        fn load() -> Result<Kernels, CudaError> {
            let (mut modules, mut functions) = (Vec::new(), Vec::new());
            $(
                let module = Module::load(image!($file))?;
                $(functions.push([
                    Some(function(&module, Kernel::$typed, concat!($typed_name, "_f32"), source!($file, ".cuh"))?),
                    Some(function(&module, Kernel::$typed, concat!($typed_name, "_bf16"), source!($file, ".cuh"))?),
                ]);)*
                $(functions.push([Some(function(&module, Kernel::$kernel, $name, source!($file, ".cu"))?), None]);)*
                modules.push(module);
            )+
            Ok(Kernels { functions, _modules: modules })
        }

        #[cfg(test)]
        const ALL: &[Kernel] = &[$($(Kernel::$typed,)* $(Kernel::$kernel,)*)+];

        /// Name of each kernel and the source it is in.
        #[cfg(test)]
        const SOURCES: &[(&str, &str)] = &[$(
            $(($typed_name, source!($file, ".cuh")),)*
            $(($name, source!($file, ".cu")),)*
        )+];
    };
}

macro_rules! image {
    ($file:literal) => {{
        static IMAGE: &Image<[u8]> = &Image(*include_bytes!(concat!(env!("OUT_DIR"), "/", $file, ".fatbin")));
        &IMAGE.0
    }};
}

macro_rules! source {
    ($file:literal, $extension:literal) => {
        include_str!(concat!("kernels/", $file, $extension))
    };
}

// Kernels for both formats are in the header of a module, those for one alone in its source.
kernels! {
    "elementwise"
    both {
        Fill = "fill", Add = "add", SumOf = "sum_of", Scale = "scale", Divide = "divide", DivideBy = "divide_by",
        ScaleByInverse = "scale_by_inverse", Clamp = "clamp_to", Gelu = "gelu", GeluBackward = "gelu_backward",
        GeluBackwardColumns = "gelu_backward_columns", CopyRows = "copy_rows", ScaleSamples = "scale_samples",
        Dropout = "dropout", DropoutColumns = "dropout_columns",
    }
    single { CopyRowsWiden = "copy_rows_widen", CopyRowsNarrow = "copy_rows_narrow", AddAt = "add_at" }

    "norm"
    both {
        LayerNorm = "layer_norm", AddNorm = "add_norm", LayerNormBackward = "layer_norm_backward",
        LayerNormParams = "layer_norm_params", L2Norm = "l2_norm", L2NormBackward = "l2_norm_backward",
        SumColumns = "sum_columns",
    }
    single {}

    "embedding"
    both { Embed = "embed", Gather = "gather", ScatterAdd = "scatter_add", Tokens = "tokens", Patches = "patches" }
    single { ScatterAddWiden = "scatter_add_widen" }

    "attention"
    both {
        Attention = "attention", AttentionAlong = "attention_along", AttentionQueries = "attention_queries",
        AttentionKeys = "attention_keys",
    }
    single {}

    "flash"
    both {}
    single { Flash = "flash" }

    "flash_backward"
    both {}
    single { FlashQueries = "flash_queries", FlashKeys = "flash_keys" }

    "decode"
    both { AttendOne = "attend_one", Pick = "pick", EmbedLast = "embed_last" }
    single {}

    "sample"
    both {}
    single { Choose = "choose", Best = "best" }

    "loss"
    both { Smoothed = "smoothed", SmoothedBackward = "smoothed_backward" }
    single {
        Soft = "soft", SoftBackward = "soft_backward", Softmax = "softmax", MeanLoss = "mean_loss", Weighted = "weighted",
        DotPartials = "dot_partials", Slope = "slope",
    }

    "optim"
    both {}
    single {
        AdamW = "adamw", MomentumAverage = "momentum_average", SquarePartials = "square_partials",
        SumSquares = "sum_squares",
    }

    "digest"
    both {}
    single { DigestPartials = "digest_partials", SumDigests = "sum_digests" }
}

impl Kernel {
    /// The kernel for what is stored in this format.
    pub(super) const fn of(self, format: Format) -> Variant {
        Variant { kernel: self, format }
    }
}

/// A kernel for a format.
#[derive(Debug, Clone, Copy)]
pub(super) struct Variant {
    kernel: Kernel,
    format: Format,
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.kernel, self.format)
    }
}

impl From<Kernel> for Variant {
    fn from(kernel: Kernel) -> Self {
        kernel.of(Format::F32)
    }
}

/// What each block of a kernel has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    pub(super) threads: u32,
    /// Shared memory, if that is less than the kernel may have.
    pub(super) shared_bytes: Option<u32>,
}

impl From<u32> for Block {
    fn from(threads: u32) -> Self {
        Self {
            threads,
            shared_bytes: None,
        }
    }
}

/// A kernel of a module, and how many parameters it has in its source.
fn function(module: &Module, kernel: Kernel, name: &'static str, source: &str) -> Result<Function, CudaError> {
    let in_source = name.trim_end_matches("_f32").trim_end_matches("_bf16");
    let parameters = parameters(source, in_source).expect("every kernel is in its source");
    module.function(name, parameters, shared_bytes(kernel))
}

/// Parameters of a kernel in its source.
fn parameters(source: &str, name: &str) -> Option<usize> {
    let after = |head: String| source.split_once(&head).map(|(_, rest)| rest);
    let rest = after(format!("({name})(")).or_else(|| after(format!(" {name}(")))?;
    let list = &rest[..rest.find(')')?];
    Some(list.matches(',').count() + 1)
}

/// Bytes of a tile of attention: 64 rows of 64 numbers, 4 more in each so that columns lie in different banks.
const TILE_BYTES: u32 = 64 * 68 * 4;

/// Shared memory that the caller of a kernel sets aside, if he does not say how much; else the most he may say.
const fn shared_bytes(kernel: Kernel) -> u32 {
    match kernel {
        Kernel::Attention => 4 * TILE_BYTES,
        Kernel::AttentionQueries | Kernel::AttentionKeys => 5 * TILE_BYTES,
        Kernel::Flash => flash::MAX_SHARED_BYTES,
        Kernel::FlashQueries => flash::MAX_QUERIES_SHARED_BYTES,
        Kernel::FlashKeys => flash::MAX_KEYS_SHARED_BYTES,
        _ => 0,
    }
}

/// All kernels, loaded.
pub(super) struct Kernels {
    /// Of each kernel the function for each format it takes.
    functions: Vec<[Option<Function>; 2]>,
    _modules: Vec<Module>,
}

impl Kernels {
    pub(super) fn load() -> Result<Self, CudaError> {
        load()
    }

    pub(super) fn launch(
        &self,
        stream: &Stream,
        Variant { kernel, format }: Variant,
        grid: (u32, u32),
        block: Block,
        args: &[Arg],
    ) -> Result<(), CudaError> {
        let mut words: Vec<u64> = args.iter().map(|arg| arg.0).collect();
        let function = self.functions[kernel as usize][format as usize].as_ref();
        let function = function.unwrap_or_else(|| panic!("{kernel:?} is not for {format:?}"));
        let shared_bytes = block.shared_bytes.unwrap_or(shared_bytes(kernel));
        stream.launch(function, (grid, block.threads, shared_bytes), &mut words)
    }
}

/// Argument of a kernel: its bytes, lowest first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arg(u64);

impl Arg {
    /// The address of no memory.
    pub(super) const NOTHING: Self = Self(0);
}

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

impl From<i64> for Arg {
    fn from(value: i64) -> Self {
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

impl From<&Table> for Arg {
    fn from(table: &Table) -> Self {
        Self(table.address())
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

/// Blocks for a loop over `n` elements, a pack to a thread.
pub(super) fn loop_grid(n: usize, format: Format) -> (u32, u32) {
    (
        n.div_ceil(THREADS as usize * format.pack()).min(MANY as usize) as u32,
        1,
    )
}

/// Blocks for a loop over rows of `cols` elements, a pack of columns to a thread.
pub(super) fn rows_grid(rows: usize, cols: usize, format: Format) -> (u32, u32) {
    let packs = rows * cols.div_ceil(format.pack());
    assert!(
        u32::try_from(packs).is_ok(),
        "{rows} × {cols} is more than a kernel counts"
    );
    (packs.div_ceil(THREADS as usize).min(MANY as usize) as u32, 1)
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
            assert!(parameters(source, name).is_some(), "{name}");
        }
    }

    #[test]
    fn no_block_asks_for_more_shared_memory_than_every_device_has() {
        // What a block may have where a multiprocessor has least of it, as those of compute capability 8.6, 8.9 and 12.0.
        for kernel in ALL {
            assert!(shared_bytes(*kernel) <= 99 << 10, "{kernel:?}");
        }
    }

    #[test]
    fn parameters_are_counted_in_the_source() {
        let source = "// adds (x)\nKERNEL add(const float* x, float* y,\n u64 n) {}\nTYPED(fill)(float* y) { add(y); }";
        assert_eq!(parameters(source, "add"), Some(3));
        assert_eq!(parameters(source, "fill"), Some(1));
        assert_eq!(parameters(source, "ill"), None);
    }

    #[test]
    fn arguments_stand_in_the_low_bytes_of_their_words() {
        let args = args![1.0f32, 7u32, true, 1usize << 40];
        let words: Vec<u64> = args.iter().map(|arg| arg.0).collect();
        assert_eq!(words, [0x3f80_0000, 7, 1, 1 << 40]);
    }
}
