//! Where the canonical bytes of a state lie: one place after the other.

use super::bytes::HEADER;
use crate::blip::Blip;
use std::ops::Range;

/// Places: the header, parameters, both moments, momentum encoders, image and text queue, queued identities.
pub(super) const COUNT: usize = 8;
/// The last place.
pub(super) const IDENTITIES: usize = COUNT - 1;

/// Bytes of each place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Places([usize; COUNT]);

impl Places {
    /// Places of so many numbers each, between the header and the identities of a queue of this length.
    pub(super) fn new(numbers: [usize; 6], queue: usize) -> Self {
        let mut places = [HEADER; COUNT];
        for (place, count) in places[1..].iter_mut().zip(numbers) {
            *place = count * size_of::<f32>();
        }
        places[IDENTITIES] = queue * size_of::<u64>();
        Self(places)
    }

    /// Those of any state of this model.
    pub(super) fn of(blip: &Blip) -> Self {
        let (queue, width) = (blip.model.queue as usize, blip.model.embed_dim as usize);
        let (student, momentum) = (blip.student_layout.len(), blip.momentum_layout.len());
        Self::new(
            [student, student, student, momentum, queue * width, queue * width],
            queue,
        )
    }

    /// All bytes.
    pub(super) fn num_bytes(self) -> usize {
        self.0.iter().sum()
    }

    /// Where a place begins.
    pub(super) fn start(self, place: usize) -> usize {
        self.0[..place].iter().sum()
    }

    /// The places that bytes of `range` lie in, in order, and which of the place's bytes those are.
    pub(super) fn within(self, range: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
        (0..COUNT).filter_map(move |place| {
            let start = self.start(place);
            let (from, to) = (range.start.max(start), range.end.min(start + self.0[place]));
            (from < to).then(|| (place, from - start..to - start))
        })
    }

    /// All bytes in pieces of at most `most`, none of which lies in two places.
    pub(super) fn pieces(self, most: usize) -> Vec<Range<usize>> {
        let mut pieces = Vec::new();
        for (place, len) in self.0.into_iter().enumerate() {
            let (start, end) = (self.start(place), self.start(place) + len);
            pieces.extend((start..end).step_by(most).map(|begin| begin..end.min(begin + most)));
        }
        pieces
    }

    /// The entries of the queues that the next `samples` features replace, which go where `queue_next` says.
    pub(super) fn replaced_by(self, queue_next: u64, samples: usize) -> Vec<Range<usize>> {
        let queue = self.0[IDENTITIES] / size_of::<u64>();
        let (next, samples) = (queue_next as usize, samples.min(queue));
        let entries = [
            next..(next + samples).min(queue),
            0..(next + samples).saturating_sub(queue),
        ];
        let mut replaced = Vec::new();
        for place in (IDENTITIES - 2..=IDENTITIES).rev() {
            let (start, entry) = (self.start(place), self.0[place].checked_div(queue).unwrap_or(0));
            let within = entries.iter().filter(|entries| !entries.is_empty());
            replaced.extend(within.map(|entries| start + entries.start * entry..start + entries.end * entry));
        }
        replaced
    }
}
