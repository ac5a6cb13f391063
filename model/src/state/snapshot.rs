//! A part of a resident state, copied on its device: the state may change while the copy is read.

use super::bytes::HEADER;
use super::places::{IDENTITIES, Places};
use super::resident::{Resident, fetch};
use crate::device::{Buffer, DeviceError, Fetcher, Mark};
use std::ops::Range;

/// It begins at a multiple of so many canonical bytes, so that the device copies whole words of its own.
const ALIGN: usize = 256;

/// Some of a state's canonical bytes, as they were.
#[derive(Debug)]
pub struct Snapshot {
    step: u64,
    places: Places,
    header: [u8; HEADER],
    identities: Vec<u8>,
    /// Where its numbers begin among the canonical bytes.
    start: usize,
    /// On the device; there may be room behind them.
    numbers: Buffer,
    mark: Mark,
}

impl Resident {
    /// Numbers that `room` needs for a snapshot of so many bytes.
    pub const fn room_for(num_bytes: usize) -> usize {
        // It begins up to a line earlier, and the first and the last number may be cut.
        (num_bytes + ALIGN) / 4 + 2
    }

    /// A snapshot of the canonical bytes of `range`, made by the device behind all that it was asked before. Nothing is awaited.
    ///
    /// # Errors
    /// [`DeviceError`] with what has failed before.
    ///
    /// # Panics
    /// If there is not [`room_for`](Self::room_for) it.
    pub fn snapshot(&self, range: Range<usize>, mut room: Buffer) -> Result<Snapshot, DeviceError> {
        let (places, numbers, (header, identities)) = (self.places(), self.numbers(), self.own_bytes());
        let first = range.start / ALIGN * ALIGN / 4;
        for (place, bytes) in places.within(range) {
            if place != 0 && place != IDENTITIES {
                let words = bytes.start / 4..bytes.end.div_ceil(4);
                let at = places.start(place) / 4 + words.start - first;
                let to = room.span_mut().range(at..at + words.len());
                self.device().copy(numbers[place - 1].range(words), to);
            }
        }
        Ok(Snapshot {
            step: self.step(),
            places,
            header,
            identities: identities.to_vec(),
            start: 4 * first,
            numbers: room,
            mark: self.device().mark()?,
        })
    }
}

impl Snapshot {
    /// Steps that were committed.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Size of the canonical bytes of the whole state.
    pub fn num_bytes(&self) -> usize {
        self.places.num_bytes()
    }

    /// Calls `f` with the canonical bytes of `range`, which must be in the snapshot, in order and piece by piece.
    ///
    /// # Errors
    /// [`DeviceError`]: what `f` was given is worthless then.
    pub fn for_bytes(
        &self,
        fetcher: &mut Fetcher,
        range: Range<usize>,
        mut f: impl FnMut(&[u8]),
    ) -> Result<(), DeviceError> {
        for (place, bytes) in self.places.within(range) {
            match place {
                0 => f(&self.header[bytes]),
                IDENTITIES => f(&self.identities[bytes]),
                _ => {
                    let before = self.places.start(place);
                    let bytes = before + bytes.start - self.start..before + bytes.end - self.start;
                    fetch((&mut *fetcher, &self.mark), self.numbers.span(), bytes, &mut f)?;
                }
            }
        }
        Ok(())
    }

    /// Its memory on the device, for the next one. Nobody reads it any more.
    pub fn into_room(self) -> Buffer {
        self.numbers
    }
}
