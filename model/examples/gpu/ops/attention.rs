//! Attention: image towers, texts with and without causality, and texts that read images.

use super::{Cases, Ops, Part};
use medley_model::cuda::{Cuda, Slice};
use medley_model::ops::attention::{self, Gradients, Inputs, Sequence};
use medley_model::ops::dropout::{Dropout, Place};
use medley_model::random::{Purpose, Stream};

/// An attention to be tried.
struct Case {
    name: &'static str,
    heads: usize,
    dim: usize,
    /// Stride and offset of queries, keys and values.
    columns: [(usize, usize); 3],
    /// Rows of the key and value matrices.
    key_rows: usize,
    seqs: Vec<Sequence>,
    rate: f32,
    /// Factor of the queries, a power of two: a large one makes scores of many sizes.
    sharpness: f32,
}

/// Largest relative errors with bf16. Besides results, probabilities are rounded, and the gradients of scores.
const FORWARD_BAR: f64 = 6e-3;
const BACKWARD_BAR: f64 = 1.5e-2;

pub(crate) fn check(ops: &Ops) {
    let forward = |c: &Cases| cases().iter().for_each(|case| forward(c, case));
    ops.op("attention", forward);
    ops.bf16("attention", FORWARD_BAR, forward);
    let backward = |c: &Cases| cases().iter().for_each(|case| backward(c, case));
    ops.op("attention_backward", backward);
    ops.bf16("attention_backward", BACKWARD_BAR, backward);
    let within = |c: &Cases| cases().iter().for_each(|case| within(c, case));
    ops.bf16("attention_backward within", BACKWARD_BAR, within);
}

/// Sequences of these (queries, keys) one after the other; `causal` names the position of the first query among its keys.
fn own(lengths: &[(usize, usize)], causal: Option<usize>) -> Vec<Sequence> {
    let (mut query, mut key) = (0, 0);
    let sequence = |(i, (queries, keys)): (usize, &(usize, usize))| {
        let sequence = Sequence {
            queries: query..query + queries,
            keys: key..key + keys,
            causal_from: causal,
            place: Place {
                sample: i as u32 + 40,
                position: causal.unwrap_or(0) as u32,
            },
        };
        (query, key) = (query + queries, key + keys);
        sequence
    };
    lengths.iter().enumerate().map(sequence).collect()
}

/// Texts of these lengths, each of which reads the image with that number, of `tokens` keys.
fn shared(texts: &[(usize, usize)], tokens: usize) -> Vec<Sequence> {
    let mut seqs = own(&texts.iter().map(|(len, _)| (*len, 0)).collect::<Vec<_>>(), None);
    for (seq, (_, image)) in seqs.iter_mut().zip(texts) {
        seq.keys = image * tokens..(image + 1) * tokens;
    }
    seqs
}

fn cases() -> Vec<Case> {
    let packed = |width: usize| [(3 * width, 0), (3 * width, width), (3 * width, 2 * width)];
    let dense = |width: usize| [(width, 0); 3];
    let texts: Vec<(usize, usize)> = [1, 2, 23, 63, 64, 65, 130].map(|n| (n, n)).to_vec();
    let case = |name, (heads, dim): (usize, usize), columns, seqs: Vec<Sequence>, rate| Case {
        name,
        heads,
        dim,
        columns,
        key_rows: seqs.iter().map(|seq| seq.keys.end).max().unwrap_or(0),
        seqs,
        rate,
        sharpness: 1.0,
    };
    let readers = [(5, 0), (20, 2), (1, 0), (70, 2), (33, 0)];
    let many_readers = [20, 20, 30, 30, 17, 33, 9, 64, 64].map(|len| (len, 0));
    vec![
        case(
            "an image of ViT-B",
            (12, 64),
            packed(768),
            own(&[(197, 197); 2], None),
            0.0,
        ),
        case(
            "an image of 384 pixels",
            (12, 64),
            packed(768),
            own(&[(577, 577)], None),
            0.0,
        ),
        case(
            "an image of 384 pixels, causal, with dropout",
            (12, 64),
            packed(768),
            own(&[(300, 300), (20, 577)], Some(0)),
            0.2,
        ),
        case(
            "images at the edges of blocks",
            (2, 64),
            dense(128),
            own(&[(33, 224), (18, 225), (225, 17), (128, 128), (129, 129)], None),
            0.1,
        ),
        Case {
            sharpness: 8.0,
            ..case(
                "an image with sharp scores",
                (12, 64),
                packed(768),
                own(&[(197, 197)], None),
                0.0,
            )
        },
        case(
            "queries without keys among others",
            (2, 64),
            dense(128),
            own(&[(3, 0), (40, 33), (20, 0)], None),
            0.0,
        ),
        case(
            "many texts that read one image",
            (12, 64),
            dense(768),
            shared(&many_readers, 197),
            0.1,
        ),
        case(
            "the class tokens of ViT-L",
            (16, 64),
            packed(1024),
            own(&[(1, 197); 3], None),
            0.0,
        ),
        case("texts of BERT", (12, 64), dense(768), own(&texts, None), 0.1),
        case(
            "captions of BERT",
            (12, 64),
            packed(768),
            own(&[(30, 30), (8, 8), (17, 17)], Some(0)),
            0.1,
        ),
        case("causal texts of BERT", (12, 64), dense(768), own(&texts, Some(0)), 0.1),
        case(
            "tokens of BERT that follow",
            (12, 64),
            dense(768),
            own(&[(1, 20), (3, 67), (66, 130)], Some(1)),
            0.5,
        ),
        case(
            "tokens that follow",
            (4, 24),
            dense(96),
            own(&[(1, 20), (3, 67), (66, 130)], Some(1)),
            0.5,
        ),
        case("an image of tiny", (4, 24), packed(96), own(&[(17, 17); 3], None), 0.0),
        case("texts of nano", (4, 8), dense(32), own(&texts, Some(0)), 0.0),
        case("odd heads", (3, 5), [(17, 2), (19, 1), (15, 0)], own(&texts, None), 0.2),
        Case {
            key_rows: 4 * 197,
            ..case(
                "texts that read images",
                (12, 64),
                dense(768),
                shared(&readers, 197),
                0.1,
            )
        },
        case(
            "texts of tiny that read images",
            (4, 24),
            dense(96),
            shared(&readers, 17),
            0.0,
        ),
    ]
}

/// Values of a case on the CPU and on the device.
struct Values {
    host: [Vec<f32>; 3],
    parts: [Part; 3],
    query_rows: usize,
    dropout: Option<Dropout>,
}

impl Values {
    fn new(c: &Cases, case: &Case) -> Self {
        let query_rows: usize = case.seqs.iter().map(|seq| seq.queries.len()).sum();
        let rows = [query_rows.max(case.key_rows), case.key_rows, case.key_rows];
        let mut host = [0, 1, 2].map(|i| c.noise(rows[i] * case.columns[i].0));
        host[0].iter_mut().for_each(|q| *q *= case.sharpness);
        Self {
            parts: host.each_ref().map(|values| c.up(values)),
            host,
            query_rows,
            dropout: (case.rate > 0.0).then(|| Dropout {
                stream: Stream::new(9, Purpose::Dropout),
                rate: case.rate,
            }),
        }
    }

    fn inputs<'a>(&'a self, case: &Case) -> Inputs<&'a [f32]> {
        let [q, k, v] = [0, 1, 2].map(|i| attention::Columns {
            data: &self.host[i][..],
            stride: case.columns[i].0,
            offset: case.columns[i].1,
        });
        let Case { heads, dim, .. } = *case;
        Inputs { q, k, v, heads, dim }
    }

    fn on_device<'a>(&'a self, case: &Case) -> Inputs<Slice<'a>> {
        let [q, k, v] = [0, 1, 2].map(|i| attention::Columns {
            data: self.parts[i].slice(),
            stride: case.columns[i].0,
            offset: case.columns[i].1,
        });
        let Case { heads, dim, .. } = *case;
        Inputs { q, k, v, heads, dim }
    }
}

/// The result on the device, and what was kept for backward.
fn run(c: &Cases, cuda: &Cuda, case: &Case, values: &Values) -> (Part, Part) {
    let width = case.heads * case.dim;
    let (mut y, mut kept) = (
        c.poison(values.query_rows * width),
        c.poison_single(2 * case.heads * values.query_rows),
    );
    let (inputs, dropout) = (values.on_device(case), values.dropout.as_ref());
    cuda.attention(&inputs, &case.seqs, dropout, y.slice_mut(), Some(kept.slice_mut()));
    (y, kept)
}

fn forward(c: &Cases, case: &Case) {
    let values = Values::new(c, case);
    let mut y = vec![0.0; values.query_rows * case.heads * case.dim];
    attention::forward(&values.inputs(case), &case.seqs, values.dropout.as_ref(), &mut y);
    c.compare(case.name, &[y.clone(), y], || {
        let (kept_y, _) = run(c, &c.cuda, case, &values);
        let mut y = c.poison(values.query_rows * case.heads * case.dim);
        c.cuda.attention(
            &values.on_device(case),
            &case.seqs,
            values.dropout.as_ref(),
            y.slice_mut(),
            None,
        );
        vec![kept_y, y]
    });
}

fn backward(c: &Cases, case: &Case) {
    let values = Values::new(c, case);
    let width = case.heads * case.dim;
    let dy = c.noise(values.query_rows * width);
    let [mut q, mut k, mut v] = [values.query_rows, case.key_rows, case.key_rows].map(|rows| vec![0.0; rows * width]);
    let grads = Gradients {
        q: &mut q,
        k: &mut k,
        v: &mut v,
    };
    attention::backward(&values.inputs(case), &case.seqs, values.dropout.as_ref(), &dy, grads);
    let dy = c.up(&dy);
    c.compare(case.name, &[q, k, v], || {
        let (y, kept) = run(c, &c.cuda, case, &values);
        let [mut dq, mut dk, mut dv] =
            [values.query_rows, case.key_rows, case.key_rows].map(|rows| c.poison(rows * width));
        c.cuda.attention_backward(
            &values.on_device(case),
            &case.seqs,
            values.dropout.as_ref(),
            y.slice(),
            kept.slice(),
            dy.slice(),
            dq.slice_mut(),
            dk.slice_mut(),
            dv.slice_mut(),
        );
        vec![dq, dk, dv]
    });
}

/// The gradients of columns of one matrix, in one matrix: where its parts have rows of one length, and as many.
fn within(c: &Cases, case: &Case) {
    let (values, width, stride) = (Values::new(c, case), case.heads * case.dim, case.columns[0].0);
    let rows = values.query_rows;
    if case.columns.iter().any(|(other, _)| *other != stride) || rows != case.key_rows || stride == width {
        return;
    }
    let dy = c.noise(rows * width);
    let [mut q, mut k, mut v] = [(); 3].map(|()| vec![0.0; rows * width]);
    let grads = Gradients {
        q: &mut q,
        k: &mut k,
        v: &mut v,
    };
    attention::backward(&values.inputs(case), &case.seqs, values.dropout.as_ref(), &dy, grads);
    let mut expected = vec![0.0; rows * stride];
    for ((_, offset), columns) in case.columns.iter().zip([q, k, v]) {
        for (row, columns) in expected.chunks_mut(stride).zip(columns.chunks(width)) {
            row[*offset..offset + width].copy_from_slice(columns);
        }
    }
    let dy = c.up(&dy);
    let compute = |d: &mut Part| {
        let (y, kept) = run(c, &c.cuda, case, &values);
        let (inputs, dropout) = (values.on_device(case), values.dropout.as_ref());
        let of = (y.slice(), kept.slice());
        c.cuda
            .attention_backward_within(&inputs, &case.seqs, dropout, of, dy.slice(), d.slice_mut())
    };
    let done = compute(&mut c.poison(rows * stride));
    if done != (case.dim == 64 && c.shift.get() == 0) {
        c.fault(case.name, "is not done where it should be, or done where it should not");
    }
    if done {
        c.compare(case.name, &[expected], || {
            let mut d = c.poison(rows * stride);
            compute(&mut d);
            vec![d]
        });
    }
}
