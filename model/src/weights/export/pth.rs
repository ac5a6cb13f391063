//! The released code's checkpoint: a zip that `torch.load` reads, with `weights_only` too.
//!
//! `{"model": OrderedDict of tensors}` by pickle protocol 2, and a file per storage. Tied names share a storage, so that
//! they are tied again when they are loaded.

use super::tensors::{Tensor, Values};
use crate::weights::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// Root directory of the zip.
const ROOT: &str = "model";
/// Storages begin on multiples of this, as PyTorch writes them.
const ALIGN: u16 = 64;
/// An entry of this size needs the zip's long form.
const LONG: u64 = 1 << 31;

/// Writes the checkpoint.
pub(super) fn write(path: &Path, tensors: &[Tensor]) -> Result<(), Error> {
    let file = File::create(path).map_err(Error::io(path))?;
    let mut zip = ZipWriter::new(BufWriter::new(file));
    let mut entry = |name: &str, bytes: &[u8]| {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .with_alignment(ALIGN)
            .large_file(bytes.len() as u64 >= LONG);
        zip.start_file(format!("{ROOT}/{name}"), options)
            .map_err(|e| e.to_string())?;
        zip.write_all(bytes).map_err(|e| e.to_string())
    };
    let broken = |e: String| Error::file(path, format!("cannot be written: {e}"));
    entry("data.pkl", &pickle(tensors)).map_err(broken)?;
    entry("byteorder", b"little").map_err(broken)?;
    for (key, tensor) in tensors.iter().enumerate() {
        entry(&format!("data/{key}"), tensor.values.bytes()).map_err(broken)?;
    }
    entry("version", b"3\n").map_err(broken)?;
    let file = zip.finish().map_err(|e| broken(e.to_string()))?;
    let file = file.into_inner().map_err(|e| broken(e.to_string()))?;
    file.sync_all().map_err(Error::io(path))
}

/// `{"model": OrderedDict(name → tensor)}`; storages are named by the tensors' positions.
fn pickle(tensors: &[Tensor]) -> Vec<u8> {
    let mut out = Pickle(vec![0x80, 2]);
    out.code(b'}').text("model");
    out.ordered_dict().code(b'(');
    for (key, tensor) in tensors.iter().enumerate() {
        for name in &tensor.names {
            out.text(name).tensor(key, tensor);
        }
    }
    out.code(b'u').code(b's').code(b'.');
    out.0
}

struct Pickle(Vec<u8>);

impl Pickle {
    fn code(&mut self, code: u8) -> &mut Self {
        self.0.push(code);
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.0.push(b'X');
        self.0.extend((text.len() as u32).to_le_bytes());
        self.0.extend(text.as_bytes());
        self
    }

    fn int(&mut self, int: usize) -> &mut Self {
        if let Ok(int) = i32::try_from(int) {
            self.0.push(b'J');
            self.0.extend(int.to_le_bytes());
        } else {
            self.0.extend([0x8a, 8]);
            self.0.extend((int as u64).to_le_bytes());
        }
        self
    }

    fn ints(&mut self, ints: impl Iterator<Item = usize>) -> &mut Self {
        self.code(b'(');
        ints.for_each(|int| {
            self.int(int);
        });
        self.code(b't')
    }

    fn global(&mut self, module: &str, name: &str) -> &mut Self {
        self.0.extend(format!("c{module}\n{name}\n").bytes());
        self
    }

    fn ordered_dict(&mut self) -> &mut Self {
        self.global("collections", "OrderedDict").code(b')').code(b'R')
    }

    /// A call of `_rebuild_tensor_v2`: storage, offset, shape, stride, no gradient, no hooks.
    fn tensor(&mut self, key: usize, tensor: &Tensor) {
        let storage = match tensor.values {
            Values::Floats(_) => "FloatStorage",
            Values::Ints(_) => "LongStorage",
        };
        let elements = tensor.shape.iter().product();
        self.global("torch._utils", "_rebuild_tensor_v2").code(b'(');
        self.code(b'(').text("storage").global("torch", storage);
        self.text(&key.to_string())
            .text("cpu")
            .int(elements)
            .code(b't')
            .code(b'Q');
        self.int(0)
            .ints(tensor.shape.iter().copied())
            .ints(strides(&tensor.shape).into_iter());
        self.code(0x89).ordered_dict().code(b't').code(b'R');
    }
}

/// Row-major strides.
fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    strides
}
