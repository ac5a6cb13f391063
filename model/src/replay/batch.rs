//! The input of a replayed step: pixels, texts, negatives, and what the schedules say.

use super::source::{Error, Source};
use crate::blip::{Blip, LaneBatch};
use crate::loss::itm::Negatives;

/// One step's samples and settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Normalised pixels, b × 3 × s × s.
    pub pixels: Vec<f32>,
    /// Token ids of each text without its padding.
    pub texts: Vec<Vec<u32>>,
    /// Which samples serve as negatives.
    pub negatives: Negatives,
    /// Weight of the momentum targets.
    pub alpha: f64,
    /// Learning rate.
    pub lr: f64,
}

impl Batch {
    /// Reads the tensors `image` (b × 3 × s × s), `input_ids` and `attention_mask` (b × n), `image_negatives` and
    /// `text_negatives` (b), `alpha` and `lr`; `file` is the file's name in errors.
    ///
    /// # Errors
    /// [`Error`] that names every tensor that does not fit.
    pub fn read(file: &str, bytes: &[u8], blip: &Blip) -> Result<Self, Error> {
        let mut source = Source::open(file, bytes)?;
        let side = blip.image_size as usize;
        let b = source
            .shape("image")
            .and_then(|shape| shape.first().copied())
            .unwrap_or(0);
        let pixels = source.floats("image", &[b, 3, side, side]);
        if b == 0 || b > blip.model.queue as usize {
            let message = format!("holds {b} samples: use 1 to the queue's length, {}", blip.model.queue);
            source.refuse("image", message);
        }
        let texts = texts(&mut source, b, blip);
        let negatives = Negatives {
            image_of_text: indices(&mut source, "image_negatives", b),
            text_of_image: indices(&mut source, "text_negatives", b),
        };
        let (alpha, lr) = (between(&mut source, "alpha"), between(&mut source, "lr"));
        source.finish(|_| false)?;
        Ok(Self {
            pixels: pixels.unwrap_or_default(),
            texts,
            negatives,
            alpha,
            lr,
        })
    }

    /// The samples as a lane reads them.
    pub fn lane(&self) -> LaneBatch<'_> {
        LaneBatch {
            pixels: &self.pixels,
            texts: &self.texts,
            identities: &[],
            guests: &[],
        }
    }
}

/// A number from 0 to 1.
fn between(source: &mut Source, name: &str) -> f64 {
    let value = source.scalar(name).unwrap_or(0.0);
    if !(0.0..=1.0).contains(&value) {
        source.refuse(name, format!("is {value}: use 0 to 1"));
    }
    value
}

/// `b` indices of samples.
fn indices(source: &mut Source, name: &str, b: usize) -> Vec<u32> {
    let Some((shape, values)) = source.integers(name) else {
        return Vec::new();
    };
    if shape != [b] {
        source.refuse(name, format!("has shape {shape:?}, not {:?}", [b]));
    } else if values.iter().any(|&i| i < 0 || i >= b as i64) {
        source.refuse(
            name,
            format!("holds {values:?}: use indices from 0 to {}", b.saturating_sub(1)),
        );
    }
    values.into_iter().map(|i| i as u32).collect()
}

fn texts(source: &mut Source, b: usize, blip: &Blip) -> Vec<Vec<u32>> {
    let (ids, mask) = (source.integers("input_ids"), source.integers("attention_mask"));
    let (Some((shape, ids)), Some((mask_shape, mask))) = (ids, mask) else {
        return Vec::new();
    };
    if shape.len() != 2 || shape[0] != b {
        source.refuse("input_ids", format!("has shape {shape:?}, not [{b}, tokens]"));
        return Vec::new();
    }
    if mask_shape != shape {
        source.refuse("attention_mask", format!("has shape {mask_shape:?}, not {shape:?}"));
        return Vec::new();
    }
    let columns = shape[1].max(1);
    let rows = ids.chunks(columns).zip(mask.chunks(columns)).enumerate();
    rows.map(|(row, (ids, mask))| text(source, row, ids, mask, blip))
        .collect()
}

/// One text: the ids under the ones of its mask.
fn text(source: &mut Source, row: usize, ids: &[i64], mask: &[i64], blip: &Blip) -> Vec<u32> {
    let len = mask.iter().take_while(|&&m| m == 1).count();
    let longest = blip.model.text.positions as usize;
    if mask[len..].iter().any(|&m| m != 0) {
        source.refuse("attention_mask", format!("row {row} is not ones followed by zeros"));
    } else if !(2..=longest).contains(&len) {
        let message = format!("row {row} has {len} tokens: use 2 to text.positions, {longest}");
        source.refuse("attention_mask", message);
    }
    let size = i64::from(blip.vocab.size);
    let kept = &ids[..len];
    if let Some(id) = kept.iter().find(|&&id| id < 0 || id >= size) {
        source.refuse(
            "input_ids",
            format!("row {row} has the id {id}: the vocabulary has {size} tokens"),
        );
    } else if kept.first().is_some_and(|&id| id != i64::from(blip.vocab.cls)) {
        let message = format!(
            "row {row} begins with {}, not with vocab.cls, {}",
            kept[0], blip.vocab.cls
        );
        source.refuse("input_ids", message);
    }
    kept.iter().map(|&id| id as u32).collect()
}
