//! Images as models see them at inference: decoded, made square, normalised; read while the model is at work on others.

use crate::rank::failure::Failure;
use medley_data::dataset::{Corpus, Pair};
use medley_data::decode::{self, Rgb};
use medley_data::loader::Images;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;

/// Images that are read in batches.
pub(super) struct Series<'a> {
    /// Where they are.
    pub(super) corpus: &'a Corpus,
    /// Each of them, by a pair.
    pub(super) pairs: &'a [Pair],
    /// Images of a batch.
    pub(super) batch: usize,
    /// Sides of the squares that are made of them.
    pub(super) sides: &'a [u32],
}

impl Series<'_> {
    /// Calls `each` with the numbers of a batch's images and with their squares, one array for each side, batch after batch. While
    /// one is worked on, another thread reads the next and has the threads of the pool decode it.
    ///
    /// # Errors
    /// The first [`Failure`] of `each`, or of a batch: a shard that cannot be read, or is not the file that was indexed.
    pub(super) fn for_each(
        &self,
        images: &mut Images,
        mut each: impl FnMut(Range<usize>, &[Vec<f32>]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        thread::scope(|scope| {
            // Nothing waits in between: one batch is in use, and one is ready.
            let (gives, takes) = mpsc::sync_channel(0);
            let read = move || {
                for pairs in self.pairs.chunks(self.batch) {
                    let squares = self.squares(images, pairs);
                    let is_last = squares.is_err();
                    if gives.send(squares).is_err() || is_last {
                        return;
                    }
                }
            };
            let reader = thread::Builder::new().name("images".into()).spawn_scoped(scope, read);
            let reader = reader
                .map_err(|error| Failure::passing(format!("cannot start a thread that reads images: {error}")))?;
            for first in (0..self.pairs.len()).step_by(self.batch) {
                let Ok(squares) = takes.recv() else {
                    // It is waited for here, so that the scope does not panic for it: what it said is in the log.
                    let how = if reader.join().is_err() { "panicked" } else { "ended" };
                    return Err(Failure::passing(format!("the thread that reads images has {how}")));
                };
                each(first..self.pairs.len().min(first + self.batch), &squares?)?;
            }
            Ok(())
        })
    }

    fn squares(&self, images: &mut Images, pairs: &[Pair]) -> Result<Vec<Vec<f32>>, Failure> {
        let decoded = images.get_all(self.corpus, pairs)?.into_iter().zip(pairs);
        let decoded = decoded.map(|(image, pair)| image.ok_or_else(|| undecodable(self.corpus, *pair)));
        let decoded = decoded.collect::<Result<Vec<_>, _>>()?;
        Ok(self.sides.iter().map(|side| squares(&decoded, *side)).collect())
    }
}

/// The whole images, resized to squares: the reference's chain for evaluation.
///
/// # Shapes
/// b images → b × 3 × side × side
pub(crate) fn squares(images: &[Arc<Rgb>], side: u32) -> Vec<f32> {
    let per_image = 3 * (side * side) as usize;
    let mut pixels = vec![0.0; images.len() * per_image];
    let places = pixels.par_chunks_exact_mut(per_image).zip(images);
    places.for_each(|(to, image)| decode::normalise(&decode::square(image, side), to));
    pixels
}

fn undecodable(corpus: &Corpus, pair: Pair) -> Failure {
    let shard = &corpus.shards[pair.shard as usize];
    let key = &shard.index.samples[pair.sample as usize].key;
    Failure::lasting(format!(
        "{}: the image of sample {key} does not decode, though it did when it was indexed; a dataset version's shards must not \
         change: put the file back and retry the job (`medley jobs retry`)",
        shard.path.display()
    ))
}
