//! Device memory and borrowed parts of it.
//!
//! A slice names elements without access to them, so that borrowing is checked as for host memory: what is written overlaps
//! nothing else. Freeing is ordered behind the operations called before, so memory may be dropped while they are under way; what
//! the device's other streams do with it must be over by then.

use super::Cuda;
use super::format::Format;
use std::fmt::{Debug, Formatter, Result as FmtResult};
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

/// Elements of device memory, to be read.
#[derive(Debug, Clone, Copy)]
pub struct Slice<'a> {
    address: u64,
    len: usize,
    format: Format,
    memory: PhantomData<&'a [f32]>,
}

impl<'a> Slice<'a> {
    const fn new(address: u64, len: usize, format: Format) -> Self {
        Self {
            address,
            len,
            format,
            memory: PhantomData,
        }
    }

    /// Elements that are nowhere, for operations that do nothing since the device has failed.
    pub(super) const fn nowhere(len: usize) -> Self {
        Self::new(0, len, Format::F32)
    }

    /// Number of elements.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How the elements are stored.
    pub const fn format(&self) -> Format {
        self.format
    }

    /// Some of the elements.
    pub fn range(self, range: Range<usize>) -> Slice<'a> {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "elements {range:?} of {}",
            self.len
        );
        let address = self.address + (range.start * self.format.size()) as u64;
        Slice::new(address, range.len(), self.format)
    }

    pub(super) const fn address(&self) -> u64 {
        self.address
    }

    /// Bytes of the elements.
    pub(super) const fn bytes(&self) -> usize {
        self.len * self.format.size()
    }

    /// Whether the elements can be read 16 bytes at a time.
    pub(super) const fn is_aligned(&self) -> bool {
        self.address.is_multiple_of(16)
    }

    /// Whether that holds for each row of a matrix whose rows are `stride` apart.
    pub(super) const fn has_aligned_rows(&self, stride: usize) -> bool {
        self.is_aligned() && stride.is_multiple_of(self.format.pack())
    }
}

/// Elements of device memory, to be written.
#[derive(Debug)]
pub struct SliceMut<'a> {
    slice: Slice<'a>,
    memory: PhantomData<&'a mut [f32]>,
}

impl<'a> SliceMut<'a> {
    const fn new(slice: Slice<'a>) -> Self {
        Self {
            slice,
            memory: PhantomData,
        }
    }

    /// Number of elements.
    pub const fn len(&self) -> usize {
        self.slice.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.slice.is_empty()
    }

    /// How the elements are stored.
    pub const fn format(&self) -> Format {
        self.slice.format()
    }

    /// The same elements for a shorter time.
    pub const fn reborrow(&mut self) -> SliceMut<'_> {
        SliceMut::new(self.slice)
    }

    /// Some of the elements.
    pub fn range(self, range: Range<usize>) -> SliceMut<'a> {
        SliceMut::new(self.slice.range(range))
    }

    /// The elements before `middle`, and those from there on.
    pub fn split_at(self, middle: usize) -> (SliceMut<'a>, SliceMut<'a>) {
        let part = |range| SliceMut::new(self.slice.range(range));
        (part(0..middle), part(middle..self.slice.len()))
    }

    /// The elements, to be read.
    pub const fn as_slice(&self) -> Slice<'_> {
        self.slice
    }

    pub(super) const fn address(&self) -> u64 {
        self.slice.address()
    }

    /// Whether the elements can be read and written 16 bytes at a time.
    pub(super) const fn is_aligned(&self) -> bool {
        self.slice.is_aligned()
    }

    /// Whether that holds for each row of a matrix whose rows are `stride` apart.
    pub(super) const fn has_aligned_rows(&self, stride: usize) -> bool {
        self.slice.has_aligned_rows(stride)
    }
}

/// Device memory of its own, which starts at a multiple of 256 bytes.
pub struct Memory {
    cuda: Arc<Cuda>,
    address: u64,
    len: usize,
    format: Format,
}

impl Memory {
    pub(super) fn new(cuda: &Arc<Cuda>, len: usize, format: Format) -> Self {
        Self {
            address: cuda.allocate(len * format.size()),
            cuda: cuda.clone(),
            len,
            format,
        }
    }

    /// Number of elements.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How the elements are stored.
    pub const fn format(&self) -> Format {
        self.format
    }

    /// All elements, to be read.
    pub const fn slice(&self) -> Slice<'_> {
        Slice::new(self.address, self.len, self.format)
    }

    /// All elements, to be written.
    pub const fn slice_mut(&mut self) -> SliceMut<'_> {
        SliceMut::new(Slice::new(self.address, self.len, self.format))
    }
}

impl Debug for Memory {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        write!(f, "Memory({} elements of {:?})", self.len, self.format)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.cuda.free(self.address);
    }
}

/// Memory of one operation.
pub(super) struct Scratch<'a> {
    cuda: &'a Cuda,
    address: u64,
}

impl<'a> Scratch<'a> {
    pub(super) fn new(cuda: &'a Cuda, bytes: usize) -> Self {
        Self {
            cuda,
            address: cuda.allocate(bytes),
        }
    }

    pub(super) const fn address(&self) -> u64 {
        self.address
    }

    /// Its first `len` elements, to be read.
    pub(super) const fn slice(&self, len: usize, format: Format) -> Slice<'_> {
        Slice::new(self.address, len, format)
    }

    /// Its first `len` elements, to be written.
    pub(super) const fn slice_mut(&mut self, len: usize, format: Format) -> SliceMut<'_> {
        SliceMut::new(Slice::new(self.address, len, format))
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        self.cuda.free(self.address);
    }
}
