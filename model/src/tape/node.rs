//! What a tape records.

use super::{Projections, Var};
use crate::device::{Buffer, Span};
use crate::layout::ParamId;
use crate::ops::attention::Sequence;
use crate::ops::dropout::{Dropout, Place};
use std::rc::Rc;

/// Some columns of a value: heads side by side from `offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The value.
    pub var: Var,
    /// First column.
    pub offset: usize,
}

impl From<Var> for Head {
    /// All columns.
    fn from(var: Var) -> Self {
        Self { var, offset: 0 }
    }
}

/// One operation, with what its backward needs. `y` is always its result.
#[derive(Debug)]
#[expect(missing_docs, reason = "fields are named as in the operation's own documentation")]
pub enum Node<'a> {
    /// `y = x·wᵀ + b`
    Linear {
        x: Var,
        w: ParamId,
        b: Option<ParamId>,
        y: Var,
    },
    /// `y = x·wᵀ + b` for queries, keys and values, side by side
    Project { x: Var, of: Projections, y: Var },
    /// `y = gelu(x)`
    Gelu { x: Var, y: Var },
    /// `y = a + b`
    Add { a: Var, b: Var, y: Var },
    /// Layer norm of each row; `stats` holds (mean, 1/σ).
    LayerNorm {
        x: Var,
        gamma: ParamId,
        beta: ParamId,
        eps: f32,
        stats: Buffer,
        y: Var,
    },
    /// Masked by logical place.
    Dropout {
        x: Var,
        dropout: Dropout,
        places: Rc<[Place]>,
        y: Var,
    },
    /// Rows of each sample times its factor.
    DropPath {
        x: Var,
        rows_of: usize,
        factors: Rc<[f32]>,
        y: Var,
    },
    /// Attention over packed sequences; `kept` is what the device wants back.
    Attention {
        q: Head,
        k: Head,
        v: Head,
        heads: usize,
        dim: usize,
        seqs: Rc<[Sequence]>,
        dropout: Option<Dropout>,
        kept: Option<Buffer>,
        y: Var,
    },
    /// `y = word[ids] + position[positions]`
    Embed {
        ids: Rc<[u32]>,
        positions: Rc<[u32]>,
        word: ParamId,
        position: ParamId,
        y: Var,
    },
    /// `y[i] = x[index[i]]`
    Rows { x: Var, index: Rc<[u32]>, y: Var },
    /// Rows of `a`, then rows of `b`.
    Stack { a: Var, b: Var, y: Var },
    /// Class token before each sample's patches, position table added.
    Tokens {
        x: Var,
        class: ParamId,
        position: ParamId,
        samples: usize,
        y: Var,
    },
    /// `y = x / ‖x‖` for each row.
    L2Norm { x: Var, norms: Buffer, y: Var },
    /// `y = x·[own, queue]ᵀ / temperature`
    Logits {
        x: Var,
        own: Var,
        queue: Span<'a>,
        temperature: ParamId,
        y: Var,
    },
    /// Mean over rows of the smoothed cross-entropy; `rows` holds what is kept of each.
    CrossEntropy {
        x: Var,
        targets: Rc<[u32]>,
        smoothing: f32,
        rows: Buffer,
        y: Var,
    },
    /// Mean over rows of the cross-entropy against distributions.
    SoftCrossEntropy { x: Var, targets: Var, rows: Buffer, y: Var },
    /// `y = Σ weightᵢ·xᵢ` of scalars.
    Sum { terms: Vec<(Var, f32)>, y: Var },
}

impl Node<'_> {
    /// The result.
    pub fn output(&self) -> Var {
        match self {
            Self::Linear { y, .. }
            | Self::Project { y, .. }
            | Self::Gelu { y, .. }
            | Self::Add { y, .. }
            | Self::LayerNorm { y, .. }
            | Self::Dropout { y, .. }
            | Self::DropPath { y, .. }
            | Self::Attention { y, .. }
            | Self::Embed { y, .. }
            | Self::Rows { y, .. }
            | Self::Stack { y, .. }
            | Self::Tokens { y, .. }
            | Self::L2Norm { y, .. }
            | Self::Logits { y, .. }
            | Self::CrossEntropy { y, .. }
            | Self::SoftCrossEntropy { y, .. }
            | Self::Sum { y, .. } => *y,
        }
    }

    /// The buffer saved for the backward pass, to be given back.
    pub(super) fn saved(self) -> Option<Buffer> {
        match self {
            Self::LayerNorm { stats: saved, .. }
            | Self::L2Norm { norms: saved, .. }
            | Self::CrossEntropy { rows: saved, .. }
            | Self::SoftCrossEntropy { rows: saved, .. } => Some(saved),
            Self::Attention { kept, .. } => kept,
            _ => None,
        }
    }
}
