//! Attention over packed sequences: [`ops::attention`](crate::ops::attention).
//!
//! A block has 64 queries of one sequence and head, and goes through the keys 64 at a time; scores and probabilities live in
//! registers and shared memory. The sum of a row is kept as on the CPU for losses: its largest score and the logarithm of the rest,
//! from which backward has every probability again. There, the gradient of queries has such blocks too; the gradients of keys and
//! values have a block for 64 keys, which goes through the queries of all sequences that share them, in order.

use super::Cuda;
use super::launch::{Arg, Kernel, THREADS, args, warps_grid};
use super::memory::{Slice, SliceMut};
use crate::ops::attention::Sequence;
use crate::ops::dropout::Dropout;

/// Rows of a tile, of queries or of keys.
const TILE: usize = 64;

/// Widest head.
const MAX_DIM: usize = 64;

/// A matrix of which some columns are read: heads side by side from `offset`.
#[derive(Debug, Clone, Copy)]
pub struct Columns<'a> {
    /// Row-major values.
    pub data: Slice<'a>,
    /// Elements from one row to the next.
    pub stride: usize,
    /// First column.
    pub offset: usize,
}

impl<'a> Columns<'a> {
    /// From the first column on.
    fn start(&self) -> Slice<'a> {
        self.data.range(self.offset..self.data.len())
    }

    fn holds(&self, rows: usize, width: usize) -> bool {
        rows == 0 || self.offset + (rows - 1) * self.stride + width <= self.data.len()
    }

    fn is_aligned(&self) -> bool {
        self.start().is_aligned() && self.stride.is_multiple_of(4)
    }
}

/// Queries, keys and values of an attention.
#[derive(Debug, Clone, Copy)]
pub struct AttentionInputs<'a> {
    /// Queries.
    pub q: Columns<'a>,
    /// Keys.
    pub k: Columns<'a>,
    /// Values.
    pub v: Columns<'a>,
    /// Number of heads.
    pub heads: usize,
    /// Width of a head.
    pub dim: usize,
}

impl AttentionInputs<'_> {
    const fn width(&self) -> usize {
        self.heads * self.dim
    }

    /// Checks that everything the sequences name is there, and that the queries are `rows` one after the other.
    fn check(&self, seqs: &[Sequence], rows: usize) {
        assert!(self.dim <= MAX_DIM, "a head has at most {MAX_DIM} columns");
        let mut next = 0;
        for seq in seqs {
            assert_eq!(seq.queries.start, next, "query ranges must ascend without gaps");
            next = seq.queries.end;
        }
        assert_eq!(next, rows, "every row of the result is some sequence's");
        let keys = seqs.iter().map(|seq| seq.keys.end).max().unwrap_or(0);
        let fits =
            self.q.holds(rows, self.width()) && self.k.holds(keys, self.width()) && self.v.holds(keys, self.width());
        assert!(fits, "queries, keys or values leave their slice");
    }

    fn is_aligned(&self) -> bool {
        self.dim.is_multiple_of(4) && [self.q, self.k, self.v].iter().all(Columns::is_aligned)
    }

    /// Arguments that all kernels of tiles have in common, the mask's last: no factor, no mask.
    fn args(&self, dropout: Option<&Dropout>) -> Vec<Arg> {
        let columns = [self.q, self.k, self.v];
        let columns = columns
            .iter()
            .flat_map(|columns| [columns.start().into(), columns.stride.into()]);
        let scale = 1.0 / (self.dim as f32).sqrt();
        let (key, threshold, factor) = dropout.map_or((0, 0, 0.0), |dropout| {
            (dropout.stream.key(), dropout.threshold(), 1.0 / (1.0 - dropout.rate))
        });
        columns
            .chain(args![self.dim, scale, key, threshold, factor].iter().copied())
            .collect()
    }
}

/// Words of a sequence or a part of it, as the kernels read it.
type Words = [u32; 8];

/// The queries from `first` on of a sequence, at most `count`.
fn words(seq: &Sequence, first: usize, count: usize) -> Words {
    [
        seq.queries.start + first,
        first,
        count.min(seq.queries.len() - first),
        seq.keys.start,
        seq.keys.len(),
        seq.causal_from.map_or(0, |first| first + 1),
        seq.place.sample as usize,
        seq.place.position as usize,
    ]
    .map(|word| word as u32)
}

/// Every tile of queries.
fn query_tiles(seqs: &[Sequence]) -> Vec<Words> {
    let tiles = |seq: &Sequence| {
        let firsts = (0..seq.queries.len()).step_by(TILE);
        firsts.map(|first| words(seq, first, TILE)).collect::<Vec<Words>>()
    };
    seqs.iter().flat_map(tiles).collect()
}

/// Sequences by keys, those with the same keys in their order; and every tile of keys with the sequences that read it.
fn key_tiles(seqs: &[Sequence]) -> (Vec<Words>, Vec<Words>) {
    let mut order: Vec<&Sequence> = seqs.iter().filter(|seq| !seq.keys.is_empty()).collect();
    order.sort_by_key(|seq| seq.keys.start);
    let (mut tiles, mut at, mut end) = (Vec::new(), 0, 0);
    for group in order.chunk_by(|a, b| a.keys == b.keys) {
        let keys = &group[0].keys;
        assert!(keys.start >= end, "key ranges must be equal or disjoint");
        end = keys.end;
        for first in (0..keys.len()).step_by(TILE) {
            let count = TILE.min(keys.len() - first);
            let tile = [keys.start + first, first, count, at, at + group.len(), 0, 0, 0];
            tiles.push(tile.map(|word| word as u32));
        }
        at += group.len();
    }
    let sorted = order.iter().map(|seq| words(seq, 0, seq.queries.len()));
    (sorted.collect(), tiles)
}

impl Cuda {
    /// `out[queries] = softmax(q·kᵀ / √dim)·v` for every sequence and head; `out` is rows × (heads·dim).
    ///
    /// `kept` (2 × heads × rows) receives what [`attention_backward`](Self::attention_backward) needs: of each head and row the
    /// largest scaled score, and log Σ exp(score − largest).
    pub fn attention(
        &self,
        x: &AttentionInputs<'_>,
        seqs: &[Sequence],
        dropout: Option<&Dropout>,
        out: SliceMut<'_>,
        kept: Option<SliceMut<'_>>,
    ) {
        let rows = out.len() / x.width();
        x.check(seqs, rows);
        assert!(
            kept.as_ref().is_none_or(|kept| kept.len() >= 2 * x.heads * rows),
            "every row keeps two numbers a head"
        );
        let tiles = query_tiles(seqs);
        let grid = (tiles.len() as u32, x.heads as u32);
        let tiles = self.bring(&tiles);
        let kept = kept.as_ref().map_or(0, SliceMut::address);
        let aligned = x.is_aligned() && out.is_aligned();
        let args = [
            args![&tiles],
            &x.args(dropout)[..],
            args![&out, x.width(), kept, rows, aligned],
        ]
        .concat();
        self.launch(Kernel::Attention, grid, THREADS, &args);
    }

    /// Gradients of [`attention`](Self::attention) for the gradient `dy` of its result `y`, with what it kept; `dq`, `dk` and `dv`
    /// are overwritten. The gradients of keys that several sequences share are summed in the order of the sequences.
    pub fn attention_backward(
        &self,
        x: &AttentionInputs<'_>,
        seqs: &[Sequence],
        dropout: Option<&Dropout>,
        y: Slice<'_>,
        kept: Slice<'_>,
        dy: Slice<'_>,
        dq: SliceMut<'_>,
        mut dk: SliceMut<'_>,
        mut dv: SliceMut<'_>,
    ) {
        let width = x.width();
        let rows = dq.len() / width;
        x.check(seqs, rows);
        let fits = rows * width <= y.len().min(dy.len()) && 2 * x.heads * rows <= kept.len();
        assert!(fits, "every row has its gradient and what was kept of it");
        let (queries, (sorted, keys)) = (query_tiles(seqs), key_tiles(seqs));
        let covered: usize = keys.iter().map(|tile| tile[2] as usize).sum();
        let last = keys.last().map_or(0, |tile| (tile[0] + tile[2]) as usize);
        assert!(
            last * width <= dk.len().min(dv.len()),
            "the gradients of the keys leave their slice"
        );
        if covered * width < dk.len().max(dv.len()) {
            self.fill(dk.reborrow(), 0.0);
            self.fill(dv.reborrow(), 0.0);
        }
        let words = self.bring(&[&queries[..], &sorted, &keys].concat());
        let at = |words_before: usize| words.address() + (words_before * size_of::<Words>()) as u64;
        let (sorted_at, keys_at) = (at(queries.len()), at(queries.len() + sorted.len()));
        let along = self.scratch(x.heads * rows * size_of::<f32>());
        let args = args![y, dy, x.dim, x.heads, rows, &along];
        self.launch(Kernel::AttentionAlong, warps_grid(x.heads * rows), THREADS, args);
        let aligned = x.is_aligned() && dy.is_aligned() && [&dq, &dk, &dv].iter().all(|slice| slice.is_aligned());
        let (inputs, of_rows) = (x.args(dropout), args![dy, kept, &along, rows]);
        let args = [args![&words], &inputs[..], of_rows, args![&dq, width, aligned]].concat();
        let grid = (queries.len() as u32, x.heads as u32);
        self.launch(Kernel::AttentionQueries, grid, THREADS, &args);
        let args = [
            args![keys_at, sorted_at],
            &inputs[..],
            of_rows,
            args![&dk, &dv, width, aligned],
        ]
        .concat();
        let grid = (keys.len() as u32, x.heads as u32);
        self.launch(Kernel::AttentionKeys, grid, THREADS, &args);
    }
}
