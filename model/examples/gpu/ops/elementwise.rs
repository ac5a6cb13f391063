//! Loops over elements, copies, and dropout.

use super::{Cases, Ops, rounded};
use medley_model::cuda::Format;
use medley_model::ops::dropout::{self, Dropout, Place};
use medley_model::ops::elementwise;
use medley_model::random::{Purpose, Stream};

/// Lengths: less than a thread's share, about a block's, and many blocks'.
pub(super) const LENGTHS: [usize; 6] = [1, 3, 255, 1027, 4096, 197 * 768 + 2];

/// Rows and columns: of every preset, odd ones, a single row, and a queue of keys.
const MATRICES: [(usize, usize); 8] = [
    (1, 1),
    (3, 5),
    (7, 32),
    (65, 96),
    (197, 768),
    (66, 1024),
    (1, 3072),
    (2, 57_691),
];

pub(crate) fn check(ops: &Ops) {
    copies(ops);
    conversions(ops);
    arithmetic(ops);
    functions(ops);
    rectangles(ops);
    masks(ops);
}

/// Compares an update in place, `host(y)` with `device(y)`, for each length.
pub(super) fn update(c: &Cases, host: impl Fn(&mut [f32]), device: impl Fn(medley_model::cuda::SliceMut)) {
    for n in LENGTHS {
        let start = c.noise(n);
        let mut y = start.clone();
        host(&mut y);
        c.compare(&format!("{n}"), &[y], || {
            let mut y = c.up(&start);
            device(y.slice_mut());
            vec![y]
        });
    }
}

fn copies(ops: &Ops) {
    let cuda = &ops.cuda;
    ops.both_exact("upload, download", |c| {
        // More than the pinned memory on the way holds.
        for n in [1, 5, 1 << 16, (5 << 20) + 3] {
            let x = c.noise(n);
            c.compare(&format!("{n}"), std::slice::from_ref(&x), || vec![c.up(&x)]);
        }
    });
    ops.both_exact("fill", |c| update(c, |y| y.fill(2.5), |y| cuda.fill(y, 2.5)));
    ops.both_exact("copy", |c| {
        for n in LENGTHS {
            let x = c.noise(n);
            let from = c.up(&x);
            c.compare(&format!("{n}"), std::slice::from_ref(&x), || {
                let mut y = c.poison(n);
                cuda.copy(from.slice(), y.slice_mut());
                vec![y]
            });
        }
    });
}

fn conversions(ops: &Ops) {
    let cuda = &ops.cuda;
    ops.exact("convert", |c| {
        for n in LENGTHS {
            let (x, start) = (c.noise(n), c.noise(n));
            let wide = c.up_single(&x);
            c.compare(&format!("{n}, narrower"), std::slice::from_ref(&x), || {
                let mut y = c.poison_as(n, Format::Bf16);
                cuda.copy(wide.slice(), y.slice_mut());
                vec![y]
            });
            let x: Vec<f32> = x.into_iter().map(rounded).collect();
            let narrow = c.up_as(&x, Format::Bf16);
            let mut sum = start.clone();
            elementwise::add(&x, &mut sum);
            c.compare(&format!("{n}, wider"), &[x, sum], || {
                let (mut y, mut sum) = (c.poison(n), c.up(&start));
                cuda.copy(narrow.slice(), y.slice_mut());
                cuda.add(narrow.slice(), sum.slice_mut());
                vec![y, sum]
            });
        }
    });
    ops.exact("copy_rows, converting", |c| {
        for (rows, cols, from, to) in [
            (3, 5, (1, 9), (2, 5)),
            (65, 96, (0, 96), (32, 128)),
            (90, 768, (0, 0), (0, 768)),
        ] {
            let (x, start) = (
                c.noise(from.0 + rows * from.1 + cols),
                c.noise(to.0 + rows * to.1 + cols),
            );
            let start: Vec<f32> = start.into_iter().map(rounded).collect();
            let mut y = start.clone();
            for (row, col) in (0..rows * cols).map(|i| (i / cols, i % cols)) {
                y[to.0 + row * to.1 + col] += x[from.0 + row * from.1 + col];
            }
            let x = c.up(&x);
            c.compare(&format!("{rows} × {cols}"), &[y], || {
                let mut y = c.up_as(&start, Format::Bf16);
                cuda.copy_rows(x.slice(), from, y.slice_mut(), to, (rows, cols), true);
                vec![y]
            });
        }
    });
}

fn arithmetic(ops: &Ops) {
    let cuda = &ops.cuda;
    ops.both_exact("add", |c| {
        for n in LENGTHS {
            let (x, start) = (c.noise(n), c.noise(n));
            let mut y = start.clone();
            elementwise::add(&x, &mut y);
            let x = c.up(&x);
            c.compare(&format!("{n}"), &[y], || {
                let mut y = c.up(&start);
                cuda.add(x.slice(), y.slice_mut());
                vec![y]
            });
        }
    });
    ops.both_exact("sum_of", |c| {
        for n in LENGTHS {
            let (a, b) = (c.noise(n), c.noise(n));
            let mut y = vec![0.0; n];
            elementwise::sum_of(&a, &b, &mut y);
            let (a, b) = (c.up(&a), c.up(&b));
            c.compare(&format!("{n}"), &[y], || {
                let mut y = c.poison(n);
                cuda.sum_of(a.slice(), b.slice(), y.slice_mut());
                vec![y]
            });
        }
    });
    ops.both_exact("scale", |c| {
        update(c, |y| elementwise::scale(y, 0.37), |y| cuda.scale(y, 0.37));
    });
    ops.both_exact("divide", |c| {
        let by = c.up_single(&[0.07]);
        update(
            c,
            |y| y.iter_mut().for_each(|y| *y /= 0.07),
            |y| cuda.divide(y, by.slice()),
        );
    });
    ops.both_exact("divide_by", |c| {
        update(
            c,
            |y| y.iter_mut().for_each(|y| *y /= 0.07),
            |y| cuda.divide_by(y, 0.07),
        );
    });
    ops.both_exact("scale_by_inverse", |c| {
        let by = c.up_single(&[0.07]);
        update(
            c,
            |y| elementwise::scale(y, 1.0 / 0.07),
            |y| cuda.scale_by_inverse(y, by.slice()),
        );
    });
    ops.both_exact("clamp", |c| {
        update(
            c,
            |y| y.iter_mut().for_each(|y| *y = y.clamp(-0.5, 1.0)),
            |y| cuda.clamp(y, -0.5, 1.0),
        );
    });
    ops.exact("add_at", |c| {
        for (n, places) in [
            (1, vec![0]),
            (1000, vec![999, 0, 500]),
            (70_000, (0..600).map(|i| i * 100 + 7).collect()),
        ] {
            let (start, values) = (c.noise(n), c.noise(places.len()));
            let mut y = start.clone();
            places
                .iter()
                .zip(&values)
                .for_each(|(at, v): (&u32, _)| y[*at as usize] += v);
            c.compare(&format!("{n}"), &[y], || {
                let mut y = c.up(&start);
                cuda.add_at(y.slice_mut(), &places, &values);
                vec![y]
            });
        }
    });
}

fn functions(ops: &Ops) {
    let cuda = &ops.cuda;
    ops.both("gelu", |c| {
        for n in LENGTHS {
            let x = c.rounded(c.noise(n).iter().map(|v| 3.0 * v));
            let mut y = vec![0.0; n];
            elementwise::gelu(&x, &mut y);
            let x = c.up(&x);
            c.compare(&format!("{n}"), &[y], || {
                let mut y = c.poison(n);
                cuda.gelu(x.slice(), y.slice_mut());
                vec![y]
            });
        }
    });
    ops.both("gelu_backward", |c| {
        for n in LENGTHS {
            let x = c.rounded(c.noise(n).iter().map(|v| 3.0 * v));
            let dy = c.noise(n);
            let mut d = dy.clone();
            elementwise::gelu_backward(&x, &mut d);
            let x = c.up(&x);
            // A slope near its root has no digits of its own.
            c.compare_beside(&format!("{n}"), &[d], &dy, || {
                let mut d = c.up(&dy);
                cuda.gelu_backward(x.slice(), d.slice_mut());
                vec![d]
            });
        }
    });
}

fn rectangles(ops: &Ops) {
    let cuda = &ops.cuda;
    ops.both_exact("add_columns", |c| {
        for (rows, cols, offset, stride) in [(1, 1, 0, 1), (3, 5, 2, 9), (65, 32, 32, 96), (197, 768, 1536, 2304)] {
            let (x, start) = (c.noise(rows * cols), c.noise(rows * stride));
            let mut y = start.clone();
            elementwise::add_columns(&x, cols, &mut y, (offset, stride));
            let x = c.up(&x);
            c.compare(&format!("{rows} × {cols} of {stride}"), &[y], || {
                let mut y = c.up(&start);
                cuda.add_columns(x.slice(), cols, y.slice_mut(), (offset, stride));
                vec![y]
            });
        }
    });
    ops.both_exact("copy_rows", |c| {
        let cases = [
            ((0, 5), (0, 5), (3, 5)),
            ((2, 10), (1, 7), (4, 6)),
            ((90, 180), (0, 90), (90, 90)),
            ((0, 768), (768, 2304), (65, 768)),
        ];
        for (from, to, (rows, cols)) in cases {
            for adds in [false, true] {
                let (x, start) = (c.noise(from.0 + rows * from.1), c.noise(to.0 + rows * to.1));
                let mut y = start.clone();
                for (row, col) in (0..rows * cols).map(|i| (i / cols, i % cols)) {
                    let (v, y) = (x[from.0 + row * from.1 + col], &mut y[to.0 + row * to.1 + col]);
                    *y = if adds { *y + v } else { v };
                }
                let x = c.up(&x);
                c.compare(&format!("{rows} × {cols}"), &[y], || {
                    let mut y = c.up(&start);
                    cuda.copy_rows(x.slice(), from, y.slice_mut(), to, (rows, cols), adds);
                    vec![y]
                });
            }
        }
    });
    ops.both_exact("scale_samples", |c| {
        for (samples, rows_of, cols) in [(1, 1, 1), (3, 5, 7), (4, 197, 1024)] {
            let n = samples * rows_of * cols;
            let (x, factors) = (c.noise(n), c.noise(samples));
            let mut y = vec![0.0; n];
            elementwise::scale_samples(&x, &mut y, cols, rows_of, &factors);
            let x = c.up(&x);
            c.compare(&format!("{samples} × {rows_of} × {cols}"), &[y], || {
                let mut y = c.poison(n);
                cuda.scale_samples(x.slice(), y.slice_mut(), cols, rows_of, &factors);
                vec![y]
            });
        }
    });
}

fn masks(ops: &Ops) {
    let cuda = &ops.cuda;
    ops.both_exact("dropout", |c| {
        for (rows, cols) in MATRICES {
            for rate in [0.0, 0.1, 0.5] {
                let dropout = Dropout {
                    stream: Stream::new(5, Purpose::Dropout).at(rows as u64),
                    rate,
                };
                let place = |i: u32| Place {
                    sample: i / 7 + (1 << 31),
                    position: i % 7,
                };
                let places: Vec<Place> = (0..rows as u32).map(place).collect();
                let start = c.noise(rows * cols);
                let mut y = start.clone();
                dropout::apply(&dropout, &places, &mut y, cols);
                let x = c.up(&start);
                c.compare(&format!("{rows} × {cols} at {rate}"), &[y], || {
                    let mut y = c.poison(rows * cols);
                    cuda.dropout_of(&dropout, &places, x.slice(), y.slice_mut(), cols);
                    vec![y]
                });
            }
        }
    });
}
