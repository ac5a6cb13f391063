//! The header of a safetensors file.

use super::dtype::Dtype;
use super::error::Error;
use super::source::{Place, Stored};
use ::safetensors::tensor::Metadata;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Longest header. An entry takes about 150 bytes, and reading it takes thirty times as much: here is room for 14,000 tensors,
/// several times those of the largest BLIP with all its momentum encoders. The format itself allows 100 MB.
const MAX_HEADER: u64 = 2 << 20;

/// Lists the tensors, in the order of their bytes. Offsets are without gap or overlap and end with the file.
pub(super) fn list(path: &Path, file: &mut File) -> Result<Vec<Stored>, Error> {
    let size = file.metadata().map_err(Error::io(path))?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(Error::io(path))?;
    let length = u64::from_le_bytes(length);
    if length > size.saturating_sub(8) {
        let cause = format!("its header claims {length} bytes of a file of {size}");
        return Err(Error::file(path, cause));
    }
    if length > MAX_HEADER {
        let cause = format!(
            "its header has {length} bytes, and {} MiB at most are read, which 14,000 tensors do not fill",
            MAX_HEADER >> 20
        );
        return Err(Error::file(path, cause));
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).map_err(Error::io(path))?;
    let metadata: Metadata =
        serde_json::from_slice(&header).map_err(|e| Error::file(path, format!("its header is broken: {e}")))?;
    let expected = 8 + length + metadata.data_len() as u64;
    if expected != size {
        let cause = format!("it has {size} bytes, its header describes {expected}: it was cut short, or damaged");
        return Err(Error::file(path, cause));
    }
    let stored = metadata.offset_keys().into_iter().filter_map(|name| {
        let info = metadata.info(&name)?;
        Some(Stored {
            shape: info.shape.clone(),
            dtype: dtype(info.dtype),
            place: Place::File(8 + length + info.data_offsets.0 as u64),
            name,
        })
    });
    Ok(stored.collect())
}

fn dtype(dtype: ::safetensors::Dtype) -> Dtype {
    use ::safetensors::Dtype as D;
    match dtype {
        D::F16 => Dtype::F16,
        D::BF16 => Dtype::Bf16,
        D::F32 => Dtype::F32,
        D::F64 => Dtype::F64,
        D::I64 => Dtype::I64,
        _ => Dtype::Other,
    }
}
