//! Matrix products.

use super::{Cases, Ops, Part};
use medley_model::cuda::Factor;
use medley_model::ops::gemm::{Batch, Mat, Start, gemm_strided};

/// m, n and k: nothing, single rows and columns, odd ones, and layers of every preset and the towers.
const SHAPES: [(usize, usize, usize); 14] = [
    (1, 1, 1),
    (3, 4, 0),
    (1, 768, 768),
    (197, 1, 5),
    (2, 3, 600),
    (33, 47, 65),
    (130, 96, 32),
    (64, 96, 384),
    (90, 256, 768),
    (394, 2304, 768),
    (394, 768, 3072),
    (768, 768, 1970),
    (1061, 96, 384),
    (40, 30_524, 768),
];

#[derive(Clone, Copy, PartialEq)]
enum From {
    Zero,
    Add,
    Bias,
}

pub(crate) fn check(ops: &Ops) {
    for (name, from) in [
        ("gemm", From::Zero),
        ("gemm added", From::Add),
        ("gemm with bias", From::Bias),
    ] {
        ops.both(name, |c| {
            for shape in SHAPES {
                for (a_turned, b_turned) in [(false, false), (false, true), (true, false), (true, true)] {
                    product(c, shape, (a_turned, b_turned), from, 0);
                }
            }
        });
    }
    ops.both("gemm into columns", |c| {
        for from in [From::Zero, From::Add, From::Bias] {
            product(c, (5, 7, 16), (false, true), from, 6);
            product(c, (90, 90, 256), (false, true), from, 57_600);
            product(c, (64, 96, 96), (false, false), from, 32);
        }
    });
    ops.both("gemm of three at once", |c| {
        for (rows, width) in [(1, 32), (33, 96), (511, 192), (1061, 768), (3240, 768)] {
            side_by_side(c, rows, width, false);
            side_by_side(c, rows, width, true);
            of_weights(c, rows, width);
        }
    });
}

/// Distance of weights, and of biases, that have each other between them.
fn distance(width: usize) -> usize {
    width * width + width.next_multiple_of(64)
}

/// Queries, keys and values of rows: side by side in each row, or one after the other.
fn side_by_side(c: &Cases, rows: usize, width: usize, stacked: bool) {
    let (apart, stride) = if stacked {
        (rows * width, width)
    } else {
        (width, 3 * width)
    };
    let (far, x) = (distance(width), c.noise(rows * width));
    let w = c.noise(2 * far + width * width);
    let bias = c.noise(2 * far + width);
    let mut expected = vec![0.0; 3 * rows * width];
    for i in 0..3 {
        let right = Mat::new(&w[i * far..][..width * width], width).t();
        let start = Start::Bias(&bias[i * far..][..width]);
        gemm_strided(Mat::new(&x, width), right, &mut expected[i * apart..], stride, start);
    }
    let (x, w, bias) = (c.up(&x), c.up(&w), c.up(&bias));
    c.compare(&format!("{rows} × {width}, stacked: {stacked}"), &[expected], || {
        let mut y = c.poison(3 * rows * width);
        let batch = Batch {
            count: 3,
            a: 0,
            b: far,
            c: apart,
            bias: far,
        };
        let (left, right) = (Factor::new(x.slice(), width), factor(&w, (width, width), true));
        let start = Start::Bias(bias.slice());
        c.cuda.gemm_batch(left, right, y.slice_mut(), stride, start, batch);
        vec![y]
    });
}

/// The gradients of the three weights, added where they lie apart; what is between them stays.
fn of_weights(c: &Cases, rows: usize, width: usize) {
    let (far, x, dy) = (distance(width), c.noise(rows * width), c.noise(3 * rows * width));
    let start = c.noise(2 * far + width * width);
    let mut expected = start.clone();
    for i in 0..3 {
        let left = Mat::apart(&dy[i * width..], (rows, width), 3 * width).t();
        let part = &mut expected[i * far..][..width * width];
        gemm_strided(left, Mat::new(&x, width), part, width, Start::Add);
    }
    let (x, dy) = (c.up(&x), c.up(&dy));
    c.compare(&format!("{rows} × {width}, of weights"), &[expected], || {
        let mut d = c.up_single(&start);
        let batch = Batch {
            count: 3,
            a: width,
            b: 0,
            c: far,
            bias: 0,
        };
        let left = Factor {
            stride: 3 * width,
            ..factor(&dy, (rows, width), true)
        };
        let right = Factor::new(x.slice(), width);
        c.cuda.gemm_batch(left, right, d.slice_mut(), width, Start::Add, batch);
        vec![d]
    });
}

/// One product, rows of the result `beside` elements further apart than they are long.
fn product(c: &Cases, (m, n, k): (usize, usize, usize), turned: (bool, bool), from: From, beside: usize) {
    let stride = n + beside;
    let (a, b, bias, mut start) = (c.noise(m * k), c.noise(k * n), c.noise(n), c.noise(m * stride));
    let mut expected = start.clone();
    if from != From::Add {
        start.chunks_mut(stride).for_each(|row| row[..n].fill(f32::NAN));
    }
    let (a_shape, b_shape) = (stored((m, k), turned.0), stored((k, n), turned.1));
    if k > 0 {
        let begin = match from {
            From::Zero => Start::Zero,
            From::Add => Start::Add,
            From::Bias => Start::Bias(&bias[..]),
        };
        let (left, right) = (mat(&a, a_shape, turned.0), mat(&b, b_shape, turned.1));
        gemm_strided(left, right, &mut expected, stride, begin);
    } else {
        expected.chunks_mut(stride).for_each(|row| match from {
            From::Zero => row[..n].fill(0.0),
            From::Add => {}
            From::Bias => row[..n].copy_from_slice(&bias),
        });
    }
    let (a, b, bias) = (c.up(&a), c.up(&b), c.up_single(&bias));
    for format in c.formats() {
        c.compare(
            &format!("{m} × {n} × {k}, {turned:?}, to {format:?}"),
            &[expected.clone()],
            || {
                let mut y = c.up_as(&start, format);
                let begin = match from {
                    From::Zero => Start::Zero,
                    From::Add => Start::Add,
                    From::Bias => Start::Bias(bias.slice()),
                };
                let (left, right) = (factor(&a, a_shape, turned.0), factor(&b, b_shape, turned.1));
                c.cuda.gemm(left, right, y.slice_mut(), stride, begin);
                vec![y]
            },
        );
    }
}

/// Rows and columns in memory of a matrix that is turned, or not.
fn stored((rows, cols): (usize, usize), turned: bool) -> (usize, usize) {
    if turned { (cols, rows) } else { (rows, cols) }
}

fn mat(data: &[f32], (_, cols): (usize, usize), turned: bool) -> Mat<'_> {
    let mat = Mat::new(data, cols);
    if turned { mat.t() } else { mat }
}

fn factor(part: &Part, (rows, cols): (usize, usize), turned: bool) -> Factor<'_> {
    Factor {
        data: part.slice(),
        rows,
        cols,
        stride: cols,
        turned,
    }
}
