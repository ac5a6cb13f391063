//! Ranks in threads whose devices are played by the processor, and their group by loopback.

use super::super::tables::tables;
use super::super::tests::{bytes_of, nodes, state};
use super::super::{LIMITS, feed};
use super::*;
use crate::checkpoint::placed::Placed;
use crate::checkpoint::shared::Shared;
use crate::checkpoint::tests::blip;
use crate::collective::reduce::tests::meshed;
use crate::collective::tcp::mesh::Limits;
use crate::collective::tcp::{Kind, Tag};
use crate::rank::beginning::Path;
use medley_model::device::{Device, Span, SpanMut};
use medley_model::state::State;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Barrier;
use std::time::Duration;

/// Room for whole sections of a small state.
const ROOM: Limits = Limits {
    frame_bytes: 16 << 20,
    waiting_bytes: 64 << 20,
};

/// A group that goes over the mesh.
struct Played<'a> {
    mesh: &'a Mesh,
    /// How many transfers there were to each rank, and from each.
    sent: BTreeMap<u32, u64>,
    received: BTreeMap<u32, u64>,
    numbers: usize,
    rounds: u32,
    has_begun: bool,
    trouble: Trouble,
    is_given_up: bool,
}

/// What goes wrong at a rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Nothing,
    /// It fails when it asks for this round.
    Fails(u32),
    /// The first transfer that it receives arrives with another bit.
    Damages,
}

impl<'a> Played<'a> {
    fn over(mesh: &'a Mesh, trouble: Trouble) -> Self {
        Self {
            mesh,
            sent: BTreeMap::new(),
            received: BTreeMap::new(),
            numbers: 0,
            rounds: 0,
            has_begun: false,
            trouble,
            is_given_up: false,
        }
    }
}

/// The next transfer on a way.
fn next(of: &mut BTreeMap<u32, u64>, peer: u32) -> Tag {
    let count = of.entry(peer).or_default();
    *count += 1;
    Tag {
        exchange: *count,
        ..Tag::plain(Kind::Partial)
    }
}

impl Group for Played<'_> {
    fn device(&self) -> Device {
        Device::Cpu
    }

    fn begin(&mut self, waits: bool) -> Result<bool, Lost> {
        assert!(waits, "there is nothing else to do");
        self.has_begun = true;
        Ok(true)
    }

    fn exchange(&mut self, sends: &[(u32, Span)], receives: Vec<(u32, SpanMut)>) -> Result<(), Lost> {
        assert!(std::mem::take(&mut self.has_begun));
        self.rounds += 1;
        if self.trouble == Trouble::Fails(self.rounds) {
            let (rank, why) = (self.mesh.rank(), "the device is gone".into());
            return Err(Lost { rank, why });
        }
        for (to, numbers) in sends {
            let bytes = Bytes::copy_from_slice(bytemuck::cast_slice(numbers.host()));
            self.mesh.send(*to, next(&mut self.sent, *to), bytes);
        }
        for (from, place) in receives {
            let mut bytes = self.mesh.receive(from, next(&mut self.received, from))?;
            if self.trouble == Trouble::Damages && self.numbers == 0 {
                bytes[7] ^= 1;
            }
            self.numbers += place.len();
            bytemuck::cast_slice_mut(place.host()).copy_from_slice(&bytes);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Lost> {
        assert!(std::mem::take(&mut self.has_begun), "the last round is on its way");
        Ok(())
    }

    fn give_up(&mut self) {
        self.is_given_up = true;
    }
}

/// Paths with joiners at these ranks.
fn paths(ranks: u32, joiners: &[u32]) -> Vec<Path> {
    let path = |rank: u32| {
        if joiners.contains(&rank) {
            Path::Join
        } else {
            Path::Ready
        }
    };
    (0..ranks).map(path).collect()
}

/// A rank's state: all zeros if it joins.
fn placed(given: &State, path: Path) -> Resident {
    match path {
        Path::Join => Resident::zeros(&blip(), &Device::Cpu),
        Path::Ready | Path::CommitPrepared => Resident::of(given, &Device::Cpu),
    }
}

/// Ranks of nodes, and those that join.
fn worlds() -> Vec<(Vec<u32>, Vec<u32>)> {
    vec![
        (vec![1, 1], vec![1]),
        (vec![4], vec![1, 2]),
        (vec![2, 3], vec![2, 3, 4]),
        (vec![3, 2, 2], vec![1, 3, 4, 6]),
        (vec![1, 4, 1], vec![0, 1, 2, 3, 5]),
    ]
}

#[test]
fn those_who_join_are_fed_between_devices_but_for_what_the_process_holds() {
    let mut given = state();
    (given.step, given.queue_next) = (9, 3);
    given.queued_identities[5] = 77;
    for (map, joiners) in worlds() {
        let ranks = map.iter().sum();
        let (paths, nodes) = (paths(ranks, &joiners), nodes(&map));
        let fed = meshed(ranks, ROOM, |mesh| {
            let path = paths[mesh.rank() as usize];
            let resident = placed(&given, path);
            let there = resident.bytes_there().len() / 4;
            let mut state = Shared::new(resident.into()).unwrap();
            let mut group = Played::over(&mesh, Trouble::Nothing);
            feed(&mut state, &paths, &nodes, (&mesh, Some(&mut group))).unwrap();
            let expected = if path == Path::Join { there } else { 0 };
            assert_eq!((group.numbers, group.is_given_up), (expected, false));
            mesh.leave(Duration::from_secs(20));
            bytes_of(&state, 0..given.num_bytes())
        });
        let expected = given.copy_bytes(0..given.num_bytes());
        assert!(fed.iter().all(|bytes| *bytes == expected), "{map:?}, {joiners:?}");
    }
}

#[test]
fn a_state_in_the_process_goes_over_the_mesh_whatever_the_group() {
    let (given, paths, nodes) = (state(), paths(2, &[1]), nodes(&[2]));
    let fed = meshed(2, LIMITS, |mesh| {
        let mut state = Shared::from(if mesh.rank() == 0 {
            given.clone()
        } else {
            State::zeros(&blip())
        });
        let mut group = Played::over(&mesh, Trouble::Nothing);
        feed(&mut state, &paths, &nodes, (&mesh, Some(&mut group))).unwrap();
        assert_eq!(group.rounds, 0);
        mesh.leave(Duration::from_secs(20));
        bytes_of(&state, 0..given.num_bytes())
    });
    assert!(fed[0] == fed[1]);
}

/// What each rank of the third world has of a feed in small pieces, and whether its group was given up.
fn troubled(trouble: impl Fn(u32) -> Trouble + Sync) -> Vec<(Result<Placed, Error>, bool)> {
    let given = state();
    let (map, joiners) = worlds().swap_remove(2);
    let (paths, nodes) = (paths(5, &joiners), nodes(&map));
    // Who waits for a rank that fails learns it from the end of its connection; others have nothing to learn from that.
    let fails = (0..5).any(|rank| matches!(trouble(rank), Trouble::Fails(_)));
    let all_know = Barrier::new(5);
    meshed(5, ROOM, |mesh| {
        let rank = mesh.rank();
        let mut state = placed(&given, paths[rank as usize]);
        let tables = tables(&paths, &nodes);
        let plan = Plan::new(&state, &tables, 5000);
        assert!(plan.pieces.len() > 20);
        let mut group = Played::over(&mesh, trouble(rank));
        let outcome = match paths[rank as usize] {
            Path::Join => plan.take(&mut state, &mesh, &mut group),
            Path::Ready | Path::CommitPrepared => plan.give(&state, &mesh, &mut group),
        };
        let is_given_up = group.is_given_up;
        if !fails {
            all_know.wait();
        }
        mesh.close();
        (outcome.map(|()| state.into()), is_given_up)
    })
}

#[test]
fn many_pieces_arrive_whole() {
    let given = state();
    let numbers = placed(&given, Path::Ready).bytes_there();
    for (outcome, is_given_up) in troubled(|_| Trouble::Nothing) {
        assert!(!is_given_up);
        let fed = bytes_of(&outcome.unwrap(), numbers.clone());
        assert!(fed == given.copy_bytes(numbers.clone()));
    }
}

#[test]
fn a_rank_that_is_lost_in_either_round_ends_the_feed_of_those_who_wait_for_it() {
    // A source; and a joiner that the others are to get some pieces from.
    for (rank, round) in [(1, 1), (3, 1), (3, 2)] {
        let trouble = |other| {
            if other == rank {
                Trouble::Fails(round)
            } else {
                Trouble::Nothing
            }
        };
        for (other, (outcome, is_given_up)) in (0..).zip(troubled(trouble)) {
            if other >= 2 || other == rank {
                assert!(matches!(outcome, Err(Error::Lost(_))), "rank {other}");
                assert!(is_given_up, "rank {other}");
            }
        }
    }
}

#[test]
fn what_arrives_damaged_is_noticed_also_by_those_it_was_passed_on_to() {
    let outcomes = troubled(|rank| if rank == 3 { Trouble::Damages } else { Trouble::Nothing });
    // Rank 3 took the second piece first, from the second source, and gave it to the other joiners.
    for (outcome, _) in &outcomes[2..] {
        match outcome {
            Err(Error::Lost(Lost { rank: 1, why })) => assert!(why.contains("damaged"), "{why}"),
            other => panic!("{other:?}"),
        }
    }
}

proptest! {
    #[test]
    fn every_joiner_is_sent_every_piece_once_by_one_that_has_it_and_a_node_takes_none_twice(
        joins in proptest::collection::vec(any::<bool>(), 1..24),
        cut in 1_usize..6,
        pieces in 0_usize..50,
    ) {
        prop_assume!(joins.contains(&false));
        let paths: Vec<Path> = joins.iter().map(|joins| if *joins { Path::Join } else { Path::Ready }).collect();
        let all: Vec<u32> = (0..paths.len() as u32).collect();
        let nodes: Vec<Vec<u32>> = all.chunks(cut).map(<[u32]>::to_vec).collect();
        let node_of = |rank: u32| rank as usize / cut;
        let [first, second] = rounds(&tables(&paths, &nodes), pieces);
        let mut has: Vec<Vec<bool>> = joins.iter().map(|joins| vec![!joins; pieces]).collect();
        let mut crossed = BTreeSet::new();
        for round in [&first, &second] {
            let before = has.clone();
            let mut last = BTreeMap::new();
            for Move { piece, from, to } in round {
                prop_assert!(before[*from as usize][*piece] && !has[*to as usize][*piece]);
                has[*to as usize][*piece] = true;
                prop_assert!(last.insert((from, to), piece).is_none_or(|last| last < piece));
                if node_of(*from) != node_of(*to) {
                    prop_assert!(crossed.insert((node_of(*to), *piece)));
                }
            }
        }
        prop_assert!(has.iter().flatten().all(|has| *has));
    }
}
