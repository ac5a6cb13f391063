//! Gathering rows, and its backward: sums of rows by target, ascending.

use super::blocks::for_rows;
use super::elementwise;

/// `y[i] = words[ids[i]] + table[positions[i]]`.
pub fn embed(ids: &[u32], positions: &[u32], words: &[f32], table: &[f32], cols: usize, y: &mut [f32]) {
    for_rows(y, cols, |row, y| {
        for (i, y) in y.chunks_exact_mut(cols).enumerate() {
            let word = &words[ids[row + i] as usize * cols..][..cols];
            let place = &table[positions[row + i] as usize * cols..][..cols];
            for ((y, word), place) in y.iter_mut().zip(word).zip(place) {
                *y = word + place;
            }
        }
    });
}

/// The class token before the rows of each sample, and a row of the table added to each.
///
/// # Shapes
/// x: (samples·n) × cols; class: 1 × cols; table: (1 + n) × cols or more → (samples·(1 + n)) × cols
pub fn tokens(x: &[f32], samples: usize, class: &[f32], table: &[f32], cols: usize, y: &mut [f32]) {
    let own = x.len() / samples;
    let table = &table[..own + cols];
    for (x, y) in x.chunks_exact(own).zip(y.chunks_exact_mut(own + cols)) {
        y[..cols].copy_from_slice(class);
        y[cols..].copy_from_slice(x);
        elementwise::add(table, y);
    }
}

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
