//! Element types of stored tensors, and their conversion to `f32`.

use half::{bf16, f16};

/// Element type of a stored tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// IEEE half precision.
    F16,
    /// Brain float.
    Bf16,
    /// IEEE single precision.
    F32,
    /// IEEE double precision.
    F64,
    /// Signed 64-bit integer: counters and position ids.
    I64,
    /// Something no weight is stored as.
    Other,
}

impl Dtype {
    /// Bytes of one element; 0 where unknown.
    pub const fn size_bytes(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::F64 | Self::I64 => 8,
            Self::Other => 0,
        }
    }

    /// Little-endian bytes as `f32`; doubles and integers are rounded.
    pub(super) fn to_f32(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F16 => each(bytes, |b| f16::from_le_bytes(b).to_f32()),
            Self::Bf16 => each(bytes, |b| bf16::from_le_bytes(b).to_f32()),
            Self::F32 => each(bytes, f32::from_le_bytes),
            Self::F64 => each(bytes, |b| f64::from_le_bytes(b) as f32),
            Self::I64 => each(bytes, |b| i64::from_le_bytes(b) as f32),
            Self::Other => Vec::new(),
        }
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::I64 => "i64",
            Self::Other => "other",
        })
    }
}

fn each<const N: usize>(bytes: &[u8], convert: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let elements = bytes.chunks_exact(N);
    elements
        .map(|element| convert(element.try_into().expect("chunks have this size")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_of_float_becomes_f32() {
        assert_eq!(Dtype::F16.to_f32(&f16::from_f32(-1.5).to_le_bytes()), [-1.5]);
        assert_eq!(Dtype::Bf16.to_f32(&bf16::from_f32(3.0).to_le_bytes()), [3.0]);
        assert_eq!(Dtype::F32.to_f32(&0.1_f32.to_le_bytes()), [0.1]);
        assert_eq!(Dtype::F64.to_f32(&0.1_f64.to_le_bytes()), [0.1]);
        assert_eq!(Dtype::I64.to_f32(&57_599_i64.to_le_bytes()), [57_599.0]);
    }
}
