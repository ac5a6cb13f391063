//! Elementary functions as polynomials: branch-free, so that loops over them are vectorised, and the same bits everywhere.

/// `exp(x)`, within 2 units in the last place; 0 below −87, clamped above 88.
///
/// Range reduction x = n·ln 2 + r with |r| ≤ ln 2 / 2, then a polynomial of degree 6 in r (Cephes).
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Adding 1.5·2²³ rounds to an integer that stands in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x > 88.0 { 88.0 } else { x };
    let clamped = if clamped < -87.0 { -87.0 } else { clamped };
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    // ln 2 in two parts, so that r is exact to the last bit of x.
    let r = n.mul_add(-0.693_359_4, clamped);
    let r = n.mul_add(2.121_944_4e-4, r);
    let p = 1.987_569_1e-4f32;
    let p = p.mul_add(r, 1.398_199_9e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_5e-1);
    let p = p.mul_add(r, 0.5);
    let p = (p * r).mul_add(r, r) + 1.0;
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    let y = p * scale;
    if x < -87.0 { 0.0 } else { y }
}

/// `erf(x)`, within 4e-7: a rational approximation on [−4, 4], ±1 beyond.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let c = if x > 4.0 { 4.0 } else { x };
    let c = if c < -4.0 { -4.0 } else { c };
    let s = c * c;
    let p = -2.726_142_3e-10f32;
    let p = p.mul_add(s, 2.770_681_4e-8);
    let p = p.mul_add(s, -2.101_024e-6);
    let p = p.mul_add(s, -5.692_506_4e-5);
    let p = p.mul_add(s, -7.349_906_3e-4);
    let p = p.mul_add(s, -2.954_6e-3);
    let p = p.mul_add(s, -1.609_603_3e-2);
    let q = -1.456_607_2e-5f32;
    let q = q.mul_add(s, -2.133_740_6e-4);
    let q = q.mul_add(s, -1.682_827e-3);
    let q = q.mul_add(s, -7.373_329_4e-3);
    let q = q.mul_add(s, -1.426_473_9e-2);
    c * p / q
}

/// The exact GELU, `x·Φ(x)` with Φ by [`erf`].
#[inline(always)]
pub fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// The derivative of [`gelu`], `Φ(x) + x·φ(x)`.
#[inline(always)]
pub fn gelu_slope(x: f32) -> f32 {
    const INV_SQRT_TAU: f32 = 0.398_942_3;
    let cdf = 0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
    (x * INV_SQRT_TAU).mul_add(exp(-0.5 * x * x), cdf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate_and_ends_at_zero() {
        let mut worst = 0.0f64;
        for i in -86_000..88_000 {
            let x = i as f32 / 1000.0;
            let exact = libm::exp(f64::from(x));
            worst = worst.max((f64::from(exp(x)) - exact).abs() / exact);
        }
        assert!(worst < 2.5e-7, "{worst}");
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn erf_is_accurate() {
        let worst = (-6000..6000).map(|i| i as f32 / 1000.0).fold(0.0f64, |worst, x| {
            worst.max((f64::from(erf(x)) - libm::erf(f64::from(x))).abs())
        });
        assert!(worst < 4e-7, "{worst}");
    }

    #[test]
    fn the_slope_of_gelu_is_its_derivative() {
        for i in -400..400 {
            let x = f64::from(i) / 100.0;
            let exact = 0.5 * (1.0 + libm::erf(x / std::f64::consts::SQRT_2))
                + x * libm::exp(-0.5 * x * x) / (2.0 * std::f64::consts::PI).sqrt();
            assert!((f64::from(gelu_slope(x as f32)) - exact).abs() < 1e-6);
        }
    }
}
