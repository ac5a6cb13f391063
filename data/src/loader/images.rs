//! Decoded images and open shards.

use super::Fault;
use crate::dataset::{Corpus, Pair};
use crate::decode::{self, Rgb};
use crate::shards;
use rayon::prelude::*;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

/// Decoded images kept in memory, in bytes.
const CACHE_BYTES: usize = 256 << 20;
/// Tries of a read before it is a fault.
const READ_TRIES: u32 = 3;

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
        let image = decode::jpeg(&bytes).ok().map(Arc::new);
        self.keep(id, image.as_ref());
        Ok(image)
    }

    /// The images of some pairs, decoded by the threads that this is called on; none where the bytes do not decode.
    ///
    /// # Errors
    /// [`Fault`] if a shard cannot be read.
    pub fn get_all(&mut self, corpus: &Corpus, pairs: &[Pair]) -> Result<Vec<Option<Arc<Rgb>>>, Fault> {
        let mut sources = Vec::with_capacity(pairs.len());
        for pair in pairs {
            let id = corpus.identity(*pair);
            sources.push((
                id,
                match self.decoded.get(&id) {
                    Some(image) => Ok(Arc::clone(image)),
                    None => Err(self.read(corpus, *pair)?),
                },
            ));
        }
        let decode = |(id, source): (u64, Result<Arc<Rgb>, Vec<u8>>)| {
            let image = source.or_else(|bytes| decode::jpeg(&bytes).map(Arc::new));
            (id, image.ok())
        };
        let images: Vec<_> = sources.into_par_iter().map(decode).collect();
        for (id, image) in &images {
            self.keep(*id, image.as_ref());
        }
        Ok(images.into_iter().map(|(_, image)| image).collect())
    }

    /// Keeps an image if there is room for it.
    fn keep(&mut self, id: u64, image: Option<&Arc<Rgb>>) {
        let Some(image) = image.filter(|image| image.data.len() <= self.room) else {
            return;
        };
        if let Entry::Vacant(place) = self.decoded.entry(id) {
            place.insert(Arc::clone(image));
            self.room -= image.data.len();
        }
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
                Entry::Occupied(open) => shards::read(open.into_mut(), extent),
                Entry::Vacant(vacant) => {
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
