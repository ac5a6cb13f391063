//! Images as models see them at inference: decoded, made square, normalised; read while the model is at work on others.

use crate::rank::failure::Failure;
use crate::stage::patience::{fault_may_pass, patiently};
use medley_data::dataset::{Corpus, Pair};
use medley_data::decode::{self, Rgb};
use medley_data::loader::{Fault, Images};
use rayon::prelude::*;
use std::ops::Range;
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
        images: &Images,
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

    /// The squares of some images, one array for each side. A thread has one decoded image at a time.
    fn squares(&self, images: &Images, pairs: &[Pair]) -> Result<Vec<Vec<f32>>, Failure> {
        let mut squares: Vec<Vec<f32>> = self.sides.iter().map(|side| room(pairs.len(), *side)).collect();
        let are_there = patiently(|| self.draw(images, pairs, &mut squares), fault_may_pass, || true)?;
        match pairs.iter().zip(are_there).find(|(_, is_there)| !is_there) {
            Some((pair, _)) => Err(undecodable(self.corpus, *pair)),
            None => Ok(squares),
        }
    }

    /// Draws the squares of some images; returns which of them decode.
    fn draw(&self, images: &Images, pairs: &[Pair], squares: &mut [Vec<f32>]) -> Result<Vec<bool>, Fault> {
        let mut places: Vec<Vec<&mut [f32]>> = pairs.iter().map(|_| Vec::new()).collect();
        for (squares, side) in squares.iter_mut().zip(self.sides) {
            let of_images = places.iter_mut().zip(squares.chunks_exact_mut(pixels_of(*side)));
            of_images.for_each(|(of_image, to)| of_image.push(to));
        }
        let draw = |(pair, places): (&Pair, Vec<&mut [f32]>)| {
            let image = images.get(self.corpus, *pair)?;
            for (side, to) in self.sides.iter().zip(places) {
                image.iter().for_each(|image| square(image, *side, to));
            }
            Ok::<bool, Fault>(image.is_some())
        };
        pairs.par_iter().zip(places).map(draw).collect()
    }
}

/// A whole image, resized to a square and normalised: the reference's chain for evaluation.
///
/// # Shapes
/// to: 3 × side × side
pub(crate) fn square(image: &Rgb, side: u32, to: &mut [f32]) {
    decode::normalise(&decode::square(image, side), to);
}

/// Room for the squares of some images.
pub(crate) fn room(images: usize, side: u32) -> Vec<f32> {
    vec![0.0; images * pixels_of(side)]
}

/// Numbers that a square takes.
fn pixels_of(side: u32) -> usize {
    3 * (side * side) as usize
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
