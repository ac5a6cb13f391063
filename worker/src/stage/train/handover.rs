//! Feeding the ranks that join: those that hold the state send it to those that do not, piece by piece.
//!
//! Every source sends other pieces. A state crosses to a node once: the node's first joiner takes it from all sources, the
//! next one from the first; where a node has sources of its own, its joiners take it from those. All ranks go through the
//! pieces in the same order, few of them are under way to one rank at a time, and each is checked by its hash.

use crate::collective::tcp::mesh::Limits;
use crate::collective::tcp::{Kind, Lost, Mesh, Tag};
use crate::rank::beginning::Path;
use medley_model::state::State;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

/// Bytes of a piece.
const PIECE: usize = 4 << 20;
/// Pieces under way to one rank.
const WINDOW: usize = 2;

/// What peers may send meanwhile.
pub(super) const LIMITS: Limits = Limits {
    frame_bytes: PIECE + blake3::OUT_LEN,
    waiting_bytes: WINDOW * (PIECE + blake3::OUT_LEN),
};

/// Brings the state to every rank that joins.
///
/// # Errors
/// [`Lost`] when a peer does not deliver, or delivers something else than it hashed; a joiner's state is then unspecified.
pub(super) fn feed(state: &mut State, paths: &[Path], nodes: &[Vec<u32>], mesh: &Mesh) -> Result<(), Lost> {
    let roads = Roads { paths, nodes };
    let own = mesh.rank();
    let joins = roads.joins(own);
    let mut under_way: BTreeMap<u32, VecDeque<Tag>> = BTreeMap::new();
    for (piece, range) in (0..).zip(pieces(state.num_bytes())) {
        let tag = Tag {
            exchange: piece,
            ..Tag::plain(Kind::State)
        };
        let taken = Tag {
            kind: Kind::Taken,
            ..tag
        };
        let mut payload = None;
        if joins {
            let from = roads.upstream(own, piece);
            let received = mesh.receive(from, tag)?;
            state.write_bytes(range.start, checked(&received, range.len(), from)?);
            mesh.send(from, taken, Arc::new(Vec::new()));
            payload = Some(Arc::new(received));
        }
        for to in roads.downstream(own, piece) {
            let waiting = under_way.entry(to).or_default();
            if waiting.len() == WINDOW {
                waiting
                    .pop_front()
                    .map(|earlier| mesh.receive(to, earlier))
                    .transpose()?;
            }
            let payload = payload.get_or_insert_with(|| Arc::new(hashed(state, range.clone())));
            mesh.send(to, tag, Arc::clone(payload));
            waiting.push_back(taken);
        }
    }
    for (to, waiting) in under_way {
        for earlier in waiting {
            mesh.receive(to, earlier)?;
        }
    }
    Ok(())
}

fn pieces(len: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(PIECE).map(move |at| at..len.min(at + PIECE))
}

/// A piece as it travels: its hash, then its bytes.
fn hashed(state: &State, range: Range<usize>) -> Vec<u8> {
    let mut payload = vec![0; blake3::OUT_LEN];
    payload.reserve_exact(range.len());
    state.for_bytes(range, |bytes| payload.extend_from_slice(bytes));
    let hash = blake3::hash(&payload[blake3::OUT_LEN..]);
    payload[..blake3::OUT_LEN].copy_from_slice(hash.as_bytes());
    payload
}

fn checked(payload: &[u8], len: usize, from: u32) -> Result<&[u8], Lost> {
    let sound = payload
        .split_at_checked(blake3::OUT_LEN)
        .filter(|(hash, bytes)| bytes.len() == len && blake3::hash(bytes).as_bytes() == hash);
    sound.map(|(_, bytes)| bytes).ok_or_else(|| Lost {
        rank: from,
        why: "a piece of its state arrived damaged".into(),
    })
}

/// Who takes a piece from whom.
struct Roads<'a> {
    paths: &'a [Path],
    nodes: &'a [Vec<u32>],
}

impl Roads<'_> {
    fn joins(&self, rank: u32) -> bool {
        self.paths[rank as usize] == Path::Join
    }

    /// Where a rank that joins takes a piece from.
    fn upstream(&self, rank: u32, piece: u64) -> u32 {
        let node = self
            .nodes
            .iter()
            .find(|node| node.contains(&rank))
            .map_or(&[][..], Vec::as_slice);
        let sources = |ranks: &mut dyn Iterator<Item = u32>| ranks.filter(|other| !self.joins(*other)).collect();
        let local: Vec<u32> = sources(&mut node.iter().copied());
        let all: Vec<u32> = sources(&mut (0..self.paths.len() as u32));
        let turn = |sources: &[u32]| sources[(piece % sources.len() as u64) as usize];
        let before = node.iter().take_while(|other| **other != rank).last();
        match before {
            _ if !local.is_empty() => turn(&local),
            Some(before) => *before,
            None => turn(&all),
        }
    }

    /// Who takes a piece from a rank.
    fn downstream(&self, rank: u32, piece: u64) -> Vec<u32> {
        let all = 0..self.paths.len() as u32;
        all.filter(|other| self.joins(*other) && self.upstream(*other, piece) == rank)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
        let roads = Roads {
            paths: &paths,
            nodes: &nodes,
        };
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
        let roads = Roads {
            paths: &paths,
            nodes: &nodes,
        };
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
            let roads = Roads { paths: &paths, nodes: &nodes };
            let mut has: Vec<bool> = joins.iter().map(|joins| !joins).collect();
            for _ in 0..paths.len() {
                for rank in (0..paths.len()).filter(|rank| joins[*rank]) {
                    has[rank] |= has[roads.upstream(rank as u32, piece) as usize];
                }
            }
            prop_assert!(has.iter().all(|has| *has));
        }
    }

    #[test]
    fn pieces_cover_the_state() {
        let all: Vec<Range<usize>> = pieces(2 * PIECE + 5).collect();
        assert_eq!(all, [0..PIECE, PIECE..2 * PIECE, 2 * PIECE..2 * PIECE + 5]);
    }

    #[test]
    fn a_damaged_piece_is_refused() {
        let mut payload = vec![0; blake3::OUT_LEN];
        payload.extend([1, 2, 3]);
        let hash = blake3::hash(&[1, 2, 3]);
        payload[..blake3::OUT_LEN].copy_from_slice(hash.as_bytes());
        assert_eq!(checked(&payload, 3, 1).unwrap(), [1, 2, 3]);
        assert!(checked(&payload, 4, 1).is_err());
        payload[blake3::OUT_LEN] ^= 1;
        assert_eq!(checked(&payload, 3, 1).unwrap_err().rank, 1);
        assert!(checked(&[0; 3], 3, 1).is_err());
    }
}
