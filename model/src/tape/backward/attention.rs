//! The gradients of attention, and whose columns they are.

use crate::device::Buffer;
use crate::tape::{Head, Node, Tape};

impl<'a> Tape<'a> {
    pub(super) fn attention_backward(&mut self, node: &Node<'a>, dy: Buffer) {
        let Node::Attention {
            q,
            k,
            v,
            heads,
            dim,
            seqs,
            dropout,
            kept,
            y,
        } = node
        else {
            unreachable!("called for attention only");
        };
        if q.var == k.var && k.var == v.var && self.attention_backward_within(node, &dy) {
            return self.pool.give(dy);
        }
        let (width, query_rows, key_rows) = (heads * dim, self.dims(q.var).0, self.dims(k.var).0);
        let [mut dq, mut dk, mut dv] = [query_rows, key_rows, key_rows].map(|rows| self.take(rows * width));
        self.device.attention_backward(
            self.attention_inputs((*q, *k, *v), (*heads, *dim)),
            seqs,
            dropout.as_ref(),
            (self.value(*y), kept.as_ref().map(Buffer::span)),
            dy.span(),
            [dq.span_mut(), dk.span_mut(), dv.span_mut()],
        );
        for (head, grad) in [(*q, dq), (*k, dk), (*v, dv)] {
            self.pass_columns(head, width, grad);
        }
        self.pool.give(dy);
    }

    /// The gradients of queries, keys and values that are columns of one value, in its gradient if that has nothing yet. Returns whether
    /// the device did that.
    fn attention_backward_within(&mut self, node: &Node<'a>, dy: &Buffer) -> bool {
        let Node::Attention {
            q,
            k,
            v,
            heads,
            dim,
            seqs,
            dropout,
            kept,
            y,
        } = node
        else {
            unreachable!("called for attention only");
        };
        if !self.device.attends_within() || !self.needs(q.var) || self.values[q.var.0 as usize].grad.is_some() {
            return false;
        }
        let mut d = self.take_like(q.var);
        let inputs = self.attention_inputs((*q, *k, *v), (*heads, *dim));
        let of = (self.value(*y), kept.as_ref().map(Buffer::span));
        let done = self
            .device
            .attention_backward_within(inputs, seqs, dropout.as_ref(), of, dy.span(), d.span_mut());
        if done {
            self.values[q.var.0 as usize].grad = Some(d);
        } else {
            self.pool.give(d);
        }
        done
    }

    /// Hands on the gradient of some columns of a value.
    fn pass_columns(&mut self, head: Head, width: usize, grad: Buffer) {
        let stride = self.dims(head.var).1;
        if stride == width {
            return self.pass(head.var, grad);
        }
        self.contribute(head.var, |tape, mut d, fresh| {
            if fresh {
                // Other columns belong to the other heads' gradients, which are added later.
                tape.device.fill(d.reborrow(), 0.0);
            }
            tape.device.add_columns(grad.span(), width, d, (head.offset, stride));
        });
        self.pool.give(grad);
    }
}
