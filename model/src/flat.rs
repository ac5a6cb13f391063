//! Flat, aligned buffers of `f32`, and the pool that activations come from.
//!
//! Parameters, gradients, moments and the momentum encoder are each one [`Flat`]; kernels see slices. Activations are
//! taken from a [`Pool`] and given back when the tape has consumed them, so a training step asks the operating system for
//! memory once: later steps find their buffers in the pool. Sizes are rounded up to classes a quarter of an octave apart,
//! so that texts of varying length share buffers and the pool's size stays within 25 % of the largest step's need.

use bytemuck::{Pod, Zeroable};
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

/// Elements in one cache line: the unit of alignment and of padding.
pub const LINE: usize = 16;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

/// A buffer of `f32` that starts on a cache line.
#[derive(Clone, Default)]
pub struct Flat {
    lines: Vec<Line>,
    len: usize,
}

impl Flat {
    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        Self {
            lines: vec![Line::zeroed(); len.div_ceil(LINE)],
            len,
        }
    }

    /// A copy of `values`.
    pub fn from_slice(values: &[f32]) -> Self {
        let mut flat = Self::zeros(values.len());
        flat.copy_from_slice(values);
        flat
    }

    /// The buffer as little-endian bytes (the only byte order Medley runs on).
    pub fn as_bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self)
    }

    /// The same, to be written.
    pub fn as_bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(self)
    }
}

impl Deref for Flat {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl DerefMut for Flat {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

impl std::fmt::Debug for Flat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Flat({} elements)", self.len)
    }
}

/// Buffers that are free at present, by size class.
#[derive(Debug, Default)]
pub struct Pool {
    free: BTreeMap<usize, Vec<Flat>>,
    live_lines: usize,
    peak_lines: usize,
}

impl Pool {
    /// A buffer of `len` elements with unspecified contents.
    pub fn take(&mut self, len: usize) -> Flat {
        let class = size_class(len.div_ceil(LINE));
        self.live_lines += class;
        self.peak_lines = self.peak_lines.max(self.live_lines);
        let mut flat = match self.free.get_mut(&class).and_then(Vec::pop) {
            Some(flat) => flat,
            None => Flat::zeros(class * LINE),
        };
        flat.len = len;
        flat
    }

    /// A buffer of `len` zeros.
    pub fn take_zeroed(&mut self, len: usize) -> Flat {
        let mut flat = self.take(len);
        flat.fill(0.0);
        flat
    }

    /// Gives a buffer back.
    pub fn give(&mut self, flat: Flat) {
        let class = flat.lines.len();
        self.live_lines = self.live_lines.saturating_sub(class);
        self.free.entry(class).or_default().push(flat);
    }

    /// Most bytes that were in use at once.
    pub fn peak_bytes(&self) -> usize {
        self.peak_lines * size_of::<Line>()
    }
}

/// The smallest class of at least `lines`: four classes an octave.
pub(crate) fn size_class(lines: usize) -> usize {
    let lines = lines.max(4);
    let step = 1 << (lines.ilog2() - 2);
    lines.div_ceil(step) * step
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_start_on_a_cache_line() {
        for len in [0, 1, 15, 16, 17, 1000] {
            let flat = Flat::zeros(len);
            assert_eq!(flat.len(), len);
            assert_eq!(flat.as_ptr() as usize % 64, 0);
        }
    }

    #[test]
    fn a_returned_buffer_is_used_again() {
        let mut pool = Pool::default();
        let first = pool.take(1000);
        let address = first.as_ptr();
        pool.give(first);
        assert_eq!(pool.take(990).as_ptr(), address);
    }

    #[test]
    fn classes_waste_at_most_a_quarter() {
        for lines in 4..10_000 {
            let class = size_class(lines);
            assert!(class >= lines && class * 4 <= lines * 5, "{lines} -> {class}");
            assert_eq!(size_class(class), class);
        }
    }
}
