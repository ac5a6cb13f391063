//! Tensors as a safetensors file, marked as PyTorch's.

use super::tensors::{Tensor, Values};
use crate::weights::error::Error;
use ::safetensors::{Dtype, View, serialize_to_file};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, File};
use std::path::Path;

/// Writes each tensor under its first name.
pub(super) fn write(path: &Path, tensors: &[Tensor]) -> Result<(), Error> {
    // `transformers` refuses a file that does not say whose axes it has.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let named = tensors.iter().map(|tensor| (tensor.names[0].as_str(), Seen(tensor)));
    // The crate's own file would be for its writer's eyes only.
    let usual = File::create(path)
        .and_then(|file| file.metadata())
        .map_err(Error::io(path))?
        .permissions();
    serialize_to_file(named, Some(metadata), path).map_err(|e| Error::file(path, format!("cannot be written: {e}")))?;
    fs::set_permissions(path, usual).map_err(Error::io(path))
}

struct Seen<'a>(&'a Tensor<'a>);

impl View for Seen<'_> {
    fn dtype(&self) -> Dtype {
        match self.0.values {
            Values::Floats(_) => Dtype::F32,
            Values::Ints(_) => Dtype::I64,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.0.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.0.values.bytes().into()
    }

    fn data_len(&self) -> usize {
        self.0.values.bytes().len()
    }
}
