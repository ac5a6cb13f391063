//! CapFilt (BLIP, section 3.3): a caption for every web image, match probabilities of all its texts, then the threshold.
//!
//! A caption's random draws are keyed by the image's shard and key, and every kernel treats rows alike whatever their
//! company; so an overlay is the same bytes on any rank, and on the processor for any batch size too. On GPUs of one kind it is for
//! one batch size: the number of rows decides in what order products are summed.

use super::index::version_counts;
use super::pixels::Series;
use super::{Given, object_name, put_json, trained};
use crate::rank::failure::Failure;
use crate::stage::inputs;
use medley_data::dataset::{Corpus, Overlay, OverlayEntry, Pair, Source, Version};
use medley_data::index::Sample;
use medley_data::loader::Images;
use medley_data::text::Tokenizer;
use medley_model::generate::nucleus::Sampling;
use medley_model::generate::score::match_probability;
use medley_model::generate::{Caption, CaptionRequest, Reader, Search};
use medley_protocol::spec::Spec;
use medley_protocol::tasks::{Set, ShardName, ShardObject, TaskOutput};
use std::collections::BTreeMap;

/// What all shards of the stage are worked on with.
pub(super) struct Tools {
    version: Version,
    tokenizer: Tokenizer,
    captioner: Reader,
    filter: Reader,
    /// Tokens that every caption begins with.
    prompt: Vec<u32>,
}

impl Tools {
    /// Loads the dataset version's manifest and both models; a shard's index is read with the shard.
    pub(super) fn load(given: Given) -> Result<Self, Failure> {
        let Given {
            spec, inputs, objects, ..
        } = given;
        let tokenizer = inputs::tokenizer(objects, &spec.vocab, inputs.vocab.as_ref())?;
        let load = |image_size, from, role| trained::load(given, image_size, &tokenizer, from, role);
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

    /// Captions every image of a web shard, scores all its texts, and writes the overlay.
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
        let mut entries = Vec::with_capacity(pairs.len());
        let [own, other] = [&self.captioner, &self.filter].map(|model| model.blip().image_size);
        let series = Series {
            corpus: &corpus,
            pairs: &pairs,
            batch: spec.capfilt.batch.max(1) as usize,
            sides: if own == other { &[own] } else { &[own, other] },
        };
        series.for_each(&Images::read_once(), |batch, views| {
            entries.extend(self.batch(spec, &corpus, &pairs[batch], views)?);
            progress(entries.len() as u64, u64::from(total));
            Ok(())
        })?;
        let overlay = Overlay { entries };
        let object = put_json(objects, &object_name("overlays", shard), &overlay)?;
        corpus.threshold = Some(spec.capfilt.threshold);
        corpus.shards[0].overlay = Some(overlay);
        let counts = corpus.counts();
        Ok(TaskOutput::Shard { object, counts })
    }

    /// `views` are the images as the captioner sees them, and as the filter does if that is something else.
    fn batch(
        &mut self,
        spec: &Spec,
        corpus: &Corpus,
        pairs: &[Pair],
        views: &[Vec<f32>],
    ) -> Result<Vec<OverlayEntry>, Failure> {
        let (view, other_view) = (&views[0], &views[views.len() - 1]);
        let captions = self.captions(spec, corpus, pairs, view)?;
        let synthetic: Vec<String> = captions.iter().map(|c| self.tokenizer.decode(&c.tokens)).collect();
        let probabilities = self.probabilities(spec, corpus, pairs, &synthetic, other_view)?;
        let entries = captions.iter().zip(synthetic).zip(probabilities).zip(pairs);
        entries
            .map(|(((caption, synthetic), probabilities), pair)| {
                let (made, web) = probabilities.split_last().expect("one for each text, and one is made");
                let entry = OverlayEntry {
                    web_probability: web[0],
                    more: web[1..].into(),
                    synthetic,
                    synthetic_probability: *made,
                    log_probability: caption.log_probability,
                };
                finite(&entry).then_some(entry).ok_or_else(|| diverged(corpus, *pair))
            })
            .collect()
    }

    fn captions(
        &mut self,
        spec: &Spec,
        corpus: &Corpus,
        pairs: &[Pair],
        view: &[f32],
    ) -> Result<Vec<Caption>, Failure> {
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
        Ok(self.captioner.captions(view, &keys, &request)?)
    }

    /// Match probabilities of each image's web texts, then of its synthetic text; an image is looked at once for all.
    fn probabilities(
        &mut self,
        spec: &Spec,
        corpus: &Corpus,
        pairs: &[Pair],
        synthetic: &[String],
        view: &[f32],
    ) -> Result<Vec<Vec<f32>>, Failure> {
        let longest = spec.max_tokens(&spec.filter);
        let (mut texts, mut links) = (Vec::new(), Vec::new());
        for (image, (pair, made)) in (0..).zip(pairs.iter().zip(synthetic)) {
            for text in sample_of(corpus, *pair).texts().chain([made.as_str()]) {
                links.push((image, texts.len() as u32));
                texts.push(self.tokenizer.encode(text, longest));
            }
        }
        let logits = self.filter.match_logits(view, pairs.len(), &texts, &links)?;
        let mut of_image = vec![Vec::new(); pairs.len()];
        for ((image, _), logits) in links.iter().zip(logits) {
            of_image[*image as usize].push(match_probability(logits));
        }
        Ok(of_image)
    }
}

/// An image of the only shard of a corpus, with the first of its texts.
fn web_pair(sample: u32) -> Pair {
    Pair {
        shard: 0,
        sample,
        text: 0,
        source: Source::Web,
    }
}

fn sample_of(corpus: &Corpus, pair: Pair) -> &Sample {
    &corpus.shards[pair.shard as usize].index.samples[pair.sample as usize]
}

/// The number that keys the draws for an image's caption: of its shard and key alone.
fn draw_key(corpus: &Corpus, pair: Pair) -> u64 {
    let shard = &corpus.shards[pair.shard as usize];
    let key = &sample_of(corpus, pair).key;
    // A name cannot hold the separator.
    let name = [shard.name.set.name(), &shard.name.file, key].join("\0");
    let [a, b, c, d, e, f, g, h, ..] = *blake3::hash(name.as_bytes()).as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

fn finite(entry: &OverlayEntry) -> bool {
    let made = [entry.synthetic_probability, entry.log_probability];
    entry.web_probabilities().chain(made).all(f32::is_finite)
}

fn diverged(corpus: &Corpus, pair: Pair) -> Failure {
    let shard = &corpus.shards[pair.shard as usize];
    Failure::lasting(format!(
        "captioner and filter give no finite probabilities for sample {} of {}: their training has diverged; lower \
         captioner.peak_lr or filter.peak_lr",
        sample_of(corpus, pair).key,
        shard.name.file
    ))
}

/// Puts the overlays of all web shards to the version's shards: the next version, with the spec's threshold.
pub(super) fn merge(given: Given, overlays: &[ShardObject]) -> Result<TaskOutput, Failure> {
    let Given {
        spec, inputs, objects, ..
    } = given;
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
