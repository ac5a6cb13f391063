//! Device memory and borrowed parts of it.
//!
//! A slice names elements without access to them, so that borrowing is checked as for host memory: what is written overlaps
//! nothing else. Freeing is ordered behind the operations called before, so memory may be dropped while they are under way; what
//! the device's other streams do with it must be over by then.

use super::Cuda;
use super::device::locked;
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

    /// Whether there is any: none is where it had run out.
    pub(crate) const fn is_there(&self) -> bool {
        self.address != 0
    }

    /// Elements of single precision that were allocated at this address.
    pub(super) fn at(cuda: &Arc<Cuda>, address: u64, len: usize) -> Self {
        Self {
            cuda: cuda.clone(),
            address,
            len,
            format: Format::F32,
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

/// Memory of one operation. What comes next in the stream may use it again, so that the driver is asked for each size once.
pub(super) struct Scratch<'a> {
    cuda: &'a Cuda,
    address: u64,
    bytes: usize,
}

/// Largest scratch that is kept.
const KEPT_BYTES: usize = 16 << 20;
/// Bytes of the smallest scratch.
const SMALLEST_BYTES: usize = 1 << 10;

/// Scratch that no operation has at present, by its size: a power of two.
#[derive(Debug, Default)]
pub(super) struct FreeScratch {
    by_size: [Vec<u64>; KEPT_BYTES.ilog2() as usize + 1],
}

impl FreeScratch {
    /// Bytes that are set aside for so many.
    const fn size(bytes: usize) -> usize {
        if bytes == 0 || bytes > KEPT_BYTES {
            return bytes;
        }
        let size = bytes.next_power_of_two();
        if size < SMALLEST_BYTES { SMALLEST_BYTES } else { size }
    }

    /// Where memory of one size is kept, if it is.
    fn of(&mut self, size: usize) -> Option<&mut Vec<u64>> {
        let kept = (SMALLEST_BYTES..=KEPT_BYTES).contains(&size);
        kept.then(|| &mut self.by_size[size.ilog2() as usize])
    }

    /// All of it, to be freed.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = u64> + '_ {
        self.by_size.iter_mut().flat_map(|free| free.drain(..))
    }
}

impl<'a> Scratch<'a> {
    pub(super) fn new(cuda: &'a Cuda, bytes: usize) -> Self {
        let bytes = FreeScratch::size(bytes);
        let free = locked(&cuda.free_scratch).of(bytes).and_then(Vec::pop);
        Self {
            cuda,
            address: free.unwrap_or_else(|| cuda.allocate(bytes)),
            bytes,
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
        // A device without memory has given none.
        if self.address == 0 {
            return;
        }
        match locked(&self.cuda.free_scratch).of(self.bytes) {
            Some(free) => free.push(self.address),
            None => self.cuda.free(self.address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratch_is_kept_by_powers_of_two_up_to_a_size() {
        let sizes = [0, 1, 1024, 1025, KEPT_BYTES, KEPT_BYTES + 1].map(FreeScratch::size);
        assert_eq!(sizes, [0, 1024, 1024, 2048, KEPT_BYTES, KEPT_BYTES + 1]);
        let mut free = FreeScratch::default();
        assert!(free.of(0).is_none() && free.of(KEPT_BYTES + 1).is_none());
        for (address, size) in [(1, 1024), (2, 2048), (3, KEPT_BYTES)] {
            free.of(size).unwrap().push(address);
        }
        assert_eq!(free.of(2048).and_then(Vec::pop), Some(2));
        assert_eq!(free.of(2048).and_then(Vec::pop), None);
        assert_eq!(free.drain().collect::<Vec<_>>(), [1, 3]);
    }
}
