//! A decoder's step: attention of single queries over kept keys ([`ops::decode`](crate::ops::decode)).
//!
//! A query and a head have a block of threads, which reads every key and value once; texts that read one image stand side by side,
//! so that what one has read the next finds in the cache. New keys and values are read where they were computed, and put into
//! their places on the way.

use super::Cuda;
use super::format::common;
use super::launch::{Arg, Kernel, args, rows_grid};
use super::memory::{Slice, SliceMut};
use crate::ops::decode::Blocks;

/// Threads of a block.
const ONE: u32 = 128;

/// Widest head.
const MAX_DIM: usize = 64;

impl Cuda {
    /// `out[i] = softmax(q[i]·kᵀ / √dim)·v` over the rows that query `i` attends to.
    ///
    /// # Shapes
    /// q: queries × (heads·dim); keys, values: blocks of rows × (heads·dim)
    pub fn attend_blocks(
        &self,
        [q, keys, values]: [Slice<'_>; 3],
        blocks: &Blocks,
        (heads, dim): (usize, usize),
        out: SliceMut<'_>,
    ) {
        let nothing = Arg::from(0u64);
        let to = [keys, values].map(Arg::from);
        let all = [q, keys, values, out.as_slice()];
        self.attend(
            [q.into(), nothing, nothing],
            to,
            &all,
            blocks,
            (heads, dim),
            (blocks.most(), keys.len().min(values.len())),
            &out,
        );
    }

    /// As [`attend_blocks`](Self::attend_blocks), where the last rows that are attended to are those of the queries themselves, which
    /// are put into their places.
    ///
    /// # Shapes
    /// x: queries × (heads·dim) each
    pub fn attend_kept(
        &self,
        x: [Slice<'_>; 3],
        [keys, values]: [SliceMut<'_>; 2],
        blocks: &Blocks,
        (heads, dim): (usize, usize),
        out: SliceMut<'_>,
    ) {
        assert!(
            blocks.grows && blocks.seen > 0 && (0..).zip(blocks.of).all(|(text, block)| text == *block),
            "every text has a block of its own, to which its own rows are added"
        );
        let [q, k, v] = x;
        let room = keys.len().min(values.len());
        let all = [q, k, v, keys.as_slice(), values.as_slice(), out.as_slice()];
        let to = [Arg::from(&keys), Arg::from(&values)];
        self.attend(
            x.map(Arg::from),
            to,
            &all,
            blocks,
            (heads, dim),
            (blocks.seen - 1, room),
            &out,
        );
    }

    fn attend(
        &self,
        x: [Arg; 3],
        kept: [Arg; 2],
        all: &[Slice<'_>],
        blocks: &Blocks,
        (heads, dim): (usize, usize),
        (taken, room): (usize, usize),
        out: &SliceMut<'_>,
    ) {
        let (width, queries) = (heads * dim, blocks.queries());
        assert!(dim <= MAX_DIM, "a head has at most {MAX_DIM} columns");
        let last = blocks.of.iter().max().map_or(0, |block| *block as usize);
        let rows = (last * blocks.every + blocks.most()) * width;
        assert!(
            blocks.of.is_empty() || (0 < blocks.seen && blocks.most() <= blocks.every && rows <= room),
            "every query attends to rows of its block, which are there"
        );
        assert!(
            queries * width <= all.iter().map(Slice::len).min().unwrap_or(0),
            "every query has its rows"
        );
        let each: Vec<_> = all.iter().map(|slice| slice as &dyn super::format::Formatted).collect();
        let format = common("attention", &each);
        let aligned = dim.is_multiple_of(format.pack()) && all.iter().all(Slice::is_aligned);
        let of = self.bring(blocks.of);
        let scale = 1.0 / (dim as f32).sqrt();
        let place = args![&of, blocks.every, blocks.per, blocks.seen, blocks.grows, taken];
        let shape = args![heads, dim, scale, out, aligned];
        let args = [&x[..], &kept, place, shape].concat();
        self.launch(Kernel::AttendOne.of(format), ((queries * heads) as u32, 1), ONE, &args);
    }

    /// The first `taken` rows of the blocks that `parents` names, as blocks one after the other; the other rows stay as they are.
    ///
    /// # Shapes
    /// x: (blocks·every) × width; y: (parents·every) × width
    pub fn pick(&self, x: Slice<'_>, parents: &[u32], (every, taken): (usize, usize), width: usize, y: SliceMut<'_>) {
        let block = every * width;
        assert!(
            taken <= every && parents.len() * block <= y.len(),
            "the blocks leave their slice"
        );
        assert!(
            parents.iter().all(|&parent| (parent as usize + 1) * block <= x.len()),
            "a block leaves its slice"
        );
        let format = common("pick", &[&x, &y]);
        let aligned = x.has_aligned_rows(width) && y.is_aligned();
        let (rows, parents) = (parents.len() * taken, self.bring(parents));
        let args = args![x, &parents, &y, rows, taken, every, width, aligned];
        let grid = rows_grid(rows, width, format);
        self.launch(Kernel::Pick.of(format), grid, super::launch::THREADS, args);
    }
}
