//! Device memory and borrowed parts of it.
//!
//! A slice names elements without access to them, so that borrowing is checked as for host memory: what is written overlaps
//! nothing else. Freeing is ordered behind the operations called before, so memory may be dropped while they are under way.

use super::Cuda;
use std::fmt::{Debug, Formatter, Result as FmtResult};
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

/// Elements of device memory, to be read.
#[derive(Debug, Clone, Copy)]
pub struct Slice<'a> {
    address: u64,
    len: usize,
    memory: PhantomData<&'a [f32]>,
}

impl<'a> Slice<'a> {
    /// Number of elements.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Some of the elements.
    pub fn range(self, range: Range<usize>) -> Slice<'a> {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "elements {range:?} of {}",
            self.len
        );
        Slice {
            address: self.address + (range.start * size_of::<f32>()) as u64,
            len: range.len(),
            memory: PhantomData,
        }
    }

    pub(super) const fn address(&self) -> u64 {
        self.address
    }

    /// Whether the elements can be read four at a time.
    pub(super) const fn is_aligned(&self) -> bool {
        self.address.is_multiple_of(16)
    }
}

/// Elements of device memory, to be written.
#[derive(Debug)]
pub struct SliceMut<'a> {
    address: u64,
    len: usize,
    memory: PhantomData<&'a mut [f32]>,
}

impl<'a> SliceMut<'a> {
    /// Number of elements.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The same elements for a shorter time.
    pub const fn reborrow(&mut self) -> SliceMut<'_> {
        SliceMut {
            address: self.address,
            len: self.len,
            memory: PhantomData,
        }
    }

    /// Some of the elements.
    pub fn range(self, range: Range<usize>) -> SliceMut<'a> {
        let part = self.as_slice().range(range);
        SliceMut {
            address: part.address,
            len: part.len,
            memory: PhantomData,
        }
    }

    /// The elements before `middle`, and those from there on.
    pub fn split_at(self, middle: usize) -> (SliceMut<'a>, SliceMut<'a>) {
        let (head, tail) = (
            self.as_slice().range(0..middle),
            self.as_slice().range(middle..self.len),
        );
        let part = |slice: Slice| SliceMut {
            address: slice.address,
            len: slice.len,
            memory: PhantomData,
        };
        (part(head), part(tail))
    }

    /// The elements, to be read.
    pub const fn as_slice(&self) -> Slice<'_> {
        Slice {
            address: self.address,
            len: self.len,
            memory: PhantomData,
        }
    }

    pub(super) const fn address(&self) -> u64 {
        self.address
    }

    /// Whether the elements can be read and written four at a time.
    pub(super) const fn is_aligned(&self) -> bool {
        self.address.is_multiple_of(16)
    }
}

/// Device memory of its own, which starts at a multiple of 256 bytes.
pub struct Memory {
    cuda: Arc<Cuda>,
    address: u64,
    len: usize,
}

impl Memory {
    pub(super) fn new(cuda: &Arc<Cuda>, len: usize) -> Self {
        Self {
            address: cuda.allocate(len * size_of::<f32>()),
            cuda: cuda.clone(),
            len,
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

    /// All elements, to be read.
    pub const fn slice(&self) -> Slice<'_> {
        Slice {
            address: self.address,
            len: self.len,
            memory: PhantomData,
        }
    }

    /// All elements, to be written.
    pub const fn slice_mut(&mut self) -> SliceMut<'_> {
        SliceMut {
            address: self.address,
            len: self.len,
            memory: PhantomData,
        }
    }
}

impl Debug for Memory {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        write!(f, "Memory({} elements)", self.len)
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
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        self.cuda.free(self.address);
    }
}
