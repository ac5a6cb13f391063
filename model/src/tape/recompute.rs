//! Activations that are computed again instead of kept.
//!
//! When the forward pass of a scope is over, the values it made are given back, but for its results. What it did stays on
//! record: before the backward pass runs that part of the record in reverse, it runs it once more forwards. The same kernels
//! on the same inputs give the same bits, and masks are functions of counters; so a step costs more time and less memory, and
//! not a bit of it changes. What nothing reads on the way back, such as the last product of a block, is not computed again.

use super::{Node, Results, Tape, Var};
use crate::device::Buffer;
use crate::ops::meter;
use std::collections::BTreeSet;

/// A part of the record whose values were given back: from this node on, to the node that was the last.
pub(super) struct Forgotten {
    first: usize,
    end: usize,
}

impl Tape<'_> {
    /// Gives back what can be computed again: values that the nodes from `first` on have made, but `results`.
    pub(super) fn forget(&mut self, first: usize, results: impl Results) {
        let mut kept = BTreeSet::new();
        results.map(|v| {
            kept.insert(v);
            v
        });
        let outputs = self.nodes[first..].iter().map(Node::output);
        for v in outputs.filter(|v| !kept.contains(v)) {
            let data = self.values[v.0 as usize].data.take();
            data.into_iter().for_each(|data| self.pool.give(data));
        }
        let end = self.nodes.len();
        self.forgotten.push(Forgotten { first, end });
    }

    /// Computes again what the backward pass reads of the part of the record that comes next, if it was forgotten.
    pub(super) fn recall(&mut self) {
        let next = self.nodes.len();
        let Some(part) = self.forgotten.pop_if(|part| part.end == next) else {
            return;
        };
        let mut nodes = self.nodes.split_off(part.first);
        let read = read(&nodes);
        for node in &mut nodes {
            let y = node.output().0 as usize;
            if read.contains(&node.output()) && self.values[y].data.is_none() {
                let _part = meter::part(self.values[y].part);
                self.values[y].data = Some(self.compute(node));
            }
        }
        self.nodes.append(&mut nodes);
    }

    /// Whether the part of the record that comes next is forgotten, so that nothing of it may be read yet.
    pub(super) fn is_forgotten(&self) -> bool {
        self.forgotten.last().is_some_and(|part| part.end == self.nodes.len())
    }

    /// What a node has yielded, once more.
    fn compute(&mut self, node: &mut Node) -> Buffer {
        match node {
            Node::Linear { x, w, b, .. } => self.linear_of(*x, *w, *b),
            Node::Project { x, of, .. } => self.projected(*x, *of),
            Node::Gelu { x, .. } => self.gelu_of(*x),
            Node::Add { a, b, .. } => self.sum_of(*a, *b),
            Node::LayerNorm {
                x,
                gamma,
                beta,
                eps,
                stats,
                ..
            } => self.layer_norm_of(*x, (*gamma, *beta), *eps, stats.span_mut()),
            Node::Dropout { x, dropout, places, .. } => self.dropout_of(*x, dropout, places),
            Node::DropPath {
                x, rows_of, factors, ..
            } => self.drop_path_of(*x, *rows_of, factors),
            Node::Attention {
                q,
                k,
                v,
                heads,
                dim,
                seqs,
                dropout,
                kept,
                ..
            } => self.attention_of((*q, *k, *v), (*heads, *dim), seqs, dropout.as_ref(), kept.as_mut()),
            Node::Rows { x, index, .. } => self.rows_of(*x, index),
            Node::Stack { a, b, .. } => self.stack_of(*a, *b),
            other => unreachable!("no scope holds {other:?}"),
        }
    }
}

/// Values that the way back reads, or that such values are computed from.
fn read(nodes: &[Node]) -> BTreeSet<Var> {
    let mut read = BTreeSet::new();
    for node in nodes.iter().rev() {
        let computed = read.contains(&node.output());
        let (inputs, read_back) = match node {
            Node::Linear { x, .. } | Node::Project { x, .. } | Node::Gelu { x, .. } | Node::LayerNorm { x, .. } => {
                (vec![*x], vec![*x])
            }
            Node::Attention { q, k, v, y, .. } => {
                let inputs = vec![q.var, k.var, v.var];
                let read_back = [&inputs[..], &[*y]].concat();
                (inputs, read_back)
            }
            Node::Dropout { x, .. } | Node::DropPath { x, .. } | Node::Rows { x, .. } => (vec![*x], Vec::new()),
            Node::Add { a, b, .. } | Node::Stack { a, b, .. } => (vec![*a, *b], Vec::new()),
            other => unreachable!("no scope holds {other:?}"),
        };
        read.extend(inputs.into_iter().filter(|_| computed));
        read.extend(read_back);
    }
    read
}
