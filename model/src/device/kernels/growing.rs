//! What a decoder does token by token: attention over kept keys, and the choice of tokens.

use super::{Device, Span, SpanMut};
use crate::device::Texts;
use crate::generate::beam::{Continuation, Open, Wanted};
use crate::ops::attention::{Columns, Inputs};
use crate::ops::decode::{self, Blocks};

/// Queries, keys and values of single rows that are as wide as all heads.
fn dense([q, k, v]: [Span<'_>; 3], (heads, dim): (usize, usize)) -> Inputs<Span<'_>> {
    let columns = |data| Columns {
        data,
        stride: heads * dim,
        offset: 0,
    };
    Inputs {
        q: columns(q),
        k: columns(k),
        v: columns(v),
        heads,
        dim,
    }
}

impl Device {
    /// Attention over blocks that are only read.
    pub(crate) fn attend_blocks(&self, x: [Span; 3], blocks: &Blocks, heads: (usize, usize), out: SpanMut) {
        on!(self, decode::attend(&dense(x, heads).map(Span::host), blocks, out.host()),
            cuda => cuda.attend_blocks(x.map(Span::cuda), blocks, heads, out.cuda()));
    }

    /// Puts the keys and values of the queries' own rows behind those in `kept`, and attends to all of them: `blocks` grow, and
    /// their first query sees one row more than there were. If the queries are the last tokens of `texts`, a GPU sees from those how
    /// many there are.
    pub(crate) fn attend_kept(
        &self,
        [q, k, v]: [Span; 3],
        [keys, values]: [SpanMut; 2],
        (blocks, texts): (&Blocks, Option<&Texts>),
        heads: (usize, usize),
        out: SpanMut,
    ) {
        on!(self, {
            let _ = texts;
            let (keys, values) = (keys.host(), values.host());
            let (place, size) = ((blocks.every, blocks.seen - 1), (blocks.of.len(), blocks.per));
            decode::keep(k.host(), keys, place, size, heads.0 * heads.1);
            decode::keep(v.host(), values, place, size, heads.0 * heads.1);
            let x = dense([q, Span::Host(keys), Span::Host(values)], heads);
            decode::attend(&x.map(Span::host), blocks, out.host());
        }, cuda => {
            let (x, kept) = ([q, k, v].map(Span::cuda), [keys, values].map(SpanMut::cuda));
            cuda.attend_kept(x, kept, (blocks, texts.and_then(Texts::lengths)), heads, out.cuda());
        });
    }

    /// See [`decode::pick`].
    pub(crate) fn pick(&self, x: Span, parents: &[u32], place: (usize, usize), width: usize, y: SpanMut) {
        on!(self, decode::pick(x.host(), parents, place, width, y.host()),
            cuda => cuda.pick(x.cuda(), parents, place, width, y.cuda()));
    }

    /// The best continuations of each open text of a beam search; the logits are spent.
    pub fn continuations(&self, logits: SpanMut, open: &[Open], wanted: &Wanted) -> Vec<Vec<Continuation>> {
        on!(self, wanted.of_all(logits.host(), open), cuda => cuda.continuations(logits.cuda(), open, wanted))
    }
}
