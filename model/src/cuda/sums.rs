//! Sums over rows, and what writes rows and sums them in one pass: [`ops::blocks`](crate::ops::blocks).
//!
//! A sum over rows has a partial sum for each block of rows, which are added in one order by the block that comes last. The blocks are
//! a function of the format and the shape, not of the device.

use super::Cuda;
use super::format::{Format, common, single};
use super::launch::{Arg, Kernel, Variant, args};
use super::memory::{Slice, SliceMut};
use crate::ops::dropout::{Dropout, Place};
use std::marker::PhantomData;

/// Warps of a block.
const WARPS: usize = 16;

/// Blocks that keep the memory of any device busy: two for each of its multiprocessors.
pub(super) const BUSY_BLOCKS: usize = 264;

/// Fewest rows of a block, if there are more: adding up blocks takes time too.
const FEWEST_ROWS: usize = 2 * WARPS;

/// Where sums go: the first `width` one after the other, as many some `distance` behind the first of them, and so forth.
#[derive(Debug)]
pub struct Totals<'a> {
    address: u64,
    count: usize,
    width: usize,
    distance: i64,
    memory: PhantomData<SliceMut<'a>>,
}

impl<'a> Totals<'a> {
    /// `count` sums in rows of `width`, which lie `distance` elements apart.
    pub fn apart(out: SliceMut<'a>, count: usize, width: usize, distance: usize) -> Self {
        single("a sum over rows", &[&out]);
        let rows = count / width;
        assert!(
            count == rows * width && rows > 0 && (rows == 1 || width <= distance),
            "sums are in rows that are apart"
        );
        assert!((rows - 1) * distance + width <= out.len(), "the sums leave their slice");
        Self {
            address: out.address(),
            count,
            width,
            distance: distance as i64,
            memory: PhantomData,
        }
    }

    /// As many sums in each of two slices.
    pub(super) fn two([first, second]: [SliceMut<'a>; 2]) -> Self {
        assert_eq!(first.len(), second.len(), "two slices of one length");
        single("a sum over rows", &[&first, &second]);
        let bytes = second.address() as i64 - first.address() as i64;
        Self {
            address: first.address(),
            count: 2 * first.len(),
            width: first.len(),
            distance: bytes / size_of::<f32>() as i64,
            memory: PhantomData,
        }
    }
}

impl<'a> From<SliceMut<'a>> for Totals<'a> {
    fn from(out: SliceMut<'a>) -> Self {
        let len = out.len();
        Self::apart(out, len, len, len)
    }
}

impl Cuda {
    /// Column sums of `x`, whose rows have a number for each sum, put into or added to `out`.
    pub fn sum_columns<'a>(&self, x: Slice<'_>, out: impl Into<Totals<'a>>, fresh: bool) {
        let out = out.into();
        let shape = (x.len() / out.count, out.count);
        let aligned = x.has_aligned_rows(out.count);
        let kernel = (Kernel::SumColumns.of(x.format()), x.format(), aligned);
        self.sum_over_rows(kernel, args![x], shape, &out, fresh);
    }

    /// [`gelu_backward`](Self::gelu_backward), and the column sums of what it yields.
    pub fn gelu_backward_columns<'a>(&self, x: Slice<'_>, d: SliceMut<'_>, out: impl Into<Totals<'a>>, fresh: bool) {
        let (out, format) = (out.into(), common("gelu_backward", &[&x, &d]));
        assert!(d.len() <= x.len(), "every element has its argument");
        let shape = (d.len() / out.count, out.count);
        let aligned = x.has_aligned_rows(out.count) && d.is_aligned();
        let kernel = (Kernel::GeluBackwardColumns.of(format), format, aligned);
        self.sum_over_rows(kernel, args![x, &d], shape, &out, fresh);
    }

    /// [`dropout_of`](Self::dropout_of), and the column sums of `y`.
    pub fn dropout_of_columns<'a>(
        &self,
        dropout: &Dropout,
        places: &[Place],
        x: Slice<'_>,
        y: SliceMut<'_>,
        out: impl Into<Totals<'a>>,
        fresh: bool,
    ) {
        let (out, format) = (out.into(), common("dropout", &[&x, &y]));
        let rows = y.len() / out.count;
        assert!(
            rows == places.len() && y.len() <= x.len(),
            "every row has a source and a place"
        );
        let aligned = x.has_aligned_rows(out.count) && y.is_aligned();
        let kernel = (Kernel::DropoutColumns.of(format), format, aligned);
        let inputs = [args![x, &y], &self.mask(Some((dropout, places)))[..]].concat();
        self.sum_over_rows(kernel, &inputs, (rows, out.count), &out, fresh);
    }

    /// Sums over rows by a kernel that reads `inputs` of a format, which may be aligned, with so many columns; a kernel has one sum or
    /// several for each column.
    pub(super) fn sum_over_rows(
        &self,
        (kernel, format, aligned): (Variant, Format, bool),
        inputs: &[Arg],
        (rows, cols): (usize, usize),
        out: &Totals<'_>,
        fresh: bool,
    ) {
        let group = 32 * format.pack();
        let groups = cols.div_ceil(group);
        let block = rows_of_block(rows, groups);
        let blocks = rows.div_ceil(block).max(1);
        let partials = if blocks > 1 {
            groups * blocks * group * (out.count / cols)
        } else {
            0
        };
        let partials = self.scratch(partials * size_of::<f32>());
        let to = args![&partials, self.arrived(), out.address, out.width, out.distance];
        let args = [inputs, to, args![rows, cols, block, fresh, aligned]].concat();
        self.launch(kernel, (groups as u32, blocks as u32), 32 * WARPS as u32, &args);
    }
}

/// Rows of a block, where the columns are in so many groups: no more groups have several blocks than blocks keep a device busy.
fn rows_of_block(rows: usize, groups: usize) -> usize {
    let blocks = (BUSY_BLOCKS / groups).max(1);
    rows.div_ceil(blocks).max(FEWEST_ROWS).next_multiple_of(WARPS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_all_at_work_at_once_and_hold_every_row() {
        for rows in [0, 1, 31, 32, 33, 1080, 4340, 17_730, 50_432, 147_712] {
            for groups in [1, 3, 4, 9, 12, 16, 131, 132, 133, 264, 265, 2308] {
                let block = rows_of_block(rows, groups);
                let blocks = rows.div_ceil(block).max(1);
                assert!(blocks * block >= rows && block.is_multiple_of(WARPS));
                assert!(
                    blocks == 1 || groups * blocks <= BUSY_BLOCKS,
                    "{rows} rows, {groups} groups"
                );
            }
        }
        assert_eq!(rows_of_block(50_432, 12), 2304);
    }
}
