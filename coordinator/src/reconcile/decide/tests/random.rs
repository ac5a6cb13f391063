//! Whatever goes wrong, in any order.

use super::*;
use crate::reconcile::placing::busy;
use medley_protocol::agent::StepPhase::{Computing, Exchanging};
use proptest::prelude::*;

/// What may go wrong in a round.
#[derive(Debug, Clone)]
enum Fault {
    Nothing,
    Silence(u128),
    Return(u128),
    Restart(u128),
    RankFails(u32),
    RankBreaks(u32),
    /// One computes for ever and all others wait, or all wait.
    Standstill(Option<u32>),
    Checkpoint,
    /// Two nodes do not reach each other any more.
    Cut(u128, u128),
    /// All nodes reach each other again.
    Heal,
}

fn faults() -> impl Strategy<Value = Vec<Fault>> {
    let fault = prop_oneof![
        6 => Just(Fault::Nothing),
        1 => (1..4u128).prop_map(Fault::Silence),
        2 => (1..4u128).prop_map(Fault::Return),
        1 => (1..4u128).prop_map(Fault::Restart),
        1 => (0..4u32).prop_map(Fault::RankFails),
        2 => (0..4u32).prop_map(Fault::RankBreaks),
        1 => prop::option::of(0..4u32).prop_map(Fault::Standstill),
        2 => Just(Fault::Checkpoint),
        2 => (1..4u128, 1..4u128).prop_map(|(one, other)| Fault::Cut(one, other)),
        1 => Just(Fault::Heal),
    ];
    prop::collection::vec(fault, 1..120)
}

impl World {
    fn suffer(&mut self, fault: &Fault, round: u128) {
        match *fault {
            Fault::Silence(id) => drop(self.alive.remove(&node(id))),
            Fault::Return(id) => drop(self.alive.insert(node(id))),
            Fault::Restart(id) => self.join(id, 2, 1000 + round),
            Fault::RankFails(rank) => self.fail_rank(rank, "it broke", true),
            Fault::RankBreaks(rank) => self.break_rank(rank, 1),
            Fault::Standstill(by) => {
                for rank in 0..self.num_ranks() as u32 {
                    let phase = if by == Some(rank) { Computing } else { Exchanging };
                    self.look_at(rank, phase, 5000, 50);
                }
            }
            Fault::Checkpoint => {
                let step = (self.stage().progress() + 1).min(19);
                self.commit_checkpoint(step);
            }
            Fault::Cut(one, other) if one != other => self.cut(one, other),
            Fault::Nothing | Fault::Cut(..) => {}
            Fault::Heal => self.cuts.clear(),
        }
    }
}

proptest! {
    #[test]
    fn whatever_fails_generations_grow_devices_suffice_and_the_job_ends_when_faults_do(faults in faults()) {
        let mut world = World::new(&[2, 2, 2]);
        world.training_job();
        let mut generation = 0;
        for (round, fault) in (1..).zip(&faults) {
            world.suffer(fault, round);
            world.round();
            prop_assert!(world.stage().generation >= generation);
            generation = world.stage().generation;
            prop_assert!(busy(world.jobs.iter().flat_map(|job| &job.stages)).values().all(|busy| *busy <= 2));
            if let Some(present) = world.stage().present() {
                let last = world.stage().next().unwrap_or(present);
                prop_assert_eq!(world.stage().next().is_some(), present.number < last.number);
                prop_assert!(last.number <= generation, "numbers only grow");
                let is_kept = |seat: &Seat| last.seats.iter().any(|other| (other.node, other.rank) == (seat.node, seat.rank));
                let first = present.seats.iter().take(1);
                prop_assert!(first.into_iter().all(is_kept), "the lowest rank stays where it is");
                prop_assert!(present.seats.iter().map(|seat| seat.rank).eq(0..present.seats.len() as u32));
                let resumed = present.resume.as_ref().map_or(0, |manifest| manifest.step);
                prop_assert!(resumed <= world.stage().progress());
            }
        }
        world.alive.extend([node(1), node(2), node(3)]);
        world.odd.clear();
        world.looks.clear();
        world.cuts.clear();
        world.rounds(80);
        let label = world.stage().state.label();
        let gave_up = world.stage().setbacks.in_a_row >= 8;
        prop_assert!(label == StageState::Running || (label == StageState::Failed && gave_up), "{label:?}");
    }
}
