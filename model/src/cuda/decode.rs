//! A decoder's step: attention of single queries over kept keys ([`ops::decode`](crate::ops::decode)).
//!
//! A query and a head have a block of threads, which reads every key and value once; texts that read one image stand side by side,
//! so that what one has read the next finds in the cache. New keys and values are read where they were computed, and put into
//! their places on the way.

use super::Cuda;
use super::format::{Formatted, common};
use super::launch::{Arg, Kernel, THREADS, args, rows_grid};
use super::memory::{Slice, SliceMut};
use crate::ops::decode::Blocks;
use medley_protocol::spec::MAX_GPU_HEAD;

/// Threads of a block.
const ONE: u32 = 128;

/// Queries, and what is new of what they attend to.
struct New {
    /// Queries, and their own keys and values if those are new.
    x: [Arg; 3],
    /// Rows of a block that are not.
    taken: usize,
    /// How many there are, if that is known on the device alone.
    lengths: Arg,
}

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
        let old = New {
            x: [q.into(), Arg::NOTHING, Arg::NOTHING],
            taken: blocks.most(),
            lengths: Arg::NOTHING,
        };
        self.attend(old, (&[q, out.as_slice()], [keys, values]), blocks, (heads, dim), &out);
    }

    /// As [`attend_blocks`](Self::attend_blocks), where the last rows that are attended to are those of the queries themselves, which
    /// are put into their places. With `lengths`, the bits of a number for each text, texts have one query each, which attends to so
    /// many rows, known when the kernel runs; they fit the blocks, and `blocks` says nothing of them.
    ///
    /// # Shapes
    /// x: queries × (heads·dim) each
    pub fn attend_kept(
        &self,
        x: [Slice<'_>; 3],
        [keys, values]: [SliceMut<'_>; 2],
        (blocks, lengths): (&Blocks, Option<Slice<'_>>),
        (heads, dim): (usize, usize),
        out: SliceMut<'_>,
    ) {
        assert!(
            blocks.grows && blocks.seen > 0 && (0..).zip(blocks.of).all(|(text, block)| text == *block),
            "every text has a block of its own, to which its own rows are added"
        );
        let has_length = |lengths: Slice| blocks.per == 1 && blocks.of.len() <= lengths.len();
        assert!(
            lengths.is_none_or(has_length),
            "every text with a length has one, and a query"
        );
        let [q, k, v] = x;
        let new = New {
            x: x.map(Arg::from),
            taken: blocks.seen - 1,
            lengths: lengths.map_or(Arg::NOTHING, Arg::from),
        };
        let rows = &[q, k, v, out.as_slice()];
        self.attend(
            new,
            (rows, [keys.as_slice(), values.as_slice()]),
            blocks,
            (heads, dim),
            &out,
        );
    }

    /// Attends to old and new keys and values; `rows` are all that have one for each query, `kept` the blocks.
    fn attend(
        &self,
        New { x, taken, lengths }: New,
        (rows, kept): (&[Slice<'_>], [Slice<'_>; 2]),
        blocks: &Blocks,
        (heads, dim): (usize, usize),
        out: &SliceMut<'_>,
    ) {
        let (width, queries) = (heads * dim, blocks.queries());
        assert!(
            dim <= MAX_GPU_HEAD as usize,
            "a head has at most {MAX_GPU_HEAD} columns"
        );
        let last = blocks.of.iter().max().map_or(0, |block| *block as usize);
        let end = (last * blocks.every + blocks.most()) * width;
        let room = kept.iter().map(Slice::len).min().unwrap_or(0);
        assert!(
            queries == 0 || (0 < blocks.seen && blocks.most() <= blocks.every && end <= room),
            "every query attends to rows of its block, which are there"
        );
        let has_rows = |slice: &Slice| queries * width <= slice.len();
        assert!(rows.iter().all(has_rows), "every query has its rows");
        let all: Vec<Slice> = rows.iter().chain(&kept).copied().collect();
        let format = common(
            "attention",
            &all.iter().map(|slice| slice as &dyn Formatted).collect::<Vec<_>>(),
        );
        let aligned = dim.is_multiple_of(format.pack()) && all.iter().all(Slice::is_aligned);
        let of = self.bring(blocks.of);
        let scale = 1.0 / (dim as f32).sqrt();
        let place = args![&of, blocks.every, blocks.per, blocks.seen, blocks.grows, taken, lengths];
        let shape = args![heads, dim, scale, out, aligned];
        let args = [&x[..], &kept.map(Arg::from), place, shape].concat();
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
        self.launch(Kernel::Pick.of(format), grid, THREADS, args);
    }
}
