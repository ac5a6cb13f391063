//! Augmentation for training: the reference's chain, every draw a function of (seed, epoch, sample).
//!
//! Random resized crop (bicubic), horizontal flip, then two of ten operations drawn with replacement, each applied with
//! probability one half, at strength 5 of 10. What is odd in it is a switch of [`AugmentSpec`]: the released code's behaviour
//! unless the spec says `fixed`.

mod operations;
mod warp;

use crate::decode::{Rgb, square};
use crate::random::Key;
use medley_protocol::spec::{AugmentSpec, Behaviour};
pub use operations::Operation;

/// One training view of an image with its text.
pub fn apply(augment: &AugmentSpec, image: &Rgb, text: &str, side: u32, key: Key) -> Rgb {
    let AugmentSpec::Reference { min_crop, flip, .. } = *augment else {
        return square(image, side);
    };
    let mut view = square(&cut(image, crop(image, min_crop, key.at(0))), side);
    let spared = flip == Behaviour::Fixed && names_a_side(text);
    if key.uniform(1) < 0.5 && !spared {
        mirror(&mut view);
    }
    for slot in 0..2u64 {
        let draws = key.at(2 + slot);
        let operation = draws.choose(0, &Operation::ALL);
        if draws.uniform(1) < 0.5 {
            let sign = if draws.uniform(2) < 0.5 { -1.0 } else { 1.0 };
            operation.apply(augment, &mut view, sign);
        }
    }
    view
}

/// Whether a text would become wrong if its image were mirrored.
fn names_a_side(text: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric())
        .any(|word| matches!(word, "left" | "right"))
}

/// Pixels: left, top, width, height.
type Region = (u32, u32, u32, u32);

/// A random region of 3:4 to 4:3 with a share of the area of at least `min_share`; after ten failures the largest centred one.
fn crop(image: &Rgb, min_share: f64, key: Key) -> Region {
    let (width, height) = (f64::from(image.width), f64::from(image.height));
    let (low, high) = (libm::log(3.0 / 4.0), libm::log(4.0 / 3.0));
    for attempt in 0..10 {
        let key = key.at(attempt);
        let area = width * height * key.between(0, min_share, 1.0);
        let ratio = libm::exp(key.between(1, low, high));
        let w = libm::round(libm::sqrt(area * ratio));
        let h = libm::round(libm::sqrt(area / ratio));
        if w >= 1.0 && h >= 1.0 && w <= width && h <= height {
            let (w, h) = (w as u32, h as u32);
            let left = key.below(2, (image.width - w) as usize + 1) as u32;
            let top = key.below(3, (image.height - h) as usize + 1) as u32;
            return (left, top, w, h);
        }
    }
    let w = width.min(libm::round(height * 4.0 / 3.0)).max(1.0) as u32;
    let h = height.min(libm::round(width * 4.0 / 3.0)).max(1.0) as u32;
    ((image.width - w) / 2, (image.height - h) / 2, w, h)
}

/// A region as an image of its own: what lies around it does not bleed in when it is resized.
fn cut(image: &Rgb, (left, top, width, height): Region) -> Rgb {
    let rows = image.data.chunks_exact(3 * image.width as usize);
    let rows = rows.skip(top as usize).take(height as usize);
    let of_row = |row: &[u8]| row[3 * left as usize..3 * (left + width) as usize].to_vec();
    Rgb {
        width,
        height,
        data: rows.flat_map(of_row).collect(),
    }
}

fn mirror(image: &mut Rgb) {
    for row in image.data.chunks_exact_mut(3 * image.width as usize) {
        let pixels = row.len() / 3;
        for x in 0..pixels / 2 {
            for c in 0..3 {
                row.swap(3 * x + c, 3 * (pixels - 1 - x) + c);
            }
        }
    }
}

#[cfg(test)]
mod tests;
