//! Images as models see them at inference: decoded, made square, normalised.

use crate::rank::failure::Failure;
use medley_data::dataset::{Corpus, Pair};
use medley_data::decode::{self, Rgb};
use medley_data::loader::Images;
use std::sync::Arc;

/// Reads the images of some pairs.
///
/// # Errors
/// When a shard cannot be read, or is not the file that was indexed.
pub(super) fn read(images: &mut Images, corpus: &Corpus, pairs: &[Pair]) -> Result<Vec<Arc<Rgb>>, Failure> {
    let one = |pair: &Pair| images.get(corpus, *pair)?.ok_or_else(|| undecodable(corpus, *pair));
    pairs.iter().map(one).collect()
}

/// The whole images, resized to squares: the reference's chain for evaluation.
///
/// # Shapes
/// b images → b × 3 × side × side
pub(crate) fn squares(images: &[Arc<Rgb>], side: u32) -> Vec<f32> {
    let per_image = 3 * (side * side) as usize;
    let mut pixels = vec![0.0; images.len() * per_image];
    for (image, to) in images.iter().zip(pixels.chunks_exact_mut(per_image)) {
        decode::normalise(&decode::square(image, side), to);
    }
    pixels
}

fn undecodable(corpus: &Corpus, pair: Pair) -> Failure {
    let shard = &corpus.shards[pair.shard as usize];
    let key = &shard.index.samples[pair.sample as usize].key;
    Failure::lasting(format!(
        "{}: the image of sample {key} does not decode, though it did when it was indexed; a dataset version's shards must not \
         change: put the file back or submit a new job",
        shard.path.display()
    ))
}
