//! The batch of any lane of any step: a function of (seed, step, lane) and the dataset version.

use crate::augment::{self, Augment};
use crate::dataset::{Corpus, Pair};
use crate::decode::{self, Rgb, normalise};
use crate::order::{Order, place};
use crate::random::Key;
use crate::shards;
use crate::text::Tokenizer;
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
    pub augment: Augment,
    /// Longest text in tokens.
    pub max_tokens: usize,
    /// Put before every caption.
    pub prompt: String,
}

/// A lane's samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Normalised pixels, b × 3 × s × s.
    pub pixels: Vec<f32>,
    /// Token ids, `[CLS]` first and `[SEP]` last.
    pub texts: Vec<Vec<u32>>,
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
    pairs: Vec<Pair>,
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
            pairs,
            tokenizer,
            settings,
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
        let (side, lanes, size) = (s.image_size as usize, u64::from(s.lanes), u64::from(s.batch));
        let per_image = 3 * side * side;
        let mut batch = Batch {
            pixels: vec![0.0; s.batch as usize * per_image],
            texts: Vec::new(),
            replaced: Vec::new(),
        };
        let steps_per_epoch = self.steps_per_epoch();
        for slot in 0..size {
            let (epoch, position) = place(step, steps_per_epoch, lanes, size, u64::from(lane), slot);
            let (index, image, attempt) = self.sample(epoch, position)?;
            if attempt > 0 {
                batch.replaced.push((position, attempt));
            }
            let key = Key::new(self.settings.seed).at(epoch).at(index);
            let view = augment::apply(&self.settings.augment, &image, self.settings.image_size, key);
            normalise(&view, &mut batch.pixels[slot as usize * per_image..][..per_image]);
            batch.texts.push(self.tokens(self.pairs[index as usize]));
        }
        Ok(batch)
    }

    fn tokens(&self, pair: Pair) -> Vec<u32> {
        let text = self.corpus.text(pair);
        self.tokenizer
            .encode(&format!("{}{text}", self.settings.prompt), self.settings.max_tokens)
    }

    /// The pair at a position, its image, and how many substitutes it took.
    fn sample(&mut self, epoch: u64, position: u64) -> Result<(u64, Arc<Rgb>, u64), Fault> {
        let order = Order::new(self.settings.seed, epoch, self.pairs.len() as u64);
        for attempt in 0..MAX_SUBSTITUTES {
            let index = order.substitute(position, attempt);
            if let Some(image) = self.images.get(&self.corpus, self.pairs[index as usize])? {
                return Ok((index, image, attempt));
            }
        }
        let pair = self.pairs[order.at(position) as usize];
        let path = self.corpus.shards[pair.shard as usize].path.clone();
        Err(Fault::Undecodable {
            path,
            tries: MAX_SUBSTITUTES,
        })
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
        let id = Corpus::image_id(pair);
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
