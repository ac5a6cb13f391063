//! Greedy captions and beam search give transformers' tokens on random weights (`golden_generate/make.py`).
#![allow(clippy::unwrap_used, missing_docs)]

use medley_model::blip::Blip;
use medley_model::device::Device;
use medley_model::generate::beam::{Beam, Length};
use medley_model::generate::nucleus::{GREEDY, Sampling};
use medley_model::generate::{CaptionRequest, Reader, Search};
use medley_model::params::Vocabulary;
use medley_model::state::State;
use medley_protocol::spec::Spec;
use serde::Deserialize;

const IMAGES: usize = 3;
const SIDE: usize = 16;
const SEP: u32 = 3;

#[derive(Debug, Deserialize)]
struct Case {
    prompt: Vec<u32>,
    beams: usize,
    count: usize,
    repetition_penalty: f32,
    length_penalty: f32,
    min_tokens: usize,
    max_tokens: usize,
    captions: Vec<Vec<u32>>,
}

impl Case {
    fn search(&self, length: Length) -> Search {
        let repetition_penalty = self.repetition_penalty;
        if self.beams == 1 {
            return Search::Sample(Sampling {
                repetition_penalty,
                ..GREEDY
            });
        }
        Search::Beam(Beam {
            beams: self.beams,
            length_penalty: self.length_penalty,
            repetition_penalty,
            length,
        })
    }
}

fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A multiple of 1/1024 in [-1, 1).
fn fraction(name: &str, index: usize) -> f32 {
    let hash = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let state = name.bytes().fold(0xcbf2_9ce4_8422_2325, hash);
    let word = mix(state.wrapping_add((index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    ((word >> 53) as f32 - 1024.0) / 1024.0
}

fn weight(name: &str, index: usize) -> f32 {
    let value = fraction(name, index);
    let ends = name == "text_decoder.cls.predictions.bias" && index == SEP as usize;
    if name.to_lowercase().contains("norm") && name.ends_with("weight") {
        1.0 + value / 4.0
    } else if name.ends_with("bias") {
        value / 2.0 + if ends { 2.0 } else { 0.0 }
    } else if name.contains("embeddings") {
        value
    } else {
        value / 4.0
    }
}

fn blip() -> (Blip, State) {
    let document = serde_json::json!({
        "name": "t", "kind": "bootstrap", "preset": "nano", "data": {"root": "/d"},
        "model": {"text": {"depth": 2}, "vision": {"image_size": SIDE}},
        "pretrain": {"image_size": SIDE}, "captioner": {"image_size": SIDE}, "filter": {"image_size": SIDE}
    });
    let vocab = Vocabulary {
        size: 40,
        pad: 0,
        cls: 2,
        sep: SEP,
        dec: 4,
        enc: 5,
    };
    let blip = Blip::new(&Spec::from_document(&document).unwrap().model, SIDE as u32, vocab);
    let mut state = State::zeros(&blip);
    let layout = &blip.student_layout;
    for (_, entry) in layout.iter() {
        let values = entry.range().take(entry.shape.iter().product());
        for (index, at) in values.enumerate() {
            state.params[at] = weight(&entry.name, index);
        }
    }
    (blip, state)
}

fn assert_golden(golden: &str, length: Length) {
    let (blip, state) = blip();
    let mut reader = Reader::new(blip, state.params, &Device::Cpu);
    let pixels: Vec<f32> = (0..IMAGES)
        .flat_map(|i| (0..3 * SIDE * SIDE).map(move |j| 2.0 * fraction(&format!("pixels.{i}"), j)))
        .collect();
    let cases: Vec<Case> = serde_json::from_str(golden).unwrap();
    assert_eq!(cases.len(), 56);
    for case in cases {
        let request = CaptionRequest {
            search: case.search(length),
            count: case.count,
            prompt: &case.prompt,
            min_tokens: case.min_tokens,
            max_tokens: case.max_tokens,
            seed: 0,
        };
        let captions = reader.captions(&pixels, &[0; IMAGES], &request).unwrap();
        let tokens: Vec<Vec<u32>> = captions.into_iter().map(|caption| caption.tokens).collect();
        assert_eq!(tokens, case.captions, "{case:?}");
    }
}

#[test]
fn greedy_and_beams_give_the_tokens_of_the_references_library() {
    assert_golden(include_str!("golden_generate/reference.json"), Length::Whole);
}

#[test]
fn greedy_and_beams_give_the_tokens_of_the_later_library() {
    assert_golden(include_str!("golden_generate/later.json"), Length::Generated);
}
