//! Parameters as a tape reads them.

use super::Turned;
use crate::device::{Factor, Parameters, Span};
use crate::layout::{Layout, ParamId, Three};

/// Parameters: a flat buffer and its layout.
#[derive(Debug, Clone, Copy)]
pub struct Weights<'a> {
    /// What lies where.
    pub layout: &'a Layout,
    pub(super) data: Parameters<'a>,
    pub(super) turned: Option<&'a Turned>,
}

impl<'a> Weights<'a> {
    /// Parameters that lie in `data` as `layout` says, on the device that reads them.
    pub fn new(layout: &'a Layout, data: impl Into<Parameters<'a>>) -> Self {
        let data = data.into();
        Self {
            layout,
            data,
            turned: None,
        }
    }

    /// The values of one entry, in the order of its shape.
    pub fn get(&self, id: ParamId) -> Span<'a> {
        debug_assert!(
            self.turned.is_none_or(|turned| !turned.lies(id)),
            "a turned weight is a factor only"
        );
        self.data.exact.range(self.layout.entry(id).range())
    }

    /// The values of one entry as factor of a matrix product with activations.
    pub(super) fn factor(&self, id: ParamId) -> Span<'a> {
        let data = self.data.rounded.unwrap_or(self.data.exact);
        data.range(self.layout.entry(id).range())
    }

    /// The values of three entries, and what lies between them, as factors of products with activations.
    pub(super) fn factors(&self, lie: Three) -> Span<'a> {
        let data = self.data.rounded.unwrap_or(self.data.exact);
        data.range(lie.range())
    }

    /// A weight as the right factor of `x·wᵀ`, wherever it lies turned.
    ///
    /// # Shapes
    /// in × out
    pub(super) fn right(&self, id: ParamId, inner: usize) -> Factor<'a> {
        let out = self.layout.entry(id).len / inner;
        let stored = || Factor::new(self.factor(id), inner).t();
        match self.turned {
            None => stored(),
            Some(turned) if turned.lies(id) => Factor::new(self.factor(id), out),
            Some(turned) => turned.copy(id).map_or_else(stored, |copy| Factor::new(copy, out)),
        }
    }
}
