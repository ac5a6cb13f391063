//! Feeding the ranks that join: those that hold the state send it to those that do not, piece by piece.
//!
//! Every source sends other pieces. A state crosses to a node once: the node's first joiner takes it from all sources, the
//! next one from the first; where a node has sources of its own, its joiners take it from those. All ranks go through the
//! pieces in the same order, few of them are under way to one rank at a time, and each is checked by its hash: XXH3, because only
//! what goes wrong by itself is to be found here, and BLAKE3 at both ends takes as long as the copy. What would slip through is
//! found by the digest that ranks compare at every step.

use crate::checkpoint::placed::Placed;
use crate::checkpoint::shared::{Shared, View};
use crate::collective::tcp::mesh::Limits;
use crate::collective::tcp::{Kind, Lost, Mesh, Tag};
use crate::rank::beginning::Path;
use bytes::Bytes;
use medley_model::device::DeviceError;
use std::collections::{BTreeMap, VecDeque};
use std::hash::Hasher;
use std::ops::Range;
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

/// Brings the state to every rank that joins.
///
/// # Errors
/// [`Error`]; a joiner's state is then unspecified.
pub fn feed(state: &mut Shared, paths: &[Path], nodes: &[Vec<u32>], mesh: &Mesh) -> Result<(), Error> {
    let own = mesh.rank();
    let pieces = (0..).zip(state.pieces(PIECE));
    let mut giving = Giving {
        roads: Roads::new(paths, nodes),
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
        state.taken()?;
    } else {
        let view = state.view()?;
        for (piece, range) in pieces {
            giving.give(piece, || borrow(&view, range), hash)?;
        }
    }
    Ok(giving.finish()?)
}

/// What travels for each piece.
#[derive(Debug, Clone, Copy)]
enum Frame {
    /// The bytes.
    Bytes,
    /// Their hash, which is computed while they are under way.
    Hash,
    /// The word that they were taken over.
    Taken,
}

fn tag(frame: Frame, piece: u64) -> Tag {
    let (kind, slice) = match frame {
        Frame::Bytes => (Kind::State, 0),
        Frame::Hash => (Kind::State, 1),
        Frame::Taken => (Kind::Taken, 0),
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

/// Who takes a piece from whom.
struct Roads {
    /// By rank: whom it takes pieces from in turn; nobody if it holds the state.
    sources: Vec<Vec<u32>>,
}

impl Roads {
    fn new(paths: &[Path], nodes: &[Vec<u32>]) -> Self {
        let joins = |rank: &u32| paths[*rank as usize] == Path::Join;
        let all: Vec<u32> = (0..paths.len() as u32).filter(|rank| !joins(rank)).collect();
        let mut sources = vec![Vec::new(); paths.len()];
        for node in nodes {
            let (joiners, local): (Vec<u32>, Vec<u32>) = node.iter().copied().partition(joins);
            let mut before = None;
            for rank in joiners {
                sources[rank as usize] = match before {
                    _ if !local.is_empty() => local.clone(),
                    Some(before) => vec![before],
                    None => all.clone(),
                };
                before = Some(rank);
            }
        }
        Self { sources }
    }

    /// Where a rank that joins takes a piece from.
    fn upstream(&self, rank: u32, piece: u64) -> u32 {
        let sources = &self.sources[rank as usize];
        sources[(piece % sources.len() as u64) as usize]
    }

    /// Who takes a piece from a rank.
    fn downstream(&self, rank: u32, piece: u64) -> Vec<u32> {
        let takes = |other: &u32| !self.sources[*other as usize].is_empty() && self.upstream(*other, piece) == rank;
        (0..self.sources.len() as u32).filter(takes).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::tests::{blip, placed};
    use crate::collective::reduce::tests::meshed;
    use medley_model::state::State;
    use proptest::prelude::*;
    use std::time::Duration;

    fn nodes(ranks: &[u32]) -> Vec<Vec<u32>> {
        let mut next = 0..;
        ranks
            .iter()
            .map(|count| next.by_ref().take(*count as usize).collect())
            .collect()
    }

    #[test]
    fn a_node_without_the_state_gets_it_once_and_from_all_sources_in_turn() {
        let (join, ready) = (Path::Join, Path::Ready);
        let paths = [ready, ready, join, join, join];
        let nodes = nodes(&[2, 3]);
        let roads = Roads::new(&paths, &nodes);
        let of_piece = |piece| [2, 3, 4].map(|rank| roads.upstream(rank, piece));
        assert_eq!(of_piece(0), [0, 2, 3]);
        assert_eq!(of_piece(1), [1, 2, 3]);
        assert_eq!(roads.downstream(1, 1), [2]);
        assert_eq!(roads.downstream(1, 0), [0; 0]);
    }

    #[test]
    fn a_joiner_takes_the_state_from_its_own_node_where_it_can() {
        let paths = [Path::Ready, Path::CommitPrepared, Path::Join, Path::Join];
        let nodes = nodes(&[1, 3]);
        let roads = Roads::new(&paths, &nodes);
        assert!((0..4).all(|piece| roads.upstream(2, piece) == 1 && roads.upstream(3, piece) == 1));
    }

    proptest! {
        #[test]
        fn every_piece_reaches_every_joiner(
            joins in proptest::collection::vec(any::<bool>(), 1..24),
            cut in 1_usize..6,
            piece in 0_u64..50,
        ) {
            prop_assume!(joins.contains(&false));
            let paths: Vec<Path> = joins.iter().map(|joins| if *joins { Path::Join } else { Path::Ready }).collect();
            let all: Vec<u32> = (0..paths.len() as u32).collect();
            let nodes: Vec<Vec<u32>> = all.chunks(cut).map(<[u32]>::to_vec).collect();
            let roads = Roads::new(&paths, &nodes);
            let mut has: Vec<bool> = joins.iter().map(|joins| !joins).collect();
            for _ in 0..paths.len() {
                for rank in (0..paths.len()).filter(|rank| joins[*rank]) {
                    has[rank] |= has[roads.upstream(rank as u32, piece) as usize];
                }
            }
            prop_assert!(has.iter().all(|has| *has));
        }
    }

    fn state() -> State {
        State::fresh(&blip(), 1)
    }

    #[test]
    fn pieces_cover_the_state_and_are_sent_from_where_they_lie() {
        let mut state = state();
        state.step = 7;
        for placed in placed(&state) {
            let view = Shared::new(placed).unwrap().view().unwrap();
            let pieces = view.pieces(5000).into_iter();
            let sent: Vec<Bytes> = pieces.map(|range| borrow(&view, range).unwrap()).collect();
            assert!(sent.iter().all(|piece| piece.len() <= 5000));
            assert_eq!(sent.concat(), state.copy_bytes(0..state.num_bytes()));
            if let Placed::Here(own) = &*view {
                let lies_there = |piece: &&Bytes| own.params.as_bytes().as_ptr_range().contains(&piece.as_ptr());
                let lent = sent.iter().filter(lies_there);
                assert_eq!(lent.count(), own.params.as_bytes().len().div_ceil(5000));
            }
        }
    }

    /// The canonical bytes of a range.
    fn bytes_of(state: &Placed, range: Range<usize>) -> Vec<u8> {
        let mut stored = State::zeros(&blip());
        match state {
            Placed::Here(state) => return state.copy_bytes(range),
            Placed::There(state) => state.store(&mut stored).unwrap(),
        }
        stored.copy_bytes(range)
    }

    #[test]
    fn a_piece_is_taken_over_if_it_is_whole_and_sound() {
        let from = state();
        let mut cleared = from.clone();
        cleared.params.fill(0.0);
        for mut to in placed(&cleared) {
            let range = 16..16 + 3 * CHUNK / 2;
            let mut bytes = from.copy_bytes(range.clone());
            let sum = hash(&bytes);
            take_over(&mut to, range.clone(), (&bytes, &sum), 1).unwrap();
            assert_eq!(bytes_of(&to, range.clone()), bytes);
            assert_eq!(bytes_of(&to, range.end..range.end + 4), [0; 4]);
            assert!(take_over(&mut to, range.start..range.end + 1, (&bytes, &sum), 1).is_err());
            bytes[CHUNK] ^= 1;
            assert_eq!(take_over(&mut to, range, (&bytes, &sum), 1).unwrap_err().rank, 1);
        }
    }

    #[test]
    fn those_who_join_are_fed_wherever_states_lie() {
        let (join, ready) = (Path::Join, Path::Ready);
        let (paths, nodes) = ([ready, join, ready, join], nodes(&[1, 2, 1]));
        let given = state();
        let fed = meshed(4, LIMITS, |mesh| {
            let rank = mesh.rank() as usize;
            let own = if paths[rank] == join {
                State::zeros(&blip())
            } else {
                given.clone()
            };
            let [here, there] = placed(&own);
            // The first two lie in the memory of the process.
            let mut state = Shared::new(if rank < 2 { here } else { there }).unwrap();
            feed(&mut state, &paths, &nodes, &mesh).unwrap();
            mesh.leave(Duration::from_secs(20));
            bytes_of(&state, 0..given.num_bytes())
        });
        assert!(fed.iter().all(|bytes| *bytes == given.copy_bytes(0..given.num_bytes())));
    }
}
