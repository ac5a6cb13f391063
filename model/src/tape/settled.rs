//! Which part of a gradient is final while the backward pass is still under way.
//!
//! The backward pass goes through the layout from its end to its beginning, more or less: so one number tells what is final, the
//! first element from which on nothing will be written any more. An entry is final once it was written as often as the model
//! declares; that this is the truth is checked at the end of the lane ([`Tape::check_writes`](super::Tape::check_writes)).

use crate::device::{Span, SpanMut};
use crate::layout::{Layout, ParamId};

/// Hears from which element on a gradient is final, as far as the device was asked: less and less until it is 0; and sees the
/// gradient as it is then.
pub type Watch<'a> = &'a mut (dyn FnMut(usize, Span<'_>) + Send + 'a);

/// Where a lane's gradient goes, and who hears what is final of it.
pub struct Gradient<'a> {
    /// Its elements.
    pub values: SpanMut<'a>,
    /// Who hears.
    pub watch: Option<Watch<'a>>,
}

impl<'a, T: Into<SpanMut<'a>>> From<T> for Gradient<'a> {
    fn from(values: T) -> Self {
        Self {
            values: values.into(),
            watch: None,
        }
    }
}

/// How much is final.
pub(super) struct Settled<'a> {
    layout: &'a Layout,
    /// How often each entry is still to be written.
    left: Vec<u32>,
    /// From this entry on all are final.
    first: usize,
}

impl<'a> Settled<'a> {
    /// Nothing is written yet.
    pub(super) fn new(layout: &'a Layout, declared: &[u32]) -> Self {
        Self {
            layout,
            left: declared.to_vec(),
            first: declared.len(),
        }
    }

    /// An entry was written once more; returns from which element on all is final, if that has changed.
    pub(super) fn wrote(&mut self, id: ParamId) -> Option<usize> {
        let left = &mut self.left[id.index()];
        *left = left.saturating_sub(1);
        let awaited = self.left[..self.first].iter().rposition(|left| *left > 0);
        let first = awaited.map_or(0, |last| last + 1);
        let moved = first < self.first;
        self.first = first;
        moved.then(|| self.layout.entries()[first].offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_final_begins_behind_the_last_entry_that_is_still_written() {
        let mut layout = Layout::default();
        let ids = ["a", "b", "c", "d", "e"].map(|name| layout.add(name, &[64]));
        // The last one is not trained.
        let mut settled = Settled::new(&layout, &[1, 2, 1, 1, 0]);
        assert_eq!(settled.wrote(ids[2]), Some(4 * 64));
        assert_eq!(settled.wrote(ids[1]), None);
        assert_eq!(settled.wrote(ids[3]), Some(2 * 64), "c was waiting for d");
        assert_eq!(settled.wrote(ids[0]), None);
        assert_eq!(settled.wrote(ids[1]), Some(0));
    }
}
