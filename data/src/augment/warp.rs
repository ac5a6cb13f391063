//! Affine maps of images, bilinear in fixed point as OpenCV computes them: source coordinates in 1/32 pixel.

use crate::decode::Rgb;

/// What comes in from outside the image.
const FILL: i64 = 128;
/// Steps of a pixel while coordinates are added up.
const FINE: f64 = 1024.0;
/// Steps of a pixel between which colours are interpolated.
const COARSE: i64 = 32;

/// Where a pixel goes: (x, y) → (m₀x + m₁y + m₂, m₃x + m₄y + m₅).
#[derive(Debug, Clone, Copy)]
pub(super) struct Affine([f64; 6]);

impl Affine {
    /// A map given in single precision.
    pub(super) fn of(m: [f32; 6]) -> Self {
        Self(m.map(f64::from))
    }

    /// A turn about a centre, counter-clockwise.
    pub(super) fn turn(degrees: f64, (x, y): (f64, f64)) -> Self {
        let angle = degrees.to_radians();
        let (sin, cos) = (libm::sin(angle), libm::cos(angle));
        let (right, down) = ((1.0 - cos) * x - sin * y, sin * x + (1.0 - cos) * y);
        Self([cos, sin, right, -sin, cos, down])
    }

    fn inverse(self) -> Self {
        let [a, b, right, c, d, down] = self.0;
        let scale = 1.0 / (a * d - b * c);
        let [a, b, c, d] = [d * scale, -b * scale, -c * scale, a * scale];
        Self([a, b, -a * right - b * down, c, d, -c * right - d * down])
    }
}

/// Moves the pixels of an image.
pub(super) fn warp(image: &mut Rgb, map: Affine) {
    let from = image.clone();
    let (width, height) = (i64::from(from.width), i64::from(from.height));
    let at = |x: i64, y: i64, c: usize| {
        let inside = (0..width).contains(&x) && (0..height).contains(&y);
        if inside {
            i64::from(from.data[(y * width + x) as usize * 3 + c])
        } else {
            FILL
        }
    };
    let Affine([a, b, right, c, d, down]) = map.inverse();
    // Each rounded on its own, then added; half of a coarse step rounds to the nearest.
    let fine = |v: f64| (v * FINE).round_ties_even() as i64;
    let coarse = |v: i64| (v + 16) >> 5;
    for (i, pixel) in image.data.chunks_exact_mut(3).enumerate() {
        let (x, y) = ((i as i64 % width) as f64, (i as i64 / width) as f64);
        let from_x = coarse(fine(b * y + right) + fine(a * x));
        let from_y = coarse(fine(d * y + down) + fine(c * x));
        let (left, top) = (from_x.div_euclid(COARSE), from_y.div_euclid(COARSE));
        let (fx, fy) = (from_x.rem_euclid(COARSE), from_y.rem_euclid(COARSE));
        for (c, v) in pixel.iter_mut().enumerate() {
            let upper = at(left, top, c) * (COARSE - fx) + at(left + 1, top, c) * fx;
            let lower = at(left, top + 1, c) * (COARSE - fx) + at(left + 1, top + 1, c) * fx;
            *v = ((upper * (COARSE - fy) + lower * fy + COARSE * COARSE / 2) / (COARSE * COARSE)) as u8;
        }
    }
}
