//! Feeding the ranks that join: those that hold the state send it to those that do not, piece by piece.
//!
//! Every source sends other pieces. A state crosses to a node once: the node's first joiner takes it from all sources, the
//! next one from the first; where a node has sources of its own, its joiners take it from those. All ranks go through the
//! pieces in the same order, few of them are under way to one rank at a time, and each is checked by its hash: XXH3, because only
//! what goes wrong by itself is to be found here, and BLAKE3 at both ends takes as long as the copy. What would slip through is
//! found by the digest that ranks compare at every step.
//!
//! Where the generation has a group of devices, what lies on a device goes from there to [`devices`], and the rest, some numbers of
//! the process, as above.

mod devices;
mod tables;

use crate::checkpoint::placed::Placed;
use crate::checkpoint::shared::{Shared, View};
use crate::collective::group::Group;
use crate::collective::tcp::mesh::Limits;
use crate::collective::tcp::{Kind, Lost, Mesh, Tag};
use crate::rank::beginning::Path;
use bytes::Bytes;
use medley_model::device::DeviceError;
use std::collections::{BTreeMap, VecDeque};
use std::hash::Hasher;
use std::ops::Range;
use tables::{Roads, tables};
use twox_hash::XxHash3_64;

/// Most bytes of a piece: it is still in the cache when it was hashed.
const PIECE: usize = 1 << 20;
/// Pieces under way to one rank.
const WINDOW: usize = 8;
/// Bytes that are hashed and then taken over.
const CHUNK: usize = 64 << 10;

/// What peers may send meanwhile.
pub const LIMITS: Limits = Limits {
    frame_bytes: PIECE,
    waiting_bytes: WINDOW * (PIECE + size_of::<u64>()),
};

/// A state could not be brought to a rank, or from one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A peer does not deliver, or delivers something else than it hashed.
    #[error(transparent)]
    Lost(#[from] Lost),
    /// The device that the state lies on failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// Brings the state to every rank that joins: over the mesh, and over the generation's group of devices if it has one.
///
/// # Errors
/// [`Error`]; a joiner's state is then unspecified.
pub fn feed(
    state: &mut Shared,
    paths: &[Path],
    nodes: &[Vec<u32>],
    (mesh, group): (&Mesh, Option<&mut (dyn Group + '_)>),
) -> Result<(), Error> {
    let own = mesh.rank();
    let tables = tables(paths, nodes);
    let between = match &**state {
        Placed::There(state) => group.map(|group| (devices::Plan::new(state, &tables, devices::PIECE), group)),
        Placed::Here(_) => None,
    };
    let goes_between = |piece: &Range<usize>| between.as_ref().is_some_and(|(plan, _)| plan.moves(piece));
    let mut pieces: Vec<(u64, Range<usize>)> = (0..).zip(state.pieces(PIECE)).collect();
    pieces.retain(|(_, piece)| !goes_between(piece));
    let mut giving = Giving {
        roads: Roads::new(&tables, paths.len()),
        mesh,
        under_way: BTreeMap::new(),
    };
    if paths[own as usize] == Path::Join {
        let state = state.change();
        for (piece, range) in pieces {
            let from = giving.roads.upstream(own, piece);
            let bytes = mesh.receive(from, tag(Frame::Bytes, piece))?;
            let hash = mesh.receive(from, tag(Frame::Hash, piece))?;
            take_over(state, range, (&bytes, &hash), from)?;
            mesh.send(from, tag(Frame::Taken, piece), Bytes::new());
            giving.give(piece, || Ok(bytes.into()), |_| hash.into())?;
        }
        giving.finish()?;
        if let (Placed::There(state), Some((plan, group))) = (&mut *state, between) {
            plan.take(state, mesh, group)?;
        }
        Ok(state.taken()?)
    } else {
        let view = state.view()?;
        for (piece, range) in pieces {
            giving.give(piece, || borrow(&view, range), hash)?;
        }
        giving.finish()?;
        if let (Placed::There(state), Some((plan, group))) = (&*view, between) {
            plan.give(state, mesh, group)?;
        }
        Ok(())
    }
}

/// What travels over the mesh, for each piece unless it is said otherwise.
#[derive(Debug, Clone, Copy)]
enum Frame {
    /// The bytes.
    Bytes,
    /// Their hash, which is computed while they are under way.
    Hash,
    /// The word that they were taken over.
    Taken,
    /// Once from each source to each of its joiners: the digest of what goes between devices.
    Digest,
}

fn tag(frame: Frame, piece: u64) -> Tag {
    let (kind, slice) = match frame {
        Frame::Bytes => (Kind::State, 0),
        Frame::Hash => (Kind::State, 1),
        Frame::Taken => (Kind::Taken, 0),
        Frame::Digest => (Kind::State, 2),
    };
    Tag {
        exchange: piece,
        slice,
        ..Tag::plain(kind)
    }
}

fn hash(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(&XxHash3_64::oneshot(bytes).to_le_bytes())
}

/// A piece of the state, sent from where it lies if that is in the memory of the process.
fn borrow(view: &View, range: Range<usize>) -> Result<Bytes, DeviceError> {
    if view.together(range.clone()).is_none() {
        return Ok(view.copy_bytes(range)?.into());
    }
    let view = view.clone();
    Ok(Bytes::from_owner(Piece { view, range }))
}

struct Piece {
    view: View,
    range: Range<usize>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        self.view.together(self.range.clone()).unwrap_or_default()
    }
}

/// Hashes what was received and writes it to the state, little by little: then it is read from memory once.
fn take_over(state: &mut Placed, range: Range<usize>, (bytes, hash): (&[u8], &[u8]), from: u32) -> Result<(), Lost> {
    let mut hasher = XxHash3_64::new();
    if bytes.len() == range.len() {
        for (at, chunk) in range.step_by(CHUNK).zip(bytes.chunks(CHUNK)) {
            hasher.write(chunk);
            state.write_bytes(at, chunk);
        }
        if hasher.finish().to_le_bytes() == hash {
            return Ok(());
        }
    }
    Err(Lost {
        rank: from,
        why: "a piece of its state arrived damaged".into(),
    })
}

/// Gives pieces to those who take them from this rank.
struct Giving<'a> {
    roads: Roads,
    mesh: &'a Mesh,
    /// Pieces that were sent and not taken over yet, by receiver.
    under_way: BTreeMap<u32, VecDeque<u64>>,
}

impl Giving<'_> {
    fn give(
        &mut self,
        piece: u64,
        bytes: impl FnOnce() -> Result<Bytes, DeviceError>,
        hash: impl FnOnce(&[u8]) -> Bytes,
    ) -> Result<(), Error> {
        let receivers = self.roads.downstream(self.mesh.rank(), piece);
        if receivers.is_empty() {
            return Ok(());
        }
        let bytes = bytes()?;
        for to in &receivers {
            self.await_room(*to)?;
            self.mesh.send(*to, tag(Frame::Bytes, piece), bytes.clone());
        }
        let hash = hash(&bytes);
        for to in receivers {
            self.mesh.send(to, tag(Frame::Hash, piece), hash.clone());
            self.under_way.entry(to).or_default().push_back(piece);
        }
        Ok(())
    }

    fn await_room(&mut self, to: u32) -> Result<(), Lost> {
        let waiting = self.under_way.entry(to).or_default();
        if waiting.len() == WINDOW
            && let Some(earlier) = waiting.pop_front()
        {
            self.mesh.receive(to, tag(Frame::Taken, earlier))?;
        }
        Ok(())
    }

    /// Waits until everything was taken over.
    fn finish(self) -> Result<(), Lost> {
        for (to, waiting) in self.under_way {
            for earlier in waiting {
                self.mesh.receive(to, tag(Frame::Taken, earlier))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
