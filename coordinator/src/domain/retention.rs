//! Which checkpoints of a stage are kept: a pure function of what there is and of the spec.

use medley_protocol::doubt::proven_by;
use medley_protocol::ids::CheckpointId;
use medley_protocol::spec::CheckpointSpec;
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// A checkpoint of a stage that nobody has given up yet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Held {
    /// The checkpoint.
    pub id: CheckpointId,
    /// Its committed step; no two good ones of a stage have the same.
    pub step: u64,
    /// Whether it was found damaged: nothing can start from it.
    pub damaged: bool,
    /// Mean of the losses over the steps since the checkpoint before it; none if no rows of them are stored.
    pub mean_loss: Option<f64>,
}

/// The checkpoints that are given up.
///
/// Of the good ones the last `keep` stay, the `keep_best` of the lowest loss (of equal ones the later), and those at
/// multiples of `keep_every_steps`. While the stage `goes_on`, the newest stays that is proven whatever its ranks may find
/// their states to be, and the oldest that is not: it will be, and takes the other's place. What is `pinned` stays in any case:
/// somebody may be reading it.
pub fn surplus(
    spec: CheckpointSpec,
    held: &[Held],
    pinned: &BTreeSet<CheckpointId>,
    goes_on: bool,
) -> BTreeSet<CheckpointId> {
    let mut good: Vec<&Held> = held.iter().filter(|one| !one.damaged).collect();
    good.sort_by_key(|one| Reverse(one.step));
    let last = good.iter().take(spec.keep as usize).map(|one| one.id);
    let at_multiples = good.iter().filter(|one| {
        let every = spec.keep_every_steps;
        every > 0 && one.step.is_multiple_of(every)
    });
    let mut scored: Vec<(f64, CheckpointId)> = good.iter().filter_map(|one| Some((one.mean_loss?, one.id))).collect();
    // A stable sort: of equal losses the later one comes first.
    scored.sort_by(|a, b| a.0.total_cmp(&b.0));
    let best = scored.iter().take(spec.keep_best as usize).map(|(_, id)| *id);
    let proven = proven_by(good.first().map_or(0, |one| one.step));
    let newest_proven = good.iter().find(|one| one.step <= proven);
    let oldest_other = good.iter().rfind(|one| one.step > proven);
    let to_fall_back_on = newest_proven.into_iter().chain(oldest_other).filter(|_| goes_on);
    let mut kept: BTreeSet<CheckpointId> = last.chain(at_multiples.map(|one| one.id)).chain(best).collect();
    kept.extend(pinned);
    kept.extend(to_fall_back_on.map(|one| one.id));
    let all = held.iter().map(|one| one.id);
    all.filter(|id| !kept.contains(id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use medley_protocol::doubt::COMPARED_WITHIN;
    use proptest::prelude::*;
    use uuid::Uuid;

    /// Most steps between two checkpoints.
    const MOST: u64 = 40;

    fn id(step: u64) -> CheckpointId {
        CheckpointId::from_uuid(Uuid::from_u128(step.into()))
    }

    fn held(step: u64, mean_loss: f64) -> Held {
        Held {
            id: id(step),
            step,
            damaged: false,
            mean_loss: Some(mean_loss),
        }
    }

    fn spec(keep: u32, keep_every_steps: u64, keep_best: u32) -> CheckpointSpec {
        CheckpointSpec {
            every_steps: 5,
            keep,
            keep_every_steps,
            keep_best,
        }
    }

    /// What is kept of a stage that is done.
    fn kept(spec: CheckpointSpec, held: &[Held], pinned: &[u64]) -> Vec<u64> {
        let pinned = pinned.iter().map(|step| id(*step)).collect();
        without(&surplus(spec, held, &pinned, false), held)
    }

    fn without(gone: &BTreeSet<CheckpointId>, held: &[Held]) -> Vec<u64> {
        let stay = held.iter().filter(|one| !gone.contains(&one.id));
        stay.map(|one| one.step).collect()
    }

    #[test]
    fn the_last_the_best_and_those_at_multiples_stay() {
        let all = [
            held(5, 3.0),
            held(10, 1.0),
            held(15, 2.0),
            held(20, 1.0),
            held(25, 4.0),
            held(30, 5.0),
        ];
        assert_eq!(kept(spec(2, 0, 0), &all, &[]), [25, 30]);
        assert_eq!(kept(spec(1, 10, 0), &all, &[]), [10, 20, 30]);
        assert_eq!(kept(spec(1, 0, 1), &all, &[]), [20, 30], "of equal ones the later");
        assert_eq!(kept(spec(1, 0, 3), &all, &[5]), [5, 10, 15, 20, 30]);
    }

    #[test]
    fn a_damaged_one_takes_no_good_ones_place() {
        let mut all = [held(5, 1.0), held(10, 2.0), held(15, 0.5)];
        all[2].damaged = true;
        assert_eq!(kept(spec(1, 15, 1), &all, &[]), [5, 10]);
        assert_eq!(kept(spec(1, 0, 0), &all, &[15]), [10, 15], "it may still be read");
    }

    #[test]
    fn one_that_is_proven_stays_until_the_stage_is_done() {
        let every_ten: Vec<Held> = (1..=20).map(|i| held(10 * i, 1.0)).collect();
        let kept_so_far = |held: &[Held]| without(&surplus(spec(2, 0, 0), held, &BTreeSet::new(), true), held);
        assert_eq!(kept_so_far(&every_ten), [130, 140, 190, 200]);
        assert_eq!(kept_so_far(&every_ten[..6]), [10, 50, 60], "it will be");
        assert_eq!(kept(spec(2, 0, 0), &every_ten, &[]), [190, 200]);
    }

    proptest! {
        #[test]
        fn once_one_is_proven_one_is_kept_that_is_and_it_is_never_much_older_than_it_has_to_be(
            gaps in proptest::collection::vec(1..=MOST, 1..60),
            keep in 1_u32..4,
        ) {
            // They are taken one after the other, and what is given up is gone.
            let (mut kept, mut step) = (Vec::new(), 0);
            let first = gaps[0];
            for gap in gaps {
                step += gap;
                kept.push(held(step, 1.0));
                let gone = surplus(spec(keep, 0, 0), &kept, &BTreeSet::new(), true);
                kept.retain(|one| !gone.contains(&one.id));
                prop_assert!(kept.len() <= keep as usize + 2);
                let proven = kept.iter().map(|one| one.step).filter(|one| *one <= proven_by(step)).max();
                prop_assert_eq!(proven.is_some(), first <= proven_by(step));
                let oldest = step.saturating_sub(2 * (COMPARED_WITHIN + 1 + MOST));
                prop_assert!(proven.is_none_or(|one| one >= oldest), "{proven:?} of {step}");
            }
        }

        #[test]
        fn whatever_the_spec_the_last_good_one_stays_and_nothing_is_kept_without_a_reason(
            rows in proptest::collection::vec((any::<bool>(), proptest::option::of(0.0_f64..9.0)), 1..20),
            keep in 1_u32..5,
            every in 0_u64..4,
            best in 0_u32..4,
        ) {
            let all: Vec<Held> = (1..).zip(&rows).map(|(step, (damaged, mean_loss))| Held {
                id: id(step), step, damaged: *damaged, mean_loss: *mean_loss,
            }).collect();
            let gone = surplus(spec(keep, every, best), &all, &BTreeSet::new(), true);
            let good = || all.iter().filter(|one| !one.damaged);
            let last = good().next_back();
            prop_assert!(last.is_none_or(|last| !gone.contains(&last.id)));
            prop_assert!(all.iter().all(|one| !one.damaged || gone.contains(&one.id)));
            let multiples = good().filter(|one| every > 0 && one.step % every == 0).count();
            let most = keep as usize + best as usize + multiples + 2;
            prop_assert!(all.len() - gone.len() <= most);
        }
    }
}
