//! Norms, sums of columns, and rows by index.

use super::Ops;
use medley_model::cuda::Totals;
use medley_model::ops::dropout::{Dropout, Place};
use medley_model::ops::{blocks, elementwise, embedding, norm};
use medley_model::random::{Purpose, Stream};

/// Rows and columns: of every preset and the towers, odd ones, and single rows.
const MATRICES: [(usize, usize); 9] = [
    (1, 1),
    (3, 5),
    (9, 32),
    (65, 96),
    (197, 768),
    (1000, 256),
    (66, 1024),
    (1, 3072),
    (40_000, 6),
];

/// More rows and columns of what is summed over rows: one block of rows and many, columns beyond a group, and more groups than
/// blocks are wanted.
const SUMMED: [(usize, usize); 8] = [
    (31, 768),
    (33, 770),
    (1080, 768),
    (1311, 3072),
    (530, 4096),
    (9001, 768),
    (3, 40_000),
    (5, 151_296),
];

pub(crate) fn check(ops: &Ops) {
    layer_norm(ops);
    l2_norm(ops);
    sums(ops);
    sums_apart(ops);
    sums_of_what_is_written(ops);
    by_index(ops);
    images(ops);
}

fn layer_norm(ops: &Ops) {
    let cuda = &ops.cuda;
    ops.both("layer_norm", |c| {
        for (rows, cols) in MATRICES.into_iter().filter(|(_, cols)| *cols > 1) {
            let (x, gamma, beta) = (c.noise(rows * cols), c.noise(cols), c.noise(cols));
            let (mut y, mut stats) = (vec![0.0; rows * cols], vec![0.0; 2 * rows]);
            norm::layer_norm(&x, &gamma, &beta, 1e-6, &mut y, &mut stats);
            let (x, gamma, beta) = (c.up(&x), c.up_single(&gamma), c.up_single(&beta));
            c.compare(&format!("{rows} × {cols}"), &[y, stats], || {
                let (mut y, mut stats) = (c.poison(rows * cols), c.poison_single(2 * rows));
                let (x, gamma, beta) = (x.slice(), gamma.slice(), beta.slice());
                cuda.layer_norm(x, gamma, beta, 1e-6, y.slice_mut(), stats.slice_mut());
                vec![y, stats]
            });
        }
    });
    ops.both("add_norm", |c| {
        for (rows, cols) in MATRICES.into_iter().filter(|(_, cols)| *cols > 1) {
            let [a, b] = [0, 1].map(|_| c.up(&c.noise(rows * cols)));
            let [gamma, beta] = [0, 1].map(|_| c.up_single(&c.noise(cols)));
            let (gain, offset) = (gamma.slice(), beta.slice());
            let poison = || (c.poison(rows * cols), c.poison(rows * cols), c.poison_single(2 * rows));
            let (mut sum, mut y, mut stats) = poison();
            cuda.sum_of(a.slice(), b.slice(), sum.slice_mut());
            cuda.layer_norm(sum.slice(), gain, offset, 1e-6, y.slice_mut(), stats.slice_mut());
            c.same(&format!("{rows} × {cols}"), &[sum, y, stats], || {
                let (mut sum, mut y, mut stats) = poison();
                let (both, affine) = ([a.slice(), b.slice()], (gain, offset, 1e-6));
                cuda.add_norm(both, affine, sum.slice_mut(), y.slice_mut(), stats.slice_mut());
                vec![sum, y, stats]
            });
        }
    });
    for (name, fresh) in [("layer_norm_backward", true), ("… added", false)] {
        ops.both(name, |c| {
            for (rows, cols) in MATRICES.into_iter().filter(|(_, cols)| *cols > 1) {
                let (x, gamma, dy, start) = (
                    c.noise(rows * cols),
                    c.noise(cols),
                    c.noise(rows * cols),
                    c.noise(rows * cols),
                );
                let stats: Vec<f32> = c.noise(2 * rows).iter().map(|v| 0.5 + 0.1 * v).collect();
                let mut dx = start.clone();
                norm::layer_norm_backward(&x, &stats, &gamma, &dy, &mut dx, fresh);
                let (x, stats, gamma, dy) = (c.up(&x), c.up_single(&stats), c.up_single(&gamma), c.up(&dy));
                c.compare(&format!("{rows} × {cols}"), &[dx], || {
                    let mut dx = if fresh { c.poison(rows * cols) } else { c.up(&start) };
                    let (x, stats, gamma, dy) = (x.slice(), stats.slice(), gamma.slice(), dy.slice());
                    cuda.layer_norm_backward(x, stats, gamma, dy, dx.slice_mut(), fresh);
                    vec![dx]
                });
            }
        });
    }
    ops.both("layer_norm_params", |c| {
        for (rows, cols) in MATRICES {
            let (x, dy) = (c.noise(rows * cols), c.noise(rows * cols));
            let stats: Vec<f32> = c.noise(2 * rows).iter().map(|v| 0.5 + 0.1 * v).collect();
            let mut both = vec![0.0; 2 * cols];
            norm::layer_norm_params(&x, &stats, &dy, cols, &mut both);
            let starts = [c.noise(cols), c.noise(cols)];
            let mut sums = starts.clone();
            sums.iter_mut()
                .zip(both.chunks(cols))
                .for_each(|(sum, part)| elementwise::add(part, sum));
            let (x, stats, dy) = (c.up(&x), c.up_single(&stats), c.up(&dy));
            c.compare(&format!("{rows} × {cols}"), &[both], || {
                let mut both = c.poison_single(2 * cols);
                cuda.layer_norm_params(x.slice(), stats.slice(), dy.slice(), cols, both.slice_mut());
                vec![both]
            });
            c.compare(&format!("{rows} × {cols}, added"), &sums, || {
                let [mut gain, mut offset] = [0, 1].map(|i: usize| c.up_single(&starts[i]));
                let to = [gain.slice_mut(), offset.slice_mut()];
                cuda.layer_norm_params_to(x.slice(), stats.slice(), dy.slice(), to, false);
                vec![gain, offset]
            });
        }
    });
}

fn l2_norm(ops: &Ops) {
    let cuda = &ops.cuda;
    ops.both("l2_norm", |c| {
        for (rows, cols) in MATRICES {
            let mut x = c.noise(rows * cols);
            // A row of zeros has no direction.
            x[..cols].fill(0.0);
            let (mut y, mut norms) = (vec![0.0; rows * cols], vec![0.0; rows]);
            norm::l2_norm(&x, cols, &mut y, &mut norms);
            let x = c.up(&x);
            c.compare(&format!("{rows} × {cols}"), &[y, norms], || {
                let (mut y, mut norms) = (c.poison_single(rows * cols), c.poison_single(rows));
                cuda.l2_norm(x.slice(), cols, y.slice_mut(), norms.slice_mut());
                vec![y, norms]
            });
        }
    });
    for (name, fresh) in [("l2_norm_backward", true), ("… added", false)] {
        ops.both(name, |c| {
            for (rows, cols) in MATRICES.into_iter().filter(|(_, cols)| *cols > 1) {
                let (x, dy, start) = (c.noise(rows * cols), c.noise(rows * cols), c.noise(rows * cols));
                let (mut y, mut norms) = (vec![0.0; rows * cols], vec![0.0; rows]);
                norm::l2_norm(&x, cols, &mut y, &mut norms);
                let mut dx = start.clone();
                norm::l2_norm_backward(&y, &norms, &dy, cols, &mut dx, fresh);
                let (y, norms, dy) = (c.up_single(&y), c.up_single(&norms), c.up_single(&dy));
                c.compare(&format!("{rows} × {cols}"), &[dx], || {
                    let mut dx = if fresh { c.poison(rows * cols) } else { c.up(&start) };
                    cuda.l2_norm_backward(y.slice(), norms.slice(), dy.slice(), cols, dx.slice_mut(), fresh);
                    vec![dx]
                });
            }
        });
    }
}

fn sums(ops: &Ops) {
    let cuda = &ops.cuda;
    for (name, fresh) in [("sum_columns", true), ("… added", false)] {
        ops.both(name, |c| {
            for (rows, cols) in MATRICES.into_iter().chain(SUMMED) {
                let x = c.rounded(c.noise(rows * cols).iter().map(|v| v + 1.0));
                let start = c.noise(cols);
                let mut sums = start.clone();
                blocks::sum_columns(&x, &mut sums, fresh);
                let x = c.up(&x);
                c.compare(&format!("{rows} × {cols}"), &[sums], || {
                    let mut sums = if fresh {
                        c.poison_single(cols)
                    } else {
                        c.up_single(&start)
                    };
                    cuda.sum_columns(x.slice(), sums.slice_mut(), fresh);
                    vec![sums]
                });
            }
        });
    }
}

/// Sums of three layers side by side, whose biases have weights between them, which stay.
fn sums_apart(ops: &Ops) {
    let cuda = &ops.cuda;
    for (name, fresh) in [("sum_columns, apart", true), ("… added", false)] {
        ops.both(name, |c| {
            for (rows, width, distance) in [(1, 5, 7), (33, 96, 128), (1080, 768, 590_592), (4340, 768, 768)] {
                let (cols, len) = (3 * width, 2 * distance + width);
                let (x, start) = (c.noise(rows * cols), c.noise(len));
                let (mut each, mut sums) = (vec![0.0; cols], start.clone());
                blocks::sum_columns(&x, &mut each, true);
                for (i, part) in each.chunks(width).enumerate() {
                    elementwise::put(part, &mut sums[i * distance..][..width], fresh);
                }
                let x = c.up(&x);
                c.compare(&format!("{rows} × 3·{width}"), &[sums], || {
                    let mut sums = c.up_single(&start);
                    let to = Totals::apart(sums.slice_mut(), cols, width, distance);
                    cuda.sum_columns(x.slice(), to, fresh);
                    vec![sums]
                });
            }
        });
    }
}

/// Sums of what the same pass writes: both are the bits of two passes.
fn sums_of_what_is_written(ops: &Ops) {
    let cuda = &ops.cuda;
    for (name, fresh) in [("gelu_backward_columns", true), ("… added", false)] {
        ops.both(name, |c| {
            for (rows, cols) in MATRICES.into_iter().chain(SUMMED) {
                let x = c.rounded(c.noise(rows * cols).iter().map(|v| 3.0 * v));
                let (dy, start) = (c.noise(rows * cols), c.noise(cols));
                let (x, mut d, mut sums) = (c.up(&x), c.up(&dy), c.up_single(&start));
                cuda.gelu_backward(x.slice(), d.slice_mut());
                cuda.sum_columns(d.slice(), sums.slice_mut(), fresh);
                c.same(&format!("{rows} × {cols}"), &[d, sums], || {
                    let (mut d, mut sums) = (c.up(&dy), c.up_single(&start));
                    cuda.gelu_backward_columns(x.slice(), d.slice_mut(), sums.slice_mut(), fresh);
                    vec![d, sums]
                });
            }
        });
    }
    ops.both("dropout_of_columns", |c| {
        for (rows, cols) in MATRICES.into_iter().chain(SUMMED) {
            let stream = Stream::new(5, Purpose::Dropout).at(rows as u64);
            let dropout = Dropout { stream, rate: 0.1 };
            let place = |i: u32| Place {
                sample: i / 7,
                position: i % 7,
            };
            let places: Vec<Place> = (0..rows as u32).map(place).collect();
            let (x, start) = (c.up(&c.noise(rows * cols)), c.noise(cols));
            let (mut y, mut sums) = (c.poison(rows * cols), c.up_single(&start));
            cuda.dropout_of(&dropout, &places, x.slice(), y.slice_mut(), cols);
            cuda.sum_columns(y.slice(), sums.slice_mut(), false);
            c.same(&format!("{rows} × {cols}"), &[y, sums], || {
                let (mut y, mut sums) = (c.poison(rows * cols), c.up_single(&start));
                let (from, to) = (x.slice(), y.slice_mut());
                cuda.dropout_of_columns(&dropout, &places, from, to, sums.slice_mut(), false);
                vec![y, sums]
            });
        }
    });
}

fn by_index(ops: &Ops) {
    let cuda = &ops.cuda;
    const SHAPES: [(usize, usize, usize); 5] = [(1, 1, 1), (50, 7, 5), (300, 40, 96), (600, 31, 768), (9, 2000, 1024)];
    ops.both_exact("embed", |c| {
        for (rows, words, cols) in SHAPES {
            let (table_rows, table_of_words) = (13, c.noise(words * cols));
            let (ids, positions, table) = (
                c.indices(rows, words),
                c.indices(rows, table_rows),
                c.noise(table_rows * cols),
            );
            let row = |table: &[f32], index: u32| table[index as usize * cols..][..cols].to_vec();
            let sum = |(id, at): (&u32, &u32)| {
                let place = row(&table, *at);
                row(&table_of_words, *id)
                    .into_iter()
                    .zip(place)
                    .map(|(a, b)| a + b)
                    .collect::<Vec<f32>>()
            };
            let y: Vec<f32> = ids.iter().zip(&positions).flat_map(sum).collect();
            let (word_part, table_part) = (c.up_single(&table_of_words), c.up_single(&table));
            c.compare(&format!("{rows} of {words} × {cols}"), &[y], || {
                let mut y = c.poison(rows * cols);
                cuda.embed(
                    &ids,
                    &positions,
                    word_part.slice(),
                    table_part.slice(),
                    cols,
                    y.slice_mut(),
                );
                vec![y]
            });
        }
    });
    ops.both_exact("gather", |c| {
        for (rows, of, cols) in SHAPES {
            let x = c.noise(of * cols);
            let on_device = c.up(&x);
            for index in [c.indices(rows, of), successive(rows, of)] {
                let rows = index.len();
                let mut y = vec![0.0; rows * cols];
                embedding::gather(&x, &index, cols, &mut y);
                c.compare(&format!("{rows} of {of} × {cols}"), &[y], || {
                    let mut y = c.poison(rows * cols);
                    cuda.gather(on_device.slice(), &index, cols, y.slice_mut());
                    vec![y]
                });
            }
        }
    });
    ops.both_exact("scatter_add", |c| {
        for (rows, of, cols) in SHAPES {
            let (dy, start) = (c.noise(rows * cols), c.noise(of * cols));
            let on_device = c.up(&dy);
            for index in [c.indices(rows, of), successive(rows, of)] {
                let mut dx = start.clone();
                embedding::scatter_add(&dy, &index, cols, &mut dx);
                for format in c.formats() {
                    let case = format!("{} to {of} × {cols} of {format:?}", index.len());
                    c.compare(&case, &[dx.clone()], || {
                        let mut dx = c.up_as(&start, format);
                        cuda.scatter_add(on_device.slice(), &index, cols, dx.slice_mut());
                        vec![dx]
                    });
                }
            }
        }
    });
}

fn images(ops: &Ops) {
    let cuda = &ops.cuda;
    ops.both_exact("tokens", |c| {
        for (samples, patches, cols) in [(1, 1, 1), (2, 4, 5), (3, 16, 32), (4, 196, 768)] {
            let (x, class, table) = (
                c.noise(samples * patches * cols),
                c.noise(cols),
                c.noise((patches + 2) * cols),
            );
            let tokens = x
                .chunks(patches * cols)
                .flat_map(|patches| [&class[..], patches].concat());
            let place = |i: usize| table[i % ((patches + 1) * cols)];
            let y: Vec<f32> = tokens.enumerate().map(|(i, v)| v + place(i)).collect();
            let n = y.len();
            let (x, class, table) = (c.up(&x), c.up_single(&class), c.up_single(&table));
            c.compare(&format!("{samples} × {patches} × {cols}"), &[y], || {
                let mut y = c.poison(n);
                cuda.tokens(x.slice(), samples, class.slice(), table.slice(), cols, y.slice_mut());
                vec![y]
            });
        }
    });
    ops.both_exact("patches", |c| {
        for (images, patch, grid) in [(1, 1, 1), (2, 3, 2), (3, 8, 4), (2, 16, 14)] {
            let side = patch * grid;
            let pixels = c.noise(images * 3 * side * side);
            let at = |image: usize, channel: usize, y: usize, x: usize| {
                pixels[((image * 3 + channel) * side + y) * side + x]
            };
            let cols = 3 * patch * patch;
            let element = |i: usize| {
                let (row, col) = (i / cols, i % cols);
                let (image, cell) = (row / (grid * grid), row % (grid * grid));
                let (channel, y, x) = (col / (patch * patch), col / patch % patch, col % patch);
                at(image, channel, cell / grid * patch + y, cell % grid * patch + x)
            };
            let y: Vec<f32> = (0..pixels.len()).map(element).collect();
            let (n, on_device) = (y.len(), c.up_single(&pixels));
            c.compare(&format!("{images} of {side} by {patch}"), &[y], || {
                let mut y = c.poison(n);
                cuda.patches(on_device.slice(), images, patch, y.slice_mut());
                vec![y]
            });
        }
    });
}

/// Up to so many rows of a matrix, one after the other, the first left out if there are more.
fn successive(rows: usize, of: usize) -> Vec<u32> {
    let first = usize::from(of > rows);
    (first as u32..(first + rows).min(of) as u32).collect()
}
