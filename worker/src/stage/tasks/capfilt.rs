//! CapFilt (BLIP, section 3.3): a caption for every web image, match probabilities of both texts, then the threshold.
//!
//! A caption's random draws are keyed by the image's shard and key, and every kernel treats rows alike whatever their
//! company; so an overlay is the same bytes on any rank and for any batch size.

use super::index::version_counts;
use super::trained::Trained;
use super::{Given, object_name, pixels, put_json};
use crate::rank::failure::Failure;
use crate::stage::inputs;
use medley_data::dataset::{Corpus, Overlay, OverlayEntry, Pair, Source, Version};
use medley_data::loader::Images;
use medley_data::text::Tokenizer;
use medley_model::generate::nucleus::Sampling;
use medley_model::generate::score::match_probability;
use medley_model::generate::{Caption, CaptionRequest, Search};
use medley_protocol::spec::Spec;
use medley_protocol::tasks::{Set, ShardName, ShardObject, TaskOutput};
use std::collections::BTreeMap;

/// What all shards of the stage are worked on with.
pub(super) struct Tools {
    version: Version,
    tokenizer: Tokenizer,
    captioner: Trained,
    filter: Trained,
    /// Tokens that every caption begins with.
    prompt: Vec<u32>,
}

impl Tools {
    /// Loads the dataset version's manifest and both models; a shard's index is read with the shard.
    pub(super) fn load(given: Given) -> Result<Self, Failure> {
        let Given { spec, inputs, objects } = given;
        let tokenizer = inputs::tokenizer(objects, &spec.vocab, inputs.vocab.as_ref())?;
        let load = |image_size, from, role| Trained::load(given, image_size, &tokenizer, from, role);
        let (captioner, filter) = (inputs.captioner.as_ref(), inputs.filter.as_ref());
        let captioner = load(
            spec.captioner.image_size,
            (captioner, &spec.start.captioner),
            "captioner",
        )?;
        let filter = load(spec.filter.image_size, (filter, &spec.start.filter), "filter")?;
        let prompt = tokenizer.pieces(&spec.captioner.prompt);
        let longest = spec.capfilt.max_tokens as usize;
        if prompt.len() + 1 >= longest {
            return Err(Failure::lasting(format!(
                "capfilt.max_tokens is {longest}: no room for a caption after the {} tokens of captioner.prompt",
                prompt.len()
            )));
        }
        Ok(Self {
            version: inputs::version(objects, inputs)?,
            tokenizer,
            captioner,
            filter,
            prompt,
        })
    }

    /// Captions every image of a web shard, scores both texts, and writes the overlay.
    pub(super) fn shard(
        &mut self,
        given: Given,
        shard: &ShardName,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<TaskOutput, Failure> {
        let Given { spec, objects, .. } = given;
        let mut corpus = inputs::corpus(objects, &spec.data, &self.version, |entry| entry.shard == *shard)?;
        let Some(loaded) = corpus.shards.first() else {
            let (set, file) = (shard.set.name(), &shard.file);
            return Err(Failure::lasting(format!(
                "the dataset version has no shard {file} in its {set} set"
            )));
        };
        let total = loaded.index.samples.len() as u32;
        let pairs: Vec<Pair> = (0..total).map(web_pair).collect();
        let mut images = Images::read_once();
        let mut entries = Vec::with_capacity(pairs.len());
        for batch in pairs.chunks(spec.capfilt.batch.max(1) as usize) {
            entries.extend(self.batch(spec, &corpus, &mut images, batch)?);
            progress(entries.len() as u64, u64::from(total));
        }
        let overlay = Overlay { entries };
        let object = put_json(objects, &object_name("overlays", shard), &overlay)?;
        corpus.threshold = Some(spec.capfilt.threshold);
        corpus.shards[0].overlay = Some(overlay);
        let counts = corpus.counts();
        Ok(TaskOutput::Shard { object, counts })
    }

    fn batch(
        &mut self,
        spec: &Spec,
        corpus: &Corpus,
        images: &mut Images,
        pairs: &[Pair],
    ) -> Result<Vec<OverlayEntry>, Failure> {
        let decoded = pixels::read(images, corpus, pairs)?;
        let view = pixels::squares(&decoded, self.captioner.image_size());
        let other_view = (self.filter.image_size() != self.captioner.image_size())
            .then(|| pixels::squares(&decoded, self.filter.image_size()));
        let captions = self.captions(spec, corpus, pairs, &view);
        let synthetic: Vec<String> = captions.iter().map(|c| self.tokenizer.decode(&c.tokens)).collect();
        let probabilities = self.probabilities(spec, corpus, pairs, &synthetic, other_view.as_ref().unwrap_or(&view));
        let entries = captions.iter().zip(synthetic).zip(probabilities).zip(pairs);
        entries
            .map(|(((caption, synthetic), [web, made]), pair)| {
                let entry = OverlayEntry {
                    web_probability: web,
                    synthetic,
                    synthetic_probability: made,
                    log_probability: caption.log_probability,
                };
                finite(&entry).then_some(entry).ok_or_else(|| diverged(corpus, *pair))
            })
            .collect()
    }

    fn captions(&mut self, spec: &Spec, corpus: &Corpus, pairs: &[Pair], view: &[f32]) -> Vec<Caption> {
        let capfilt = &spec.capfilt;
        let request = CaptionRequest {
            search: Search::Sample(Sampling {
                top_p: capfilt.top_p as f32,
                top_k: capfilt.top_k as usize,
                repetition_penalty: capfilt.repetition_penalty as f32,
            }),
            count: 1,
            prompt: &self.prompt,
            min_tokens: capfilt.min_tokens as usize,
            max_tokens: capfilt.max_tokens as usize,
            seed: spec.seed,
        };
        let keys: Vec<u64> = pairs.iter().map(|pair| draw_key(corpus, *pair)).collect();
        self.captioner.captions(view, &keys, &request)
    }

    /// Match probabilities of each image's web text and synthetic text; an image is looked at once for both.
    fn probabilities(
        &mut self,
        spec: &Spec,
        corpus: &Corpus,
        pairs: &[Pair],
        synthetic: &[String],
        view: &[f32],
    ) -> Vec<[f32; 2]> {
        let longest = spec.max_tokens(&spec.filter);
        let both = pairs.iter().zip(synthetic);
        let texts: Vec<Vec<u32>> = both
            .flat_map(|(pair, made)| [corpus.text(*pair), made])
            .map(|text| self.tokenizer.encode(text, longest))
            .collect();
        let links: Vec<(u32, u32)> = (0..texts.len() as u32).map(|text| (text / 2, text)).collect();
        let logits = self.filter.match_logits(view, pairs.len(), &texts, &links);
        logits
            .chunks_exact(2)
            .map(|of_image| [match_probability(of_image[0]), match_probability(of_image[1])])
            .collect()
    }
}

/// A sample of the only shard of a corpus, with its web text.
fn web_pair(sample: u32) -> Pair {
    Pair {
        shard: 0,
        sample,
        source: Source::Web,
    }
}

/// The number that keys the draws for an image's caption: of its shard and key alone.
fn draw_key(corpus: &Corpus, pair: Pair) -> u64 {
    let shard = &corpus.shards[pair.shard as usize];
    let key = &shard.index.samples[pair.sample as usize].key;
    // A name cannot hold the separator.
    let name = [shard.name.set.name(), &shard.name.file, key].join("\0");
    let [a, b, c, d, e, f, g, h, ..] = *blake3::hash(name.as_bytes()).as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

fn finite(entry: &OverlayEntry) -> bool {
    [
        entry.web_probability,
        entry.synthetic_probability,
        entry.log_probability,
    ]
    .iter()
    .all(|p| p.is_finite())
}

fn diverged(corpus: &Corpus, pair: Pair) -> Failure {
    let shard = &corpus.shards[pair.shard as usize];
    Failure::lasting(format!(
        "captioner and filter give no finite probabilities for sample {} of {}: their training has diverged; lower \
         captioner.peak_lr or filter.peak_lr",
        shard.index.samples[pair.sample as usize].key, shard.name.file
    ))
}

/// Puts the overlays of all web shards to the version's shards: the next version, with the spec's threshold.
pub(super) fn merge(given: Given, overlays: &[ShardObject]) -> Result<TaskOutput, Failure> {
    let Given { spec, inputs, objects } = given;
    let mut made: BTreeMap<&ShardName, &ShardObject> = overlays.iter().map(|made| (&made.shard, made)).collect();
    let mut version = inputs::version(objects, inputs)?;
    for entry in version.shards.iter_mut().filter(|entry| entry.shard.set == Set::Web) {
        let overlay = made
            .remove(&entry.shard)
            .ok_or_else(|| Failure::lasting(format!("web shard {} has no overlay", entry.shard.file)))?;
        entry.overlay = Some(overlay.object.clone());
    }
    if let Some(stray) = made.keys().next() {
        let file = &stray.file;
        return Err(Failure::lasting(format!(
            "the overlay of shard {file} belongs to no web shard of the dataset version"
        )));
    }
    version.parent.clone_from(&inputs.dataset);
    version.threshold = Some(spec.capfilt.threshold);
    let corpus = inputs::corpus(objects, &spec.data, &version, |_| true)?;
    let vocab = inputs.vocab.clone();
    Ok(TaskOutput::Dataset {
        dataset: put_json(objects, "datasets/version", &version)?,
        vocab: vocab.ok_or_else(|| Failure::lasting("the assignment names no vocabulary"))?,
        counts: version_counts(&corpus),
    })
}
