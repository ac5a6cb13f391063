//! The decoder run token by token, with keys and values kept.
//!
//! An image's cross-attention keys and values are computed once per layer, however many texts read them and however long
//! those grow; keys and values of a text's own tokens are kept as it grows.

use crate::blip::Blip;
use crate::ops::attention::Sequence;
use crate::ops::dropout::Place;
use crate::ops::meter::{self, Part};
use crate::tape::Tape;
use crate::text::{ImageKeys, Packed, Text};
use std::rc::Rc;

/// Texts that grow together, a token at a time.
pub(super) struct Decoder<'a, 'b> {
    blip: &'a Blip,
    tape: Tape<'b>,
    mark: usize,
    images: Vec<ImageKeys>,
    /// The image that each text is about.
    image_of: Vec<usize>,
    caches: Vec<Cache>,
    /// Tokens that each text has.
    position: usize,
}

/// Keys and values of the texts' own tokens in one layer, by text and position.
#[derive(Default)]
struct Cache {
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
}

impl<'a, 'b> Decoder<'a, 'b> {
    /// Looks at the images; there is an empty text about each.
    ///
    /// # Shapes
    /// pixels: b × 3 × s × s
    pub(super) fn new(blip: &'a Blip, mut tape: Tape<'b>, pixels: &[f32], b: usize) -> Self {
        let images = blip.look(&mut tape, pixels, b);
        Self {
            mark: tape.mark(),
            caches: blip.student.text.layers.iter().map(|_| Cache::new(b)).collect(),
            image_of: (0..b).collect(),
            position: 0,
            blip,
            tape,
            images,
        }
    }

    /// Goes on with copies of the texts that `parents` names.
    pub(super) fn select(&mut self, parents: &[usize]) {
        if parents.iter().copied().eq(0..self.image_of.len()) {
            return;
        }
        let pick = |rows: &[Vec<f32>]| parents.iter().map(|&parent| rows[parent].clone()).collect();
        for cache in &mut self.caches {
            cache.keys = pick(&cache.keys);
            cache.values = pick(&cache.values);
        }
        self.image_of = parents.iter().map(|&parent| self.image_of[parent]).collect();
    }

    /// Appends the same tokens to every text.
    pub(super) fn prompt(&mut self, tokens: &[u32]) {
        for &token in tokens {
            self.step(&vec![token; self.image_of.len()], false);
        }
    }

    /// Appends a token to each text; logits of the tokens that may follow.
    ///
    /// # Shapes
    /// t texts → t × vocabulary
    pub(super) fn next(&mut self, tokens: &[u32]) -> Vec<Vec<f32>> {
        let logits = self.step(tokens, true);
        logits
            .chunks_exact(self.blip.vocab.size as usize)
            .map(<[f32]>::to_vec)
            .collect()
    }

    fn step(&mut self, tokens: &[u32], predict: bool) -> Vec<f32> {
        let part = meter::part(Part::Multimodal);
        let (text, tape) = (&self.blip.student.text, &mut self.tape);
        let place = |sample: usize| Place {
            sample: sample as u32,
            position: self.position as u32,
        };
        let places: Rc<[Place]> = (0..tokens.len()).map(place).collect();
        let packed = Packed {
            ids: tokens.to_vec(),
            positions: vec![self.position as u32; tokens.len()],
            places: places.to_vec(),
            starts: (0..=tokens.len()).collect(),
        };
        self.position += 1;
        let own = one_query_each(0..tokens.len(), self.position);
        let seen = one_query_each(self.image_of.iter().copied(), self.blip.image_tokens);
        let mut x = text.embed(tape, &packed, None);
        for (i, (layer, cache)) in text.layers.iter().zip(&mut self.caches).enumerate() {
            let block = layer.decoder.as_ref().expect("the student has a decoder");
            let q = block.query.linear(tape, x);
            let k = block.key.linear(tape, x);
            let v = block.value.linear(tape, x);
            cache.extend(&tape.read(k), &tape.read(v));
            let width = tape.dims(k).1;
            let (keys, values) = (cache.keys.concat(), cache.values.concat());
            let (keys, values) = (tape.input(&keys, width), tape.input(&values, width));
            let attended = text.attend(tape, q, keys, values, &own, None);
            x = Text::output(tape, block, attended, x, &places, None);
            let cross = layer.cross.as_ref().expect("the student has cross-attention");
            let q = cross.query.linear(tape, x);
            let attended = text.attend(tape, q, self.images[i].keys, self.images[i].values, &seen, None);
            x = Text::output(tape, cross, attended, x, &places, None);
            x = text.feed(tape, (i, layer), x, &places, None);
        }
        drop(part);
        let _part = meter::part(Part::Heads);
        let logits = if predict {
            let logits = text.predict(tape, x);
            tape.read(logits)
        } else {
            Vec::new()
        };
        tape.rewind(self.mark);
        logits
    }
}

impl Cache {
    fn new(texts: usize) -> Self {
        Self {
            keys: vec![Vec::new(); texts],
            values: vec![Vec::new(); texts],
        }
    }

    fn extend(&mut self, keys: &[f32], values: &[f32]) {
        let width = keys.len() / self.keys.len();
        for (cache, rows) in [(&mut self.keys, keys), (&mut self.values, values)] {
            for (text, row) in cache.iter_mut().zip(rows.chunks_exact(width)) {
                text.extend_from_slice(row);
            }
        }
    }
}

/// Sequence `i` has one query, row `i`, and the `keys` keys of the `i`th block.
fn one_query_each(blocks: impl Iterator<Item = usize>, keys: usize) -> Rc<[Sequence]> {
    let sequence = |(i, block): (usize, usize)| Sequence {
        queries: i..i + 1,
        keys: block * keys..(block + 1) * keys,
        causal_from: None,
        place: Place {
            sample: i as u32,
            position: 0,
        },
    };
    blocks.enumerate().map(sequence).collect()
}
