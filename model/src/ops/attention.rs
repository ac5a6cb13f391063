//! Attention over packed sequences of varying length, forward and backward.
//!
//! Every (sequence, head) is a few products of small matrices, computed by one kernel whose order of additions depends on
//! nothing but the inner dimension. Probabilities are computed again in the backward pass rather than stored: that costs
//! one product of four and saves heads × queries × keys values per sequence and layer.

use super::cross_entropy::softmax_row;
use super::dropout::{Dropout, Place};
use super::meter::{self, Kind};
use super::sum::dot;
use rayon::prelude::*;
use std::ops::Range;

/// Columns of a register tile.
const TILE: usize = 16;

/// One sequence of queries and the keys it attends to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// Its rows of the query matrix. Sequences are listed by ascending, disjoint ranges that cover all rows.
    pub queries: Range<usize>,
    /// Its rows of the key and value matrices. Equal to, or disjoint from, every other sequence's.
    pub keys: Range<usize>,
    /// Position of its first query among its keys, if query `i` may see keys up to `first + i` only.
    pub causal_from: Option<usize>,
    /// Places of its queries, for dropout: sample and position of the first; positions ascend.
    pub place: Place,
}

/// A matrix of which some columns are read: heads side by side from `offset`.
#[derive(Debug, Clone, Copy)]
pub struct Columns<'a> {
    /// Row-major values.
    pub data: &'a [f32],
    /// Elements from one row to the next.
    pub stride: usize,
    /// First column.
    pub offset: usize,
}

impl Columns<'_> {
    #[inline]
    fn row(&self, row: usize, head: usize, dim: usize) -> &[f32] {
        &self.data[row * self.stride + self.offset + head * dim..][..dim]
    }
}

/// Queries, keys and values of an attention.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
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

impl Inputs<'_> {
    fn width(&self) -> usize {
        self.heads * self.dim
    }

    /// Operations of one product of every query with every key of its sequence, in all heads.
    fn product_flops(&self, seqs: &[Sequence]) -> usize {
        let pairs: usize = seqs.iter().map(|seq| seq.queries.len() * seq.keys.len()).sum();
        2 * pairs * self.width()
    }
}

/// Scratch of one (sequence, head): matrices padded to whole tiles of columns.
#[derive(Default)]
struct Scratch {
    q: Vec<f32>,
    kt: Vec<f32>,
    v: Vec<f32>,
    p: Vec<f32>,
    kept: Vec<f32>,
    out: Vec<f32>,
    dp: Vec<f32>,
    pt: Vec<f32>,
    rows: Vec<f32>,
}

fn padded(n: usize) -> usize {
    n.next_multiple_of(TILE)
}

/// Copies rows of a head, each padded with zeros to whole tiles.
fn load(from: &Columns, rows: &Range<usize>, head: usize, dim: usize, to: &mut Vec<f32>) {
    let width = padded(dim);
    to.clear();
    to.resize(rows.len() * width, 0.0);
    for (row, to) in rows.clone().zip(to.chunks_exact_mut(width)) {
        to[..dim].copy_from_slice(from.row(row, head, dim));
    }
}

/// Copies rows of a head as columns: `dim` rows, each padded with zeros to whole tiles.
fn load_transposed(from: &Columns, rows: &Range<usize>, head: usize, dim: usize, to: &mut Vec<f32>) {
    let width = padded(rows.len());
    to.clear();
    to.resize(dim * width, 0.0);
    for (j, row) in rows.clone().enumerate() {
        for (c, &value) in from.row(row, head, dim).iter().enumerate() {
            to[c * width + j] = value;
        }
    }
}

/// `c = a·b` with `b` and `c` of whole tiles (`cols`), `a` of `rows` rows `a_stride` apart; sums run over ascending k.
fn multiply(rows: usize, k: usize, a: &[f32], a_stride: usize, b: &[f32], cols: usize, c: &mut Vec<f32>) {
    c.clear();
    c.resize(rows * cols, 0.0);
    let mut i = 0;
    while i < rows {
        if i + 4 <= rows {
            tile::<4>(k, &a[i * a_stride..], a_stride, b, cols, &mut c[i * cols..]);
            i += 4;
        } else {
            tile::<1>(k, &a[i * a_stride..], a_stride, b, cols, &mut c[i * cols..]);
            i += 1;
        }
    }
}

/// `R` rows of [`multiply`].
#[inline(always)]
fn tile<const R: usize>(k: usize, a: &[f32], a_stride: usize, b: &[f32], cols: usize, c: &mut [f32]) {
    for first in (0..cols).step_by(TILE) {
        let mut acc = [[0.0f32; TILE]; R];
        for p in 0..k {
            let b: &[f32; TILE] = b[p * cols + first..].first_chunk().expect("b has whole tiles");
            for r in 0..R {
                let left = a[r * a_stride + p];
                for l in 0..TILE {
                    acc[r][l] = left.mul_add(b[l], acc[r][l]);
                }
            }
        }
        for r in 0..R {
            c[r * cols + first..][..TILE].copy_from_slice(&acc[r]);
        }
    }
}

/// Probabilities of one (sequence, head) into `s.p`, rows of whole tiles; with dropout applied into `s.kept`.
fn probabilities(x: &Inputs, seq: &Sequence, head: usize, dropout: Option<&Dropout>, s: &mut Scratch) {
    let (nq, nk) = (seq.queries.len(), seq.keys.len());
    let (width, wide) = (padded(x.dim), padded(nk));
    load(&x.q, &seq.queries, head, x.dim, &mut s.q);
    load_transposed(&x.k, &seq.keys, head, x.dim, &mut s.kt);
    multiply(nq, x.dim, &s.q, width, &s.kt, wide, &mut s.p);
    let scale = 1.0 / (x.dim as f32).sqrt();
    for (i, row) in s.p.chunks_exact_mut(wide).enumerate() {
        let seen = seq.causal_from.map_or(nk, |first| (first + i + 1).min(nk));
        let (visible, hidden) = row.split_at_mut(seen);
        visible.iter_mut().for_each(|v| *v *= scale);
        softmax_row(visible);
        hidden.fill(0.0);
    }
    s.kept.clone_from(&s.p);
    if let Some(dropout) = dropout {
        for (i, row) in s.kept.chunks_exact_mut(wide).enumerate() {
            let place = Place {
                position: seq.place.position + i as u32,
                ..seq.place
            };
            dropout.mask(place, head as u32 + 1, &mut row[..nk]);
        }
    }
}

/// `out[queries] = softmax(q·kᵀ / √dim)·v` for every sequence and head; `out` is rows × (heads·dim).
pub fn forward(x: &Inputs, seqs: &[Sequence], dropout: Option<&Dropout>, out: &mut [f32]) {
    let _kind = meter::kind(Kind::Attention);
    meter::flops(2 * x.product_flops(seqs));
    let width = x.width();
    let tasks = split_queries(seqs, width, out);
    let run = |(seq, out): (&Sequence, &mut [f32])| {
        let mut s = Scratch::default();
        for head in 0..x.heads {
            probabilities(x, seq, head, dropout, &mut s);
            load(&x.v, &seq.keys, head, x.dim, &mut s.v);
            let (wide, tile) = (padded(seq.keys.len()), padded(x.dim));
            multiply(seq.queries.len(), seq.keys.len(), &s.kept, wide, &s.v, tile, &mut s.out);
            for (from, to) in s.out.chunks_exact(tile).zip(out.chunks_exact_mut(width)) {
                to[head * x.dim..][..x.dim].copy_from_slice(&from[..x.dim]);
            }
        }
    };
    if rayon::current_num_threads() > 1 && tasks.len() > 1 {
        tasks.into_par_iter().for_each(run);
    } else {
        tasks.into_iter().for_each(run);
    }
}

/// The rows of `out` that belong to each sequence.
fn split_queries<'s, 'o>(seqs: &'s [Sequence], width: usize, out: &'o mut [f32]) -> Vec<(&'s Sequence, &'o mut [f32])> {
    let mut rest = out;
    let mut next = 0;
    let parts = seqs.iter().map(|seq| {
        assert_eq!(seq.queries.start, next, "query ranges must ascend without gaps");
        next = seq.queries.end;
        let (mine, others) = std::mem::take(&mut rest).split_at_mut(seq.queries.len() * width);
        rest = others;
        (seq, mine)
    });
    parts.collect()
}

/// Gradients of an attention.
#[derive(Debug)]
pub struct Gradients {
    /// Of the queries, rows × (heads·dim).
    pub q: Vec<f32>,
    /// Of the keys.
    pub k: Vec<f32>,
    /// Of the values.
    pub v: Vec<f32>,
}

/// One group of sequences that share their keys, with the rows of the gradients that only they write.
struct Group<'a> {
    seqs: Vec<(&'a Sequence, &'a mut [f32])>,
    dk: &'a mut [f32],
    dv: &'a mut [f32],
}

/// Gradients of [`forward`] for the gradient `dy` of its result. The gradients of keys that several sequences share are summed
/// in the order of the sequences.
pub fn backward(x: &Inputs, seqs: &[Sequence], dropout: Option<&Dropout>, dy: &[f32], key_rows: usize) -> Gradients {
    let _kind = meter::kind(Kind::Attention);
    // Scores once more, and a product each for the gradients of values, probabilities, queries and keys.
    meter::flops(5 * x.product_flops(seqs));
    let width = x.width();
    let mut grads = Gradients {
        q: vec![0.0; dy.len()],
        k: vec![0.0; key_rows * width],
        v: vec![0.0; key_rows * width],
    };
    let groups = group(seqs, width, &mut grads);
    let run = |group: Group| {
        let mut s = Scratch::default();
        for (seq, dq) in group.seqs {
            for head in 0..x.heads {
                backward_head(x, seq, head, dropout, dy, (dq, group.dk, group.dv), &mut s);
            }
        }
    };
    if rayon::current_num_threads() > 1 && groups.len() > 1 {
        groups.into_par_iter().for_each(run);
    } else {
        groups.into_iter().for_each(run);
    }
    grads
}

fn group<'a>(seqs: &'a [Sequence], width: usize, grads: &'a mut Gradients) -> Vec<Group<'a>> {
    let mut starts: Vec<Range<usize>> = seqs.iter().map(|s| s.keys.clone()).collect();
    starts.sort_by_key(|keys| keys.start);
    starts.dedup();
    let (mut k_rest, mut v_rest, mut at) = (&mut grads.k[..], &mut grads.v[..], 0);
    let mut groups: Vec<Group> = Vec::with_capacity(starts.len());
    for keys in &starts {
        assert!(keys.start >= at, "key ranges must be equal or disjoint");
        let (skip, len) = ((keys.start - at) * width, keys.len() * width);
        let (dk, k_after) = std::mem::take(&mut k_rest)[skip..].split_at_mut(len);
        let (dv, v_after) = std::mem::take(&mut v_rest)[skip..].split_at_mut(len);
        (k_rest, v_rest, at) = (k_after, v_after, keys.end);
        groups.push(Group {
            seqs: Vec::new(),
            dk,
            dv,
        });
    }
    for (seq, dq) in split_queries(seqs, width, &mut grads.q) {
        let index = starts.partition_point(|keys| keys.start < seq.keys.start);
        groups[index].seqs.push((seq, dq));
    }
    groups
}

fn backward_head(
    x: &Inputs,
    seq: &Sequence,
    head: usize,
    dropout: Option<&Dropout>,
    dy: &[f32],
    (dq, dk, dv): (&mut [f32], &mut [f32], &mut [f32]),
    s: &mut Scratch,
) {
    let (nq, nk, dim, width) = (seq.queries.len(), seq.keys.len(), x.dim, x.width());
    let (wide, tile, tall) = (padded(nk), padded(dim), padded(dim));
    probabilities(x, seq, head, dropout, s);
    let dy = Columns {
        data: dy,
        stride: width,
        offset: 0,
    };
    // dV += keptᵀ · dY
    load(&dy, &seq.queries, head, dim, &mut s.rows);
    transpose(&s.kept, nq, nk, wide, &mut s.pt);
    multiply(nk, nq, &s.pt, nq, &s.rows, tile, &mut s.out);
    accumulate(&s.out, tile, dv, width, head, dim);
    // dP = dY · Vᵀ through the dropout, then through the softmax into dS.
    load_transposed(&x.v, &seq.keys, head, dim, &mut s.v);
    multiply(nq, dim, &s.rows, tall, &s.v, wide, &mut s.dp);
    let scale = 1.0 / (dim as f32).sqrt();
    for (i, (dp, p)) in s.dp.chunks_exact_mut(wide).zip(s.p.chunks_exact(wide)).enumerate() {
        if let Some(dropout) = dropout {
            let place = Place {
                position: seq.place.position + i as u32,
                ..seq.place
            };
            dropout.mask(place, head as u32 + 1, &mut dp[..nk]);
        }
        let along = dot(&dp[..nk], &p[..nk]);
        for (dp, p) in dp.iter_mut().zip(p) {
            *dp = (*dp - along) * p * scale;
        }
    }
    // dQ = dS · K
    load(&x.k, &seq.keys, head, dim, &mut s.rows);
    multiply(nq, nk, &s.dp, wide, &s.rows, tile, &mut s.out);
    accumulate(&s.out, tile, dq, width, head, dim);
    // dK += dSᵀ · Q
    transpose(&s.dp, nq, nk, wide, &mut s.pt);
    multiply(nk, nq, &s.pt, nq, &s.q, tile, &mut s.out);
    accumulate(&s.out, tile, dk, width, head, dim);
}

/// The first `cols` columns of `x` (rows × `stride`) as rows.
fn transpose(x: &[f32], rows: usize, cols: usize, stride: usize, to: &mut Vec<f32>) {
    to.clear();
    to.resize(rows * cols, 0.0);
    for (i, row) in x.chunks_exact(stride).enumerate().take(rows) {
        for (j, &v) in row[..cols].iter().enumerate() {
            to[j * rows + i] = v;
        }
    }
}

/// Adds a head's rows to its columns of `to`.
fn accumulate(from: &[f32], stride: usize, to: &mut [f32], width: usize, head: usize, dim: usize) {
    for (from, to) in from.chunks_exact(stride).zip(to.chunks_exact_mut(width)) {
        for (t, f) in to[head * dim..][..dim].iter_mut().zip(from) {
            *t += f;
        }
    }
}
