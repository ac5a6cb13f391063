//! Captions and match logits of the fixture's samples, for the benches.

use crate::fixture::{Fixture, Samples};
use medley_model::blip::Blip;
use medley_model::flat::Flat;
use medley_model::generate::nucleus::Sampling;
use medley_model::generate::{Caption, CaptionRequest, Reader, Search};
use medley_model::init;
use medley_protocol::spec::ModelSpec;

/// Tokens that every caption grows by, if there are so many positions: `[SEP]` may not come before.
const NEW_TOKENS: usize = 20;
/// Texts scored against each image: the web's and the captioner's.
pub(crate) const TEXTS_AN_IMAGE: usize = 2;

/// Tokens that every caption of such a model grows by.
pub(crate) fn new_tokens(model: &ModelSpec) -> usize {
    NEW_TOKENS.min(model.text.positions as usize - 1)
}

/// The fixture's model, which holds parameters alone.
pub(crate) fn reader(fixture: &Fixture) -> Reader {
    let Fixture { spec, blip, pool, .. } = fixture;
    let mut params = Flat::zeros(blip.student_layout.len());
    init::weights(&blip.model, &blip.student_layout, spec.seed, &mut params);
    let same = Blip::new(&blip.model, blip.image_size, blip.vocab);
    Reader::new(same, params, pool.device())
}

/// A caption of each image.
pub(crate) fn captions(reader: &mut Reader, samples: &Samples, sampling: Sampling) -> Vec<Caption> {
    let tokens = 1 + new_tokens(&reader.blip().model);
    let request = CaptionRequest {
        search: Search::Sample(sampling),
        count: 1,
        prompt: &[],
        min_tokens: tokens,
        max_tokens: tokens,
        seed: 1,
    };
    let keys: Vec<u64> = (0..samples.texts.len() as u64).collect();
    let captions = reader.captions(&samples.pixels, &keys, &request);
    captions.unwrap_or_else(|error| panic!("{error}"))
}

/// Match logits of each image and its texts.
pub(crate) fn matching(reader: &mut Reader, samples: &Samples) -> Vec<[f32; 2]> {
    let (b, each) = (samples.texts.len() as u32, TEXTS_AN_IMAGE as u32);
    let pairs: Vec<(u32, u32)> = (0..b * each).map(|pair| (pair / each, pair % b)).collect();
    let logits = reader.match_logits(&samples.pixels, b as usize, &samples.texts, &pairs);
    logits.unwrap_or_else(|error| panic!("{error}"))
}
