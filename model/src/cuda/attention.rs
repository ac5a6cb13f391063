//! Attention over packed sequences: [`ops::attention`](crate::ops::attention).
//!
//! A block has 64 queries of one sequence and head, and goes through the keys 64 at a time; scores and probabilities live in
//! registers and shared memory. The sum of a row is kept as on the CPU for losses: its largest score and the logarithm of the rest,
//! from which backward has every probability again. There, the gradient of queries has such blocks too; the gradients of keys and
//! values have a block for 64 keys, which goes through the queries of all sequences that share them, in order.
//!
//! That is for either format. What is stored as bf16 and has heads of 64 columns goes to tensor cores: `flash`.

use super::Cuda;
use super::flash;
use super::format::{Format, common};
use super::launch::{Arg, Kernel, THREADS, args, warps_grid};
use super::memory::{Slice, SliceMut};
use crate::ops::attention::{Columns, Inputs, Sequence};
use crate::ops::dropout::Dropout;
use medley_protocol::spec::MAX_GPU_HEAD;

/// Rows of a tile, of queries or of keys.
const TILE: usize = 64;

impl<'a> Columns<Slice<'a>> {
    /// From the first column on.
    fn start(&self) -> Slice<'a> {
        self.data.range(self.offset..self.data.len())
    }

    fn holds(&self, rows: usize, width: usize) -> bool {
        rows == 0 || self.offset + (rows - 1) * self.stride + width <= self.data.len()
    }

    /// Whether every row begins at a multiple of 16 bytes.
    fn is_aligned(&self) -> bool {
        self.start().has_aligned_rows(self.stride)
    }
}

impl Inputs<Slice<'_>> {
    /// Checks that everything the sequences name is there, and that the queries are `rows` one after the other.
    fn check(&self, seqs: &[Sequence], rows: usize) {
        assert!(
            self.dim <= MAX_GPU_HEAD as usize,
            "a head has at most {MAX_GPU_HEAD} columns"
        );
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

    /// Whether all numbers of every head can be read 16 bytes at a time.
    pub(super) fn is_aligned(&self) -> bool {
        let columns = [self.q, self.k, self.v];
        self.dim.is_multiple_of(self.format().pack()) && columns.iter().all(Columns::is_aligned)
    }

    /// How queries, keys and values are stored.
    pub(super) fn format(&self) -> Format {
        common("attention", &[&self.q.data, &self.k.data, &self.v.data])
    }

    /// Arguments that all kernels of tiles have in common, the mask's last: no factor, no mask.
    pub(super) fn args(&self, dropout: Option<&Dropout>) -> Vec<Arg> {
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
pub(super) type Words = [u32; 8];

/// The queries from `first` on of a sequence, at most `count`.
pub(super) fn words(seq: &Sequence, first: usize, count: usize) -> Words {
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

/// Sequences by keys, ascending; those with the same keys in their order.
pub(super) fn by_keys(seqs: &[Sequence]) -> Vec<Vec<&Sequence>> {
    let mut order: Vec<&Sequence> = seqs.iter().collect();
    order.sort_by_key(|seq| (seq.keys.start, seq.keys.end));
    let groups: Vec<Vec<&Sequence>> = order.chunk_by(|a, b| a.keys == b.keys).map(<[_]>::to_vec).collect();
    let mut end = 0;
    for keys in groups
        .iter()
        .map(|group| &group[0].keys)
        .filter(|keys| !keys.is_empty())
    {
        assert!(keys.start >= end, "key ranges must be equal or disjoint");
        end = keys.end;
    }
    groups
}

/// Which rows of keys sequences read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Read {
    /// How many.
    pub(super) rows: usize,
    /// Behind the last.
    pub(super) end: usize,
}

impl Read {
    /// By sequences in groups of the same keys.
    pub(super) fn of(groups: &[Vec<&Sequence>]) -> Self {
        let keys = || groups.iter().map(|group| &group[0].keys);
        Self {
            rows: keys().map(ExactSizeIterator::len).sum(),
            end: keys().map(|keys| keys.end).max().unwrap_or(0),
        }
    }
}

/// Sequences in the order of their groups, and every tile of keys with the sequences that read it.
fn key_tiles(groups: &[Vec<&Sequence>]) -> (Vec<Words>, Vec<Words>) {
    let (mut sorted, mut tiles) = (Vec::new(), Vec::new());
    for group in groups {
        let keys = &group[0].keys;
        for first in (0..keys.len()).step_by(TILE) {
            let count = TILE.min(keys.len() - first);
            let (begin, end) = (sorted.len(), sorted.len() + group.len());
            let tile = [keys.start + first, first, count, begin, end, 0, 0, 0];
            tiles.push(tile.map(|word| word as u32));
        }
        sorted.extend(group.iter().map(|seq| words(seq, 0, seq.queries.len())));
    }
    (sorted, tiles)
}

/// Gradients of an attention, rows × (heads·dim) each.
pub(super) struct Gradients<'a> {
    pub(super) dq: SliceMut<'a>,
    pub(super) dk: SliceMut<'a>,
    pub(super) dv: SliceMut<'a>,
}

/// Where gradients of an attention go that tensor cores compute: rows a stride apart.
pub(super) struct Addresses {
    pub(super) dq: u64,
    pub(super) dk: u64,
    pub(super) dv: u64,
    pub(super) stride: usize,
}

/// What the gradients of an attention are computed from, besides its inputs.
pub(super) struct Forward<'a> {
    /// Forward's result.
    pub(super) y: Slice<'a>,
    /// What forward kept.
    pub(super) kept: Slice<'a>,
    /// Gradient of the result.
    pub(super) dy: Slice<'a>,
    /// Its rows.
    pub(super) rows: usize,
}

impl Cuda {
    /// `out[queries] = softmax(q·kᵀ / √dim)·v` for every sequence and head; `out` is rows × (heads·dim).
    ///
    /// `kept` (2 × heads × rows) receives what [`attention_backward`](Self::attention_backward) needs: of each head and row a scaled
    /// score that none is far above, mostly the largest, and log Σ exp(score − that one).
    pub fn attention(
        &self,
        x: &Inputs<Slice<'_>>,
        seqs: &[Sequence],
        dropout: Option<&Dropout>,
        out: SliceMut<'_>,
        kept: Option<SliceMut<'_>>,
    ) {
        let rows = out.len() / x.width();
        x.check(seqs, rows);
        let format = common("attention", &[&x.q.data, &x.k.data, &x.v.data, &out]);
        let has_room = |kept: &SliceMut| kept.len() >= 2 * x.heads * rows && kept.format() == Format::F32;
        assert!(
            kept.as_ref().is_none_or(has_room),
            "every row keeps two numbers a head, of single precision"
        );
        let args = kept.as_ref().map_or(0, SliceMut::address);
        let args = args![&out, x.width(), args, rows];
        if flash::takes(x, &[out.as_slice()]) {
            return self.flash(x, &self.laid(seqs), dropout, args);
        }
        let tiles = query_tiles(seqs);
        let grid = (tiles.len() as u32, x.heads as u32);
        let tiles = self.bring(&tiles);
        let aligned = x.is_aligned() && out.is_aligned();
        let args = [args![&tiles], &x.args(dropout)[..], args, args![aligned]].concat();
        self.launch(Kernel::Attention.of(format), grid, THREADS, &args);
    }

    /// Gradients of [`attention`](Self::attention) for the gradient `dy` of its result `y`, with what it kept; `dq`, `dk` and `dv`
    /// are overwritten. The gradients of keys that several sequences share are summed in the order of the sequences.
    pub fn attention_backward(
        &self,
        x: &Inputs<Slice<'_>>,
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
        common("attention", &[&x.q.data, &x.k.data, &x.v.data, &y, &dy, &dq, &dk, &dv]);
        let fits = rows * width <= y.len().min(dy.len()) && 2 * x.heads * rows <= kept.len();
        assert!(fits, "every row has its gradient and what was kept of it");
        let others = [y, dy, dq.as_slice(), dk.as_slice(), dv.as_slice()];
        let plan = (flash::takes(x, &others) && kept.is_aligned()).then(|| self.laid(seqs));
        let groups = if plan.is_some() { Vec::new() } else { by_keys(seqs) };
        let read = plan.map_or_else(|| Read::of(&groups), |plan| plan.read);
        assert!(
            read.end * width <= dk.len().min(dv.len()),
            "the gradients of the keys leave their slice"
        );
        if read.rows * width < dk.len().max(dv.len()) {
            self.fill(dk.reborrow(), 0.0);
            self.fill(dv.reborrow(), 0.0);
        }
        let of = Forward { y, kept, dy, rows };
        if let Some(plan) = plan {
            let [dq, dk, dv] = [&dq, &dk, &dv].map(SliceMut::address);
            let stride = width;
            self.flash_backward(x, &plan, dropout, &of, &Addresses { dq, dk, dv, stride });
        } else {
            let tiles = (&query_tiles(seqs)[..], key_tiles(&groups));
            self.tiles_backward(x, tiles, dropout, &of, &Gradients { dq, dk, dv });
        }
    }

    /// [`attention_backward`](Self::attention_backward) of queries, keys and values that are columns of one matrix, into the same
    /// columns of its gradient `d`, all of which is overwritten; rows are `stride` apart, and nothing else is between. Returns whether
    /// that was done: only tensor cores do it.
    pub fn attention_backward_within(
        &self,
        x: &Inputs<Slice<'_>>,
        seqs: &[Sequence],
        dropout: Option<&Dropout>,
        (y, kept): (Slice<'_>, Slice<'_>),
        dy: Slice<'_>,
        mut d: SliceMut<'_>,
    ) -> bool {
        let (width, stride) = (x.width(), x.q.stride);
        let rows = d.len() / stride;
        let columns = [x.q, x.k, x.v];
        let mut offsets = columns.map(|columns| columns.offset);
        let aligned = columns.iter().all(Columns::is_aligned) && d.has_aligned_rows(stride);
        if !aligned || !flash::takes(x, &[y, dy, d.as_slice()]) || !kept.is_aligned() {
            return false;
        }
        x.check(seqs, rows);
        assert!(
            columns.iter().all(|columns| columns.stride == stride),
            "columns of one matrix"
        );
        let fits = rows * width <= y.len().min(dy.len()) && 2 * x.heads * rows <= kept.len();
        assert!(fits, "every row has its gradient and what was kept of it");
        let plan = self.laid(seqs);
        assert!(plan.read.end <= rows, "the gradients of the keys leave their slice");
        let [dq, dk, dv] = offsets.map(|offset| d.address() + (offset * d.format().size()) as u64);
        offsets.sort_unstable();
        let side_by_side = offsets == [0, width, 2 * width] && stride == 3 * width;
        if !side_by_side || plan.read.rows < rows {
            self.fill(d.reborrow(), 0.0);
        }
        let of = Forward { y, kept, dy, rows };
        self.flash_backward(x, &plan, dropout, &of, &Addresses { dq, dk, dv, stride });
        true
    }

    /// Gradients by tiles of queries, and by tiles of keys with the sequences they belong to.
    fn tiles_backward(
        &self,
        x: &Inputs<Slice<'_>>,
        (queries, (sorted, keys)): (&[Words], (Vec<Words>, Vec<Words>)),
        dropout: Option<&Dropout>,
        of: &Forward<'_>,
        to: &Gradients<'_>,
    ) {
        let (Gradients { dq, dk, dv }, format, width) = (to, x.format(), x.width());
        let words = self.bring(&[queries, &sorted, &keys].concat());
        let at = |words_before: usize| words.address() + (words_before * size_of::<Words>()) as u64;
        let (sorted_at, keys_at) = (at(queries.len()), at(queries.len() + sorted.len()));
        let along = self.scratch(x.heads * of.rows * size_of::<f32>());
        let args = args![of.y, of.dy, x.dim, x.heads, of.rows, &along];
        let grid = warps_grid(x.heads * of.rows);
        self.launch(Kernel::AttentionAlong.of(format), grid, THREADS, args);
        let aligned = x.is_aligned() && of.dy.is_aligned() && [dq, dk, dv].iter().all(|slice| slice.is_aligned());
        let (inputs, of_rows) = (x.args(dropout), args![of.dy, of.kept, &along, of.rows]);
        let args = [args![&words], &inputs[..], of_rows, args![dq, width, aligned]].concat();
        let grid = (queries.len() as u32, x.heads as u32);
        self.launch(Kernel::AttentionQueries.of(format), grid, THREADS, &args);
        let before = args![keys_at, sorted_at];
        let args = [before, &inputs[..], of_rows, args![dk, dv, width, aligned]].concat();
        let grid = (keys.len() as u32, x.heads as u32);
        self.launch(Kernel::AttentionKeys.of(format), grid, THREADS, &args);
    }
}
