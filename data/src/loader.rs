//! The batch of any lane of any step: a function of (seed, step, lane) and the dataset version.

mod images;

pub use images::Images;

use crate::augment;
use crate::dataset::{Corpus, Pair};
use crate::decode::{Rgb, normalise};
use crate::order::{Order, place};
use crate::random::Key;
use crate::text::Tokenizer;
use medley_protocol::spec::AugmentSpec;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::path::PathBuf;
use std::sync::Arc;

/// Substitutes tried for a sample that does not decode.
const MAX_SUBSTITUTES: u64 = 16;

/// What a loader needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Seed of order and augmentation.
    pub seed: u64,
    /// Lanes of a step.
    pub lanes: u32,
    /// Samples of a lane.
    pub batch: u32,
    /// Side of an image in pixels.
    pub image_size: u32,
    /// Augmentation.
    pub augment: AugmentSpec,
    /// Longest text in tokens.
    pub max_tokens: usize,
    /// Put before every caption.
    pub prompt: String,
}

/// A lane's samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The epoch.
    pub epoch: u64,
    /// Position in the epoch of the first sample; the others follow.
    pub position: u64,
    /// Normalised pixels, b × 3 × s × s.
    pub pixels: Vec<f32>,
    /// Token ids, `[CLS]` first and `[SEP]` last.
    pub texts: Vec<Vec<u32>>,
    /// Identities of the images.
    pub identities: Vec<u64>,
    /// Numbers of the samples, by which any lane of the step can read them.
    pub samples: Vec<u64>,
    /// Samples that were replaced because their bytes did not decode: (position in the epoch, stand-in's number of the try).
    pub replaced: Vec<(u64, u64)>,
}

/// Training data cannot be read: a fault of the rank, never a skip.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// A shard that the dataset version names cannot be read.
    #[error(
        "{path}: {source}; the dataset version needs this shard: put it back where every node can read it, and if the job has \
         failed retry it (`medley jobs retry`)"
    )]
    Read {
        /// The shard.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A shard is not the file that was indexed.
    #[error(
        "{path}: the file has {found} bytes, {expected} when it was indexed; a dataset version's shards must not change"
    )]
    Changed {
        /// The shard.
        path: PathBuf,
        /// Size now.
        found: u64,
        /// Size then.
        expected: u64,
    },
    /// One sample after the other does not decode.
    #[error("{path}: {tries} samples in a row did not decode although they did when indexed")]
    Undecodable {
        /// The last sample's shard.
        path: PathBuf,
        /// How many.
        tries: u64,
    },
}

/// Reads lanes.
pub struct Loader {
    corpus: Arc<Corpus>,
    pairs: Arc<[Pair]>,
    tokenizer: Arc<Tokenizer>,
    settings: Settings,
    images: Images,
    /// Threads that decode and augment a batch's images; without any, whoever asks for the batch does.
    threads: Option<Arc<ThreadPool>>,
}

impl Loader {
    /// A loader over some pairs of a corpus.
    pub fn new(corpus: Arc<Corpus>, pairs: Vec<Pair>, tokenizer: Arc<Tokenizer>, settings: Settings) -> Self {
        Self {
            images: Images::default(),
            corpus,
            pairs: pairs.into(),
            tokenizer,
            settings,
            threads: None,
        }
    }

    /// This loader, with so many threads of its own that decode and augment the images of a batch: the same batches, sooner.
    ///
    /// # Errors
    /// What the system says of the threads.
    pub fn on_threads(self, threads: usize) -> std::io::Result<Self> {
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("decode-{i}"));
        let threads = Some(Arc::new(pool.build().map_err(std::io::Error::other)?));
        Ok(Self { threads, ..self })
    }

    /// Another reader of the same samples, which keeps no images.
    pub fn another(&self) -> Self {
        Self {
            corpus: Arc::clone(&self.corpus),
            pairs: Arc::clone(&self.pairs),
            tokenizer: Arc::clone(&self.tokenizer),
            settings: self.settings.clone(),
            images: Images::read_once(),
            threads: self.threads.clone(),
        }
    }

    /// Steps of an epoch; 0 if not even one fits.
    pub fn steps_per_epoch(&self) -> u64 {
        self.pairs.len() as u64 / (u64::from(self.settings.lanes) * u64::from(self.settings.batch))
    }

    /// The samples of a lane in a step.
    ///
    /// # Errors
    /// [`Fault`] if a shard cannot be read.
    pub fn batch(&self, step: u64, lane: u32) -> Result<Batch, Fault> {
        let s = &self.settings;
        let (lanes, size) = (u64::from(s.lanes), u64::from(s.batch));
        let steps_per_epoch = self.steps_per_epoch();
        let (epoch, position) = place(step, steps_per_epoch, lanes, size, u64::from(lane), 0);
        let mut batch = Batch {
            epoch,
            position,
            pixels: vec![0.0; s.batch as usize * self.pixels_per_image()],
            texts: Vec::new(),
            identities: Vec::new(),
            samples: Vec::new(),
            replaced: Vec::new(),
        };
        self.fill(&mut batch)?;
        Ok(batch)
    }

    /// Draws the samples of a batch. Each thread has one decoded image at a time.
    fn fill(&self, batch: &mut Batch) -> Result<(), Fault> {
        let (epoch, first, per_image) = (batch.epoch, batch.position, self.pixels_per_image());
        let draw = |(i, to): (usize, &mut [f32])| self.draw(epoch, first + i as u64, to);
        let pixels = &mut batch.pixels;
        let drawn: Result<Vec<Drawn>, Fault> = match &self.threads {
            None => pixels.chunks_exact_mut(per_image).enumerate().map(draw).collect(),
            Some(threads) => threads.install(|| pixels.par_chunks_exact_mut(per_image).enumerate().map(draw).collect()),
        };
        self.describe(batch, &drawn?);
        Ok(())
    }

    /// Notes what was drawn for the positions of a batch, in their order.
    fn describe(&self, batch: &mut Batch, drawn: &[Drawn]) {
        for (position, drawn) in (batch.position..).zip(drawn) {
            if drawn.attempt > 0 {
                batch.replaced.push((position, drawn.attempt));
            }
            batch.texts.push(self.text(drawn.sample));
            batch.identities.push(self.identity(drawn.sample));
            batch.samples.push(drawn.sample);
        }
    }

    /// Appends the pixels of a sample as every lane of the step sees them.
    ///
    /// # Errors
    /// [`Fault`] if its shard cannot be read, or its image does not decode.
    pub fn pixels(&self, step: u64, sample: u64, to: &mut Vec<f32>) -> Result<(), Fault> {
        let pair = self.pairs[sample as usize];
        let image = self.images.get(&self.corpus, pair)?;
        let image = image.ok_or_else(|| self.undecodable(pair, 1))?;
        let at = to.len();
        to.resize(at + self.pixels_per_image(), 0.0);
        self.view(step / self.steps_per_epoch(), sample, &image, &mut to[at..]);
        Ok(())
    }

    /// Token ids of a sample, `[CLS]` first and `[SEP]` last.
    pub fn text(&self, sample: u64) -> Vec<u32> {
        let text = self.corpus.text(self.pairs[sample as usize]);
        self.tokenizer
            .encode(&format!("{}{text}", self.settings.prompt), self.settings.max_tokens)
    }

    /// Identity of a sample's image.
    pub fn identity(&self, sample: u64) -> u64 {
        self.corpus.identity(self.pairs[sample as usize])
    }

    fn pixels_per_image(&self) -> usize {
        let side = self.settings.image_size as usize;
        3 * side * side
    }

    fn view(&self, epoch: u64, sample: u64, image: &Rgb, to: &mut [f32]) {
        let s = &self.settings;
        let key = Key::new(s.seed).at(epoch).at(sample);
        let text = self.corpus.text(self.pairs[sample as usize]);
        let view = augment::apply(&s.augment, image, text, s.image_size, key);
        normalise(&view, to);
    }

    /// Draws the sample at a position, or the first of its substitutes that decodes, and puts its pixels to a place.
    fn draw(&self, epoch: u64, position: u64, to: &mut [f32]) -> Result<Drawn, Fault> {
        let order = Order::new(self.settings.seed, epoch, self.pairs.len() as u64);
        for attempt in 0..MAX_SUBSTITUTES {
            let sample = order.substitute(position, attempt);
            if let Some(image) = self.images.get(&self.corpus, self.pairs[sample as usize])? {
                self.view(epoch, sample, &image, to);
                return Ok(Drawn { sample, attempt });
            }
        }
        Err(self.undecodable(self.pairs[order.at(position) as usize], MAX_SUBSTITUTES))
    }

    fn undecodable(&self, pair: Pair, tries: u64) -> Fault {
        let path = self.corpus.shards[pair.shard as usize].path.clone();
        Fault::Undecodable { path, tries }
    }
}

/// A sample that was drawn for a position, and how many substitutes it took.
struct Drawn {
    sample: u64,
    attempt: u64,
}

#[cfg(test)]
mod tests;
