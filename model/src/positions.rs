//! The image tower's position table at another image size.
//!
//! The class token's row is kept; the square grid of patches is resampled with the bicubic kernel a = −0.75, pixel centres
//! aligned (`align_corners` false) and no smoothing when shrinking, as `interpolate_pos_embed` of the reference does
//! when it loads a checkpoint.

use crate::layout::Layout;

const A: f64 = -0.75;

/// Copies all entries of one buffer into another of the same model at another image size, resampling position tables.
///
/// # Panics
/// If the layouts are not of one model.
pub fn adapt((from_layout, from): (&Layout, &[f32]), (to_layout, to): (&Layout, &mut [f32])) {
    for entry in to_layout.entries() {
        let source = from_layout.entry(from_layout.id(&entry.name));
        let (source_values, target) = (&from[source.range()], &mut to[entry.range()]);
        if source.shape == entry.shape {
            target.copy_from_slice(source_values);
        } else {
            let width = *entry.shape.last().expect("a position table has a width");
            target.copy_from_slice(&resample(source_values, target.len() / width, width));
        }
    }
}

/// A table of 1 + g² rows as one of `rows` = 1 + h² rows.
///
/// # Shapes
/// (1 + g²) × width → (1 + h²) × width
pub fn resample(table: &[f32], rows: usize, width: usize) -> Vec<f32> {
    let (class, grid) = table.split_at(width);
    let (old, new) = ((grid.len() / width).isqrt(), (rows - 1).isqrt());
    let taps: Vec<[(usize, f64); 4]> = (0..new).map(|i| taps(i, old, new)).collect();
    let mut out = class.to_vec();
    for y in &taps {
        for x in &taps {
            for channel in 0..width {
                let mut sum = 0.0;
                for (row, wy) in y {
                    for (column, wx) in x {
                        sum += wy * wx * f64::from(grid[(row * old + column) * width + channel]);
                    }
                }
                out.push(sum as f32);
            }
        }
    }
    out
}

/// The four old positions, clamped at the border, that a new position is made of, with their weights.
fn taps(i: usize, old: usize, new: usize) -> [(usize, f64); 4] {
    let centre = (i as f64 + 0.5) * old as f64 / new as f64 - 0.5;
    let (floor, t) = (centre.floor(), centre - centre.floor());
    let weights = [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)];
    let at = |k: usize| (floor as i64 - 1 + k as i64).clamp(0, old as i64 - 1) as usize;
    [0, 1, 2, 3].map(|k| (at(k), weights[k]))
}

/// The kernel at a distance of at most 1.
fn near(x: f64) -> f64 {
    ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
}

/// The kernel at a distance between 1 and 2.
fn far(x: f64) -> f64 {
    ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_the_same_size_is_kept_and_a_constant_stays_one() {
        let table: Vec<f32> = (0..20).map(|i| (i * i) as f32).collect();
        assert_eq!(resample(&table, 5, 4), table);
        let constant = vec![2.5; (1 + 14 * 14) * 3];
        let larger = resample(&constant, 1 + 24 * 24, 3);
        assert_eq!(larger.len(), (1 + 24 * 24) * 3);
        assert!(larger.iter().all(|v| (v - 2.5).abs() < 1e-6));
    }

    #[test]
    fn a_ramp_is_followed_away_from_the_border() {
        let mut table = vec![9.0];
        table.extend((0..14 * 14).map(|i| (i % 14) as f32));
        let larger = resample(&table, 1 + 28 * 28, 1);
        assert_eq!(larger[0], 9.0);
        for x in 6..22 {
            // A quarter, or three quarters, of the way between two old positions, by the kernel's own weights.
            let (left, way) = if x % 2 == 1 {
                (x / 2, 0.296_875)
            } else {
                (x / 2 - 1, 0.703_125)
            };
            assert!((larger[1 + 28 * 10 + x] - (left as f32 + way)).abs() < 1e-5, "{x}");
        }
    }
}
