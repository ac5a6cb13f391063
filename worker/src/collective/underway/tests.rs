//! Made-up lanes whose gradients become final part by part, and ranks that wait for each other in every round: all must hold the
//! tree's sum, bit for bit.

use super::*;
use crate::collective::deal::deal;
use crate::collective::reduce::tests::{LEN, bits, expected, gradient, worlds};
use medley_model::device::SpanMut;
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// A place where devices meet: a sum moves when both ends have asked for it, and a group ends when all of it has moved.
#[derive(Default)]
struct Meeting {
    asked: Mutex<Asked>,
    changed: Condvar,
}

#[derive(Default)]
struct Asked {
    /// What is sent and not yet taken, by sender and receiver, in the order in which it was asked for.
    sends: BTreeMap<(u32, u32), VecDeque<Vec<f32>>>,
    /// How many of them the receiver has taken.
    taken: BTreeMap<(u32, u32), usize>,
}

/// A rank at the meeting.
struct Guest<'a> {
    rank: u32,
    meeting: &'a Meeting,
    /// How many sums it has sent to each peer so far.
    sent: BTreeMap<u32, usize>,
    /// How often it was asked to begin; every third time it would have to wait.
    tried: u32,
    has_begun: bool,
    /// Whether the lane that was last computed is over.
    lane_is_over: &'a AtomicBool,
    /// Rounds with transfers, and how many of them had begun before the last lane was over.
    rounds: u32,
    early: u32,
    /// How often all was waited for.
    finished: u32,
}

impl Group for Guest<'_> {
    fn device(&self) -> Device {
        Device::Cpu
    }

    fn begin(&mut self, waits: bool) -> Result<bool, Lost> {
        self.tried += 1;
        self.has_begun = waits || !(self.tried + self.rank).is_multiple_of(3);
        Ok(self.has_begun)
    }

    fn exchange(&mut self, sends: &[(u32, Span)], receives: Vec<(u32, SpanMut)>) -> Result<(), Lost> {
        assert!(
            std::mem::take(&mut self.has_begun),
            "a round is asked for once it has begun"
        );
        if !sends.is_empty() || !receives.is_empty() {
            self.rounds += 1;
            self.early += u32::from(!self.lane_is_over.load(Ordering::Relaxed));
        }
        let mut asked = self.meeting.asked.lock().unwrap();
        for (to, sum) in sends {
            let road = asked.sends.entry((self.rank, *to)).or_default();
            road.push_back(sum.host().to_vec());
            *self.sent.entry(*to).or_default() += 1;
        }
        self.meeting.changed.notify_all();
        for (from, place) in receives {
            let road = (from, self.rank);
            let sum = loop {
                if let Some(sum) = asked.sends.get_mut(&road).and_then(VecDeque::pop_front) {
                    break sum;
                }
                asked = self.meeting.wait(asked);
            };
            *asked.taken.entry(road).or_default() += 1;
            self.meeting.changed.notify_all();
            place.host().copy_from_slice(&sum);
        }
        let is_over = |asked: &Asked, to: &u32, sent: &usize| asked.taken.get(&(self.rank, *to)) == Some(sent);
        while !self.sent.iter().all(|(to, sent)| is_over(&asked, to, sent)) {
            asked = self.meeting.wait(asked);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Lost> {
        self.finished += 1;
        Ok(())
    }

    fn give_up(&mut self) {
        panic!("nothing has failed");
    }
}

impl Meeting {
    fn wait<'m>(&'m self, asked: MutexGuard<'m, Asked>) -> MutexGuard<'m, Asked> {
        let (asked, late) = self.changed.wait_timeout(asked, Duration::from_secs(20)).unwrap();
        assert!(!late.timed_out(), "a rank waits for ever");
        asked
    }
}

/// A lane that goes backward part by part; what is not final is no number.
fn lane(number: u32, Gradient { values, mut watch }: Gradient, part: usize, is_over: &AtomicBool) {
    let out = values.host();
    let mut whole = vec![0.0; LEN];
    gradient(number, &mut whole);
    out.fill(f32::NAN);
    let mut end = LEN;
    while end > 0 {
        let from = end.saturating_sub(part);
        out[from..end].copy_from_slice(&whole[from..end]);
        is_over.store(from == 0, Ordering::Relaxed);
        if let Some(watch) = &mut watch {
            watch(from, Span::Host(out));
        }
        end = from;
    }
}

/// What a rank has after two steps.
struct Outcome {
    /// Bits of both totals.
    totals: Vec<u32>,
    /// See [`Guest`].
    rounds: u32,
    early: u32,
}

fn run(lanes: u32, nodes: &[u32]) -> Vec<Outcome> {
    let deal = deal(lanes, nodes).unwrap();
    let meeting = Meeting::default();
    let one = |rank: u32| {
        let plan = Plan::new(&deal, rank, LEN);
        let rounds = plan.rounds(&deal);
        let mut gradients = Gradients::new(LEN);
        let lane_is_over = AtomicBool::new(true);
        let mut guest = Guest {
            rank,
            meeting: &meeting,
            sent: BTreeMap::new(),
            tried: 0,
            has_begun: false,
            lane_is_over: &lane_is_over,
            rounds: 0,
            early: 0,
            finished: 0,
        };
        let mut totals = Vec::new();
        for step in 0..2 {
            let part = 5_000 + 700 * rank as usize;
            let Ok(underway) = Underway::collect(&mut guest, (&plan, &rounds), &mut gradients, |number, gradient| {
                lane(number, gradient, part, &lane_is_over);
                Ok::<_, Infallible>(())
            });
            let total = underway.finish(&mut gradients).unwrap();
            assert_eq!(guest.finished, step + 1, "a total is used only when all has been moved");
            totals.extend(bits(total.span().host()));
            gradients.give(total);
        }
        Outcome {
            totals,
            rounds: guest.rounds,
            early: guest.early,
        }
    };
    std::thread::scope(|scope| {
        let one = &one;
        let ranks: Vec<_> = (0..deal.ranks()).map(|rank| scope.spawn(move || one(rank))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn the_sum_has_the_bits_of_the_tree_and_early_rounds_begin_before_the_last_lane_is_over() {
    for (lanes, map) in worlds() {
        let want = expected(lanes).repeat(2);
        for (rank, outcome) in run(lanes, &map).into_iter().enumerate() {
            let world = format!("{lanes} lanes on {map:?}, rank {rank}");
            assert!(outcome.totals == want, "{world}: other bits");
            assert_eq!(outcome.rounds > 0, map.iter().sum::<u32>() > 1, "{world}");
            let turns = [[1, 1].as_slice(), &[2, 2], &[2, 1], &[1; 7]].contains(&map.as_slice());
            assert_eq!(outcome.early > 0, turns, "{world}: {} rounds were early", outcome.early);
        }
    }
}

/// A group that moves nothing, and fails in this round.
#[derive(Default)]
struct Failing {
    fails_in: Option<u32>,
    rounds: u32,
    given_up: bool,
}

impl Group for Failing {
    fn device(&self) -> Device {
        Device::Cpu
    }

    fn begin(&mut self, _waits: bool) -> Result<bool, Lost> {
        assert!(!self.given_up, "what was given up is not asked any more");
        Ok(true)
    }

    fn exchange(&mut self, _sends: &[(u32, Span)], _receives: Vec<(u32, SpanMut)>) -> Result<(), Lost> {
        self.rounds += 1;
        if self.fails_in == Some(self.rounds) {
            let why = "it is gone".into();
            return Err(Lost { rank: 1, why });
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Lost> {
        Ok(())
    }

    fn give_up(&mut self) {
        self.given_up = true;
    }
}

/// The rank's part with a group that fails in this round, and a lane that fails behind its first half or not.
fn broken(group: &mut Failing, lane_fails: bool) -> Result<Result<(), Lost>, &'static str> {
    let deal = deal(4, &[1, 1]).unwrap();
    let plan = Plan::new(&deal, 0, LEN);
    let rounds = plan.rounds(&deal);
    let mut gradients = Gradients::new(LEN);
    let underway = Underway::collect(group, (&plan, &rounds), &mut gradients, |_, gradient| {
        if let Some(watch) = gradient.watch {
            let values = gradient.values.host();
            watch(LEN / 2, Span::Host(values));
            if lane_fails {
                return Err("no such sample");
            }
            watch(0, Span::Host(values));
        }
        Ok(())
    })?;
    Ok(underway.finish(&mut gradients).map(|_| ()))
}

#[test]
fn a_lane_that_fails_gives_up_what_is_under_way() {
    let mut group = Failing::default();
    assert_eq!(broken(&mut group, true), Err("no such sample"));
    assert!(group.rounds > 0 && group.given_up);
}

#[test]
fn a_peer_that_is_lost_during_the_last_lane_is_told_behind_it_and_nothing_more_is_asked_for() {
    let mut group = Failing {
        fails_in: Some(2),
        ..Failing::default()
    };
    let lost = broken(&mut group, false).unwrap().unwrap_err();
    assert_eq!((lost.rank, group.rounds), (1, 2));
    assert!(group.given_up);
}

#[test]
fn what_was_waited_for_is_not_given_up() {
    let mut group = Failing::default();
    assert_eq!(broken(&mut group, false), Ok(Ok(())));
    assert!(!group.given_up);
}
