//! What came of a disturbed training.

use super::faults::{Fault, Kind};
use super::span;
use super::timeline::Timeline;
use crate::console::{Align, Table, percent};
use chrono::{DateTime, Utc};
use medley_protocol::rest::EventView;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A fault that was carried out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Blow {
    pub(super) fault: Fault,
    pub(super) at: DateTime<Utc>,
}

/// A distribution, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Spread {
    count: usize,
    median: f64,
    p95: f64,
    most: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let at = |share: f64| values[((values.len() as f64 * share).ceil() as usize).clamp(1, values.len()) - 1];
        (!values.is_empty()).then(|| Self {
            count: values.len(),
            median: at(0.5),
            p95: at(0.95),
            most: at(1.0),
        })
    }

    fn cells(of: Option<Self>) -> [String; 3] {
        of.map_or_else(
            || [(); 3].map(|()| "-".to_owned()),
            |spread| [spread.median, spread.p95, spread.most].map(span),
        )
    }
}

/// What came of the faults: known when the disturbed training has ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Effects {
    effects: Vec<Effect>,
    /// Kinds that were asked for, and of which no fault struck.
    never_struck: Vec<Kind>,
}

/// What came of one kind of fault.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Effect {
    kind: Kind,
    count: usize,
    /// How many of them ended a generation.
    ended: usize,
    /// Until a rank noticed that its generation was over; counted where one was.
    noticed: Option<Spread>,
    /// Until the next step was committed.
    pause: Option<Spread>,
}

/// What came of a disturbed training.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Summary {
    /// Whether both trainings ended with the same bytes.
    pub(super) equal: bool,
    /// Median time between two steps of the undisturbed training, in seconds.
    median_step: f64,
    /// Steps per second of the disturbed training, as a share of those of the undisturbed one.
    goodput: f64,
    generations: usize,
    #[serde(flatten)]
    effects: Effects,
}

impl Effects {
    /// Of the faults that struck, of `kinds`.
    pub(super) fn of(blows: &[Blow], disturbed: &Timeline, events: &[EventView], kinds: &[Kind]) -> Self {
        // Nothing is held up after the last step.
        let end = |i: usize| blows.get(i + 1).map_or_else(|| disturbed.end(), |next| next.at);
        let mut struck: BTreeMap<Kind, Vec<(usize, DateTime<Utc>)>> = BTreeMap::new();
        for (i, Blow { fault, at }) in blows.iter().enumerate() {
            struck.entry(fault.kind).or_default().push((i, *at));
        }
        let ends = |at, until| {
            events
                .iter()
                .filter(|event| is_end(event))
                .any(|event| (at..until).contains(&event.at))
        };
        let effect = |(kind, of_kind): (Kind, Vec<(usize, DateTime<Utc>)>)| {
            let spread = |measure: &dyn Fn(DateTime<Utc>, DateTime<Utc>) -> Option<f64>| {
                Spread::of(of_kind.iter().filter_map(|(i, at)| measure(*at, end(*i))).collect())
            };
            Effect {
                kind,
                count: of_kind.len(),
                ended: of_kind.iter().filter(|(i, at)| ends(*at, end(*i))).count(),
                // A node that stood still without being missed finds the generation over that it was to join.
                noticed: spread(&|at, until| disturbed.noticed(at, until).filter(|_| ends(at, until))),
                pause: spread(&|at, until| disturbed.pause(at, until)),
            }
        };
        let mut never_struck: Vec<Kind> = kinds
            .iter()
            .copied()
            .filter(|kind| !struck.contains_key(kind))
            .collect();
        never_struck.sort_unstable();
        never_struck.dedup();
        Self {
            effects: struck.into_iter().map(effect).collect(),
            never_struck,
        }
    }

    /// A table for people.
    fn text(&self) -> String {
        use Align::{Left, Right};
        let mut table = Table::new(&[
            ("fault", Left),
            ("times", Right),
            ("ended a generation", Right),
            ("noticed: median", Right),
            ("p95", Right),
            ("most", Right),
            ("next step: median", Right),
            ("p95", Right),
            ("most", Right),
        ]);
        for effect in &self.effects {
            let counts = [effect.count, effect.ended].map(|count| count.to_string());
            let cells = [effect.kind.to_string()].into_iter().chain(counts);
            let cells = cells.chain(Spread::cells(effect.noticed));
            table.row(cells.chain(Spread::cells(effect.pause)));
        }
        let mut text = table.plain();
        if !self.never_struck.is_empty() {
            let kinds: Vec<String> = self.never_struck.iter().map(Kind::to_string).collect();
            let _ = writeln!(
                text,
                "never struck: {}; --count strikes with every kind",
                kinds.join(", ")
            );
        }
        text
    }
}

impl Summary {
    pub(super) fn new(
        effects: Effects,
        disturbed: &Timeline,
        undisturbed: &Timeline,
        events: &[EventView],
        equal: bool,
    ) -> Self {
        let speed = |timeline: &Timeline| timeline.speed().unwrap_or(f64::NAN);
        Self {
            equal,
            median_step: undisturbed.median_step().unwrap_or(f64::NAN),
            goodput: speed(disturbed) / speed(undisturbed),
            generations: events.iter().filter(|event| is_end(event)).count(),
            effects,
        }
    }

    /// The summary for people.
    pub(super) fn text(&self) -> String {
        let verdict = if self.equal {
            "the disturbed training ended with the same bytes as the undisturbed one"
        } else {
            "THE DISTURBED TRAINING ENDED WITH OTHER BYTES"
        };
        format!(
            "{}\nmedian step {}, {} generations broke, goodput {} of the undisturbed training\n{verdict}",
            self.effects.text(),
            span(self.median_step),
            self.generations,
            percent(self.goodput)
        )
    }
}

/// Whether a generation was over.
fn is_end(event: &EventView) -> bool {
    event.kind == "generation-over"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_that_never_struck_are_named_once() {
        let fault = Fault {
            kind: Kind::KillRank,
            lasts: None,
            choice: 0,
        };
        let blow = Blow {
            fault,
            at: DateTime::UNIX_EPOCH,
        };
        let kinds = [Kind::KillNode, Kind::KillRank, Kind::HangRank, Kind::KillNode];
        let effects = Effects::of(&[blow], &Timeline::default(), &[], &kinds);
        assert_eq!(effects.never_struck, [Kind::HangRank, Kind::KillNode]);
        assert!(
            effects.text().contains("never struck: hang-rank, kill-node;"),
            "{}",
            effects.text()
        );
    }

    #[test]
    fn a_spread_takes_its_values_from_those_that_were_measured() {
        let spread = Spread::of((1..=100).rev().map(f64::from).collect()).unwrap();
        assert_eq!((spread.median, spread.p95, spread.most), (50.0, 95.0, 100.0));
        assert_eq!(Spread::of(vec![2.0]).unwrap().p95, 2.0);
        assert_eq!(Spread::of(Vec::new()), None);
    }
}
