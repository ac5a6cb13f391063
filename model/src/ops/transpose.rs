//! Transposed copies.

use super::blocks::for_rows;

/// Rows read side by side: what they yield of a column fills a cache line of the result.
const SIDE_BY_SIDE: usize = 16;

/// `y = xᵀ` for rows of `cols` in `x`.
pub fn transpose(x: &[f32], cols: usize, y: &mut [f32]) {
    let rows = x.len() / cols;
    for_rows(y, rows, |first, y| {
        for (j, lines) in x.chunks(SIDE_BY_SIDE * cols).enumerate() {
            let at = j * SIDE_BY_SIDE;
            for (p, y) in y.chunks_exact_mut(rows).enumerate() {
                let to = y[at..].iter_mut().take(SIDE_BY_SIDE);
                for (to, line) in to.zip(lines.chunks_exact(cols)) {
                    *to = line[first + p];
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
