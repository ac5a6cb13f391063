//! `medley-worker infer`: captions and match probabilities of single images, without a cluster.
//!
//! One request is read from standard input and answered on standard output, image by image ([`medley_protocol::inference`]);
//! `medley caption` and `medley match` are the ways for people. A caption's draws are keyed by the image's bytes, and no kernel of the
//! processor looks at other rows: what is said about an image does not depend on the images beside it. On a GPU, which `MEDLEY_DEVICE`
//! asks for, it may in the last digits: products of other shapes are summed in another order there, and attention takes two texts of
//! an image together. An image that cannot be read is an answer; what is wrong with request or model ends the program.

mod model;

use crate::rank::{DEVICE, device_name};
use crate::stage::tasks::pixels;
use anyhow::{Context as _, ensure};
use medley_data::decode::{self, Rgb};
use medley_data::text::{clean, words};
use medley_model::device::Device;
use medley_model::generate::beam::{Beam, Length};
use medley_model::generate::nucleus::{GREEDY, Sampling};
use medley_model::generate::score::match_probability;
use medley_model::generate::{self, CaptionRequest};
use medley_model::ops::sum::dot;
use medley_protocol::inference::{Answer, CaptionText, Captioning, MAX_COUNT, Matched, Request, Search, Work};
use model::Model;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::sync::Arc;

/// Texts that grow together: bounds memory, and how long the first answer takes.
const ROWS_AT_ONCE: usize = 16;
/// The same on a GPU, where a token takes about the same time for one text and for all of these.
const ROWS_AT_ONCE_ON_GPU: usize = 128;
/// Fewest beams of a beam search: the reference's number.
const BEAMS: usize = 3;
/// Largest file of an image.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Answers the request on standard input.
///
/// # Errors
/// What is wrong with the request, the model or the device.
pub fn run() -> anyhow::Result<()> {
    let request: Request = serde_json::from_reader(std::io::stdin().lock()).context("the request on standard input")?;
    let device: Device = device_name().parse().context(DEVICE)?;
    let mut out = std::io::stdout().lock();
    answer(&request, &device, |answer| {
        serde_json::to_writer(&mut out, &answer)?;
        out.write_all(b"\n")?;
        Ok(out.flush()?)
    })
}

/// Does what a request asks for on a device; `say` is given each answer as soon as it is known.
///
/// # Errors
/// As for [`run`], and what `say` returns.
pub fn answer(
    request: &Request,
    device: &Device,
    mut say: impl FnMut(Answer) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut model = Model::load(&request.weights, &request.work, device)?;
    match &request.work {
        Work::Caption { images, how } => model.caption(images, how, say),
        Work::Match { image, texts } => say(model.matches(image, texts)?),
    }
}

/// An image from a file.
struct Image {
    /// Keys the draws.
    key: u64,
    pixels: Arc<Rgb>,
}

impl Image {
    /// Reads a file; says why it cannot be done.
    fn read(path: &str) -> Result<Self, String> {
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(|e| e.to_string())?;
        let read = file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes);
        read.map_err(|e| e.to_string())?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(format!("is larger than {} MiB", MAX_FILE_BYTES >> 20));
        }
        let pixels = decode::image(&bytes).map_err(|e| e.to_string())?;
        let [a, b, c, d, e, f, g, h, ..] = *blake3::hash(&bytes).as_bytes();
        Ok(Self {
            key: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            pixels: Arc::new(pixels),
        })
    }
}

impl Model {
    fn caption(
        &mut self,
        paths: &[String],
        how: &Captioning,
        mut say: impl FnMut(Answer) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let prompt = self.tokenizer.pieces(how.prompt.as_ref().unwrap_or(&self.prompt));
        let request = self.request(how, &prompt)?;
        let rows = match request.search {
            generate::Search::Beam(beam) => beam.beams,
            generate::Search::Sample(_) => request.count,
        };
        for paths in paths.chunks((self.rows_at_once / rows).max(1)) {
            let read: Vec<Result<Image, String>> = paths.iter().map(|path| Image::read(path)).collect();
            let readable: Vec<&Image> = read.iter().flatten().collect();
            let mut captions = self.captions(&readable, &request)?.into_iter();
            for (path, read) in paths.iter().zip(&read) {
                let image = path.clone();
                say(match read {
                    Ok(_) => Answer::Captions {
                        image,
                        captions: captions.by_ref().take(request.count).collect(),
                    },
                    Err(reason) => Answer::Unreadable {
                        image,
                        reason: reason.clone(),
                    },
                })?;
            }
        }
        Ok(())
    }

    /// Captions of some images, those of one side by side.
    fn captions(&mut self, images: &[&Image], request: &CaptionRequest) -> anyhow::Result<Vec<CaptionText>> {
        if images.is_empty() {
            return Ok(Vec::new());
        }
        let decoded: Vec<Arc<Rgb>> = images.iter().map(|image| Arc::clone(&image.pixels)).collect();
        let view = pixels::squares(&decoded, self.trained.blip().image_size);
        let keys: Vec<u64> = images.iter().map(|image| image.key).collect();
        let captions = self.trained.captions(&view, &keys, request)?;
        ensure!(
            captions.len() == images.len() * request.count,
            "the vocabulary is too small for {} captions of an image",
            request.count
        );
        finite(captions.iter().map(|caption| caption.log_probability))?;
        let text = |caption: &generate::Caption| CaptionText {
            text: self.tokenizer.decode(&caption.tokens),
            log_probability: caption.log_probability,
        };
        Ok(captions.iter().map(text).collect())
    }

    fn request<'a>(&self, how: &Captioning, prompt: &'a [u32]) -> anyhow::Result<CaptionRequest<'a>> {
        let capfilt = &self.spec.capfilt;
        let min_tokens = how.min_tokens.unwrap_or(capfilt.min_tokens) as usize;
        let max_tokens = how.max_tokens.unwrap_or(capfilt.max_tokens) as usize;
        let positions = self.spec.model.text.positions as usize;
        // The first token of every text comes before its prompt.
        let start = prompt.len() + 1;
        ensure!(
            (1..=MAX_COUNT).contains(&how.count),
            "--count is {}: give 1 to {MAX_COUNT}",
            how.count
        );
        ensure!(
            max_tokens <= positions,
            "--max-tokens is {max_tokens}: the model has {positions} positions"
        );
        ensure!(
            start < max_tokens && min_tokens < max_tokens,
            "--max-tokens is {max_tokens}: give more than --min-tokens ({min_tokens}) and than the {start} tokens that every \
             caption begins with"
        );
        let search = match how.search {
            Search::Greedy => generate::Search::Sample(GREEDY),
            Search::Beam => generate::Search::Beam(Beam {
                beams: BEAMS.max(how.count as usize),
                length_penalty: 1.0,
                repetition_penalty: 1.0,
                length: Length::Whole,
            }),
            Search::Nucleus => generate::Search::Sample(Sampling {
                top_p: capfilt.top_p as f32,
                top_k: capfilt.top_k as usize,
                repetition_penalty: capfilt.repetition_penalty as f32,
            }),
        };
        Ok(CaptionRequest {
            search,
            count: how.count as usize,
            prompt,
            min_tokens,
            max_tokens,
            seed: how.seed.unwrap_or(self.spec.seed),
        })
    }

    /// Texts are cleaned as the captions that the model was trained on.
    fn matches(&mut self, path: &str, texts: &[String]) -> anyhow::Result<Answer> {
        ensure!(!texts.is_empty(), "give a text to match the image with");
        let image = path.to_owned();
        let pixels = match Image::read(path) {
            Ok(read) => read.pixels,
            Err(reason) => return Ok(Answer::Unreadable { image, reason }),
        };
        let tokens = texts
            .iter()
            .map(|text| self.tokenizer.encode(&clean(text), self.max_tokens));
        let tokens: Vec<Vec<u32>> = tokens.collect();
        let view = pixels::squares(&[pixels], self.trained.blip().image_size);
        let links: Vec<(u32, u32)> = (0..tokens.len() as u32).map(|text| (0, text)).collect();
        let logits = self.trained.match_logits(&view, 1, &tokens, &links)?;
        let of_image = self.trained.image_features(&view, 1)?;
        let of_texts = self.trained.text_features(&tokens)?;
        let scores = logits.into_iter().zip(of_texts.chunks_exact(of_image.len()));
        let matched = |(text, (logits, of_text)): (&String, ([f32; 2], &[f32]))| Matched {
            text: text.clone(),
            probability: match_probability(logits),
            cosine: dot(&of_image, of_text),
            unknown: self.unknown(text),
        };
        let matches: Vec<Matched> = texts.iter().zip(scores).map(matched).collect();
        finite(matches.iter().flat_map(|matched| [matched.probability, matched.cosine]))?;
        Ok(Answer::Matches { image, matches })
    }

    /// Words of a text that the vocabulary does not have.
    fn unknown(&self, text: &str) -> Vec<String> {
        let unknown = self.tokenizer.vocabulary().special("[UNK]");
        let mut words = words(&clean(text));
        words.retain(|word| self.tokenizer.pieces(word).contains(&unknown));
        words
    }
}

/// Refuses what JSON cannot say and nobody can use.
fn finite(mut numbers: impl Iterator<Item = f32>) -> anyhow::Result<()> {
    ensure!(
        numbers.all(f32::is_finite),
        "the model gives no finite numbers: its training has diverged; take an earlier checkpoint"
    );
    Ok(())
}

#[cfg(test)]
mod tests;
