//! Evaluation on the held-out set: retrieval both ways and greedy captions (BLIP, sections 4.1 and 4.2).
//!
//! Contrastive similarity orders all candidates; the best of each query are scored again by the matching head (score: logit of
//! a match plus cosine). A pair that both directions ask for is scored once, and an image's keys and values are computed once for all
//! texts that are scored against it. Images are the same if their files have the same bytes: each is looked at and captioned
//! once, and all its texts are true partners.

use super::pixels::Series;
use super::{Given, put_json, trained};
use crate::rank::failure::Failure;
use crate::stage::inputs;
use medley_data::dataset::{Corpus, Pair};
use medley_data::evaluation::{Details, Ranks, Row, best, rank_after, rank_of};
use medley_data::loader::Images;
use medley_data::text::Tokenizer;
use medley_model::generate::nucleus::GREEDY;
use medley_model::generate::{self, Caption, CaptionRequest, Reader};
use medley_model::ops::sum::dot;
use medley_protocol::spec::Spec;
use medley_protocol::tasks::{Set, TaskOutput};
use rayon::prelude::*;
use std::collections::HashMap;
use std::ops::Range;

/// Evaluates the checkpoint that the stage starts from.
pub(super) fn run(given: Given, progress: &mut dyn FnMut(u64, u64)) -> Result<TaskOutput, Failure> {
    let Given { spec, objects, .. } = given;
    let mut exam = Exam::load(given)?;
    let seen = exam.look(progress)?;
    let rerank = spec.evaluate.rerank as usize;
    let (images, texts) = (&seen.image_features, &seen.text_features);
    let images_of_texts = exam.image_of.iter().map(|image| vec![*image]).collect();
    let from_image = Search::new(images, texts, (seen.width, rerank), exam.texts_of());
    let from_text = Search::new(texts, images, (seen.width, rerank), images_of_texts);
    let scores = exam.match_scores(&seen, &from_image, &from_text, progress)?;
    let details = exam.details(&seen, &from_image, &from_text, &scores);
    let figures = details.figures(spec.evaluate.resamples, spec.seed);
    let details = put_json(objects, "evaluations/details", &details)?;
    Ok(TaskOutput::Evaluation { details, figures })
}

/// Everything an evaluation reads.
struct Exam<'a> {
    spec: &'a Spec,
    corpus: Corpus,
    /// All pairs: their texts are the texts of the evaluation.
    pairs: Vec<Pair>,
    /// The first pair of each image.
    images: Vec<Pair>,
    /// The image of each text.
    image_of: Vec<u32>,
    /// Token ids of the texts.
    texts: Vec<Vec<u32>>,
    tokenizer: Tokenizer,
    eyes: Eyes,
}

/// The model, and the images that it has looked at.
struct Eyes {
    model: Reader,
    images: Images,
}

impl Eyes {
    /// Calls `each` with the model, the numbers of some images and what it sees of them, until all images were looked at.
    fn look(
        &mut self,
        corpus: &Corpus,
        pairs: &[Pair],
        batch: usize,
        mut each: impl FnMut(&mut Reader, Range<usize>, &[f32]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let model = &mut self.model;
        let series = Series {
            corpus,
            pairs,
            batch,
            sides: &[model.blip().image_size],
        };
        series.for_each(&self.images, |batch, views| each(model, batch, &views[0]))
    }
}

/// What the model makes of each image and each text alone.
struct Seen {
    /// Unit features, images × width.
    image_features: Vec<f32>,
    /// Unit features, texts × width.
    text_features: Vec<f32>,
    width: usize,
    /// One for each image.
    captions: Vec<Caption>,
}

impl Seen {
    fn cosine(&self, image: usize, text: usize) -> f32 {
        let at = |row: usize| row * self.width..(row + 1) * self.width;
        dot(&self.image_features[at(image)], &self.text_features[at(text)])
    }
}

impl<'a> Exam<'a> {
    fn load(given: Given<'a>) -> Result<Self, Failure> {
        let Given {
            spec, inputs, objects, ..
        } = given;
        let version = inputs::version(objects, inputs)?;
        let corpus = inputs::corpus(objects, &spec.data, &version, |entry| entry.shard.set == Set::Test)?;
        let pairs = corpus.test_pairs();
        if pairs.is_empty() {
            return Err(Failure::lasting(
                "the dataset version has no held-out samples: set data.test",
            ));
        }
        let tokenizer = inputs::tokenizer(objects, &spec.vocab, inputs.vocab.as_ref())?;
        let longest = spec.max_tokens(&spec.pretrain);
        let texts = pairs.iter().map(|pair| tokenizer.encode(corpus.text(*pair), longest));
        let (images, image_of) = images(&corpus, &pairs);
        let (size, start) = (
            spec.pretrain.image_size,
            (inputs.start.as_ref(), &spec.start.pretrained[..]),
        );
        Ok(Self {
            eyes: Eyes {
                model: trained::load(given, size, &tokenizer, start, "checkpoint to evaluate")?,
                images: Images::default(),
            },
            texts: texts.collect(),
            spec,
            corpus,
            pairs,
            images,
            image_of,
            tokenizer,
        })
    }

    fn batch(&self) -> usize {
        self.spec.evaluate.batch.max(1) as usize
    }

    /// Units of progress: every image is looked at twice.
    fn units(&self) -> u64 {
        2 * self.images.len() as u64
    }

    /// The texts of each image.
    fn texts_of(&self) -> Vec<Vec<u32>> {
        let mut texts_of = vec![Vec::new(); self.images.len()];
        for (text, image) in (0..).zip(&self.image_of) {
            texts_of[*image as usize].push(text);
        }
        texts_of
    }

    /// Features of all images and texts, and a caption of each image.
    fn look(&mut self, progress: &mut dyn FnMut(u64, u64)) -> Result<Seen, Failure> {
        let prompt = self.tokenizer.pieces(&self.spec.pretrain.prompt);
        let (capfilt, text) = (&self.spec.capfilt, &self.spec.model.text);
        let request = CaptionRequest {
            search: generate::Search::Sample(GREEDY),
            count: 1,
            prompt: &prompt,
            min_tokens: capfilt.min_tokens as usize,
            max_tokens: capfilt.max_tokens.min(text.positions) as usize,
            seed: self.spec.seed,
        };
        let mut seen = Seen {
            image_features: Vec::new(),
            text_features: Vec::new(),
            width: self.eyes.model.blip().model.embed_dim as usize,
            captions: Vec::new(),
        };
        for texts in self.texts.chunks(self.batch()) {
            seen.text_features.extend(self.eyes.model.text_features(texts)?);
        }
        let (at_once, units) = (self.batch(), self.units());
        self.eyes
            .look(&self.corpus, &self.images, at_once, |model, batch, view| {
                seen.image_features.extend(model.image_features(view, batch.len())?);
                // Greedy captions draw nothing, so that any key serves.
                let keys: Vec<u64> = batch.clone().map(|i| i as u64).collect();
                seen.captions.extend(model.captions(view, &keys, &request)?);
                progress(batch.end as u64, units);
                Ok(())
            })?;
        self.check_finite(&seen)?;
        Ok(seen)
    }

    fn check_finite(&self, seen: &Seen) -> Result<(), Failure> {
        let finite = |features: &[f32]| features.iter().all(|v| v.is_finite());
        let broken = |(text, image): (usize, &u32)| {
            let (image, width) = (*image as usize, seen.width);
            let whole = finite(&seen.image_features[image * width..][..width])
                && finite(&seen.text_features[text * width..][..width])
                && seen.captions[image].log_probability.is_finite();
            (!whole).then_some(text)
        };
        match self.image_of.iter().enumerate().find_map(broken) {
            None => Ok(()),
            Some(text) => Err(Failure::lasting(format!(
                "the model gives no finite numbers for held-out sample {}: its training has diverged; lower pretrain.peak_lr",
                self.place(text).1
            ))),
        }
    }

    /// Shard and key of a pair.
    fn place(&self, row: usize) -> (&str, &str) {
        let Pair { shard, sample, .. } = self.pairs[row];
        let shard = &self.corpus.shards[shard as usize];
        (&shard.name.file, &shard.index.samples[sample as usize].key)
    }

    /// Scores every pair that either search retained.
    fn match_scores(
        &mut self,
        seen: &Seen,
        from_image: &Search,
        from_text: &Search,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Scores, Failure> {
        let texts_of = asked(from_image, from_text);
        let mut scores = Vec::with_capacity(texts_of.len());
        let (at_once, units, images) = (self.batch(), self.units(), self.images.len());
        self.eyes
            .look(&self.corpus, &self.images, at_once, |model, batch, view| {
                let of_image = |(i, image): (usize, usize)| texts_of[image].iter().map(move |text| (i as u32, *text));
                let links: Vec<(u32, u32)> = batch.clone().enumerate().flat_map(of_image).collect();
                let logits = model.match_logits(view, batch.len(), &self.texts, &links)?;
                let mut logits = logits.into_iter();
                for image in batch.clone() {
                    let score = |(text, logits): (&u32, [f32; 2])| logits[1] + seen.cosine(image, *text as usize);
                    scores.push(texts_of[image].iter().zip(logits.by_ref()).map(score).collect());
                }
                progress((images + batch.end) as u64, units);
                Ok(())
            })?;
        Ok(Scores { texts_of, scores })
    }

    fn details(&self, seen: &Seen, from_image: &Search, from_text: &Search, scores: &Scores) -> Details {
        let row = |(text, image): (u32, &u32)| {
            let (shard, key) = self.place(text as usize);
            let caption = &seen.captions[*image as usize];
            let pair = self.pairs[text as usize];
            Row {
                shard: shard.to_owned(),
                key: key.to_owned(),
                image: Some(self.corpus.identity(pair)),
                text: self.corpus.text(pair).to_owned(),
                caption: self.tokenizer.decode(&caption.tokens),
                log_probability: caption.log_probability,
                text_to_image: from_text.ranks((text, *image), |image| scores.get(image, text)),
                image_to_text: from_image.ranks((*image, text), |text| scores.get(*image, text)),
            }
        };
        Details {
            rows: (0..).zip(&self.image_of).map(row).collect(),
        }
    }
}

/// The first pair of each image, and the image of each pair.
fn images(corpus: &Corpus, pairs: &[Pair]) -> (Vec<Pair>, Vec<u32>) {
    let (mut images, mut numbers) = (Vec::new(), HashMap::new());
    let mut number = |pair: &Pair| {
        *numbers.entry(corpus.identity(*pair)).or_insert_with(|| {
            images.push(*pair);
            images.len() as u32 - 1
        })
    };
    let image_of = pairs.iter().map(&mut number).collect();
    (images, image_of)
}

/// A search by contrastive similarity in one direction.
struct Search {
    /// Each query's true partners.
    partners: Vec<Vec<u32>>,
    /// Their places among all candidates.
    places: Vec<Vec<u32>>,
    /// Each query's best candidates, best first.
    retained: Vec<Vec<u32>>,
}

impl Search {
    /// # Shapes
    /// queries: n × width, candidates: m × width, partners: n lists
    fn new(queries: &[f32], candidates: &[f32], (width, retain): (usize, usize), partners: Vec<Vec<u32>>) -> Self {
        let of_query = |(query, partners): (&[f32], &Vec<u32>)| {
            let similarities: Vec<f32> = candidates.chunks_exact(width).map(|c| dot(query, c)).collect();
            let place = |partner: &u32| rank_of(*partner as usize, &similarities);
            (partners.iter().map(place).collect(), best(retain, &similarities))
        };
        let queries = queries.par_chunks_exact(width).zip(&partners);
        let (places, retained) = queries.map(of_query).unzip();
        Self {
            partners,
            places,
            retained,
        }
    }

    /// Ranks of a true partner of a query, before and after the retained candidates got new scores.
    fn ranks(&self, (query, partner): (u32, u32), score: impl Fn(u32) -> f32) -> Ranks {
        let (query, retained) = (query as usize, &self.retained[query as usize]);
        let partners = self.partners[query].iter().zip(&self.places[query]);
        let (_, itc) = partners
            .into_iter()
            .find(|(of_query, _)| **of_query == partner)
            .expect("ranks are asked for of true partners");
        let rescored: Vec<f32> = retained.iter().map(|candidate| score(*candidate)).collect();
        let itm = rank_after(partner, *itc, retained, &rescored);
        Ranks { itc: *itc, itm }
    }
}

/// The texts that are to be scored against each image, ascending.
fn asked(from_image: &Search, from_text: &Search) -> Vec<Vec<u32>> {
    let mut texts_of = from_image.retained.clone();
    for (text, images) in from_text.retained.iter().enumerate() {
        for image in images {
            texts_of[*image as usize].push(text as u32);
        }
    }
    for texts in &mut texts_of {
        texts.sort_unstable();
        texts.dedup();
    }
    texts_of
}

/// Scores of the asked pairs, by image.
struct Scores {
    texts_of: Vec<Vec<u32>>,
    scores: Vec<Vec<f32>>,
}

impl Scores {
    fn get(&self, image: u32, text: u32) -> f32 {
        let image = image as usize;
        let at = self.texts_of[image]
            .binary_search(&text)
            .expect("what a search retained was scored");
        self.scores[image][at]
    }
}
