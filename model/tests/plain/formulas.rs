//! The plain formulas of single operations, on candle tensors in double precision.

use candle_core::{D, Device, Result, Tensor};
use medley_model::ops::dropout::{Dropout, Place};

/// A matrix of the same numbers in double precision.
pub(crate) fn matrix(values: &[f32], cols: usize) -> Result<Tensor> {
    let rows = values.len() / cols;
    let values: Vec<f64> = values.iter().copied().map(f64::from).collect();
    Tensor::from_vec(values, (rows, cols), &Device::Cpu)
}

/// `x·wᵀ + b`
pub(crate) fn linear(x: &Tensor, w: &Tensor, b: &Tensor) -> Result<Tensor> {
    x.matmul(&w.t()?)?.broadcast_add(b)
}

/// `x·Φ(x)`; candle's own has a constant of six digits in its gradient.
pub(crate) fn gelu(x: &Tensor) -> Result<Tensor> {
    let cdf = (((x / 2f64.sqrt())?.erf()? + 1.0)? * 0.5)?;
    x * cdf
}

/// Layer norm of each row.
pub(crate) fn layer_norm(x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f64) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = centred.broadcast_div(&(variance + eps)?.sqrt()?)?;
    normed.broadcast_mul(gamma)?.broadcast_add(beta)
}

/// Each row divided by its Euclidean norm.
pub(crate) fn unit(x: &Tensor) -> Result<Tensor> {
    x.broadcast_div(&x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)
}

/// The factors, 0 or 1 / (1 − rate), of rows at the positions from `first` on; `minor` is a head plus one, or 0.
pub(crate) fn mask(dropout: &Dropout, first: Place, minor: u32, (rows, cols): (usize, usize)) -> Result<Tensor> {
    let mut ones = vec![1.0f32; rows * cols];
    for (i, row) in ones.chunks_mut(cols).enumerate() {
        let position = first.position + i as u32;
        dropout.mask(Place { position, ..first }, minor, row);
    }
    matrix(&ones, cols)
}

/// Multi-head attention of one sequence, in which query `i` sees keys up to `causal_from + i` if that is given;
/// `drop(head, probabilities)` masks them.
pub(crate) fn attention(
    (q, k, v): (&Tensor, &Tensor, &Tensor),
    heads: usize,
    causal_from: Option<usize>,
    drop: impl Fn(usize, Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let dim = q.dim(1)? / heads;
    let head = |h: usize| {
        let part = |x: &Tensor| x.narrow(1, h * dim, dim)?.contiguous();
        let mut scores = (part(q)?.matmul(&part(k)?.t()?.contiguous()?)? / (dim as f64).sqrt())?;
        if let Some(first) = causal_from {
            let (rows, cols) = scores.dims2()?;
            let hidden = (0..rows * cols).map(|i| if i % cols > first + i / cols { -1e4 } else { 0.0 });
            scores = (scores + matrix(&hidden.collect::<Vec<f32>>(), cols)?)?;
        }
        drop(h, softmax(&scores)?)?.matmul(&part(v)?)
    };
    Tensor::cat(&(0..heads).map(head).collect::<Result<Vec<_>>>()?, 1)
}

/// Softmax over the last axis.
pub(crate) fn softmax(x: &Tensor) -> Result<Tensor> {
    let e = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?.exp()?;
    e.broadcast_div(&e.sum_keepdim(D::Minus1)?)
}

/// Log-softmax over the last axis.
pub(crate) fn log_softmax(x: &Tensor) -> Result<Tensor> {
    let x = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?;
    x.broadcast_sub(&x.exp()?.sum_keepdim(D::Minus1)?.log()?)
}
