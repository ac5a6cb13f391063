//! Attention: packed texts, causal or not; images that several texts read; dropout.

use crate::case::{Case, check};
use crate::formulas::{attention, mask};
use candle_core::{Result, Tensor};
use medley_model::ops::attention::Sequence;
use medley_model::ops::dropout::{Dropout, Place};
use medley_model::random::{Purpose, Stream};
use medley_model::tape::Head;
use std::ops::Range;
use std::rc::Rc;

/// Lengths of packed texts.
const LENGTHS: [usize; 6] = [5, 1, 17, 64, 2, 41];

pub(crate) fn all() -> Vec<Case> {
    [selves(), causals(), crosses()].into_iter().flatten().collect()
}

/// How many heads of which width, and the dropout of probabilities.
#[derive(Clone, Copy)]
struct Shape {
    heads: usize,
    dim: usize,
    dropout: Option<Dropout>,
}

impl Shape {
    fn width(self) -> usize {
        self.heads * self.dim
    }

    fn case(self, name: &str) -> Case {
        let rate = self.dropout.map_or(0.0, |dropout| dropout.rate);
        Case::new(format!("{name}, {} heads of {}, dropout {rate}", self.heads, self.dim))
    }
}

/// Heads of a width of whole tiles and of others, without and with dropout.
fn shapes() -> [Shape; 4] {
    let stream = Stream::new(1, Purpose::Dropout).at(6);
    let some = Some(Dropout { stream, rate: 0.1 });
    [(2, 64, None), (3, 20, None), (2, 64, some), (3, 20, some)].map(|(heads, dim, dropout)| Shape {
        heads,
        dim,
        dropout,
    })
}

/// Each sequence by itself.
fn formula((q, k, v): (Tensor, Tensor, Tensor), seqs: &[Sequence], shape: Shape) -> Result<Tensor> {
    let one = |seq: &Sequence| {
        let rows = |x: &Tensor, rows: &Range<usize>| x.narrow(0, rows.start, rows.len());
        let parts = (&rows(&q, &seq.queries)?, &rows(&k, &seq.keys)?, &rows(&v, &seq.keys)?);
        attention(parts, shape.heads, seq.causal_from, |head, p| match &shape.dropout {
            Some(dropout) => &p * mask(dropout, seq.place, head as u32 + 1, p.dims2()?)?,
            None => Ok(p),
        })
    };
    Tensor::cat(&seqs.iter().map(one).collect::<Result<Vec<_>>>()?, 0)
}

/// Sequences of so many queries, in order, with their keys.
fn packed(of: impl Iterator<Item = (usize, Range<usize>, Option<usize>)>) -> Rc<[Sequence]> {
    let mut next = 0;
    let sequences = of.enumerate().map(|(sample, (queries, keys, causal_from))| {
        next += queries;
        let place = Place {
            sample: sample as u32,
            position: causal_from.unwrap_or(0) as u32,
        };
        Sequence {
            queries: next - queries..next,
            keys,
            causal_from,
            place,
        }
    });
    sequences.collect()
}

/// Ranges of these lengths, one after the other.
fn ranges(lengths: &[usize]) -> impl Iterator<Item = Range<usize>> {
    lengths.iter().scan(0, |next, len| {
        *next += len;
        Some(*next - len..*next)
    })
}

/// Queries, keys and values as three values.
fn apart(name: &str, seqs: Rc<[Sequence]>, shape: Shape, (queries, keys): (usize, usize)) -> Case {
    let (width, ours) = (shape.width(), seqs.clone());
    shape
        .case(name)
        .input("q", &[queries, width])
        .input("k", &[keys, width])
        .input("v", &[keys, width])
        .ours(move |t| {
            let [q, k, v] = ["q", "k", "v"].map(|name| Head {
                var: t.var(name),
                offset: 0,
            });
            t.tape
                .attention((q, k, v), (shape.heads, shape.dim), &ours, shape.dropout)
        })
        .plain(move |of| formula((of("q"), of("k"), of("v")), &seqs, shape))
}

/// Queries, keys and values side by side in one value, as the image tower has them.
fn together(name: &str, seqs: Rc<[Sequence]>, shape: Shape, rows: usize) -> Case {
    let (width, ours) = (shape.width(), seqs.clone());
    shape
        .case(name)
        .input("qkv", &[rows, 3 * width])
        .ours(move |t| {
            let var = t.var("qkv");
            let [q, k, v] = [0, 1, 2].map(|i| Head { var, offset: i * width });
            t.tape
                .attention((q, k, v), (shape.heads, shape.dim), &ours, shape.dropout)
        })
        .plain(move |of| {
            let part = |i: usize| of("qkv").narrow(1, i * width, width);
            formula((part(0)?, part(1)?, part(2)?), &seqs, shape)
        })
}

fn selves() -> Vec<Case> {
    let total = LENGTHS.iter().sum();
    let texts = packed(ranges(&LENGTHS).map(|rows| (rows.len(), rows, None)));
    let images = packed(ranges(&[65, 65]).map(|rows| (rows.len(), rows, None)));
    let firsts = packed(ranges(&LENGTHS).map(|rows| (1, rows, None)));
    let cases = shapes().into_iter().flat_map(|shape| {
        [
            apart("texts", texts.clone(), shape, (total, total)),
            apart("first tokens of texts", firsts.clone(), shape, (LENGTHS.len(), total)),
            together("images", images.clone(), shape, 130),
        ]
    });
    cases.collect()
}

fn causals() -> Vec<Case> {
    let total = LENGTHS.iter().sum();
    let texts = packed(ranges(&LENGTHS).map(|rows| (rows.len(), rows, Some(0))));
    let ends = packed(ranges(&LENGTHS).map(|rows| (rows.len().div_ceil(2), rows.clone(), Some(rows.len() / 2))));
    let queries = ends.iter().map(|seq| seq.queries.len()).sum();
    let cases = shapes().into_iter().flat_map(|shape| {
        [
            apart("texts", texts.clone(), shape, (total, total)),
            apart("ends of texts", ends.clone(), shape, (queries, total)),
        ]
    });
    cases.collect()
}

fn crosses() -> Vec<Case> {
    // Four images, one of which no text reads, the others up to three.
    let (image_of, tokens) = ([2, 0, 2, 3, 0, 2], 65);
    let keys = move |text: usize| image_of[text] * tokens..(image_of[text] + 1) * tokens;
    let texts = packed(LENGTHS.iter().enumerate().map(|(i, len)| (*len, keys(i), None)));
    let size = (LENGTHS.iter().sum(), 4 * tokens);
    shapes()
        .into_iter()
        .map(|shape| apart("texts of images", texts.clone(), shape, size))
        .collect()
}

#[test]
fn self_attention_agrees_with_its_formula() {
    check(&selves());
}

#[test]
fn causal_attention_agrees_with_its_formula() {
    check(&causals());
}

#[test]
fn keys_that_several_texts_read_sum_their_gradients() {
    check(&crosses());
}
