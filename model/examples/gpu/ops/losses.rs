//! Softmax, cross-entropy, and arithmetic of scalars.

use super::Ops;
use medley_model::ops::cross_entropy::{self, KEPT};

/// Rows and classes: two classes, odd numbers, the words of BERT, and the queue of the paper.
const SHAPES: [(usize, usize); 6] = [(1, 2), (270, 2), (3, 7), (65, 1026), (40, 30_524), (9, 57_691)];

pub(crate) fn check(ops: &Ops) {
    smoothed(ops);
    soft(ops);
    scalars(ops);
}

fn logits(noise: &[f32]) -> Vec<f32> {
    noise.iter().map(|v| 4.0 * v).collect()
}

fn smoothed(ops: &Ops) {
    let cuda = &ops.cuda;
    ops.both("smoothed", |c| {
        for (count, cols) in SHAPES {
            for smoothing in [0.0, 0.1] {
                let (x, targets) = (logits(&c.noise(count * cols)), c.indices(count, cols));
                let mut rows = vec![0.0; KEPT * count];
                cross_entropy::smoothed(&x, &targets, smoothing, cols, &mut rows);
                let x = c.up(&x);
                c.compare(&format!("{count} × {cols}, {smoothing}"), &[rows], || {
                    let mut rows = c.poison_single(KEPT * count);
                    cuda.smoothed(x.slice(), &targets, smoothing, cols, rows.slice_mut());
                    vec![rows]
                });
            }
        }
    });
    ops.both("smoothed_backward", |c| {
        for (count, cols) in SHAPES {
            let (x, targets) = (logits(&c.noise(count * cols)), c.indices(count, cols));
            let mut rows = vec![0.0; KEPT * count];
            cross_entropy::smoothed(&x, &targets, 0.1, cols, &mut rows);
            let mut d = x.clone();
            cross_entropy::smoothed_backward(&mut d, &rows, &targets, 0.1, cols, 0.7 / count as f32);
            let (rows, dy) = (c.up_single(&rows), c.up_single(&[0.7]));
            c.compare(&format!("{count} × {cols}"), &[d], || {
                let mut d = c.up(&x);
                cuda.smoothed_backward(d.slice_mut(), rows.slice(), &targets, 0.1, cols, dy.slice());
                vec![d]
            });
        }
    });
}

fn soft(ops: &Ops) {
    let cuda = &ops.cuda;
    ops.op("softmax", |c| {
        for (count, cols) in SHAPES {
            let x = logits(&c.noise(count * cols));
            let mut y = x.clone();
            cross_entropy::softmax(&mut y, cols);
            c.compare(&format!("{count} × {cols}"), &[y], || {
                let mut y = c.up(&x);
                cuda.softmax(y.slice_mut(), cols);
                vec![y]
            });
        }
    });
    ops.op("soft", |c| {
        for (count, cols) in SHAPES {
            let (x, mut targets) = (logits(&c.noise(count * cols)), logits(&c.noise(count * cols)));
            cross_entropy::softmax(&mut targets, cols);
            let mut rows = vec![0.0; KEPT * count];
            cross_entropy::soft(&x, &targets, cols, &mut rows);
            let (x, targets) = (c.up(&x), c.up(&targets));
            c.compare(&format!("{count} × {cols}"), &[rows], || {
                let mut rows = c.poison(KEPT * count);
                cuda.soft(x.slice(), targets.slice(), cols, rows.slice_mut());
                vec![rows]
            });
        }
    });
    for (name, fresh) in [("soft_backward", true), ("… added", false)] {
        ops.op(name, |c| {
            for (count, cols) in SHAPES {
                let n = count * cols;
                let (x, mut targets, start) = (logits(&c.noise(n)), logits(&c.noise(n)), c.noise(n));
                cross_entropy::softmax(&mut targets, cols);
                let mut rows = vec![0.0; KEPT * count];
                cross_entropy::soft(&x, &targets, cols, &mut rows);
                let mut d = start.clone();
                cross_entropy::soft_backward(&x, &rows, &targets, cols, 0.7 / count as f32, (&mut d, fresh));
                let (x, targets, rows, dy) = (c.up(&x), c.up(&targets), c.up(&rows), c.up(&[0.7]));
                c.compare(&format!("{count} × {cols}"), &[d], || {
                    let mut d = if fresh { c.poison(n) } else { c.up(&start) };
                    let (x, rows, targets) = (x.slice(), rows.slice(), targets.slice());
                    cuda.soft_backward(x, rows, targets, cols, dy.slice(), d.slice_mut(), fresh);
                    vec![d]
                });
            }
        });
    }
}

fn scalars(ops: &Ops) {
    let cuda = &ops.cuda;
    ops.op("mean_loss", |c| {
        for count in [1, 3, 256, 1800] {
            let rows: Vec<f32> = c.noise(KEPT * count).iter().map(|v| v + 5.0).collect();
            let mean = rows.chunks(KEPT).map(|row| row[0]).sum::<f32>() / count as f32;
            let rows = c.up(&rows);
            c.compare(&format!("{count}"), &[vec![mean]], || {
                let mut y = c.poison(1);
                cuda.mean_loss(rows.slice(), y.slice_mut());
                vec![y]
            });
        }
    });
    ops.op("weighted_sum", |c| {
        for weights in [vec![], vec![0.5], vec![0.5, 0.25, 2.0]] {
            let x = c.noise(weights.len());
            let sum = x.iter().zip(&weights).map(|(x, w)| x * w).sum::<f32>();
            let parts: Vec<_> = x.iter().map(|v| c.up(&[*v])).collect();
            c.compare(&format!("{}", weights.len()), &[vec![sum]], || {
                let mut y = c.poison(1);
                let terms: Vec<_> = parts.iter().zip(&weights).map(|(part, w)| (part.slice(), *w)).collect();
                cuda.weighted_sum(&terms, y.slice_mut());
                vec![y]
            });
        }
    });
    ops.op("weighted", |c| {
        for fresh in [true, false] {
            let (dy, start) = (c.noise(1), c.noise(1));
            let expected = 0.3 * dy[0] + if fresh { 0.0 } else { start[0] };
            let dy = c.up(&dy);
            c.compare(&format!("fresh {fresh}"), &[vec![expected]], || {
                let mut d = if fresh { c.poison(1) } else { c.up(&start) };
                cuda.weighted(dy.slice(), 0.3, d.slice_mut(), fresh);
                vec![d]
            });
        }
    });
    ops.op("slope", |c| {
        for n in [1, 90 * 180, 90 * 57_690 / 8] {
            for fresh in [true, false] {
                // All of one sign: what cancels would leave nothing but rounding.
                let positive = |x: Vec<f32>| x.iter().map(|v| v.abs() + 0.1).collect::<Vec<_>>();
                let (dy, y, start) = (positive(c.noise(n)), positive(c.noise(n)), c.noise(1));
                let sum: f64 = dy.iter().zip(&y).map(|(d, y)| f64::from(*d) * f64::from(*y)).sum();
                let expected = (-sum / 0.07) as f32 + if fresh { 0.0 } else { start[0] };
                let (dy, y, t) = (c.up(&dy), c.up(&y), c.up(&[0.07]));
                c.compare(&format!("{n}, fresh {fresh}"), &[vec![expected]], || {
                    let mut d = if fresh { c.poison(1) } else { c.up(&start) };
                    cuda.slope(dy.slice(), y.slice(), t.slice(), d.slice_mut(), fresh);
                    vec![d]
                });
            }
        }
    });
}
