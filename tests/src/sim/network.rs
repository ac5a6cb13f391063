//! Delays, silence and cuts. Whatever travels between the same two ends arrives in order; calls to the coordinator do not, as
//! each may use a connection of its own.

use super::dice::Dice;
use super::faults::FOR_GOOD;
use super::process::Pid;
use std::collections::BTreeMap;
use std::time::Duration;

/// Someone who sends or receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    /// An agent in one of its lives.
    Agent(usize, u64),
    Rank(Pid),
}

/// What happens to calls between an agent and the coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Silence {
    /// Nothing gets through.
    Cut,
    /// Requests get through, answers do not.
    Deaf,
    /// Everything gets through, after a long time.
    Late,
}

/// What goes from one node to another gets lost, for a while.
struct Cut {
    from: usize,
    to: usize,
    since: Duration,
    until: Duration,
}

#[derive(Default)]
pub(super) struct Network {
    /// When the last thing between two ends arrives.
    last: BTreeMap<(End, End), Duration>,
    silences: Vec<(usize, Silence, Duration)>,
    cuts: Vec<Cut>,
}

impl Network {
    /// When something sent now from one end to another arrives.
    pub(super) fn arrival(&mut self, from: End, to: End, now: Duration, dice: &mut Dice) -> Duration {
        let last = self.last.entry((from, to)).or_default();
        *last = (now + dice.ms(0, 5)).max(*last);
        *last
    }

    /// A node's link to the coordinator is disturbed until a certain time.
    pub(super) fn silence(&mut self, node: usize, silence: Silence, until: Duration) {
        self.silences.push((node, silence, until));
    }

    /// What goes from one node to another gets lost until a certain time.
    pub(super) fn cut(&mut self, from: usize, to: usize, now: Duration, until: Duration) {
        let since = now;
        self.cuts.push(Cut { from, to, since, until });
    }

    /// When something that is sent from one node to another, again and again, gets through; none if never.
    pub(super) fn open_at(&self, from: usize, to: usize, now: Duration) -> Option<Duration> {
        let cuts = self
            .cuts
            .iter()
            .filter(|cut| (cut.from, cut.to) == (from, to) && cut.since <= now);
        let until = cuts.map(|cut| cut.until).max().unwrap_or_default();
        (until < FOR_GOOD).then(|| until.max(now))
    }

    /// Whether two nodes have been cut off from each other all the time since then.
    pub(super) fn is_cut_since(&self, one: usize, other: usize, then: Duration, now: Duration) -> bool {
        let between = |cut: &&Cut| [(one, other), (other, one)].contains(&(cut.from, cut.to));
        let mut cuts = self.cuts.iter().filter(between);
        cuts.any(|cut| cut.since <= then && now < cut.until)
    }

    /// Whether two nodes reach each other.
    pub(super) fn joins(&self, one: usize, other: usize, now: Duration) -> bool {
        let is_open = |from, to| self.open_at(from, to, now) == Some(now);
        is_open(one, other) && is_open(other, one)
    }

    /// How long a request takes to the coordinator; none if it never arrives.
    pub(super) fn request(&self, node: usize, now: Duration, dice: &mut Dice) -> Option<Duration> {
        match self.present(node, now) {
            Some(Silence::Cut) => None,
            Some(Silence::Late) => Some(dice.ms(0, 6000)),
            _ => Some(delay(dice)),
        }
    }

    /// How long an answer takes to the agent; none if it never arrives.
    pub(super) fn answer(&self, node: usize, now: Duration, dice: &mut Dice) -> Option<Duration> {
        match self.present(node, now) {
            Some(Silence::Cut | Silence::Deaf) => None,
            Some(Silence::Late) => Some(dice.ms(0, 2000)),
            None => Some(delay(dice)),
        }
    }

    fn present(&self, node: usize, now: Duration) -> Option<Silence> {
        let lasting = |(of, _, until): &&(usize, Silence, Duration)| *of == node && now < *until;
        self.silences.iter().find(lasting).map(|(_, silence, _)| *silence)
    }
}

/// A millisecond or so; now and then a hiccup.
fn delay(dice: &mut Dice) -> Duration {
    if dice.chance(2) {
        dice.ms(50, 400)
    } else {
        dice.ms(0, 4)
    }
}
