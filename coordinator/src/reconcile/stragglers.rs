//! Ranks that hold their generation up: which need much longer for a lane than the others, for many steps.
//!
//! A step takes as long as its slowest rank. Every rank tells the time that it computes itself, without what it waits for
//! others, per lane, as the median of its last steps; so ranks with different numbers of lanes compare, and a single slow
//! step counts for nothing. A rank is a straggler once that time has been more than [`SLOW`] times the middle of its
//! generation throughout [`STEPS`] committed steps, and ceases to be one when it falls below [`RECOVERED`] times the middle.

use super::sight::{RankId, Sight};
use crate::domain::stage::{Generation, Seat};
use crate::domain::{Event, Job, Stage};
use medley_protocol::agent::RankState;
use medley_protocol::ids::{JobId, NodeId};
use medley_protocol::rest::Straggler;
use std::collections::BTreeMap;

/// Times the middle, above which a rank is slow.
const SLOW: f64 = 1.5;
/// Times the middle, below which a straggler has recovered.
const RECOVERED: f64 = 1.25;
/// Steps through which a rank is slow before it is named.
const STEPS: u64 = 20;
/// Time per lane beyond the middle that is worth a word, in microseconds: less is noise of a busy machine.
const WORTH_US: u64 = 2000;

/// What is remembered of ranks that are, or were, slow; as long as their generations last.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Watch(BTreeMap<RankId, Slow>);

#[derive(Debug, Clone, PartialEq)]
struct Slow {
    /// The step since which it has been slow; none if it has recovered.
    since: Option<u64>,
    /// Whether it was named: once is enough in a generation.
    named: bool,
    node: NodeId,
    node_name: String,
    lane_us: u64,
    usual_us: u64,
}

/// The pace of one rank.
struct Pace<'a> {
    rank: u32,
    node: NodeId,
    node_name: &'a str,
    committed: u64,
    lane_us: u64,
}

impl Watch {
    /// Looks at all generations that train; names those of their ranks that have become stragglers.
    pub fn look(&mut self, jobs: &[Job], sight: &Sight) -> Vec<Event> {
        let mut before = std::mem::take(&mut self.0);
        let mut events = Vec::new();
        for (job, stage) in jobs
            .iter()
            .flat_map(|job| job.stages.iter().map(move |stage| (job, stage)))
        {
            let Some(generation) = stage.present().filter(|_| stage.kind.is_training()) else {
                continue;
            };
            let paces = paces(stage, generation, sight);
            let Some(usual_us) = middle(&paces) else { continue };
            for pace in paces {
                let id = (stage.id, generation.number, pace.rank);
                let known = before.remove(&id);
                let Some(mut slow) = known.or_else(|| pace.is_slow(usual_us).then(|| pace.begin())) else {
                    continue;
                };
                let becomes_known = slow.take_in(&pace, usual_us);
                if becomes_known {
                    events.push(event(job.id, stage, generation.number, &pace, usual_us));
                }
                if slow.named || slow.since.is_some() {
                    self.0.insert(id, slow);
                }
            }
        }
        events
    }

    /// The stragglers of the present.
    pub fn stragglers(&self) -> Vec<Straggler> {
        let present = self.0.iter().filter(|(_, slow)| slow.named && slow.since.is_some());
        let view = |((stage, generation, rank), slow): (&RankId, &Slow)| Straggler {
            stage: *stage,
            generation: *generation,
            rank: *rank,
            node: slow.node,
            node_name: slow.node_name.clone(),
            lane_ms: ms(slow.lane_us),
            usual_lane_ms: ms(slow.usual_us),
        };
        present.map(view).collect()
    }
}

impl Pace<'_> {
    fn is_slow(&self, usual_us: u64) -> bool {
        self.lane_us as f64 > SLOW * usual_us as f64 && self.lane_us > usual_us + WORTH_US
    }

    fn has_recovered(&self, usual_us: u64) -> bool {
        (self.lane_us as f64) < RECOVERED * usual_us as f64 || self.lane_us <= usual_us + WORTH_US
    }

    fn begin(&self) -> Slow {
        Slow {
            since: None,
            named: false,
            node: self.node,
            node_name: self.node_name.to_owned(),
            lane_us: 0,
            usual_us: 0,
        }
    }
}

impl Slow {
    /// Takes a rank's pace in; whether it is to be named now.
    fn take_in(&mut self, pace: &Pace, usual_us: u64) -> bool {
        (self.lane_us, self.usual_us) = (pace.lane_us, usual_us);
        if pace.is_slow(usual_us) {
            self.since.get_or_insert(pace.committed);
        } else if !self.named || pace.has_recovered(usual_us) {
            self.since = None;
        }
        let lasts = self.since.is_some_and(|since| pace.committed >= since + STEPS);
        lasts && !std::mem::replace(&mut self.named, true)
    }
}

/// The paces of the ranks that tell one.
fn paces<'a>(stage: &Stage, generation: &Generation, sight: &'a Sight) -> Vec<Pace<'a>> {
    let pace = |seat: &Seat| {
        let seen = sight.nodes.get(&seat.node)?;
        let report = seen.ranks.get(&(stage.id, generation.number, seat.rank))?;
        let RankState::Running { committed } = report.state else {
            return None;
        };
        Some(Pace {
            rank: seat.rank,
            node: seat.node,
            node_name: &seen.node.name,
            committed,
            lane_us: report.doing?.lane_us?,
        })
    };
    generation.seats.iter().filter_map(pace).collect()
}

/// The middle of the times; of two the lower, so that one of them can be slow. None where nobody can be compared.
fn middle(paces: &[Pace]) -> Option<u64> {
    let mut times: Vec<u64> = paces.iter().map(|pace| pace.lane_us).collect();
    times.sort_unstable();
    (times.len() > 1).then(|| times[(times.len() - 1) / 2])
}

fn event(job: JobId, stage: &Stage, generation: u64, pace: &Pace, usual_us: u64) -> Event {
    let message = format!(
        "{}: rank {} on {} is a straggler: it takes {:.1} ms for a lane, the middle of generation {generation} is {:.1} ms; \
         every step waits for it",
        stage.name,
        pace.rank,
        pace.node_name,
        ms(pace.lane_us),
        ms(usual_us)
    );
    Event {
        node: Some(pace.node),
        ..Event::of_stage(job, stage, "straggler", message)
    }
}

fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(rank: u32, committed: u64, lane_us: u64) -> Pace<'static> {
        Pace {
            rank,
            node: NodeId::from_uuid(uuid::Uuid::from_u128(1)),
            node_name: "n1",
            committed,
            lane_us,
        }
    }

    /// Takes in so many steps at this time per lane, where the middle is 10 ms, from a step on; the steps at which it is named.
    fn run(slow: &mut Slow, from: u64, times: &[u64]) -> Vec<u64> {
        let steps = (from..).zip(times);
        let named = steps.filter(|(step, time)| slow.take_in(&pace(0, *step, **time), 10_000));
        named.map(|(step, _)| step).collect()
    }

    #[test]
    fn a_rank_is_named_once_after_twenty_slow_steps() {
        let mut slow = pace(0, 0, 0).begin();
        assert_eq!(run(&mut slow, 100, &[16_000; 60]), [120]);
    }

    #[test]
    fn a_slow_spell_and_half_as_long_again_are_not_enough() {
        let mut slow = pace(0, 0, 0).begin();
        let mut times = [16_000; 60];
        times[19] = 14_000;
        times[38] = 14_000;
        times[57] = 14_000;
        assert_eq!(run(&mut slow, 0, &times), Vec::<u64>::new());
        assert_eq!(
            run(&mut slow, 100, &[15_000; 60]),
            Vec::<u64>::new(),
            "exactly half as long again"
        );
    }

    #[test]
    fn a_straggler_recovers_only_when_it_is_clearly_faster() {
        let mut slow = pace(0, 0, 0).begin();
        run(&mut slow, 0, &[20_000; 30]);
        run(&mut slow, 30, &[14_000; 5]);
        assert!(slow.since.is_some());
        run(&mut slow, 35, &[12_000]);
        assert_eq!(slow.since, None);
        assert_eq!(
            run(&mut slow, 36, &[20_000; 60]),
            Vec::<u64>::new(),
            "it was named in this generation"
        );
        assert!(slow.since.is_some(), "but it is one again");
    }

    #[test]
    fn of_two_ranks_one_can_be_slow_and_of_one_none() {
        let times = |times: &[u64]| middle(&times.iter().map(|time| pace(0, 0, *time)).collect::<Vec<_>>());
        assert_eq!(times(&[10, 90]), Some(10));
        assert_eq!(times(&[90, 10, 20]), Some(20));
        assert_eq!(times(&[10]), None);
    }

    #[test]
    fn little_time_is_not_worth_a_word() {
        assert!(!pace(0, 0, 2900).is_slow(1000));
        assert!(pace(0, 0, 3100).is_slow(1000));
    }
}
