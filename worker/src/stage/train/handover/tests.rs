//! States that are fed to ranks in threads, over loopback.

use super::*;
use crate::checkpoint::tests::{blip, placed};
use crate::collective::reduce::tests::meshed;
use medley_model::state::State;
use proptest::prelude::*;
use std::time::Duration;

pub(super) fn nodes(ranks: &[u32]) -> Vec<Vec<u32>> {
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
    let roads = Roads::new(&tables(&paths, &nodes), paths.len());
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
    let roads = Roads::new(&tables(&paths, &nodes), paths.len());
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
        let roads = Roads::new(&tables(&paths, &nodes), paths.len());
        let mut has: Vec<bool> = joins.iter().map(|joins| !joins).collect();
        for _ in 0..paths.len() {
            for rank in (0..paths.len()).filter(|rank| joins[*rank]) {
                has[rank] |= has[roads.upstream(rank as u32, piece) as usize];
            }
        }
        prop_assert!(has.iter().all(|has| *has));
    }
}

pub(super) fn state() -> State {
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
pub(super) fn bytes_of(state: &Placed, range: Range<usize>) -> Vec<u8> {
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
        feed(&mut state, &paths, &nodes, (&mesh, None)).unwrap();
        mesh.leave(Duration::from_secs(20));
        bytes_of(&state, 0..given.num_bytes())
    });
    assert!(fed.iter().all(|bytes| *bytes == given.copy_bytes(0..given.num_bytes())));
}
