//! Host arrays on their way to the device.
//!
//! A copy from ordinary memory makes the driver wait; one from pinned memory does not, but its source must stay as it is until the
//! device has read it. So arrays are first copied into a ring of pinned chambers. A chamber that is left gets an event; when the
//! ring comes round to it, it waits for that event, which has almost always passed long ago.

use super::driver::{Event, Pinned, Stream};
use super::error::CudaError;
use rayon::prelude::*;

/// Bytes of a chamber.
const CHAMBER: usize = 4 << 20;
/// Chambers of the ring.
const CHAMBERS: usize = 4;
/// Alignment of what is put into a chamber.
const ALIGN: usize = 256;
/// Bytes that a thread copies: one alone does not fill the way to the device.
const SHARE: usize = 512 << 10;

/// A ring of pinned memory.
pub(super) struct Ring {
    pinned: Pinned,
    left: [Event; CHAMBERS],
    chamber: usize,
    used: usize,
}

impl Ring {
    pub(super) fn new() -> Result<Self, CudaError> {
        Ok(Self {
            pinned: Pinned::new(CHAMBER * CHAMBERS)?,
            left: [Event::new()?, Event::new()?, Event::new()?, Event::new()?],
            chamber: 0,
            used: 0,
        })
    }

    /// Copies `bytes` to the device at `to`, in the order of the stream; they may be changed at return.
    pub(super) fn send(&mut self, stream: &Stream, bytes: &[u8], to: u64) -> Result<(), CudaError> {
        let mut at = to;
        for piece in bytes.chunks(CHAMBER) {
            self.make_room(stream, piece.len())?;
            let start = self.chamber * CHAMBER + self.used;
            copy(piece, &mut self.pinned.bytes_mut()[start..start + piece.len()]);
            stream.to_device(&self.pinned, (start, piece.len()), at)?;
            self.used += piece.len().next_multiple_of(ALIGN);
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Goes on to the next chamber if `len` bytes do not fit the present one.
    fn make_room(&mut self, stream: &Stream, len: usize) -> Result<(), CudaError> {
        if self.used + len > CHAMBER {
            self.left[self.chamber].record(stream)?;
            self.chamber = (self.chamber + 1) % CHAMBERS;
            self.used = 0;
            self.left[self.chamber].wait()?;
        }
        Ok(())
    }
}

/// Copies bytes, many of them by several threads.
fn copy(from: &[u8], to: &mut [u8]) {
    if from.len() < 2 * SHARE {
        to.copy_from_slice(from);
    } else {
        let shares = to.par_chunks_mut(SHARE).zip(from.par_chunks(SHARE));
        shares.for_each(|(to, from)| to.copy_from_slice(from));
    }
}
