//! Who holds a generation up that makes no step although nobody has lost anybody.
//!
//! Every rank says, from a thread that does not compute, in which part of a step it is and for how long. In a step that goes on
//! as usual some compute and some wait. If one alone does not wait, and all others have waited for it much longer than a
//! step takes, it is the one that holds them up: it computes for ever, or its process stands still. If all wait and nobody
//! computes, what one has sent does not reach another. A rank that saves a checkpoint holds nobody up by that, nor does one that
//! waits for its samples: storage has limits of its own, and whoever waits for it says in the end what is wrong with it.
//!
//! All ranks make a step together, so what one knows of its time holds for those that have just joined. But much is done once in a
//! generation's first steps, such as connecting: then a rank may compute for a minute, and all may wait so long; only a process that
//! stands still is named as soon as later.

use medley_protocol::agent::{Doing, StepPhase};
use medley_protocol::vigil::{QUIET, STEPS};
use std::time::Duration;

/// Shortest time that a rank may compute, or all may wait.
const PATIENCE: Duration = Duration::from_secs(2);
/// The same before a rank has made some steps in its generation.
const FIRST_PATIENCE: Duration = Duration::from_mins(1);

/// A rank as its agent last saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Its number.
    pub rank: u32,
    /// Where in a step it is.
    pub doing: Doing,
    /// For how long its process has said nothing.
    pub quiet: Duration,
}

/// Why a generation makes no step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// A rank holds all others up.
    Rank {
        /// Which.
        rank: u32,
        /// How, in words that follow its name.
        text: String,
    },
    /// Nobody computes, and everyone waits.
    Cut {
        /// For what, in words that follow the name of a rank.
        text: String,
    },
}

impl Look {
    fn stands_still(&self) -> bool {
        self.quiet >= QUIET
    }

    /// For how long it may do the same, where a step takes so long.
    fn patience(&self, usual: Duration) -> Duration {
        let shortest = if self.doing.is_settled() {
            PATIENCE
        } else {
            FIRST_PATIENCE
        };
        (usual * STEPS).max(shortest)
    }

    /// Whether it has done the same for too long.
    fn is_late(&self, usual: Duration) -> bool {
        self.doing.lasts() >= self.patience(usual)
    }

    /// Whether it waits for others.
    fn waits(&self) -> bool {
        self.doing.waits() && !self.stands_still()
    }

    /// Whether it has waited for others much longer than a step takes.
    fn misses_somebody(&self, usual: Duration) -> bool {
        self.doing.has_waited_beyond(usual) && !self.stands_still()
    }
}

/// Whether some rank misses another; in a generation's first steps a wait says little.
pub fn is_waited_for(looks: &[Look]) -> bool {
    let missing = |usual| {
        looks
            .iter()
            .any(|look| look.doing.is_settled() && look.misses_somebody(usual))
    };
    usual_step(looks).is_some_and(missing)
}

/// How long a step takes as a rule, as far as any rank knows.
fn usual_step(looks: &[Look]) -> Option<Duration> {
    looks.iter().filter_map(|look| look.doing.usual_step()).max()
}

/// Why a generation makes no step, if it makes none; `looks` are all its ranks.
pub fn cause(looks: &[Look]) -> Option<Cause> {
    let usual = usual_step(looks)?;
    let (waiting, others): (Vec<&Look>, Vec<&Look>) = looks.iter().partition(|look| look.waits());
    match others[..] {
        [] if looks.len() > 1 && looks.iter().all(|look| look.is_late(usual)) => Some(cut(&waiting)),
        [one] if !waiting.is_empty() => {
            let is_missed = waiting.iter().all(|look| look.misses_somebody(usual));
            let computes = one.doing.phase == StepPhase::Computing && one.is_late(usual);
            (computes || (is_missed && one.stands_still())).then(|| held_up(one, &waiting, usual))
        }
        _ => None,
    }
}

fn held_up(one: &Look, waiting: &[&Look], usual: Duration) -> Cause {
    let Doing { step, collective, .. } = one.doing;
    let phase = phase(one.doing.phase);
    let how = if one.stands_still() {
        format!(
            "stands still: it has said nothing for {:.1} s, {phase} step {step}",
            one.quiet.as_secs_f64()
        )
    } else {
        format!(
            "hangs: it has been {phase} step {step} for {:.1} s",
            one.doing.lasts().as_secs_f64()
        )
    };
    let longest = waiting.iter().map(|look| look.doing.lasts()).max().unwrap_or_default();
    Cause::Rank {
        rank: one.rank,
        text: format!(
            "{how}, and all others have waited {:.1} s for it in collective {collective}; a step takes {:.1} s as a rule",
            longest.as_secs_f64(),
            usual.as_secs_f64()
        ),
    }
}

fn cut(waiting: &[&Look]) -> Cause {
    let first = waiting[0];
    let Doing { step, collective, .. } = first.doing;
    Cause::Cut {
        text: format!(
            "has been {} step {step} for {:.1} s in collective {collective}, as all others have: what one sends does not reach \
             another",
            phase(first.doing.phase),
            first.doing.lasts().as_secs_f64()
        ),
    }
}

/// A part of a step, for people.
fn phase(phase: StepPhase) -> &'static str {
    match phase {
        StepPhase::Computing => "computing",
        StepPhase::Reading => "waiting for the samples of",
        StepPhase::Exchanging => "exchanging sums of",
        StepPhase::Agreeing => "agreeing on",
        StepPhase::Saving => "saving a checkpoint at",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use StepPhase::{Agreeing, Computing, Exchanging, Reading, Saving};
    use proptest::prelude::*;

    fn look(rank: u32, phase: StepPhase, for_ms: u64, quiet_ms: u64) -> Look {
        let doing = Doing {
            step: 12,
            phase,
            collective: 40,
            for_ms,
            usual_step_ms: Some(1000),
            lane_us: Some(1000),
        };
        let quiet = Duration::from_millis(quiet_ms);
        Look { rank, doing, quiet }
    }

    #[test]
    fn a_rank_that_computes_for_ever_is_named_once_three_usual_steps_are_over() {
        let held_up = |for_ms| {
            [
                look(0, Exchanging, 1900, 0),
                look(1, Computing, for_ms, 0),
                look(2, Exchanging, 10, 0),
            ]
        };
        assert_eq!(cause(&held_up(2999)), None);
        let Some(Cause::Rank { rank: 1, text }) = cause(&held_up(3000)) else {
            panic!()
        };
        assert_eq!(
            text,
            "hangs: it has been computing step 12 for 3.0 s, and all others have waited 1.9 s for it in collective 40; a step \
             takes 1.0 s as a rule"
        );
    }

    #[test]
    fn nobody_is_named_while_two_compute_or_the_one_waits_for_storage_or_none_knows_how_long_a_step_takes() {
        let ranks = |phase| {
            [
                look(0, Exchanging, 9000, 0),
                look(1, Computing, 9000, 0),
                look(2, phase, 9000, 0),
            ]
        };
        assert_eq!(cause(&ranks(Computing)), None);
        for storage in [Reading, Saving] {
            assert_eq!(cause(&[look(0, Agreeing, 9000, 0), look(1, storage, 9000, 0)]), None);
        }
        let mut ranks = ranks(Agreeing);
        assert!(cause(&ranks).is_some());
        ranks.iter_mut().for_each(|look| look.doing.usual_step_ms = None);
        assert_eq!(cause(&ranks), None);
    }

    #[test]
    fn a_rank_that_has_just_joined_is_named_for_its_silence_and_late_for_computing() {
        let mut ranks = [
            look(0, Exchanging, 9000, 0),
            look(1, Computing, 9000, 0),
            look(2, Exchanging, 9000, 0),
        ];
        for joiner in [1, 2] {
            ranks[joiner].doing.usual_step_ms = None;
            ranks[joiner].doing.lane_us = None;
        }
        assert_eq!(cause(&ranks), None, "its first step may take long");
        ranks[1].doing.for_ms = 60_000;
        assert!(cause(&ranks).is_some(), "but not for ever");
        ranks[1].doing.for_ms = 9000;
        ranks[1].quiet = QUIET;
        assert!(matches!(cause(&ranks), Some(Cause::Rank { rank: 1, .. })));
        ranks[2].doing.for_ms = 100;
        assert_eq!(cause(&ranks), None, "another one does not miss it yet");
    }

    #[test]
    fn a_process_that_says_nothing_is_named_as_soon_as_all_others_miss_it_whatever_it_did_last() {
        for last in [Computing, Reading, Exchanging, Agreeing, Saving] {
            let ranks = |waits| [look(0, Exchanging, waits, 100), look(1, last, 20, 800)];
            assert_eq!(cause(&ranks(2900)), None);
            assert!(
                matches!(cause(&ranks(3000)), Some(Cause::Rank { rank: 1, .. })),
                "{last:?}"
            );
        }
    }

    #[test]
    fn if_all_wait_for_each_other_it_is_a_cut() {
        let mut ranks = [look(0, Exchanging, 3000, 0), look(1, Agreeing, 5000, 0)];
        assert!(matches!(cause(&ranks), Some(Cause::Cut { .. })));
        assert_eq!(cause(&ranks[..1]), None, "a rank alone waits for nobody");
        ranks[1].doing.lane_us = None;
        assert_eq!(cause(&ranks), None, "they may be connecting");
        ranks[1].doing.for_ms = 60_000;
        assert!(cause(&ranks).is_some(), "but not for ever");
    }

    fn any_look() -> impl Strategy<Value = (StepPhase, u64, u64)> {
        let phase = prop::sample::select(vec![Computing, Reading, Exchanging, Agreeing, Saving]);
        (phase, 0..8000_u64, 0..1500_u64)
    }

    proptest! {
        #[test]
        fn whoever_is_named_does_not_wait_and_all_others_do(looks in prop::collection::vec(any_look(), 1..9)) {
            let ranks = (0..).zip(looks);
            let looks: Vec<Look> = ranks.map(|(rank, (phase, for_ms, quiet))| look(rank, phase, for_ms, quiet)).collect();
            match cause(&looks) {
                Some(Cause::Rank { rank, .. }) => {
                    prop_assert!(looks.iter().all(|look| look.waits() == (look.rank != rank)));
                }
                Some(Cause::Cut { .. }) => prop_assert!(looks.iter().all(|look| look.waits() && is_waited_for(&[*look]))),
                None => {}
            }
        }

        #[test]
        fn nobody_is_named_as_long_as_no_part_of_a_step_takes_longer_than_a_step(
            looks in prop::collection::vec(any_look(), 1..9),
        ) {
            let ranks = (0..).zip(looks);
            let looks: Vec<Look> = ranks.map(|(rank, (phase, for_ms, _))| look(rank, phase, for_ms % 1000, 200)).collect();
            prop_assert_eq!(cause(&looks), None);
            prop_assert!(!is_waited_for(&looks));
        }
    }
}
