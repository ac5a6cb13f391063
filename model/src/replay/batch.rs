//! The input of a replayed step: pixels, texts, negatives, and what the schedules say.

use super::config::Config;
use super::source::{Error, Source};
use crate::blip::{Guest, LaneBatch};
use crate::loss::itc::UNKNOWN;
use crate::loss::itm::Negatives;
use medley_protocol::spec::SameImage;
use std::ops::Range;

/// The samples of all lanes, the first lane's first, and the step's settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Normalised pixels, n × 3 × s × s.
    pub pixels: Vec<f32>,
    /// Token ids of each text without its padding.
    pub texts: Vec<Vec<u32>>,
    /// Which samples serve as negatives, of whatever lane; empty for a captioner.
    pub negatives: Negatives,
    /// Identities of the images, n, where they matter: for a filter.
    pub identities: Vec<u64>,
    /// Weight of the momentum targets; 0 for a captioner.
    pub alpha: f64,
    /// Learning rate.
    pub lr: f64,
}

/// A lane's part of a batch: its own samples, and after them those of other lanes that serve as its negatives.
#[derive(Debug, Clone, PartialEq)]
pub struct Lane {
    pixels: Vec<f32>,
    texts: Vec<Vec<u32>>,
    identities: Vec<u64>,
    guests: Vec<Guest>,
    /// Negatives, as the lane numbers them.
    pub negatives: Negatives,
}

impl Batch {
    /// Reads the tensors `image` (n × 3 × s × s), `input_ids` and `attention_mask` (n × tokens) and `lr`; `image_negatives`,
    /// `text_negatives` (n) and `alpha` unless it is a captioner's; and a filter's `idx` (n). `file` is the file's name in
    /// errors.
    ///
    /// # Errors
    /// [`Error`] that names every tensor that does not fit.
    pub fn read(file: &str, bytes: &[u8], config: &Config) -> Result<Self, Error> {
        let mut source = Source::open(file, bytes)?;
        let side = config.vision.image_size as usize;
        let n = source
            .shape("image")
            .and_then(|shape| shape.first().copied())
            .unwrap_or(0);
        let pixels = source.floats("image", &[n, 3, side, side]);
        if n == 0 || n > config.queue as usize || !n.is_multiple_of(config.lanes as usize) {
            let (queue, lanes) = (config.queue, config.lanes);
            let message =
                format!("holds {n} samples: use 1 to the queue's length, {queue}, a multiple of lanes, {lanes}");
            source.refuse("image", message);
        }
        let mut batch = Self {
            pixels: pixels.unwrap_or_default(),
            texts: texts(&mut source, n, config),
            negatives: Negatives {
                image_of_text: Vec::new(),
                text_of_image: Vec::new(),
            },
            identities: Vec::new(),
            alpha: 0.0,
            lr: between(&mut source, "lr"),
        };
        if config.objective.understands() {
            batch.negatives.image_of_text = indices(&mut source, "image_negatives", n);
            batch.negatives.text_of_image = indices(&mut source, "text_negatives", n);
            batch.alpha = between(&mut source, "alpha");
        }
        if config.same_image() == SameImage::Positive {
            batch.identities = identities(&mut source, n);
        }
        source.finish(|_| false)?;
        Ok(batch)
    }

    /// The part of one of `lanes` lanes.
    pub fn lane(&self, lane: u32, lanes: u32) -> Lane {
        let n = self.texts.len();
        let b = n as u32 / lanes;
        let own = lane * b..(lane + 1) * b;
        let rows = own.start as usize..own.end as usize;
        let of = |drawn: &[u32]| drawn.get(rows.clone()).unwrap_or_default().to_vec();
        let negatives = Negatives {
            image_of_text: of(&self.negatives.image_of_text),
            text_of_image: of(&self.negatives.text_of_image),
        };
        let seated = negatives.seat(own.start, b);
        let image = |i: u32| &self.pixels[range(i, self.pixels.len() / n)];
        Lane {
            pixels: own
                .clone()
                .chain(seated.images.iter().copied())
                .flat_map(image)
                .copied()
                .collect(),
            texts: own
                .clone()
                .chain(seated.texts)
                .map(|i| self.texts[i as usize].clone())
                .collect(),
            identities: self
                .identities
                .get(rows)
                .map_or_else(|| own.map(|i| u64::from(i) + 1).collect(), <[u64]>::to_vec),
            guests: seated.images.iter().map(|image| Guest::of(*image, b)).collect(),
            negatives: seated.negatives,
        }
    }
}

impl Lane {
    /// The samples as the model takes them.
    pub fn batch(&self) -> LaneBatch<'_> {
        LaneBatch {
            pixels: (&self.pixels).into(),
            texts: &self.texts,
            identities: &self.identities,
            guests: &self.guests,
        }
    }
}

/// Where the i-th of several pieces of a length lies.
fn range(i: u32, len: usize) -> Range<usize> {
    i as usize * len..(i as usize + 1) * len
}

/// The identity of an image with this number; [`UNKNOWN`] for negative ones.
pub(super) fn identity(number: i64) -> u64 {
    u64::try_from(number).map_or(UNKNOWN, |number| number + 1)
}

fn identities(source: &mut Source, n: usize) -> Vec<u64> {
    let Some((shape, numbers)) = source.integers("idx") else {
        return Vec::new();
    };
    if shape != [n] {
        source.refuse("idx", format!("has shape {shape:?}, not {:?}", [n]));
    } else if let Some(number) = numbers.iter().find(|&&number| number < 0) {
        source.refuse("idx", format!("holds {number}: use numbers from 0"));
    }
    numbers.into_iter().map(identity).collect()
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

fn texts(source: &mut Source, b: usize, config: &Config) -> Vec<Vec<u32>> {
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
    rows.map(|(row, (ids, mask))| text(source, row, ids, mask, config))
        .collect()
}

/// One text: the ids under the ones of its mask.
fn text(source: &mut Source, row: usize, ids: &[i64], mask: &[i64], config: &Config) -> Vec<u32> {
    let len = mask.iter().take_while(|&&m| m == 1).count();
    // The first, the prompt's, and one that is predicted.
    let shortest = 2 + config.prompt_tokens as usize;
    let longest = config.text.positions as usize;
    if mask[len..].iter().any(|&m| m != 0) {
        source.refuse("attention_mask", format!("row {row} is not ones followed by zeros"));
    } else if !(shortest..=longest).contains(&len) {
        let message = format!("row {row} has {len} tokens: use {shortest} to text.positions, {longest}");
        source.refuse("attention_mask", message);
    }
    let size = i64::from(config.vocab.size);
    let kept = &ids[..len];
    if let Some(id) = kept.iter().find(|&&id| id < 0 || id >= size) {
        source.refuse(
            "input_ids",
            format!("row {row} has the id {id}: the vocabulary has {size} tokens"),
        );
    } else if kept.first().is_some_and(|&id| id != i64::from(config.vocab.cls)) {
        let message = format!(
            "row {row} begins with {}, not with vocab.cls, {}",
            kept[0], config.vocab.cls
        );
        source.refuse("input_ids", message);
    }
    kept.iter().map(|&id| id as u32).collect()
}
