//! What is to happen, in order of time; what is due at the same time happens in the order it was put down.

use std::collections::BTreeMap;
use std::time::Duration;

pub(super) struct Agenda<T> {
    due: BTreeMap<(Duration, u64), T>,
    put: u64,
}

impl<T> Agenda<T> {
    pub(super) fn new() -> Self {
        Self {
            due: BTreeMap::new(),
            put: 0,
        }
    }

    pub(super) fn put(&mut self, at: Duration, what: T) {
        self.put += 1;
        self.due.insert((at, self.put), what);
    }

    pub(super) fn next(&mut self) -> Option<(Duration, T)> {
        let ((at, _), what) = self.due.pop_first()?;
        Some((at, what))
    }
}
