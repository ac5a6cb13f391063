//! The ten operations, at strength 5 of 10.

use super::warp::{Affine, warp};
use crate::decode::Rgb;
use medley_protocol::spec::{AugmentSpec, Behaviour};

/// Slope of a shear.
const SHEAR: f32 = 0.15;
/// Pixels of a translation.
const TRANSLATE: f32 = 5.0;
/// Side of the images for which a translation of that many pixels was chosen.
const TRANSLATE_SIDE: f32 = 224.0;
/// Degrees of a rotation.
const ROTATE: f64 = 15.0;
/// How far the factors of brightness and sharpness are from 1 where they do anything: 0.9 · 5 / 10.
const ENHANCE: f64 = 0.45;

/// An operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Operation {
    Identity,
    AutoContrast,
    Brightness,
    Sharpness,
    Equalize,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
    Rotate,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Identity,
        Self::AutoContrast,
        Self::Brightness,
        Self::Sharpness,
        Self::Equalize,
        Self::ShearX,
        Self::ShearY,
        Self::TranslateX,
        Self::TranslateY,
        Self::Rotate,
    ];

    /// Applies it; `sign` is ±1 and tells its direction, where it has one.
    pub fn apply(self, augment: &AugmentSpec, image: &mut Rgb, sign: f32) {
        let AugmentSpec::Reference {
            auto_contrast,
            enhance,
            translate,
            ..
        } = *augment
        else {
            return;
        };
        let factor = match enhance {
            // 1.8 · 5 / 10 + 0.1
            Behaviour::Reference => 1.0,
            Behaviour::Fixed => 1.0 + f64::from(sign) * ENHANCE,
        };
        let offset = |side: u32| match translate {
            Behaviour::Reference => sign * TRANSLATE,
            Behaviour::Fixed => sign * TRANSLATE * side as f32 / TRANSLATE_SIDE,
        };
        match self {
            Self::Identity => {}
            Self::AutoContrast => stretch(image, auto_contrast),
            Self::Brightness => brighten(image, factor),
            Self::Sharpness => sharpen(image, factor),
            Self::Equalize => equalize(image),
            Self::ShearX => warp(image, Affine::of([1.0, sign * SHEAR, 0.0, 0.0, 1.0, 0.0])),
            Self::ShearY => warp(image, Affine::of([1.0, 0.0, 0.0, sign * SHEAR, 1.0, 0.0])),
            Self::TranslateX => {
                let offset = offset(image.width);
                warp(image, Affine::of([1.0, 0.0, -offset, 0.0, 1.0, 0.0]));
            }
            Self::TranslateY => {
                let offset = offset(image.height);
                warp(image, Affine::of([1.0, 0.0, 0.0, 0.0, 1.0, -offset]));
            }
            Self::Rotate => {
                let centre = (f64::from(image.width) / 2.0, f64::from(image.height) / 2.0);
                warp(image, Affine::turn(f64::from(sign) * ROTATE, centre));
            }
        }
    }
}

fn per_channel(image: &mut Rgb, table_of: impl Fn(&[u32; 256]) -> [u8; 256]) {
    for channel in 0..3 {
        let mut counts = [0u32; 256];
        let values = image.data.iter().skip(channel).step_by(3);
        values.for_each(|&v| counts[v as usize] += 1);
        let table = table_of(&counts);
        let values = image.data.iter_mut().skip(channel).step_by(3);
        values.for_each(|v| *v = table[*v as usize]);
    }
}

/// AutoContrast.
fn stretch(image: &mut Rgb, behaviour: Behaviour) {
    per_channel(image, |counts| {
        let low = counts.iter().position(|&n| n > 0).unwrap_or(0);
        let high = counts.iter().rposition(|&n| n > 0).unwrap_or(255);
        if high <= low {
            return std::array::from_fn(|v| v as u8);
        }
        let scale = 255.0 / (high - low) as f64;
        let offset = match behaviour {
            // The released code negates the minimum as an unsigned byte.
            Behaviour::Reference => f64::from((low as u8).wrapping_neg()) * scale,
            Behaviour::Fixed => -(low as f64) * scale,
        };
        std::array::from_fn(|v| (v as f64 * scale + offset).clamp(0.0, 255.0) as u8)
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

fn brighten(image: &mut Rgb, factor: f64) {
    image.data.iter_mut().for_each(|v| *v = blend(0.0, *v, factor));
}

/// Away from (factor above 1), or towards, an average of the nine pixels around, the middle one with weight 5. Pixels at
/// the border stay.
fn sharpen(image: &mut Rgb, factor: f64) {
    let from = image.clone();
    let (width, height) = (from.width as usize, from.height as usize);
    let at = |x: usize, y: usize, c: usize| u32::from(from.data[3 * (y * width + x) + c]);
    for (x, y) in (1..height.max(1) - 1).flat_map(|y| (1..width.max(1) - 1).map(move |x| (x, y))) {
        for c in 0..3 {
            let around: u32 = (0..9).map(|i| at(x + i % 3 - 1, y + i / 3 - 1, c)).sum();
            let average = (around + 4 * at(x, y, c) + 6) / 13;
            let v = &mut image.data[3 * (y * width + x) + c];
            *v = blend(f64::from(average), *v, factor);
        }
    }
}

/// `other + factor · (value − other)`, in single precision and cut off as Pillow does it.
fn blend(other: f64, value: u8, factor: f64) -> u8 {
    let blended = other as f32 + factor as f32 * (f32::from(value) - other as f32);
    blended.clamp(0.0, 255.0) as u8
}
