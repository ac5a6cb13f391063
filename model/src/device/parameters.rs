//! Parameters as kernels read them.

use super::{Buffer, Device, Span, SpanMut};
use crate::flat::Flat;

/// Parameters, and where the device rounds for matrix products, the same rounded.
#[derive(Debug, Clone, Copy)]
pub struct Parameters<'a> {
    /// In single precision.
    pub exact: Span<'a>,
    /// In bf16.
    pub rounded: Option<Span<'a>>,
}

/// Parameters that somebody owns.
#[derive(Debug)]
pub struct OwnParameters {
    exact: Buffer,
    rounded: Option<Buffer>,
}

impl<'a, T: Into<Span<'a>>> From<T> for Parameters<'a> {
    fn from(exact: T) -> Self {
        Self {
            exact: exact.into(),
            rounded: None,
        }
    }
}

impl<'a> From<&'a OwnParameters> for Parameters<'a> {
    fn from(own: &'a OwnParameters) -> Self {
        Self {
            exact: own.exact.span(),
            rounded: own.rounded.as_ref().map(Buffer::span),
        }
    }
}

impl OwnParameters {
    /// These values on the device: a copy only where they lie elsewhere.
    pub fn hold(values: Flat, device: &Device) -> Self {
        Self::of(device.hold(values), device)
    }

    /// So many zeros on the device.
    pub fn zeros(len: usize, device: &Device) -> Self {
        Self::of(device.buffer(len), device)
    }

    /// A copy of these values on the device.
    pub fn copy(values: &[f32], device: &Device) -> Self {
        Self::of(device.upload(values), device)
    }

    fn of(exact: Buffer, device: &Device) -> Self {
        let rounded = device.rounds().then(|| {
            let mut rounded = device.activation(exact.len());
            device.copy(exact.span(), rounded.span_mut());
            rounded
        });
        Self { exact, rounded }
    }

    /// Takes over other values.
    pub fn write(&mut self, values: &[f32], device: &Device) {
        device.write(values, self.exact.span_mut());
        self.round(device);
    }

    /// Rounds again, after what is exact has changed.
    pub(crate) fn round(&mut self, device: &Device) {
        if let Some(rounded) = &mut self.rounded {
            device.copy(self.exact.span(), rounded.span_mut());
        }
    }

    /// In single precision.
    pub fn exact(&self) -> Span<'_> {
        self.exact.span()
    }

    /// Both, to be changed together.
    pub(crate) fn both_mut(&mut self) -> (SpanMut<'_>, Option<SpanMut<'_>>) {
        (self.exact.span_mut(), self.rounded.as_mut().map(Buffer::span_mut))
    }
}
