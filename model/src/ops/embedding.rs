//! Gathering rows, and its backward: sums of rows by target, ascending.

use super::blocks::for_rows;

/// `y[i] = x[index[i]]` for rows of `cols`.
pub fn gather(x: &[f32], index: &[u32], cols: usize, y: &mut [f32]) {
    for_rows(y, cols, |row, y| {
        for (i, y) in y.chunks_exact_mut(cols).enumerate() {
            y.copy_from_slice(&x[index[row + i] as usize * cols..][..cols]);
        }
    });
}

/// `dx[index[i]] += dy[i]`: targets ascending, and the rows of one target in ascending order.
pub fn scatter_add(dy: &[f32], index: &[u32], cols: usize, dx: &mut [f32]) {
    let mut order: Vec<u32> = (0..index.len() as u32).collect();
    order.sort_by_key(|&i| (index[i as usize], i));
    for i in order {
        let i = i as usize;
        let target = &mut dx[index[i] as usize * cols..][..cols];
        for (t, d) in target.iter_mut().zip(&dy[i * cols..][..cols]) {
            *t += d;
        }
    }
}
