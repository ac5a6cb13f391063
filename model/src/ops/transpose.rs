//! Transposed copies.

use super::blocks::{BLOCK_ROWS, for_rows};

/// Rows read side by side: what they yield of a column fills a cache line of the result.
const SIDE_BY_SIDE: usize = 16;

/// `y = xᵀ` for rows of `cols` in `x`.
pub fn transpose(x: &[f32], cols: usize, y: &mut [f32]) {
    transpose_part(x, cols, cols, y);
}

/// As [`transpose`] of rows that are `stride` apart, as many as `y` has columns, and of their first `cols` elements.
pub fn transpose_part(x: &[f32], stride: usize, cols: usize, y: &mut [f32]) {
    let rows = y.len() / cols;
    for_rows(y, rows, |first, y| {
        // Rows that are a power of two apart would push each other out of the cache before they are read to the end.
        let (mut strip, width) = ([[0.0; BLOCK_ROWS]; SIDE_BY_SIDE], y.len() / rows);
        let groups = x.chunks(SIDE_BY_SIDE * stride).take(rows.div_ceil(SIDE_BY_SIDE));
        for (j, lines) in groups.enumerate() {
            for (strip, line) in strip.iter_mut().zip(lines.chunks(stride)) {
                strip[..width].copy_from_slice(&line[first..first + width]);
            }
            for (p, y) in y.chunks_exact_mut(rows).enumerate() {
                for (to, strip) in y[j * SIDE_BY_SIDE..].iter_mut().zip(&strip) {
                    *to = strip[p];
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_become_rows() {
        for (rows, cols) in [(1, 1), (3, 5), (16, 64), (17, 65), (130, 70)] {
            let x: Vec<f32> = (0..rows * cols).map(|i| i as f32).collect();
            let mut y = vec![f32::NAN; x.len()];
            transpose(&x, cols, &mut y);
            assert!(
                (0..rows * cols).all(|i| y[(i % cols) * rows + i / cols] == x[i]),
                "{rows} × {cols}"
            );
        }
    }

    #[test]
    fn a_part_of_a_matrix_is_transposed_alone() {
        let x: Vec<f32> = (0..100 * 90).map(|i| i as f32).collect();
        for (rows, cols) in [(1, 1), (16, 90), (17, 65), (40, 70)] {
            let mut y = vec![f32::NAN; rows * cols];
            transpose_part(&x, 90, cols, &mut y);
            assert!(
                (0..rows * cols).all(|i| y[(i % cols) * rows + i / cols] == x[i / cols * 90 + i % cols]),
                "{rows} × {cols}"
            );
        }
    }
}
