//! Time of attention.
//!
//! Operations are counted as usual: 4 for a query, key and column forward, 10 backward, whatever is computed twice or in vain.

use medley_model::cuda::{Cuda, Format, Memory, Slice};
use medley_model::ops::attention::{Columns, Inputs, Sequence};
use medley_model::ops::dropout::{Dropout, Place};
use medley_model::random::{Purpose, Stream};
use std::sync::Arc;
use std::time::Instant;

const HEADS: usize = 12;
const DIM: usize = 64;
const WIDTH: usize = HEADS * DIM;
const IMAGES: usize = 90;
const TOKENS: usize = 197;
/// Of an image of 384 pixels.
const LARGE_TOKENS: usize = 577;
/// Words of the texts that read an image: those of its own, and of one hard negative or two.
const TEXTS: [usize; 4] = [12, 17, 23, 30];
/// Calls that are timed together.
const CALLS: usize = 20;

/// Queries, the number of the keys they read, and how many these are.
type Lengths = (usize, usize, usize);

/// Prints the times of all shapes and formats.
pub(crate) fn measure(cuda: &Arc<Cuda>) {
    let texts = IMAGES * TEXTS.len();
    let lengths = |i: usize| TEXTS[i % TEXTS.len()];
    let shapes: [(&str, Vec<Lengths>, f32); 5] = [
        ("images", (0..IMAGES).map(|i| (TOKENS, i, TOKENS)).collect(), 0.0),
        (
            "texts that read images",
            (0..texts).map(|i| (lengths(i), i / TEXTS.len(), TOKENS)).collect(),
            0.1,
        ),
        (
            "images of 384 pixels",
            (0..IMAGES / 3).map(|i| (LARGE_TOKENS, i, LARGE_TOKENS)).collect(),
            0.0,
        ),
        ("first tokens", (0..IMAGES).map(|i| (1, i, TOKENS)).collect(), 0.0),
        ("texts", (0..texts).map(|i| (lengths(i), i, lengths(i))).collect(), 0.1),
    ];
    for (name, shape, rate) in shapes {
        for format in [Format::F32, Format::Bf16] {
            for rate in [0.0, rate].into_iter().take(if rate > 0.0 { 2 } else { 1 }) {
                Bench::new(cuda, &shape, format).print(name, rate);
            }
        }
    }
}

/// Memory for the calls of a shape.
struct Bench {
    cuda: Arc<Cuda>,
    format: Format,
    seqs: Vec<Sequence>,
    /// Queries, keys and values side by side.
    inputs: Memory,
    y: Memory,
    kept: Memory,
    dy: Memory,
    gradients: [Memory; 3],
}

impl Bench {
    fn new(cuda: &Arc<Cuda>, shape: &[Lengths], format: Format) -> Self {
        let seqs = sequences(shape);
        let rows = seqs.last().map_or(0, |seq| seq.queries.end);
        let key_rows = seqs.iter().map(|seq| seq.keys.end).max().unwrap_or(0);
        let all = rows.max(key_rows);
        let filled = |n: usize| {
            let mut memory = cuda.memory_of(n, format);
            let values: Vec<f32> = (0..n as u32)
                .map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0)
                .collect();
            cuda.upload(&values, memory.slice_mut());
            memory
        };
        Self {
            cuda: cuda.clone(),
            format,
            seqs,
            inputs: filled(all * 3 * WIDTH),
            y: filled(rows * WIDTH),
            kept: cuda.memory(2 * HEADS * rows),
            dy: filled(rows * WIDTH),
            gradients: [rows, key_rows, key_rows].map(|rows| filled(rows * WIDTH)),
        }
    }

    fn print(&mut self, name: &str, rate: f32) {
        let stream = Stream::new(1, Purpose::Dropout);
        let dropout = (rate > 0.0).then_some(Dropout { stream, rate });
        let forward = self.seconds(|bench| bench.forward(dropout.as_ref()));
        let backward = self.seconds(|bench| bench.backward(dropout.as_ref()));
        let pairs: usize = self.seqs.iter().map(|seq| seq.queries.len() * seq.keys.len()).sum();
        let rate_of = |operations: usize, seconds: f64| (operations * pairs * WIDTH) as f64 / seconds / 1e12;
        println!(
            "{name}, {:?}, dropout {rate}: forward {:.1} µs, {:.1} TFLOP/s; backward {:.1} µs, {:.1} TFLOP/s",
            self.format,
            forward * 1e6,
            rate_of(4, forward),
            backward * 1e6,
            rate_of(10, backward),
        );
    }

    /// Seconds of a call, the least of five tries.
    fn seconds(&mut self, call: impl Fn(&mut Self)) -> f64 {
        call(self);
        let mut least = f64::INFINITY;
        for _ in 0..5 {
            self.cuda.synchronize();
            let began = Instant::now();
            (0..CALLS).for_each(|_| call(self));
            self.cuda.check().unwrap_or_else(|error| panic!("{error}"));
            least = least.min(began.elapsed().as_secs_f64() / CALLS as f64);
        }
        least
    }

    fn forward(&mut self, dropout: Option<&Dropout>) {
        let x = inputs(&self.inputs);
        let kept = self.kept.slice_mut();
        self.cuda
            .attention(&x, &self.seqs, dropout, self.y.slice_mut(), Some(kept));
    }

    fn backward(&mut self, dropout: Option<&Dropout>) {
        let x = inputs(&self.inputs);
        let [dq, dk, dv] = self.gradients.each_mut().map(Memory::slice_mut);
        let (y, kept, dy) = (self.y.slice(), self.kept.slice(), self.dy.slice());
        self.cuda
            .attention_backward(&x, &self.seqs, dropout, y, kept, dy, dq, dk, dv);
    }
}

fn sequences(shape: &[Lengths]) -> Vec<Sequence> {
    let mut starts = std::collections::BTreeMap::new();
    for (_, number, keys) in shape {
        starts.insert(*number, *keys);
    }
    let mut at = 0;
    for keys in starts.values_mut() {
        (*keys, at) = (at, at + *keys);
    }
    let mut row = 0;
    let sequence = |(i, (queries, number, keys)): (usize, &Lengths)| {
        let (first, start) = (row, starts[number]);
        row += queries;
        Sequence {
            queries: first..row,
            keys: start..start + keys,
            causal_from: None,
            place: Place {
                sample: i as u32,
                position: 0,
            },
        }
    };
    shape.iter().enumerate().map(sequence).collect()
}

fn inputs(all: &Memory) -> Inputs<Slice<'_>> {
    let [q, k, v] = [0, 1, 2].map(|i| Columns {
        data: all.slice(),
        stride: 3 * WIDTH,
        offset: i * WIDTH,
    });
    Inputs {
        q,
        k,
        v,
        heads: HEADS,
        dim: DIM,
    }
}
