//! Attention over packed sequences of varying length, forward and backward.
//!
//! Every (sequence, head) is a few products of small matrices, computed by one kernel whose order of additions depends on
//! nothing but the inner dimension. Probabilities are computed again in the backward pass rather than stored: that costs
//! one product of four and saves heads × queries × keys values per sequence and layer.

mod product;

use super::cross_entropy::softmax_row;
use super::dropout::{Dropout, Place};
use super::meter::{self, Kind};
use super::sum::dot;
use product::{Left, Target, load, load_transposed, multiply, padded};
use rayon::prelude::*;
use std::ops::Range;

/// Operations of one product, over all sequences and heads, below which they are not shared among threads.
const WORTH_SHARING: usize = 1 << 20;

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

/// A matrix of which some columns are read: heads side by side from `offset`. `D` is where its values lie.
#[derive(Debug, Clone, Copy)]
pub struct Columns<D> {
    /// Row-major values.
    pub data: D,
    /// Elements from one row to the next.
    pub stride: usize,
    /// First column.
    pub offset: usize,
}

impl Columns<&[f32]> {
    #[inline]
    fn row(&self, row: usize, head: usize, dim: usize) -> &[f32] {
        &self.data[row * self.stride + self.offset + head * dim..][..dim]
    }
}

/// Queries, keys and values of an attention.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<D> {
    /// Queries.
    pub q: Columns<D>,
    /// Keys.
    pub k: Columns<D>,
    /// Values.
    pub v: Columns<D>,
    /// Number of heads.
    pub heads: usize,
    /// Width of a head.
    pub dim: usize,
}

impl<D> Inputs<D> {
    /// Columns of all heads.
    pub(crate) const fn width(&self) -> usize {
        self.heads * self.dim
    }

    /// The same of values that lie elsewhere, or are named otherwise.
    pub(crate) fn map<E>(self, f: impl Fn(D) -> E) -> Inputs<E> {
        let [q, k, v] = [self.q, self.k, self.v].map(|columns| Columns {
            data: f(columns.data),
            stride: columns.stride,
            offset: columns.offset,
        });
        Inputs {
            q,
            k,
            v,
            heads: self.heads,
            dim: self.dim,
        }
    }
}

impl Inputs<&[f32]> {
    fn shares(&self, seqs: &[Sequence]) -> bool {
        rayon::current_num_threads() > 1 && self.product_flops(seqs) >= WORTH_SHARING
    }

    /// Operations of one product of every query with every key of its sequence, in all heads.
    fn product_flops(&self, seqs: &[Sequence]) -> usize {
        let pairs: usize = seqs.iter().map(|seq| seq.queries.len() * seq.keys.len()).sum();
        2 * pairs * self.width()
    }
}

/// Scratch of one (sequence, head): right factors in tiles, and matrices whose rows are padded to whole tiles of columns.
#[derive(Default)]
struct Scratch {
    left: Vec<f32>,
    right: Vec<f32>,
    p: Vec<f32>,
    kept: Vec<f32>,
    dp: Vec<f32>,
}

/// Probabilities of one (sequence, head) into `s.p`, rows of whole tiles; with dropout applied into `s.kept`, if there is any.
fn probabilities(x: &Inputs<&[f32]>, seq: &Sequence, head: usize, dropout: Option<&Dropout>, s: &mut Scratch) {
    let (nq, nk) = (seq.queries.len(), seq.keys.len());
    let wide = padded(nk);
    load_transposed(&x.k, &seq.keys, head, x.dim, &mut s.right);
    let queries = Left::head(&x.q, &seq.queries, head, x.dim);
    multiply(
        queries,
        x.dim,
        &s.right,
        Target::whole(&mut s.p, nq, wide),
        false,
        &mut s.left,
    );
    let scale = 1.0 / (x.dim as f32).sqrt();
    for (i, row) in s.p.chunks_exact_mut(wide).enumerate() {
        let seen = seq.causal_from.map_or(nk, |first| (first + i + 1).min(nk));
        let (visible, hidden) = row.split_at_mut(seen);
        visible.iter_mut().for_each(|v| *v *= scale);
        softmax_row(visible);
        hidden.fill(0.0);
    }
    if let Some(dropout) = dropout {
        s.kept.clone_from(&s.p);
        drop_rows(dropout, seq, head, nk, &mut s.kept);
    }
}

/// Applies dropout to the rows of one (sequence, head).
fn drop_rows(dropout: &Dropout, seq: &Sequence, head: usize, nk: usize, rows: &mut [f32]) {
    for (i, row) in rows.chunks_exact_mut(padded(nk)).enumerate() {
        let place = Place {
            position: seq.place.position + i as u32,
            ..seq.place
        };
        dropout.mask(place, head as u32 + 1, &mut row[..nk]);
    }
}

/// `out[queries] = softmax(q·kᵀ / √dim)·v` for every sequence and head; `out` is rows × (heads·dim).
pub fn forward(x: &Inputs<&[f32]>, seqs: &[Sequence], dropout: Option<&Dropout>, out: &mut [f32]) {
    let _kind = meter::kind(Kind::Attention);
    meter::flops(2 * x.product_flops(seqs));
    let width = x.width();
    let tasks = split_queries(seqs, width, out);
    let run = |s: &mut Scratch, (seq, out): (&Sequence, &mut [f32])| {
        let (nq, nk) = (seq.queries.len(), seq.keys.len());
        for head in 0..x.heads {
            probabilities(x, seq, head, dropout, s);
            load(&x.v, &seq.keys, head, x.dim, &mut s.right);
            let kept = if dropout.is_some() { &s.kept } else { &s.p };
            let target = Target::head(out, width, head, x.dim);
            multiply(
                Left::rows(kept, nq, padded(nk)),
                nk,
                &s.right,
                target,
                false,
                &mut s.left,
            );
        }
    };
    if tasks.len() > 1 && x.shares(seqs) {
        tasks.into_par_iter().for_each_init(Scratch::default, run);
    } else {
        let mut scratch = Scratch::default();
        tasks.into_iter().for_each(|task| run(&mut scratch, task));
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

/// Gradients of an attention, rows × (heads·dim) each.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// Of the queries.
    pub q: &'a mut [f32],
    /// Of the keys.
    pub k: &'a mut [f32],
    /// Of the values.
    pub v: &'a mut [f32],
}

/// One group of sequences that share their keys, with the rows of the gradients that only they write.
struct Group<'a> {
    seqs: Vec<(&'a Sequence, &'a mut [f32])>,
    dk: &'a mut [f32],
    dv: &'a mut [f32],
}

/// Gradients of [`forward`] for the gradient `dy` of its result; `grads` are overwritten. The gradients of keys that several
/// sequences share are summed in the order of the sequences.
pub fn backward(x: &Inputs<&[f32]>, seqs: &[Sequence], dropout: Option<&Dropout>, dy: &[f32], grads: Gradients) {
    let _kind = meter::kind(Kind::Attention);
    // Scores once more, and a product each for the gradients of values, probabilities, queries and keys.
    meter::flops(5 * x.product_flops(seqs));
    grads.k.fill(0.0);
    grads.v.fill(0.0);
    let groups = group(seqs, x.width(), grads);
    let run = |s: &mut Scratch, group: Group| {
        for (seq, dq) in group.seqs {
            for head in 0..x.heads {
                backward_head(x, seq, head, dropout, dy, (dq, group.dk, group.dv), s);
            }
        }
    };
    if groups.len() > 1 && x.shares(seqs) {
        groups.into_par_iter().for_each_init(Scratch::default, run);
    } else {
        let mut scratch = Scratch::default();
        groups.into_iter().for_each(|group| run(&mut scratch, group));
    }
}

fn group<'a>(seqs: &'a [Sequence], width: usize, grads: Gradients<'a>) -> Vec<Group<'a>> {
    let mut starts: Vec<Range<usize>> = seqs.iter().map(|s| s.keys.clone()).collect();
    starts.sort_by_key(|keys| keys.start);
    starts.dedup();
    let (mut k_rest, mut v_rest, mut at) = (grads.k, grads.v, 0);
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
    for (seq, dq) in split_queries(seqs, width, grads.q) {
        let index = starts.partition_point(|keys| keys.start < seq.keys.start);
        groups[index].seqs.push((seq, dq));
    }
    groups
}

fn backward_head(
    x: &Inputs<&[f32]>,
    seq: &Sequence,
    head: usize,
    dropout: Option<&Dropout>,
    dy: &[f32],
    (dq, dk, dv): (&mut [f32], &mut [f32], &mut [f32]),
    s: &mut Scratch,
) {
    let (nq, nk, dim, width) = (seq.queries.len(), seq.keys.len(), x.dim, x.width());
    let wide = padded(nk);
    probabilities(x, seq, head, dropout, s);
    let dy = Columns {
        data: dy,
        stride: width,
        offset: 0,
    };
    // dV += keptᵀ · dY
    load(&dy, &seq.queries, head, dim, &mut s.right);
    let kept = if dropout.is_some() { &s.kept } else { &s.p };
    let target = Target::head(dv, width, head, dim);
    multiply(Left::columns(kept, nk, wide), nq, &s.right, target, true, &mut s.left);
    // dP = dY · Vᵀ through the dropout, then through the softmax into dS.
    load_transposed(&x.v, &seq.keys, head, dim, &mut s.right);
    let target = Target::whole(&mut s.dp, nq, wide);
    multiply(
        Left::head(&dy, &seq.queries, head, dim),
        dim,
        &s.right,
        target,
        false,
        &mut s.left,
    );
    if let Some(dropout) = dropout {
        drop_rows(dropout, seq, head, nk, &mut s.dp);
    }
    let scale = 1.0 / (dim as f32).sqrt();
    for (dp, p) in s.dp.chunks_exact_mut(wide).zip(s.p.chunks_exact(wide)) {
        let along = dot(&dp[..nk], &p[..nk]);
        for (dp, p) in dp.iter_mut().zip(p) {
            *dp = (*dp - along) * p * scale;
        }
    }
    // dQ = dS · K
    load(&x.k, &seq.keys, head, dim, &mut s.right);
    let target = Target::head(dq, width, head, dim);
    multiply(Left::rows(&s.dp, nq, wide), nk, &s.right, target, false, &mut s.left);
    // dK += dSᵀ · Q
    load(&x.q, &seq.queries, head, dim, &mut s.right);
    let target = Target::head(dk, width, head, dim);
    multiply(Left::columns(&s.dp, nk, wide), nq, &s.right, target, true, &mut s.left);
}
