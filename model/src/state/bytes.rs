//! The canonical bytes of a state: what checkpoints hold, hashes cover and ranks compare.

use super::State;
use super::places::Places;
use crate::blip::Blip;
use crate::flat::Flat;
use std::ops::Range;

/// Bytes of the header: step and queue position.
pub(super) const HEADER: usize = 16;

/// Saved bytes do not fit the model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the saved state has {found} bytes, the model of this spec has {expected}: they are of different models")]
pub struct WrongSize {
    /// Size given.
    pub found: usize,
    /// Size of this model's state.
    pub expected: usize,
}

impl State {
    /// The real tensors of the state with their names, in canonical order.
    pub fn sections(&self) -> [(&'static str, &Flat); 6] {
        [
            ("params", &self.params),
            ("m", &self.m),
            ("v", &self.v),
            ("ema", &self.ema),
            ("image_queue", &self.image_queue),
            ("text_queue", &self.text_queue),
        ]
    }

    pub(super) fn places(&self) -> Places {
        let numbers = self.sections().map(|(_, flat)| flat.len());
        Places::new(numbers, self.queued_identities.len())
    }

    /// Size of the canonical bytes: step and queue position as little-endian words, the sections, the queued identities.
    pub fn num_bytes(&self) -> usize {
        self.places().num_bytes()
    }

    /// Size of the canonical bytes of any state of this model.
    pub fn num_bytes_of(blip: &Blip) -> usize {
        Places::of(blip).num_bytes()
    }

    /// Where in the canonical bytes the entries of the queues are that the next `samples` features replace.
    pub fn replaced_by(&self, samples: usize) -> Vec<Range<usize>> {
        self.places().replaced_by(self.queue_next, samples)
    }

    /// How many of the canonical bytes hold step and parameters, which come first.
    pub fn num_beginning_bytes(blip: &Blip) -> usize {
        HEADER + 4 * blip.student_layout.len()
    }

    /// Step and parameters from the beginning of canonical bytes.
    ///
    /// # Panics
    /// When there are fewer bytes than [`State::num_beginning_bytes`].
    pub fn beginning(blip: &Blip, bytes: &[u8]) -> (u64, Flat) {
        let mut params = Flat::zeros(blip.student_layout.len());
        read_floats(&bytes[HEADER..Self::num_beginning_bytes(blip)], &mut params);
        (word(bytes, 0), params)
    }

    fn header(&self) -> [u8; HEADER] {
        header(self.step, self.queue_next)
    }

    /// The canonical bytes behind the header, as they lie in memory.
    fn stored(&self) -> [&[u8]; 7] {
        let [params, m, v, ema, images, texts] = self.sections().map(|(_, flat)| flat.as_bytes());
        [
            params,
            m,
            v,
            ema,
            images,
            texts,
            bytemuck::cast_slice(&self.queued_identities),
        ]
    }

    /// The same, to be written.
    fn stored_mut(&mut self) -> [&mut [u8]; 7] {
        [
            self.params.as_bytes_mut(),
            self.m.as_bytes_mut(),
            self.v.as_bytes_mut(),
            self.ema.as_bytes_mut(),
            self.image_queue.as_bytes_mut(),
            self.text_queue.as_bytes_mut(),
            bytemuck::cast_slice_mut(&mut self.queued_identities),
        ]
    }

    /// Calls `f` with the canonical bytes of `range`, in order and in as few slices as they lie in.
    pub fn for_bytes(&self, range: Range<usize>, mut f: impl FnMut(&[u8])) {
        let (header, stored) = (self.header(), self.stored());
        for (place, bytes) in self.places().within(range) {
            let whole = place.checked_sub(1).map_or(&header[..], |at| stored[at]);
            f(&whole[bytes]);
        }
    }

    /// Cuts the canonical bytes into pieces of at most `most` bytes, none of which lies in two places in memory.
    pub fn pieces(&self, most: usize) -> Vec<Range<usize>> {
        self.places().pieces(most)
    }

    /// The canonical bytes of `range`, if they lie in one place in memory; those of the header do not lie there.
    pub fn together(&self, range: Range<usize>) -> Option<&[u8]> {
        let mut at = HEADER;
        for slice in self.stored() {
            if at <= range.start && range.end <= at + slice.len() {
                return Some(&slice[range.start - at..range.end - at]);
            }
            at += slice.len();
        }
        None
    }

    /// Has the system give memory for all of it now. Zeros that nobody wrote yet take none, and getting it takes time.
    pub fn claim_memory(&mut self) {
        const PAGE: usize = 4096;
        for slice in self.stored_mut() {
            slice
                .iter_mut()
                .step_by(PAGE)
                .for_each(|byte| *byte = std::hint::black_box(*byte));
        }
    }

    /// A copy of some of the canonical bytes.
    pub fn copy_bytes(&self, range: Range<usize>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(range.len());
        self.for_bytes(range, |slice| bytes.extend_from_slice(slice));
        bytes
    }

    /// BLAKE3 of the canonical bytes.
    pub fn digest(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        self.for_bytes(0..self.num_bytes(), |slice| {
            hasher.update(slice);
        });
        hasher.finalize()
    }

    /// Takes over canonical bytes, the first of which is the `offset`-th of the state. They must lie within it.
    pub fn write_bytes(&mut self, offset: usize, bytes: &[u8]) {
        let (mut header, places) = (self.header(), self.places());
        let mut stored = self.stored_mut();
        let mut rest = bytes;
        for (place, at) in places.within(offset..offset + bytes.len()) {
            let (next, behind) = rest.split_at(at.len());
            let whole = place.checked_sub(1).map_or(&mut header[..], |i| &mut *stored[i]);
            whole[at].copy_from_slice(next);
            rest = behind;
        }
        (self.step, self.queue_next) = of_header(&header);
    }

    /// Reads canonical bytes.
    ///
    /// # Errors
    /// [`WrongSize`] if they are not of this model.
    pub fn load(&mut self, bytes: &[u8]) -> Result<(), WrongSize> {
        if bytes.len() != self.num_bytes() {
            return Err(WrongSize {
                found: bytes.len(),
                expected: self.num_bytes(),
            });
        }
        self.write_bytes(0, bytes);
        Ok(())
    }
}

/// The header of a state.
pub(super) fn header(step: u64, queue_next: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&step.to_le_bytes());
    header[8..].copy_from_slice(&queue_next.to_le_bytes());
    header
}

/// Step and queue position.
pub(super) fn of_header(header: &[u8; HEADER]) -> (u64, u64) {
    (word(header, 0), word(header, 8))
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Fills `to` with the first of the bytes.
fn read_floats(bytes: &[u8], to: &mut [f32]) {
    for (value, bytes) in to.iter_mut().zip(bytes.chunks_exact(4)) {
        *value = f32::from_le_bytes(bytes.try_into().expect("four bytes"));
    }
}
