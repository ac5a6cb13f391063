//! Images cut into patches.

/// Non-overlapping patches of side `p`, row by row, each flattened as (channel, y, x): a convolution with stride equal to its
/// kernel is then one matrix product.
///
/// # Shapes
/// b × 3 × s × s → b·(s/p)² × 3·p·p
pub fn patches(pixels: &[f32], b: usize, p: usize, y: &mut [f32]) {
    let image = pixels.len() / b;
    let side = (image / 3).isqrt();
    debug_assert_eq!(3 * side * side, image);
    let grid = side / p;
    let mut rows = y.chunks_exact_mut(p);
    for image in pixels.chunks_exact(image) {
        for (gy, gx) in (0..grid * grid).map(|g| (g / grid, g % grid)) {
            for (channel, line) in (0..3 * p).map(|r| (r / p, r % p)) {
                let from = (channel * side + gy * p + line) * side + gx * p;
                let row = rows.next().expect("there is a row for each line of each patch");
                row.copy_from_slice(&image[from..from + p]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_are_cut_row_by_row_and_channel_first() {
        let image: Vec<f32> = (0..48).map(|i| i as f32).collect();
        let mut cut = vec![f32::NAN; 48];
        patches(&image, 1, 2, &mut cut);
        assert_eq!(cut[..12], [0., 1., 4., 5., 16., 17., 20., 21., 32., 33., 36., 37.]);
        assert_eq!(cut[12..16], [2., 3., 6., 7.]);
    }
}
