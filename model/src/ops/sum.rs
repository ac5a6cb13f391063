//! Sums within a row: 16 partial sums, one final order, at any register width.

/// Partial sums of a row.
const LANES: usize = 16;

#[inline(always)]
fn finish(mut acc: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            acc[i] += acc[i + width];
        }
        width /= 2;
    }
    acc[0]
}

/// Sums `f` of the elements' positions: element `i` goes to partial sum `i mod 16`.
#[inline(always)]
fn accumulate(n: usize, f: impl Fn(usize, f32) -> f32) -> f32 {
    let mut acc = [0.0f32; LANES];
    let whole = n / LANES * LANES;
    let mut base = 0;
    while base < whole {
        for (l, partial) in acc.iter_mut().enumerate() {
            *partial = f(base + l, *partial);
        }
        base += LANES;
    }
    for (l, partial) in acc.iter_mut().enumerate().take(n - whole) {
        *partial = f(whole + l, *partial);
    }
    finish(acc)
}

/// Σ x.
#[inline]
pub fn sum(x: &[f32]) -> f32 {
    accumulate(x.len(), |i, acc| acc + x[i])
}

/// Σ x·y.
#[inline]
pub fn dot(x: &[f32], y: &[f32]) -> f32 {
    let y = &y[..x.len()];
    accumulate(x.len(), |i, acc| x[i].mul_add(y[i], acc))
}

/// Σ (x − c)².
#[inline]
pub fn squares_about(x: &[f32], c: f32) -> f32 {
    accumulate(x.len(), |i, acc| {
        let d = x[i] - c;
        d.mul_add(d, acc)
    })
}

/// The largest element; −∞ of none.
#[inline]
pub fn max(x: &[f32]) -> f32 {
    let mut acc = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for l in 0..LANES {
            acc[l] = if chunk[l] > acc[l] { chunk[l] } else { acc[l] };
        }
    }
    for (a, &v) in acc.iter_mut().zip(rest) {
        *a = if v > *a { v } else { *a };
    }
    acc.iter().fold(f32::NEG_INFINITY, |m, &v| if v > m { v } else { m })
}

/// Σ x² in double precision, for norms of whole buffers: blocks of 4096 in order.
pub fn squares_f64(x: &[f32]) -> f64 {
    x.chunks(4096).fold(0.0, |total, block| {
        let mut acc = [0.0f64; LANES];
        for chunk in block.chunks(LANES) {
            for (a, &v) in acc.iter_mut().zip(chunk) {
                *a += f64::from(v) * f64::from(v);
            }
        }
        total + acc.iter().sum::<f64>()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_agree_with_double_precision() {
        for n in [0, 1, 15, 16, 17, 96, 1000] {
            let x: Vec<f32> = (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 7.0).collect();
            let exact: f64 = x.iter().map(|&v| f64::from(v)).sum();
            assert!((f64::from(sum(&x)) - exact).abs() < 1e-3);
            let squares: f64 = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
            assert!((f64::from(dot(&x, &x)) - squares).abs() <= 1e-5 * squares + 1e-6);
            assert!((squares_f64(&x) - squares).abs() <= 1e-12 * squares);
            assert_eq!(max(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
