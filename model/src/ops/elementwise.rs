//! Loops over elements.

use super::blocks::{for_rows, write_and_sum_rows};
use super::math;
use super::meter::{self, Kind};

/// Elements handled as one "row" of a block.
const STRIP: usize = 256;

/// `y = x`, or `y += x`.
pub fn put(x: &[f32], y: &mut [f32], fresh: bool) {
    if fresh {
        y.copy_from_slice(x);
    } else {
        add(x, y);
    }
}

/// `y += x`.
pub fn add(x: &[f32], y: &mut [f32]) {
    let _kind = meter::kind(Kind::Add);
    let x = &x[..y.len()];
    for_rows(y, STRIP, |row, y| {
        let x = &x[row * STRIP..][..y.len()];
        for (y, x) in y.iter_mut().zip(x) {
            *y += x;
        }
    });
}

/// Adds rows of `cols` to as many columns of `y` from `offset`, whose rows are `stride` apart.
pub fn add_columns(x: &[f32], cols: usize, y: &mut [f32], (offset, stride): (usize, usize)) {
    let _kind = meter::kind(Kind::Add);
    for_rows(y, stride, |row, y| {
        let rows = x[row * cols..].chunks_exact(cols);
        for (y, x) in y.chunks_exact_mut(stride).zip(rows) {
            for (y, x) in y[offset..offset + cols].iter_mut().zip(x) {
                *y += x;
            }
        }
    });
}

/// Copies (if `fresh`) or adds a rectangle of rows × cols; each side says its first element and how far its rows are apart.
pub fn rectangle(
    (x, (x_first, x_stride)): (&[f32], (usize, usize)),
    (y, (y_first, y_stride)): (&mut [f32], (usize, usize)),
    (rows, cols): (usize, usize),
    fresh: bool,
) {
    for row in 0..rows {
        let x = &x[x_first + row * x_stride..][..cols];
        put(x, &mut y[y_first + row * y_stride..][..cols], fresh);
    }
}

/// `y = a + b`.
pub fn sum_of(a: &[f32], b: &[f32], y: &mut [f32]) {
    let _kind = meter::kind(Kind::Add);
    for_rows(y, STRIP, |row, y| {
        let (a, b) = (&a[row * STRIP..][..y.len()], &b[row * STRIP..][..y.len()]);
        for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
            *y = a + b;
        }
    });
}

/// `y *= factor`.
pub fn scale(y: &mut [f32], factor: f32) {
    for_rows(y, STRIP, |_, y| y.iter_mut().for_each(|y| *y *= factor));
}

/// `y = gelu(x)`.
pub fn gelu(x: &[f32], y: &mut [f32]) {
    let _kind = meter::kind(Kind::Gelu);
    for_rows(y, STRIP, |row, y| {
        let x = &x[row * STRIP..][..y.len()];
        for (y, x) in y.iter_mut().zip(x) {
            *y = math::gelu(*x);
        }
    });
}

/// `d *= gelu'(x)`: the gradient passes through in place.
pub fn gelu_backward(x: &[f32], d: &mut [f32]) {
    let _kind = meter::kind(Kind::Gelu);
    for_rows(d, STRIP, |row, d| {
        let x = &x[row * STRIP..][..d.len()];
        for (d, x) in d.iter_mut().zip(x) {
            *d *= math::gelu_slope(*x);
        }
    });
}

/// [`gelu_backward`], and the column sums of what it yields, put into or added to `sums`, in one pass over rows.
pub fn gelu_backward_columns(x: &[f32], d: &mut [f32], sums: &mut [f32], fresh: bool) {
    let _kind = meter::kind(Kind::Gelu);
    let cols = sums.len();
    write_and_sum_rows((d, cols), sums, fresh, |row, d, partial| {
        let x = &x[row * cols..][..d.len()];
        for (d, x) in d.chunks_exact_mut(cols).zip(x.chunks_exact(cols)) {
            for ((d, x), sum) in d.iter_mut().zip(x).zip(partial.iter_mut()) {
                *d *= math::gelu_slope(*x);
                *sum += *d;
            }
        }
    });
}

/// Multiplies the rows of each sample by its factor: drop-path and its backward. `rows_of` counts a sample's rows.
pub fn scale_samples(x: &[f32], y: &mut [f32], cols: usize, rows_of: usize, factors: &[f32]) {
    for_rows(y, cols, |row, y| {
        let x = &x[row * cols..][..y.len()];
        for (i, (y, x)) in y.chunks_mut(cols).zip(x.chunks(cols)).enumerate() {
            let factor = factors[(row + i) / rows_of];
            for (y, x) in y.iter_mut().zip(x) {
                *y = x * factor;
            }
        }
    });
}

/// Whether every element is finite.
pub fn all_finite(x: &[f32]) -> bool {
    // The exponent of a number that is not finite is all ones.
    x.chunks(1024).all(|chunk| chunk.iter().all(|v| v.is_finite()))
}
