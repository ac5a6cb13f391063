//! Captions: sampled, greedy or by beam search.
//!
//! Each caption's draws are keyed by its sample and its number, and no kernel looks at other rows; so a caption does not depend
//! on the batch it is made in.

use super::beam::{Beam, Beams, Hypothesis};
use super::decoder::Decoder;
use super::nucleus::{self, Sampling};
use super::reader::Reader;
use crate::blip::Blip;
use crate::device::DeviceError;
use crate::ops::sum;
use crate::random::{Purpose, Stream};

/// How tokens are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Search {
    /// One after the other, each for good.
    Sample(Sampling),
    /// With several beginnings kept in sight.
    Beam(Beam),
}

/// How captions are to be made.
#[derive(Debug, Clone, Copy)]
pub struct CaptionRequest<'a> {
    /// How tokens are chosen.
    pub search: Search,
    /// Captions of an image; of a beam search at most as many as it has beams.
    pub count: usize,
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

/// A caption that grows by sampling.
struct Growing {
    /// Its place in the answer.
    row: usize,
    ids: Vec<u32>,
    log_probability: f32,
}

impl Reader {
    /// Captions images with the trained decoder. `samples` are the numbers that key the draws. Captions of one image stand
    /// side by side; those of a beam search best first.
    ///
    /// # Shapes
    /// pixels: b × 3 × s × s → (b·count) captions
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn captions(
        &mut self,
        pixels: &[f32],
        samples: &[u64],
        request: &CaptionRequest,
    ) -> Result<Vec<Caption>, DeviceError> {
        self.turn_words();
        self.run(|blip, tape| blip.search(Decoder::new(blip, tape, pixels, samples.len()), samples, request))
    }
}

impl Blip {
    fn search(&self, mut decoder: Decoder, samples: &[u64], request: &CaptionRequest) -> Vec<Caption> {
        let mut start = vec![self.vocab.dec];
        start.extend_from_slice(request.prompt);
        // The last token's logits are the first that are wanted.
        decoder.prompt(&start[..start.len() - 1]);
        match request.search {
            Search::Sample(sampling) => self.sampled(&mut decoder, samples, request, sampling, &start),
            Search::Beam(beam) => self.searched(&mut decoder, samples.len(), request, beam, &start),
        }
    }

    fn sampled(
        &self,
        decoder: &mut Decoder,
        samples: &[u64],
        request: &CaptionRequest,
        sampling: Sampling,
        start: &[u32],
    ) -> Vec<Caption> {
        let (count, sep) = (request.count, self.vocab.sep);
        let mut captions = vec![None; samples.len() * count];
        let mut growing: Vec<Growing> = (0..captions.len())
            .map(|row| Growing {
                row,
                ids: start.to_vec(),
                log_probability: 0.0,
            })
            .collect();
        decoder.select(&growing.iter().map(|text| text.row / count).collect::<Vec<_>>());
        while !growing.is_empty() {
            let last: Vec<u32> = growing.iter().map(|text| text.ids[text.ids.len() - 1]).collect();
            let rows = decoder.next(&last);
            for (text, mut logits) in growing.iter_mut().zip(rows) {
                let length = text.ids.len();
                let u = Stream::new(request.seed, Purpose::Sampling)
                    .at(samples[text.row / count])
                    .uniform([length as u32, (text.row % count) as u32, 0, 0]);
                let logp = log_softmax(&logits);
                let banned = (length < request.min_tokens).then_some(sep);
                let token = nucleus::choose(&mut logits, &text.ids, banned, &sampling, u);
                text.log_probability += logp[token as usize];
                text.ids.push(token);
            }
            let ends = |text: &Growing| text.ids.ends_with(&[sep]) || text.ids.len() >= request.max_tokens;
            let alive: Vec<usize> = (0..growing.len()).filter(|&i| !ends(&growing[i])).collect();
            decoder.select(&alive);
            for text in growing.extract_if(.., |text| ends(text)) {
                captions[text.row] = Some(Caption {
                    tokens: without_end(&text.ids[start.len()..], sep),
                    log_probability: text.log_probability,
                });
            }
        }
        captions.into_iter().flatten().collect()
    }

    fn searched(
        &self,
        decoder: &mut Decoder,
        images: usize,
        request: &CaptionRequest,
        beam: Beam,
        start: &[u32],
    ) -> Vec<Caption> {
        let mut searches: Vec<Beams> = (0..images).map(|_| Beams::new(beam, start, self.vocab.sep)).collect();
        for length in start.len()..request.max_tokens {
            let open = searches.iter().flat_map(Beams::open);
            let last: Vec<u32> = open.map(|text| text.tokens[length - 1]).collect();
            if last.is_empty() {
                break;
            }
            let rows: Vec<Vec<f32>> = decoder.next(&last).iter().map(|logits| log_softmax(logits)).collect();
            let (mut parents, mut first) = (Vec::new(), 0);
            for search in searches.iter_mut().filter(|search| !search.open().is_empty()) {
                let own = first..first + search.open().len();
                let scores: Vec<&[f32]> = rows[own.clone()].iter().map(Vec::as_slice).collect();
                let kept = search.advance(&scores, length >= request.min_tokens);
                parents.extend(kept.into_iter().map(|parent| first + parent));
                first = own.end;
            }
            decoder.select(&parents);
        }
        let caption = |text: Hypothesis| Caption {
            tokens: text.tokens[start.len()..].to_vec(),
            log_probability: text.log_probability,
        };
        let best = searches.into_iter().flat_map(|search| search.best(request.count));
        best.map(caption).collect()
    }
}

fn without_end(ids: &[u32], sep: u32) -> Vec<u32> {
    ids.strip_suffix(&[sep]).unwrap_or(ids).to_vec()
}

fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let top = sum::max(logits);
    let mass = logits
        .iter()
        .fold(0.0f64, |mass, &l| mass + libm::exp(f64::from(l - top)));
    let log_mass = libm::log(mass) as f32;
    logits.iter().map(|l| l - top - log_mass).collect()
}
