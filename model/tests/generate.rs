//! Features, match logits and captions against plain formulas in double precision, and independence of their company.
#![allow(clippy::unwrap_used, missing_docs)]

#[expect(dead_code, reason = "generation needs no temperature")]
mod plain;

use candle_core::{Device, Tensor, Var};
use medley_model::blip::Blip;
use medley_model::device;
use medley_model::flat::Flat;
use medley_model::generate::beam::{Beam, Length};
use medley_model::generate::nucleus::{GREEDY, Sampling};
use medley_model::generate::{Caption, CaptionRequest, Reader, Search};
use medley_model::params::Vocabulary;
use medley_model::random::{Purpose, Stream};
use medley_model::state::State;
use medley_protocol::spec::Spec;
use plain::formulas::log_softmax;
use plain::{Plain, TextPass};
use std::sync::Arc;

const IMAGES: usize = 3;
const SIDE: usize = 16;
const PER_IMAGE: usize = 3 * SIDE * SIDE;
const CLS: u32 = 2;
const SEP: u32 = 3;
const DEC: u32 = 4;
const ENC: u32 = 5;

struct Case {
    blip: Arc<Blip>,
    params: Flat,
    pixels: Vec<f32>,
}

impl Case {
    fn new() -> Self {
        let document = serde_json::json!({
            "name": "t", "kind": "bootstrap", "preset": "nano", "data": {"root": "/d"},
            "model": {"text": {"depth": 2}, "vision": {"image_size": SIDE}},
            "pretrain": {"image_size": SIDE}, "captioner": {"image_size": SIDE}, "filter": {"image_size": SIDE}
        });
        let vocab = Vocabulary {
            size: 40,
            pad: 0,
            cls: CLS,
            sep: SEP,
            dec: DEC,
            enc: ENC,
        };
        let blip = Blip::new(&Spec::from_document(&document).unwrap().model, SIDE as u32, vocab);
        // Fresh weights are nearly indifferent: shake them.
        let noise = |salt: u32| move |i: u32| Stream::new(7, Purpose::Init).normals([i, salt, 0, 0])[0];
        let params = State::fresh(&blip, 3).params;
        let params: Vec<f32> = params.iter().zip(0..).map(|(v, i)| v + 0.1 * noise(0)(i)).collect();
        let pixels = (0..(IMAGES * PER_IMAGE) as u32).map(noise(1)).collect();
        Self {
            blip: Arc::new(blip),
            params: Flat::from_slice(&params),
            pixels,
        }
    }

    fn image(&self, i: usize) -> &[f32] {
        &self.pixels[i * PER_IMAGE..(i + 1) * PER_IMAGE]
    }

    fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.blip), self.params.clone(), &device::Device::Cpu)
    }

    fn plain(&self) -> Plain<'_> {
        let layout = &self.blip.student_layout;
        let tensor = |id| {
            let entry = layout.entry(id);
            let values: Vec<f64> = self.params[entry.range()].iter().map(|v| f64::from(*v)).collect();
            Var::from_tensor(&Tensor::from_vec(values, entry.shape.as_slice(), &Device::Cpu).unwrap()).unwrap()
        };
        Plain {
            model: &self.blip.model,
            vars: layout.names().map(|(name, id)| (name.to_owned(), tensor(id))).collect(),
        }
    }

    fn plain_image(&self, plain: &Plain, i: usize) -> Tensor {
        let pixels: Vec<f64> = self.image(i).iter().map(|v| f64::from(*v)).collect();
        plain
            .vision(&Tensor::from_vec(pixels, (3, SIDE, SIDE), &Device::Cpu).unwrap())
            .unwrap()
    }

    fn match_logits(&self, pixels: &[f32], pairs: &[(u32, u32)]) -> Vec<[f32; 2]> {
        let b = pixels.len() / PER_IMAGE;
        self.reader().match_logits(pixels, b, &texts(), pairs).unwrap()
    }

    fn captions(&self, pixels: &[f32], samples: &[u64], search: Search) -> Vec<Caption> {
        let request = CaptionRequest {
            search,
            count: COUNT,
            prompt: &PROMPT,
            min_tokens: MIN_TOKENS,
            max_tokens: MAX_TOKENS,
            seed: 11,
        };
        self.reader().captions(pixels, samples, &request).unwrap()
    }
}

const PROMPT: [u32; 1] = [9];
const MIN_TOKENS: usize = 4;
/// Captions of an image.
const COUNT: usize = 2;
const MAX_TOKENS: usize = 9;

fn texts() -> Vec<Vec<u32>> {
    vec![
        vec![CLS, 10, 11, 12, SEP],
        vec![CLS, SEP],
        vec![CLS, 11, 14, 15, 16, 17, SEP],
    ]
}

fn pass(decoder: bool, image: Option<&Tensor>) -> TextPass<'_> {
    TextPass {
        decoder,
        image,
        stream: None,
        sample: 0,
    }
}

fn row(tensor: &Tensor, row: usize) -> Vec<f64> {
    tensor.get(row).unwrap().to_vec1().unwrap()
}

fn assert_near(found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((f64::from(*found) - expected).abs() < 2e-4, "{found} {expected}");
    }
}

#[test]
fn features_agree_with_plain_formulas() {
    let case = Case::new();
    let plain = case.plain();
    let mut reader = case.reader();
    let width = case.blip.model.embed_dim as usize;
    let images = reader.image_features(&case.pixels, IMAGES).unwrap();
    let of_texts = reader.text_features(&texts()).unwrap();
    for (i, text) in texts().iter().enumerate() {
        let at = i * width..(i + 1) * width;
        let image = plain.feature("vision_proj", &case.plain_image(&plain, i)).unwrap();
        assert_near(&images[at.clone()], &row(&image, 0));
        let hidden = plain.text(text, pass(false, None)).unwrap();
        assert_near(&of_texts[at], &row(&plain.feature("text_proj", &hidden).unwrap(), 0));
    }
}

#[test]
fn match_logits_agree_with_plain_formulas_and_ignore_their_company() {
    let case = Case::new();
    let plain = case.plain();
    // More than go through the layers at once.
    let pairs: Vec<(u32, u32)> = (0..140).map(|i| (i % 3, i / 7 % 3)).collect();
    let logits = case.match_logits(&case.pixels, &pairs);
    assert_eq!(logits.len(), pairs.len());
    for (&(image, text), logits) in pairs.iter().zip(&logits) {
        let alone = case.match_logits(case.image(image as usize), &[(0, text)]);
        assert_eq!(alone[0].map(f32::to_bits), logits.map(f32::to_bits));
    }
    for (&(image, text), logits) in pairs.iter().zip(&logits).skip(60).take(21) {
        let image = case.plain_image(&plain, image as usize);
        let mut ids = texts()[text as usize].clone();
        ids[0] = ENC;
        let first = plain
            .text(&ids, pass(false, Some(&image)))
            .unwrap()
            .narrow(0, 0, 1)
            .unwrap();
        assert_near(logits, &row(&plain.linear("itm_head", &first).unwrap(), 0));
    }
    assert!(case.match_logits(&case.pixels, &[]).is_empty());
}

#[test]
fn greedy_captions_take_the_likeliest_token_of_the_plain_decoder() {
    let case = Case::new();
    let plain = case.plain();
    let captions = case.captions(&case.pixels, &[0; IMAGES], Search::Sample(GREEDY));
    for (i, caption) in captions.iter().enumerate().map(|(row, caption)| (row / COUNT, caption)) {
        let mut ids = [&[DEC][..], &PROMPT, &caption.tokens].concat();
        assert!((MIN_TOKENS..=MAX_TOKENS).contains(&ids.len()), "{ids:?}");
        if ids.len() < MAX_TOKENS {
            ids.push(SEP);
        }
        let image = case.plain_image(&plain, i);
        let hidden = plain.text(&ids, pass(true, Some(&image))).unwrap();
        let logp = log_softmax(&plain.predict(&hidden).unwrap()).unwrap();
        let mut total = 0.0;
        for at in 1 + PROMPT.len()..ids.len() {
            let row = row(&logp, at - 1);
            let banned = |token: u32| token == SEP && at < MIN_TOKENS;
            let best = (0..row.len() as u32)
                .filter(|token| !banned(*token))
                .map(|token| row[token as usize]);
            let best = best.fold(f64::NEG_INFINITY, f64::max);
            assert!(row[ids[at] as usize] > best - 1e-4, "caption {i} at {at}");
            total += row[ids[at] as usize];
        }
        assert!((f64::from(caption.log_probability) - total).abs() < 1e-3);
    }
}

const SAMPLE: Search = Search::Sample(Sampling {
    top_p: 0.9,
    top_k: 0,
    repetition_penalty: 1.1,
});
const BEAM: Search = Search::Beam(Beam {
    beams: 3,
    length_penalty: 1.0,
    repetition_penalty: 1.1,
    length: Length::Whole,
});

#[test]
fn a_caption_is_the_same_in_batches_of_any_size() {
    let case = Case::new();
    for search in [SAMPLE, BEAM] {
        let alone: Vec<Vec<Caption>> = (0..IMAGES)
            .map(|i| case.captions(case.image(i), &[i as u64], search))
            .collect();
        for size in [2, 5, 64] {
            let images: Vec<usize> = (0..size).map(|i| i % IMAGES).collect();
            let pixels: Vec<f32> = images.iter().flat_map(|i| case.image(*i)).copied().collect();
            let samples: Vec<u64> = images.iter().map(|i| *i as u64).collect();
            let together = case.captions(&pixels, &samples, search);
            for (found, i) in together.chunks_exact(COUNT).zip(images) {
                assert_eq!(found, alone[i]);
                let bits =
                    |captions: &[Caption]| captions.iter().map(|c| c.log_probability.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(found), bits(&alone[i]));
            }
        }
    }
}

#[test]
fn sampled_captions_depend_on_their_key_and_number() {
    let case = Case::new();
    let these = case.captions(&case.pixels, &[5, u64::MAX, 7], SAMPLE);
    let others = case.captions(&case.pixels, &[8, 9, 10], SAMPLE);
    assert_ne!(these, others, "other keys draw other captions");
    assert!(
        these.chunks_exact(COUNT).any(|of_image| of_image[0] != of_image[1]),
        "captions of one image are drawn apart"
    );
}
