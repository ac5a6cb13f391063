//! Transposed copies.

use super::blocks::{BLOCK_ROWS, for_rows};

/// Rows read side by side: what they yield of a column fills a cache line of the result.
const SIDE_BY_SIDE: usize = 16;

/// `y = xᵀ` for rows of `cols` in `x`.
pub fn transpose(x: &[f32], cols: usize, y: &mut [f32]) {
    let rows = x.len() / cols;
    for_rows(y, rows, |first, y| {
        // Rows that are a power of two apart would push each other out of the cache before they are read to the end.
        let (mut strip, width) = ([[0.0; BLOCK_ROWS]; SIDE_BY_SIDE], y.len() / rows);
        for (j, lines) in x.chunks(SIDE_BY_SIDE * cols).enumerate() {
            for (strip, line) in strip.iter_mut().zip(lines.chunks_exact(cols)) {
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
}
