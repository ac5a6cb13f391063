//! Augmentation for training: the reference's chain, every draw a function of (seed, epoch, sample).
//!
//! Random resized crop (bicubic), horizontal flip, then two of ten operations drawn with replacement, each applied with
//! probability one half, at strength 5 of 10. At that strength brightness and sharpness have factor 1 and change nothing.

use crate::decode::{Rgb, resize, square};
use crate::random::Key;
use fast_image_resize::FilterType;

/// Which chain.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Augment {
    /// Resize only.
    None,
    /// The reference's.
    Reference {
        /// Smallest share of the area that a crop keeps.
        min_crop: f64,
        /// Whether AutoContrast overflows as in the reference: a channel whose minimum is above 0 becomes white.
        broken_contrast: bool,
    },
}

/// Operations that change something at strength 5; the remaining three of the ten do not.
const OPERATIONS: usize = 10;
/// Shear, as a slope.
const SHEAR: f64 = 0.15;
/// Translation in pixels.
const TRANSLATE: f64 = 5.0;
/// Rotation in degrees.
const ROTATE: f64 = 15.0;
/// What comes in from outside the image.
const FILL: f64 = 128.0;

/// One training view of an image.
pub fn apply(augment: &Augment, image: &Rgb, side: u32, key: Key) -> Rgb {
    let Augment::Reference {
        min_crop,
        broken_contrast,
    } = *augment
    else {
        return square(image, side);
    };
    let mut view = resize(image, crop(image, min_crop, key.at(0)), side, FilterType::CatmullRom);
    if key.uniform(1) < 0.5 {
        flip(&mut view);
    }
    for slot in 0..2u64 {
        let draws = key.at(2 + slot);
        let operation = draws.below(0, OPERATIONS);
        if draws.uniform(1) < 0.5 {
            let sign = if draws.uniform(2) < 0.5 { -1.0 } else { 1.0 };
            operate(&mut view, operation, sign, broken_contrast);
        }
    }
    view
}

/// A random region of 3:4 to 4:3 with a share of the area of at least `min_share`; after ten failures the largest centred one.
fn crop(image: &Rgb, min_share: f64, key: Key) -> (f64, f64, f64, f64) {
    let (width, height) = (f64::from(image.width), f64::from(image.height));
    let (low, high) = (libm::log(3.0 / 4.0), libm::log(4.0 / 3.0));
    for attempt in 0..10 {
        let key = key.at(attempt);
        let area = width * height * key.between(0, min_share, 1.0);
        let ratio = libm::exp(key.between(1, low, high));
        let w = libm::round(libm::sqrt(area * ratio));
        let h = libm::round(libm::sqrt(area / ratio));
        if w >= 1.0 && h >= 1.0 && w <= width && h <= height {
            let left = key.below(2, (width - w) as usize + 1) as f64;
            let top = key.below(3, (height - h) as usize + 1) as f64;
            return (left, top, w, h);
        }
    }
    let w = width.min(libm::round(height * 4.0 / 3.0)).max(1.0);
    let h = height.min(libm::round(width * 4.0 / 3.0)).max(1.0);
    (libm::floor((width - w) / 2.0), libm::floor((height - h) / 2.0), w, h)
}

fn flip(image: &mut Rgb) {
    for row in image.data.chunks_exact_mut(3 * image.width as usize) {
        let pixels = row.len() / 3;
        for x in 0..pixels / 2 {
            for c in 0..3 {
                row.swap(3 * x + c, 3 * (pixels - 1 - x) + c);
            }
        }
    }
}

/// The order of the reference's list.
fn operate(image: &mut Rgb, operation: usize, sign: f64, broken_contrast: bool) {
    let (cx, cy) = (f64::from(image.width) / 2.0, f64::from(image.height) / 2.0);
    match operation {
        // Identity, brightness and sharpness change nothing.
        1 => auto_contrast(image, broken_contrast),
        4 => equalize(image),
        5 => warp(image, |x, y| (x - sign * SHEAR * y, y)),
        6 => warp(image, |x, y| (x, y - sign * SHEAR * x)),
        7 => warp(image, |x, y| (x + sign * TRANSLATE, y)),
        8 => warp(image, |x, y| (x, y + sign * TRANSLATE)),
        9 => {
            let angle = sign * ROTATE.to_radians();
            let (sin, cos) = (libm::sin(angle), libm::cos(angle));
            warp(image, |x, y| {
                let (dx, dy) = (x - cx, y - cy);
                (cx + cos * dx - sin * dy, cy + sin * dx + cos * dy)
            });
        }
        _ => {}
    }
}

fn per_channel(image: &mut Rgb, table_of: impl Fn(&[u32; 256]) -> [u8; 256]) {
    for channel in 0..3 {
        let mut counts = [0u32; 256];
        image
            .data
            .iter()
            .skip(channel)
            .step_by(3)
            .for_each(|&v| counts[v as usize] += 1);
        let table = table_of(&counts);
        image
            .data
            .iter_mut()
            .skip(channel)
            .step_by(3)
            .for_each(|v| *v = table[*v as usize]);
    }
}

fn auto_contrast(image: &mut Rgb, broken: bool) {
    per_channel(image, |counts| {
        let low = counts.iter().position(|&n| n > 0).unwrap_or(0);
        let high = counts.iter().rposition(|&n| n > 0).unwrap_or(255);
        std::array::from_fn(|v| {
            if high <= low {
                v as u8
            } else if broken && low > 0 {
                255
            } else {
                let scaled = (v as f64 - low as f64) * 255.0 / (high - low) as f64;
                scaled.clamp(0.0, 255.0) as u8
            }
        })
    });
}

fn equalize(image: &mut Rgb) {
    per_channel(image, |counts| {
        let last = counts.iter().rev().find(|&&n| n > 0).copied().unwrap_or(0);
        let total: u32 = counts.iter().sum();
        let step = (total - last) / 255;
        let mut n = step / 2;
        std::array::from_fn(|v| {
            if step == 0 {
                return v as u8;
            }
            let value = (n / step).min(255) as u8;
            n += counts[v];
            value
        })
    });
}

/// Bilinear resampling: each pixel comes from `source(x, y)`.
fn warp(image: &mut Rgb, source: impl Fn(f64, f64) -> (f64, f64)) {
    let from = image.clone();
    let (width, height) = (i64::from(from.width), i64::from(from.height));
    let at = |x: i64, y: i64, c: usize| {
        let inside = (0..width).contains(&x) && (0..height).contains(&y);
        if inside {
            f64::from(from.data[(y * width + x) as usize * 3 + c])
        } else {
            FILL
        }
    };
    for (i, pixel) in image.data.chunks_exact_mut(3).enumerate() {
        let (x, y) = source((i as i64 % width) as f64, (i as i64 / width) as f64);
        let (x0, y0) = (libm::floor(x), libm::floor(y));
        let (fx, fy) = (x - x0, y - y0);
        let (x0, y0) = (x0 as i64, y0 as i64);
        for (c, v) in pixel.iter_mut().enumerate() {
            let top = at(x0, y0, c) * (1.0 - fx) + at(x0 + 1, y0, c) * fx;
            let bottom = at(x0, y0 + 1, c) * (1.0 - fx) + at(x0 + 1, y0 + 1, c) * fx;
            *v = libm::round(top * (1.0 - fy) + bottom * fy) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Rgb {
        let data = (0..40 * 30)
            .flat_map(|i| [(i % 40 * 5 + 20) as u8, (i / 40 * 7) as u8, (i % 7 * 30) as u8])
            .collect();
        Rgb {
            width: 40,
            height: 30,
            data,
        }
    }

    #[test]
    fn a_view_is_a_function_of_its_key() {
        let augment = Augment::Reference {
            min_crop: 0.2,
            broken_contrast: true,
        };
        let view = |seed| apply(&augment, &image(), 16, Key::new(seed));
        assert_eq!(view(1), view(1));
        assert!((0..10).any(|seed| view(seed) != view(seed + 1)));
    }

    #[test]
    fn the_references_contrast_whitens_channels_without_black() {
        let (mut broken, mut fixed) = (image(), image());
        auto_contrast(&mut broken, true);
        auto_contrast(&mut fixed, false);
        assert!(broken.data.iter().step_by(3).all(|&v| v == 255));
        assert_eq!(fixed.data.iter().step_by(3).min(), Some(&0));
        assert_eq!(fixed.data.iter().step_by(3).max(), Some(&255));
    }

    #[test]
    fn flipping_twice_changes_nothing() {
        let mut view = image();
        flip(&mut view);
        assert_ne!(view, image());
        flip(&mut view);
        assert_eq!(view, image());
    }

    #[test]
    fn crops_lie_within_the_image() {
        for seed in 0..500 {
            let (left, top, w, h) = crop(&image(), 0.2, Key::new(seed));
            assert!(left >= 0.0 && top >= 0.0 && left + w <= 40.0 && top + h <= 30.0);
            assert!(w * h >= 0.15 * 1200.0);
        }
    }
}
