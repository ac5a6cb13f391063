//! The batch of any lane of any step: a function of (seed, step, lane) and the dataset version.

use crate::augment;
use crate::dataset::{Corpus, Pair};
use crate::decode::{self, Rgb, normalise};
use crate::order::{Order, place};
use crate::random::Key;
use crate::shards;
use crate::text::Tokenizer;
use medley_protocol::spec::AugmentSpec;
use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Decoded images kept in memory, in bytes.
const CACHE_BYTES: usize = 256 << 20;
/// Tries of a read before it is a fault.
const READ_TRIES: u32 = 3;
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
    #[error("{path}: {source}; the dataset version needs this shard, so put it back or submit a new job")]
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
        }
    }

    /// Another reader of the same samples, which keeps no images.
    pub fn another(&self) -> Self {
        Self {
            corpus: Arc::clone(&self.corpus),
            pairs: Arc::clone(&self.pairs),
            tokenizer: Arc::clone(&self.tokenizer),
            settings: self.settings.clone(),
            images: Images::read_once(),
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
    pub fn batch(&mut self, step: u64, lane: u32) -> Result<Batch, Fault> {
        let s = &self.settings;
        let (lanes, size) = (u64::from(s.lanes), u64::from(s.batch));
        let steps_per_epoch = self.steps_per_epoch();
        let (epoch, position) = place(step, steps_per_epoch, lanes, size, u64::from(lane), 0);
        let mut batch = Batch {
            epoch,
            position,
            pixels: Vec::with_capacity(s.batch as usize * self.pixels_per_image()),
            texts: Vec::new(),
            identities: Vec::new(),
            samples: Vec::new(),
            replaced: Vec::new(),
        };
        for position in position..position + size {
            let (sample, image, attempt) = self.drawn(epoch, position)?;
            if attempt > 0 {
                batch.replaced.push((position, attempt));
            }
            self.view(epoch, sample, &image, &mut batch.pixels);
            batch.texts.push(self.text(sample));
            batch.identities.push(self.identity(sample));
            batch.samples.push(sample);
        }
        Ok(batch)
    }

    /// Appends the pixels of a sample as every lane of the step sees them.
    ///
    /// # Errors
    /// [`Fault`] if its shard cannot be read, or its image does not decode.
    pub fn pixels(&mut self, step: u64, sample: u64, to: &mut Vec<f32>) -> Result<(), Fault> {
        let pair = self.pairs[sample as usize];
        let image = self.images.get(&self.corpus, pair)?;
        let image = image.ok_or_else(|| self.undecodable(pair, 1))?;
        self.view(step / self.steps_per_epoch(), sample, &image, to);
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

    fn view(&self, epoch: u64, sample: u64, image: &Rgb, to: &mut Vec<f32>) {
        let s = &self.settings;
        let key = Key::new(s.seed).at(epoch).at(sample);
        let text = self.corpus.text(self.pairs[sample as usize]);
        let view = augment::apply(&s.augment, image, text, s.image_size, key);
        let at = to.len();
        to.resize(at + self.pixels_per_image(), 0.0);
        normalise(&view, &mut to[at..]);
    }

    /// The pair at a position, its image, and how many substitutes it took.
    fn drawn(&mut self, epoch: u64, position: u64) -> Result<(u64, Arc<Rgb>, u64), Fault> {
        let order = Order::new(self.settings.seed, epoch, self.pairs.len() as u64);
        for attempt in 0..MAX_SUBSTITUTES {
            let index = order.substitute(position, attempt);
            if let Some(image) = self.images.get(&self.corpus, self.pairs[index as usize])? {
                return Ok((index, image, attempt));
            }
        }
        Err(self.undecodable(self.pairs[order.at(position) as usize], MAX_SUBSTITUTES))
    }

    fn undecodable(&self, pair: Pair, tries: u64) -> Fault {
        let path = self.corpus.shards[pair.shard as usize].path.clone();
        Fault::Undecodable { path, tries }
    }
}

/// Decoded images and open shards.
pub struct Images {
    decoded: HashMap<u64, Arc<Rgb>>,
    /// Bytes that may still be kept.
    room: usize,
    files: HashMap<u32, File>,
}

impl Default for Images {
    fn default() -> Self {
        Self {
            decoded: HashMap::new(),
            room: CACHE_BYTES,
            files: HashMap::new(),
        }
    }
}

impl Images {
    /// Keeps no image: for reading a corpus once.
    pub fn read_once() -> Self {
        Self {
            room: 0,
            ..Self::default()
        }
    }

    /// The image of a pair; none if its bytes do not decode.
    ///
    /// # Errors
    /// [`Fault`] if its shard cannot be read.
    pub fn get(&mut self, corpus: &Corpus, pair: Pair) -> Result<Option<Arc<Rgb>>, Fault> {
        let id = corpus.identity(pair);
        if let Some(image) = self.decoded.get(&id) {
            return Ok(Some(image.clone()));
        }
        let bytes = self.read(corpus, pair)?;
        let Ok(image) = decode::jpeg(&bytes) else {
            return Ok(None);
        };
        let image = Arc::new(image);
        if image.data.len() <= self.room {
            self.room -= image.data.len();
            self.decoded.insert(id, image.clone());
        }
        Ok(Some(image))
    }

    fn read(&mut self, corpus: &Corpus, pair: Pair) -> Result<Vec<u8>, Fault> {
        let shard = &corpus.shards[pair.shard as usize];
        let extent = shard.index.samples[pair.sample as usize].image;
        let fault = |source| Fault::Read {
            path: shard.path.clone(),
            source,
        };
        let mut attempt = 1;
        loop {
            let result = match self.files.entry(pair.shard) {
                std::collections::hash_map::Entry::Occupied(open) => shards::read(open.into_mut(), extent),
                std::collections::hash_map::Entry::Vacant(vacant) => {
                    let file = File::open(&shard.path).map_err(fault)?;
                    let (found, expected) = (file.metadata().map_err(fault)?.len(), shard.index.size_bytes);
                    if found != expected {
                        return Err(Fault::Changed {
                            path: shard.path.clone(),
                            found,
                            expected,
                        });
                    }
                    shards::read(vacant.insert(file), extent)
                }
            };
            match result {
                Ok(bytes) => return Ok(bytes),
                Err(error) if attempt >= READ_TRIES => return Err(fault(error)),
                Err(_) => {
                    // A handle may have gone stale on a network file system: open it again.
                    self.files.remove(&pair.shard);
                    std::thread::sleep(Duration::from_millis(50 << attempt));
                    attempt += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
