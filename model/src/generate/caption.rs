//! Captions: sampled, greedy or by beam search.
//!
//! Each caption's draws are keyed by its sample and its number, and no kernel looks at other rows; so a caption does not depend
//! on the batch it is made in.

use super::beam::{Beam, Beams, Hypothesis, Open};
use super::decoder::Decoder;
use super::nucleus::Sampling;
use super::reader::Reader;
use crate::blip::Blip;
use crate::device::{DeviceError, Growth};
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
        // A text has room for one token more than it begins with at least.
        let room = request.max_tokens.max(request.prompt.len() + 2);
        self.run(|blip, tape| {
            let decoder = Decoder::new(blip, tape, pixels, samples.len(), room);
            blip.search(decoder, samples, request)
        })
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
        let (count, room) = (request.count, decoder.room());
        let all = samples.len() * count;
        if all == 0 {
            return Vec::new();
        }
        decoder.select(&(0..all).map(|text| text / count).collect::<Vec<_>>());
        let growth = Growth {
            sampling,
            end: self.vocab.sep,
            min_tokens: request.min_tokens,
            room,
            start: start.len(),
        };
        let mut texts = decoder.texts(start, draws(samples, count, room, request.seed), growth);
        for _ in start.len()..room {
            decoder.grow(&mut texts);
            let going_on = texts.going_on();
            if going_on.is_empty() {
                break;
            }
            decoder.select(&going_on);
        }
        let caption = |(tokens, log_probability)| Caption {
            tokens,
            log_probability,
        };
        texts.grown().into_iter().map(caption).collect()
    }

    fn searched(
        &self,
        decoder: &mut Decoder,
        images: usize,
        request: &CaptionRequest,
        beam: Beam,
        start: &[u32],
    ) -> Vec<Caption> {
        let sep = self.vocab.sep;
        let mut searches: Vec<Beams> = (0..images).map(|_| Beams::new(beam, start, sep)).collect();
        for length in start.len()..request.max_tokens {
            let open: Vec<Open> = searches.iter().flat_map(Beams::open).map(Hypothesis::as_open).collect();
            if open.is_empty() {
                break;
            }
            let wanted = Beams::wanted(&beam, sep, length >= request.min_tokens);
            let continuations = decoder.continuations(&open, &wanted);
            let (mut parents, mut first) = (Vec::new(), 0);
            for search in searches.iter_mut().filter(|search| !search.open().is_empty()) {
                let own = first..first + search.open().len();
                let kept = search.advance_by(&continuations[own.clone()]);
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

/// The uniform number of every text and of each token it has room for, keyed by its sample, its number and the token's.
fn draws(samples: &[u64], count: usize, room: usize, seed: u64) -> Vec<f32> {
    let of_text = |text: usize| {
        let stream = Stream::new(seed, Purpose::Sampling).at(samples[text / count]);
        (0..room as u32).map(move |length| stream.uniform([length, (text % count) as u32, 0, 0]))
    };
    (0..samples.len() * count).flat_map(of_text).collect()
}
