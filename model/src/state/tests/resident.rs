//! A state on a device, which the processor plays: it must be the state of the process in every byte.

use super::*;
use crate::device::Device;

/// The canonical bytes of a range.
fn bytes_of(state: &Resident, range: Range<usize>) -> Vec<u8> {
    let (mut fetcher, mark) = (state.device().fetcher().unwrap(), state.device().mark().unwrap());
    let mut bytes = Vec::new();
    let found = state.for_bytes((&mut fetcher, &mark), range, |piece| bytes.extend_from_slice(piece));
    found.unwrap();
    bytes
}

fn gradient(blip: &Blip) -> Flat {
    let noise = |i: usize| ((i * 7919 % 1009) as f32 - 500.0) / 300.0;
    Flat::from_slice(&(0..blip.student_layout.len()).map(noise).collect::<Vec<_>>())
}

/// Commits of ten samples.
fn steps<'a>(gradient: &'a Flat, features: &'a [f32]) -> impl Iterator<Item = Commit<'a>> {
    const IDENTITIES: [u64; 10] = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3];
    let commit = move |lr: f64| Commit {
        gradient: gradient.into(),
        lanes: 3,
        image_features: features,
        text_features: features,
        identities: &IDENTITIES,
        lr,
    };
    [1e-2, 5e-3, 2e-2].into_iter().map(commit)
}

fn all_of(bytes: usize) -> [Range<usize>; 1] {
    std::array::from_fn(|_| 0..bytes)
}

/// Ranges that begin and end anywhere.
fn ranges(bytes: usize) -> Vec<Range<usize>> {
    let cuts = [
        0,
        1,
        7,
        16,
        17,
        1003,
        5002,
        bytes / 2 + 1,
        bytes / 3 * 2 + 3,
        bytes - 130,
        bytes - 3,
        bytes,
    ];
    let pairs = |from: usize| cuts.into_iter().filter(move |to| from <= *to).map(move |to| from..to);
    cuts.into_iter().flat_map(pairs).collect()
}

#[test]
fn its_bytes_are_those_of_the_process_after_every_commit_and_by_any_range() {
    let (blip, train) = blip();
    let (gradient, features) = (gradient(&blip), vec![0.5; 10 * blip.model.embed_dim as usize]);
    for objective in [Objective::Pretrain, Objective::Captioner, Objective::Filter] {
        let mut here = State::fresh(&blip, 1);
        let mut there = Resident::zeros(&blip, &Device::Cpu);
        there.load(&here);
        for commit in steps(&gradient, &features) {
            here.commit(&blip, objective, &train, commit);
            there.commit(&blip, objective, &train, commit);
            assert_eq!(
                bytes_of(&there, 0..here.num_bytes()),
                here.copy_bytes(0..here.num_bytes())
            );
        }
        for range in ranges(here.num_bytes()) {
            assert!(
                bytes_of(&there, range.clone()) == here.copy_bytes(range.clone()),
                "{range:?}"
            );
        }
        assert_eq!((there.step(), there.num_bytes()), (3, here.num_bytes()));
        assert_eq!(
            (there.pieces(5000), there.replaced_by(9)),
            (here.pieces(5000), here.replaced_by(9))
        );
        assert_eq!(there.temperature(&blip), here.temperature(&blip));
        let mut stored = State::zeros(&blip);
        there.store(&mut stored).unwrap();
        assert_eq!(stored.digest(), here.digest());
    }
}

#[test]
fn it_takes_over_bytes_piece_by_piece() {
    let (blip, train) = blip();
    let mut here = State::fresh(&blip, 1);
    commit(&mut here, &blip, &train, 100);
    for size in [4, 4096, here.num_bytes()] {
        let mut there = Resident::zeros(&blip, &Device::Cpu);
        for piece in here.pieces(size) {
            there.write_bytes(piece.start, &here.copy_bytes(piece));
        }
        there.taken().unwrap();
        assert_eq!(
            bytes_of(&there, 0..here.num_bytes()),
            here.copy_bytes(0..here.num_bytes())
        );
        assert_eq!(there.step(), 1);
    }
}

#[test]
fn its_numbers_are_lent_where_they_lie() {
    let (blip, train) = blip();
    let mut here = State::fresh(&blip, 1);
    commit(&mut here, &blip, &train, 100);
    let from = Resident::of(&here, &Device::Cpu);
    let there = from.bytes_there();
    for size in [4, 4096, here.num_bytes()] {
        let pieces = here.pieces(size).into_iter();
        let (lent, own): (Vec<_>, Vec<_>) =
            pieces.partition(|piece| there.start <= piece.start && piece.end <= there.end);
        assert_eq!(lent.iter().map(ExactSizeIterator::len).sum::<usize>(), there.len());
        let mut to = Resident::zeros(&blip, &Device::Cpu);
        // Every other one, and then the rest.
        for turn in 0..2 {
            let some: Vec<_> = lent.iter().skip(turn).step_by(2).cloned().collect();
            for (place, range) in to.spans_mut(&some).into_iter().zip(&some) {
                place.host().copy_from_slice(from.span(range).host());
            }
        }
        for piece in own {
            to.write_bytes(piece.start, &here.copy_bytes(piece));
        }
        to.taken().unwrap();
        assert!(bytes_of(&to, 0..here.num_bytes()) == here.copy_bytes(0..here.num_bytes()));
    }
}

#[test]
fn a_snapshot_holds_the_bytes_of_its_range_whatever_comes_after_it() {
    let (blip, train) = blip();
    let (gradient, features) = (gradient(&blip), vec![0.5; 10 * blip.model.embed_dim as usize]);
    let mut here = State::fresh(&blip, 1);
    commit(&mut here, &blip, &train, 100);
    let mut there = Resident::of(&here, &Device::Cpu);
    let commit = steps(&gradient, &features).next().unwrap();
    let mut fetcher = Device::Cpu.fetcher().unwrap();
    for range in ranges(here.num_bytes()) {
        let room = Device::Cpu.buffer(Resident::room_for(range.len()));
        let snapshot = there.snapshot(range.clone(), room).unwrap();
        let (step, expected) = (there.step(), bytes_of(&there, range.clone()));
        there.commit(&blip, Objective::Filter, &train, commit);
        let mut found = Vec::new();
        let read = snapshot.for_bytes(&mut fetcher, range.clone(), |piece| found.extend_from_slice(piece));
        read.unwrap();
        assert!(found == expected, "{range:?}");
        assert_eq!((snapshot.step(), snapshot.num_bytes()), (step, here.num_bytes()));
        assert_eq!(snapshot.into_room().len(), Resident::room_for(range.len()));
    }
}

#[test]
fn what_a_commit_makes_is_foreseen_to_the_bit() {
    let (blip, train) = blip();
    let (gradient, features) = (gradient(&blip), vec![0.5; 10 * blip.model.embed_dim as usize]);
    let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt() / 3.0;
    for objective in [Objective::Pretrain, Objective::Captioner, Objective::Filter] {
        let mut here = State::fresh(&blip, 1);
        let mut there = Resident::of(&here, &Device::Cpu);
        let mut seen = Vec::new();
        for commit in steps(&gradient, &features) {
            let foreseen = here.foresee(&blip, objective, &train, commit);
            let before = here.digest();
            assert_eq!(there.foresee(&blip, objective, &train, commit), Ok(foreseen));
            assert_eq!(here.digest(), before);
            here.commit(&blip, objective, &train, commit);
            there.commit(&blip, objective, &train, commit);
            assert_eq!(foreseen.temperature, here.temperature(&blip));
            assert!((foreseen.gradient_norm / norm - 1.0).abs() < 1e-9);
            seen.push(foreseen.temperature);
        }
        let moves = seen[0] != seen[1];
        assert_eq!(moves, objective.understands(), "{objective:?}: {seen:?}");
    }
}

#[test]
fn its_digest_knows_every_bit_of_its_ranges_and_no_other() {
    let (blip, train) = blip();
    let mut here = State::fresh(&blip, 1);
    commit(&mut here, &blip, &train, 100);
    let all = here.num_bytes();
    let digest = |state: &State, ranges: &[Range<usize>]| Resident::of(state, &Device::Cpu).digest(ranges).unwrap();
    let middle = all / 8 * 4;
    let ranges = [1000..middle, all - 1000..all];
    let plain = digest(&here, &ranges);
    assert_eq!(digest(&here, &[1000..5000, 5000..middle, all - 1000..all]), plain);
    for at in [
        0,
        17,
        999,
        1000,
        middle - 1,
        middle,
        all - 1001,
        all - 1000,
        all - 900,
        all - 1,
    ] {
        let mut bytes = here.copy_bytes(0..all);
        bytes[at] ^= 1 << (at % 8);
        let mut other = State::zeros(&blip);
        other.load(&bytes).unwrap();
        let is_within = ranges.iter().any(|range| range.contains(&at));
        assert_eq!(digest(&other, &ranges) != plain, is_within, "byte {at}");
        assert_ne!(digest(&other, &all_of(all)), digest(&here, &all_of(all)), "byte {at}");
    }
}
