//! What a run leaves: all that its job has computed, and what it went through.

use super::toy::Toy;
use std::collections::BTreeMap;
use std::fmt;

/// All that a job computes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// States by stage and committed steps.
    pub(super) states: BTreeMap<(String, u64), Toy>,
    /// Results by task.
    pub(super) results: BTreeMap<String, String>,
}

/// How often something happened, by its name: kinds of the product's events, and what the simulation counts.
#[derive(Debug, Clone, Default)]
pub struct Coverage(BTreeMap<&'static str, u64>);

impl Coverage {
    /// How often.
    pub fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    /// It happened once more.
    pub(super) fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    /// Adds what another run went through.
    pub fn add(&mut self, other: &Self) {
        for (what, times) in &other.0 {
            *self.0.entry(what).or_default() += times;
        }
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = self.0.iter();
        all.try_for_each(|(what, times)| writeln!(f, "{times:8} {what}"))
    }
}
