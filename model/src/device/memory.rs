//! Pieces of memory, wherever they lie.

#[cfg(feature = "cuda")]
use crate::cuda;
use crate::flat::Flat;
use std::ops::Range;

/// Some elements of a buffer, to be read.
#[derive(Clone, Copy)]
pub enum Span<'a> {
    /// In the memory of the process.
    Host(&'a [f32]),
    /// In a GPU's.
    #[cfg(feature = "cuda")]
    Cuda(cuda::Slice<'a>),
}

/// Some elements of a buffer, to be written.
pub enum SpanMut<'a> {
    /// In the memory of the process.
    Host(&'a mut [f32]),
    /// In a GPU's.
    #[cfg(feature = "cuda")]
    Cuda(cuda::SliceMut<'a>),
}

/// Elements that somebody owns.
pub struct Buffer {
    pub(super) store: Store,
    len: usize,
}

/// What a buffer is made of.
pub(super) enum Store {
    Host(Flat),
    #[cfg(feature = "cuda")]
    Cuda(cuda::Memory),
}

impl<'a> Span<'a> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::Host(x) => x.len(),
            #[cfg(feature = "cuda")]
            Self::Cuda(x) => x.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A part of it.
    pub fn range(self, range: Range<usize>) -> Self {
        match self {
            Self::Host(x) => Self::Host(&x[range]),
            #[cfg(feature = "cuda")]
            Self::Cuda(x) => Self::Cuda(x.range(range)),
        }
    }

    /// The elements, for kernels of the processor.
    ///
    /// # Panics
    /// If they lie elsewhere: a device's kernels are given what lies on the device.
    pub fn host(self) -> &'a [f32] {
        match self {
            Self::Host(x) => x,
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => panic!("a kernel of the processor was given memory of a GPU"),
        }
    }

    /// The elements, for kernels of a GPU.
    #[cfg(feature = "cuda")]
    pub(crate) fn cuda(self) -> cuda::Slice<'a> {
        match self {
            Self::Cuda(x) => x,
            Self::Host(_) => panic!("a kernel of a GPU was given memory of the process"),
        }
    }
}

impl<'a> SpanMut<'a> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::Host(x) => x.len(),
            #[cfg(feature = "cuda")]
            Self::Cuda(x) => x.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same, to be read.
    pub fn as_span(&self) -> Span<'_> {
        match self {
            Self::Host(x) => Span::Host(x),
            #[cfg(feature = "cuda")]
            Self::Cuda(x) => Span::Cuda(x.as_slice()),
        }
    }

    /// The same for a shorter time.
    pub fn reborrow(&mut self) -> SpanMut<'_> {
        match self {
            Self::Host(x) => SpanMut::Host(x),
            #[cfg(feature = "cuda")]
            Self::Cuda(x) => SpanMut::Cuda(x.reborrow()),
        }
    }

    /// A part of it.
    pub fn range(self, range: Range<usize>) -> Self {
        match self {
            Self::Host(x) => Self::Host(&mut x[range]),
            #[cfg(feature = "cuda")]
            Self::Cuda(x) => Self::Cuda(x.range(range)),
        }
    }

    /// Two parts of it, in either order.
    ///
    /// # Panics
    /// If they overlap.
    pub(crate) fn two(self, [a, b]: [Range<usize>; 2]) -> [Self; 2] {
        if b.start < a.start {
            let [b, a] = self.two([b, a]);
            return [a, b];
        }
        let (first, rest) = self.split_at(b.start);
        [first.range(a), rest.range(0..b.len())]
    }

    /// The elements before `middle`, and those from there on.
    pub(crate) fn split_at(self, middle: usize) -> (Self, Self) {
        match self {
            Self::Host(x) => {
                let (before, after) = x.split_at_mut(middle);
                (Self::Host(before), Self::Host(after))
            }
            #[cfg(feature = "cuda")]
            Self::Cuda(x) => {
                let (before, after) = x.split_at(middle);
                (Self::Cuda(before), Self::Cuda(after))
            }
        }
    }

    /// The elements, for kernels of the processor.
    ///
    /// # Panics
    /// If they lie elsewhere: a device's kernels are given what lies on the device.
    pub fn host(self) -> &'a mut [f32] {
        match self {
            Self::Host(x) => x,
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => panic!("a kernel of the processor was given memory of a GPU"),
        }
    }

    /// The elements, for kernels of a GPU.
    #[cfg(feature = "cuda")]
    pub(crate) fn cuda(self) -> cuda::SliceMut<'a> {
        match self {
            Self::Cuda(x) => x,
            Self::Host(_) => panic!("a kernel of a GPU was given memory of the process"),
        }
    }
}

impl<'a> From<&'a [f32]> for Span<'a> {
    fn from(x: &'a [f32]) -> Self {
        Self::Host(x)
    }
}

impl<'a> From<&'a Vec<f32>> for Span<'a> {
    fn from(x: &'a Vec<f32>) -> Self {
        Self::Host(x)
    }
}

impl<'a> From<&'a Flat> for Span<'a> {
    fn from(x: &'a Flat) -> Self {
        Self::Host(x)
    }
}

impl<'a> From<&'a Buffer> for Span<'a> {
    fn from(x: &'a Buffer) -> Self {
        x.span()
    }
}

impl<'a> From<&'a mut [f32]> for SpanMut<'a> {
    fn from(x: &'a mut [f32]) -> Self {
        Self::Host(x)
    }
}

impl<'a> From<&'a mut Flat> for SpanMut<'a> {
    fn from(x: &'a mut Flat) -> Self {
        Self::Host(x)
    }
}

impl<'a> From<&'a mut Buffer> for SpanMut<'a> {
    fn from(x: &'a mut Buffer) -> Self {
        x.span_mut()
    }
}

impl Buffer {
    pub(super) fn host(flat: Flat) -> Self {
        let len = flat.len();
        Self {
            store: Store::Host(flat),
            len,
        }
    }

    #[cfg(feature = "cuda")]
    pub(super) fn cuda(memory: cuda::Memory, len: usize) -> Self {
        Self {
            store: Store::Cuda(memory),
            len,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All of it, to be read.
    pub fn span(&self) -> Span<'_> {
        match &self.store {
            Store::Host(flat) => Span::Host(flat),
            #[cfg(feature = "cuda")]
            Store::Cuda(memory) => Span::Cuda(memory.slice().range(0..self.len)),
        }
    }

    /// All of it, to be written.
    pub fn span_mut(&mut self) -> SpanMut<'_> {
        match &mut self.store {
            Store::Host(flat) => SpanMut::Host(flat),
            #[cfg(feature = "cuda")]
            Store::Cuda(memory) => SpanMut::Cuda(memory.slice_mut().range(0..self.len)),
        }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} elements)", self.len)
    }
}

impl std::fmt::Debug for Span<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Span({} elements)", self.len())
    }
}

impl std::fmt::Debug for SpanMut<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SpanMut({} elements)", self.len())
    }
}
