//! How numbers are stored. Whatever the format, kernels compute in single precision and round once, when they store.

use super::memory::{Slice, SliceMut};

/// How the elements of device memory are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Format {
    /// Single precision.
    #[default]
    F32,
    /// The upper half of single precision: its range with 8 bits of precision.
    Bf16,
}

impl Format {
    /// Bytes of an element.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }

    /// Elements that a thread takes at once: 16 bytes of them.
    pub(super) const fn pack(self) -> usize {
        16 / self.size()
    }
}

/// What has a format.
pub(super) trait Formatted {
    /// How the elements are stored.
    fn format(&self) -> Format;
}

impl Formatted for Slice<'_> {
    fn format(&self) -> Format {
        (*self).format()
    }
}

impl Formatted for SliceMut<'_> {
    fn format(&self) -> Format {
        self.as_slice().format()
    }
}

/// The format that all these have in common.
///
/// # Panics
/// If there is none: the caller gave `operation` what it does not take.
pub(super) fn common(operation: &str, all: &[&dyn Formatted]) -> Format {
    let format = all[0].format();
    let same = all.iter().all(|each| each.format() == format);
    assert!(same, "{operation} takes memory of one format");
    format
}

/// Checks that all these are of single precision.
///
/// # Panics
/// If one is not: the caller gave `operation` what it does not take.
pub(super) fn single(operation: &str, all: &[&dyn Formatted]) {
    let single = all.iter().all(|each| each.format() == Format::F32);
    assert!(single, "{operation} takes single precision");
}
