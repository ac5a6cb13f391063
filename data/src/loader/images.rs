//! Decoded images and open shards.

use super::Fault;
use crate::dataset::{Corpus, Pair};
use crate::decode::{self, Rgb};
use crate::shards;
use medley_protocol::file;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Decoded images kept in memory, in bytes.
const CACHE_BYTES: usize = 256 << 20;
/// Tries of a read before it is a fault.
const READ_TRIES: u32 = 3;

/// Decoded images and open shards, for any number of threads: each holds the one image that it has asked for, and what is kept
/// besides is bounded.
pub struct Images {
    kept: Mutex<Kept>,
    files: Mutex<HashMap<u32, Arc<File>>>,
}

struct Kept {
    images: HashMap<u64, Arc<Rgb>>,
    /// Bytes that may still be kept.
    room: usize,
}

impl Default for Images {
    fn default() -> Self {
        Self::keeping(CACHE_BYTES)
    }
}

impl Images {
    /// Keeps no image: for reading a corpus once.
    pub fn read_once() -> Self {
        Self::keeping(0)
    }

    fn keeping(room: usize) -> Self {
        let images = HashMap::new();
        Self {
            kept: Mutex::new(Kept { images, room }),
            files: Mutex::default(),
        }
    }

    /// The image of a pair, read and decoded by the thread that asks; none if its bytes do not decode.
    ///
    /// # Errors
    /// [`Fault`] if its shard cannot be read.
    pub fn get(&self, corpus: &Corpus, pair: Pair) -> Result<Option<Arc<Rgb>>, Fault> {
        let id = corpus.identity(pair);
        if let Some(image) = locked(&self.kept).images.get(&id) {
            return Ok(Some(Arc::clone(image)));
        }
        let image = decode::jpeg(&self.read(corpus, pair)?).ok().map(Arc::new);
        if let Some(image) = &image {
            locked(&self.kept).keep(id, image);
        }
        Ok(image)
    }

    fn read(&self, corpus: &Corpus, pair: Pair) -> Result<Vec<u8>, Fault> {
        let shard = &corpus.shards[pair.shard as usize];
        let extent = shard.index.samples[pair.sample as usize].image;
        let mut attempt = 1;
        loop {
            match shards::read(&*self.open(corpus, pair.shard)?, extent) {
                Ok(bytes) => return Ok(bytes),
                Err(source) if attempt >= READ_TRIES => {
                    let path = shard.path.clone();
                    return Err(Fault::Read { path, source });
                }
                Err(_) => {
                    // A handle may have gone stale on a network file system: open it again.
                    locked(&self.files).remove(&pair.shard);
                    std::thread::sleep(Duration::from_millis(50 << attempt));
                    attempt += 1;
                }
            }
        }
    }

    /// A shard's file, if it is the one that was indexed.
    fn open(&self, corpus: &Corpus, number: u32) -> Result<Arc<File>, Fault> {
        if let Some(open) = locked(&self.files).get(&number) {
            return Ok(Arc::clone(open));
        }
        let shard = &corpus.shards[number as usize];
        let fault = |source| Fault::Read {
            path: shard.path.clone(),
            source,
        };
        let file = file::open(&shard.path).map_err(fault)?;
        let (found, expected) = (file.metadata().map_err(fault)?.len(), shard.index.size_bytes);
        if found != expected {
            let path = shard.path.clone();
            return Err(Fault::Changed { path, found, expected });
        }
        let file = Arc::new(file);
        locked(&self.files).insert(number, Arc::clone(&file));
        Ok(file)
    }
}

impl Kept {
    /// Keeps an image if there is room for it.
    fn keep(&mut self, id: u64, image: &Arc<Rgb>) {
        let size = image.data.len();
        if size > self.room {
            return;
        }
        if let Entry::Vacant(place) = self.images.entry(id) {
            place.insert(Arc::clone(image));
            self.room -= size;
        }
    }
}

/// What a thread that panicked has left is as whole as before: every change is one insertion or removal.
fn locked<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}
