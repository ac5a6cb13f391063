//! Collecting what is wrong with a spec, but for what only follows from something else.

use crate::spec::Problem;

/// Problems that were known before, and those that are found.
pub(super) struct Report {
    known: Vec<Problem>,
    found: Vec<Problem>,
}

impl Report {
    pub(super) fn new(known: Vec<Problem>) -> Self {
        let found = Vec::new();
        Self { known, found }
    }

    /// All of them. A field of which a problem was known has no other one: its value is not the document's.
    pub(super) fn end(self) -> Vec<Problem> {
        let Self { mut known, mut found } = self;
        found.retain(|problem| !known.iter().any(|known| holds(&known.path, &problem.path)));
        known.extend(found);
        known
    }

    pub(super) fn refuse(&mut self, path: &str, message: impl Into<String>) {
        self.found.push(Problem {
            path: path.into(),
            message: message.into(),
        });
    }

    pub(super) fn require(&mut self, ok: bool, path: &str, message: impl FnOnce() -> String) {
        if !ok {
            self.refuse(path, message());
        }
    }

    /// Whether nothing is wrong with a field so far, nor with the table that it is in.
    pub(super) fn is_sound(&self, path: &str) -> bool {
        let mut problems = self.known.iter().chain(&self.found);
        !problems.any(|problem| holds(&problem.path, path))
    }

    /// The value of a field as a bound of another one: what is wrong itself bounds nothing.
    pub(super) fn bound<T>(&self, path: &str, value: T, otherwise: T) -> T {
        if self.is_sound(path) { value } else { otherwise }
    }

    /// Requires what holds between the field at `path` and others, unless one of them is wrong by itself.
    pub(super) fn relate(&mut self, ok: bool, path: &str, others: &[&str], message: impl FnOnce() -> String) {
        let are_sound = self.is_sound(path) && others.iter().all(|other| self.is_sound(other));
        self.require(ok || !are_sound, path, message);
    }

    pub(super) fn within(&mut self, value: f64, low: f64, high: f64, path: &str) {
        self.require((low..=high).contains(&value), path, || {
            format!("is {value}: use a number from {low} to {high}")
        });
    }

    pub(super) fn count(&mut self, value: u32, high: u32, path: &str) {
        self.require((1..=high).contains(&value), path, || {
            format!("is {value}: use a whole number from 1 to {high}")
        });
    }
}

/// Whether the field at `path` is the one at `outer`, or lies in that table.
fn holds(outer: &str, path: &str) -> bool {
    let rest = path.strip_prefix(outer);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}
