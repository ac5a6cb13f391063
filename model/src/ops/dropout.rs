//! Dropout whose mask is a function of logical places, and is stored nowhere.
//!
//! An element is dropped or kept by (stream of the site, pass and sample, position, channel), so a text has the same mask
//! packed or padded, and with the rest of its sequence or alone.

use super::blocks::for_rows;
use super::meter::{self, Kind};
use crate::random::{Stream, WORDS_AT_ONCE};
use bytemuck::{Pod, Zeroable};

/// Where a row of hidden states stands, in two words as a GPU's kernels read them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Place {
    /// Position in the text.
    pub position: u32,
    /// Which pass of the step, and which sample of that pass.
    pub sample: u32,
}

/// A dropout at one site of the model.
#[derive(Debug, Clone, Copy)]
pub struct Dropout {
    /// Stream of this site in this step and lane.
    pub stream: Stream,
    /// Share of elements dropped.
    pub rate: f32,
}

impl Dropout {
    /// Words below this drop.
    pub(crate) fn threshold(&self) -> u32 {
        (f64::from(self.rate) * 4_294_967_296.0) as u32
    }

    /// Multiplies `row` by its mask: 0 or 1 / (1 − rate). `minor` tells rows of one place apart (the head, for
    /// attention).
    #[inline]
    pub fn mask(&self, place: Place, minor: u32, row: &mut [f32]) {
        let (threshold, kept) = (self.threshold(), 1.0 / (1.0 - self.rate));
        let counter = [place.position, place.sample, minor];
        for (i, chunk) in row.chunks_mut(WORDS_AT_ONCE).enumerate() {
            let words = self.stream.many((i * WORDS_AT_ONCE / 4) as u32, counter);
            for (v, word) in chunk.iter_mut().zip(words) {
                *v = if word < threshold { 0.0 } else { *v * kept };
            }
        }
    }
}

/// Multiplies every row of `y` (rows × `cols`) by its mask; forward and backward are the same.
pub fn apply(dropout: &Dropout, places: &[Place], y: &mut [f32], cols: usize) {
    let _kind = meter::kind(Kind::Dropout);
    for_rows(y, cols, |row, y| {
        for (i, y) in y.chunks_exact_mut(cols).enumerate() {
            dropout.mask(places[row + i], 0, y);
        }
    });
}
