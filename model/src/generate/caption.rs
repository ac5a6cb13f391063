//! Captions: the decoder run token by token, with keys and values kept.
//!
//! An image's cross-attention keys and values are computed once per layer; those of the text's own tokens are kept as it
//! grows. Each caption's draws are keyed by its sample, so that a caption does not depend on the batch it is made in.

use super::nucleus::{self, Sampling};
use crate::blip::Blip;
use crate::flat::Pool;
use crate::ops::attention::Sequence;
use crate::ops::dropout::Place;
use crate::ops::sum;
use crate::random::{Purpose, Stream};
use crate::tape::{Tape, Var, Weights};
use crate::text::{ImageKeys, Packed, Text};
use crate::vision::Tokens;
use std::rc::Rc;

/// How captions are to be made.
#[derive(Debug, Clone, Copy)]
pub struct CaptionRequest<'a> {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Tokens after `[DEC]` that every caption begins with.
    pub prompt: &'a [u32],
    /// `[SEP]` may not come before this many tokens stand, prompt included.
    pub min_tokens: usize,
    /// Most tokens, prompt included.
    pub max_tokens: usize,
    /// Seed of the draws.
    pub seed: u64,
}

/// A caption.
#[derive(Debug, Clone, PartialEq)]
pub struct Caption {
    /// Tokens after the prompt, without `[SEP]`.
    pub tokens: Vec<u32>,
    /// Sum of the log-probabilities of all chosen tokens, `[SEP]` included, by the model before penalty and cuts.
    pub log_probability: f32,
}

/// A caption that grows.
struct Growing {
    ids: Vec<u32>,
    log_probability: f32,
    done: bool,
}

/// Keys and values of the texts' own tokens in one layer, by text and position.
#[derive(Default)]
struct Cache {
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
}

impl Blip {
    /// Captions images with the trained decoder. `samples` are the numbers that key the draws.
    ///
    /// # Shapes
    /// pixels: b × 3 × s × s → b captions
    pub fn captions(
        &self,
        params: &[f32],
        pixels: &[f32],
        samples: &[u64],
        request: &CaptionRequest,
        pool: &mut Pool,
    ) -> Vec<Caption> {
        let b = samples.len();
        let mut tape = Tape::inference(
            Weights {
                layout: &self.student_layout,
                data: params,
            },
            pool,
        );
        let images = self.student.vision.forward(&mut tape, pixels, b, None, Tokens::All);
        let image_keys = self.student.text.image_keys(&mut tape, images);
        let mut start = vec![self.vocab.dec];
        start.extend_from_slice(request.prompt);
        let mut texts: Vec<Growing> = (0..b)
            .map(|_| Growing {
                ids: start.clone(),
                log_probability: 0.0,
                done: false,
            })
            .collect();
        let mut caches: Vec<Cache> = self.student.text.layers.iter().map(|_| Cache::new(b)).collect();
        let mark = tape.mark();
        for position in 0..request.max_tokens - 1 {
            let next: Vec<u32> = texts.iter().map(|t| t.ids[position.min(t.ids.len() - 1)]).collect();
            let states = self.decode(&mut tape, &next, position, &image_keys, &mut caches);
            if position + 1 >= start.len() {
                let logits = self.student.text.predict(&mut tape, states);
                let rows = tape.value(logits).chunks_exact(self.vocab.size as usize);
                for ((text, row), &sample) in texts.iter_mut().zip(rows).zip(samples).filter(|((t, _), _)| !t.done) {
                    self.grow(text, row, sample, request);
                }
            }
            tape.rewind(mark);
            if texts.iter().all(|t| t.done) {
                break;
            }
        }
        texts
            .into_iter()
            .map(|t| t.finish(start.len(), self.vocab.sep))
            .collect()
    }

    /// One token of every text through the decoder's layers.
    ///
    /// # Shapes
    /// b tokens at one position → b × d
    fn decode(
        &self,
        tape: &mut Tape,
        tokens: &[u32],
        position: usize,
        images: &[ImageKeys],
        caches: &mut [Cache],
    ) -> Var {
        let text = &self.student.text;
        let places: Rc<[Place]> = (0..tokens.len() as u32)
            .map(|sample| Place {
                sample,
                position: position as u32,
            })
            .collect();
        let packed = Packed {
            ids: tokens.to_vec(),
            positions: vec![position as u32; tokens.len()],
            places: places.to_vec(),
            starts: (0..=tokens.len()).collect(),
        };
        let mut x = text.embed(tape, &packed, None);
        for (i, (layer, cache)) in text.layers.iter().zip(caches).enumerate() {
            let block = layer.decoder.as_ref().expect("the student has a decoder");
            let q = block.query.linear(tape, x);
            let k = block.key.linear(tape, x);
            let v = block.value.linear(tape, x);
            cache.extend(tape.value(k), tape.value(v));
            let width = tape.dims(k).1;
            let (keys, values) = (
                tape.input(&cache.keys.concat(), width),
                tape.input(&cache.values.concat(), width),
            );
            let attended = text.attend(tape, q, keys, values, &one_query_each(tokens.len(), position + 1), None);
            x = Text::output(tape, block, attended, x, &places, None);
            let cross = layer.cross.as_ref().expect("the student has cross-attention");
            let q = cross.query.linear(tape, x);
            let seqs = one_query_each(tokens.len(), self.image_tokens);
            let attended = text.attend(tape, q, images[i].keys, images[i].values, &seqs, None);
            x = Text::output(tape, cross, attended, x, &places, None);
            x = text.feed(tape, (i, layer), x, &places, None);
        }
        x
    }

    fn grow(&self, text: &mut Growing, logits: &[f32], sample: u64, request: &CaptionRequest) {
        let length = text.ids.len();
        let u = Stream::new(request.seed, Purpose::Sampling)
            .at(sample)
            .uniform([length as u32, 0, 0, 0]);
        let mut never = vec![self.vocab.pad, self.vocab.cls, self.vocab.dec, self.vocab.enc];
        if length < request.min_tokens {
            never.push(self.vocab.sep);
        }
        let token = nucleus::choose(&mut logits.to_vec(), &text.ids, &never, &request.sampling, u);
        text.log_probability += log_probability(logits, token);
        text.ids.push(token);
        text.done = token == self.vocab.sep || text.ids.len() >= request.max_tokens;
    }
}

impl Growing {
    fn finish(self, start: usize, sep: u32) -> Caption {
        let tokens = self.ids[start..].iter().copied().take_while(|&t| t != sep).collect();
        Caption {
            tokens,
            log_probability: self.log_probability,
        }
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

/// Sequence `i` has one query, row `i`, and `keys` keys of its own.
fn one_query_each(texts: usize, keys: usize) -> Rc<[Sequence]> {
    let sequence = |i: usize| Sequence {
        queries: i..i + 1,
        keys: i * keys..(i + 1) * keys,
        causal_from: None,
        place: Place {
            sample: i as u32,
            position: 0,
        },
    };
    (0..texts).map(sequence).collect()
}

fn log_probability(logits: &[f32], token: u32) -> f32 {
    let top = sum::max(logits);
    let mass = logits
        .iter()
        .fold(0.0f64, |mass, &l| mass + libm::exp(f64::from(l - top)));
    logits[token as usize] - top - libm::log(mass) as f32
}
