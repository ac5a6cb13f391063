//! Files of weights: which tensors lie in one, and reading them one at a time.
//!
//! The format is recognised by the file's first bytes, never by its name. Opening reads names, types and shapes; a tensor's
//! bytes are read when they are asked for, and never more than its shape and the file's size allow.

use super::dtype::Dtype;
use super::error::Error;
use super::{npz, pth, safetensors, shards};
use medley_protocol::file;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, copy, sink};
use std::path::{Path, PathBuf};
use zip::{CompressionMethod, ZipArchive};

/// A format of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Hugging Face's safetensors.
    Safetensors,
    /// A PyTorch checkpoint: a zip with a pickle and one file per storage.
    Pth,
    /// NumPy arrays in a zip.
    Npz,
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Safetensors => "safetensors",
            Self::Pth => "PyTorch checkpoint",
            Self::Npz => "NumPy npz",
        })
    }
}

/// A tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Stored {
    /// Its name in the file.
    pub name: String,
    /// Dimensions, slowest first.
    pub shape: Vec<usize>,
    /// Element type.
    pub dtype: Dtype,
    #[serde(skip)]
    pub(super) place: Place,
}

/// Where a tensor's bytes begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// At this byte of the file.
    File(u64),
    /// Within an entry of a zip, after some bytes.
    Entry { index: usize, skip: u64 },
    /// The tensor of this index in one of several files.
    Shard { shard: usize, index: usize },
    /// Nowhere that can be read; why.
    Nowhere(String),
}

impl Stored {
    /// Number of elements, if it can be told.
    pub(super) fn elements(&self) -> Option<usize> {
        self.shape.iter().try_fold(1_usize, |n, dim| n.checked_mul(*dim))
    }
}

pub(super) type Zip = ZipArchive<BufReader<File>>;

enum Reader {
    File(File),
    Zip(Box<Zip>),
    Shards(Vec<Source>),
}

/// An open file of weights, or several with an index.
pub struct Source {
    path: PathBuf,
    format: Format,
    tensors: Vec<Stored>,
    reader: Reader,
}

impl Source {
    /// Opens a file, or the weights in a directory as `transformers` writes it: one file, or several with an index.
    ///
    /// # Errors
    /// [`Error`]: it is not there, of no known format, or broken.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let path = if path.is_dir() { within(path)? } else { path.to_owned() };
        if path.to_string_lossy().ends_with(INDEX_ENDING) {
            let (shards, tensors) = shards::open(&path)?;
            return Ok(Self {
                format: shards[0].format,
                path,
                tensors,
                reader: Reader::Shards(shards),
            });
        }
        Self::open_file(path)
    }

    /// Opens one file.
    pub(super) fn open_file(path: PathBuf) -> Result<Self, Error> {
        let mut file = file::open(&path).map_err(Error::io(&path))?;
        match recognise(&mut file).map_err(Error::io(&path))? {
            Kind::Zip => Self::open_zip(path, file),
            Kind::Safetensors => {
                let tensors = safetensors::list(&path, &mut file)?;
                Ok(Self {
                    path,
                    format: Format::Safetensors,
                    tensors,
                    reader: Reader::File(file),
                })
            }
            Kind::OldPth => Err(Error::file(
                &path,
                "this is a PyTorch checkpoint older than the zip format; write it anew with Python: \
                 torch.save(torch.load(old, map_location=\"cpu\", weights_only=True), new)",
            )),
            Kind::Unknown => Err(Error::file(
                &path,
                "this is no file of weights that can be read: use safetensors, a PyTorch checkpoint (.pth, .bin) or .npz",
            )),
        }
    }

    fn open_zip(path: PathBuf, file: File) -> Result<Self, Error> {
        let broken = |e| Error::file(&path, format!("the zip is broken: {e}"));
        let mut zip = ZipArchive::new(BufReader::new(file)).map_err(broken)?;
        let pickle =
            (0..zip.len()).find(|index| entry_name(&zip, *index).is_some_and(|name| name.ends_with("/data.pkl")));
        let (format, tensors) = match pickle {
            Some(pickle) => (Format::Pth, pth::list(&path, &mut zip, pickle)?),
            None => (Format::Npz, npz::list(&path, &mut zip)?),
        };
        Ok(Self {
            path,
            format,
            tensors,
            reader: Reader::Zip(Box::new(zip)),
        })
    }

    /// The file that was opened; of several files their index.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Its tensors.
    pub fn tensors(&self) -> &[Stored] {
        &self.tensors
    }

    /// Reads a tensor as `f32`.
    ///
    /// # Errors
    /// [`Error`]: its bytes are not there or damaged, it has another type than a weight can have, or values that are no
    /// numbers.
    pub fn read(&mut self, index: usize) -> Result<Vec<f32>, Error> {
        let tensor = &self.tensors[index];
        if let (Reader::Shards(shards), Place::Shard { shard, index }) = (&mut self.reader, &tensor.place) {
            return shards[*shard].read(*index);
        }
        let fault = |cause: String| Error::tensor(&self.path, &tensor.name, cause);
        if tensor.dtype == Dtype::Other {
            return Err(fault("its elements are of a type that no weight has".into()));
        }
        let size = tensor.elements().and_then(|n| n.checked_mul(tensor.dtype.size_bytes()));
        let size = size.ok_or_else(|| fault("its shape overflows".into()))?;
        let bytes = match (&mut self.reader, &tensor.place) {
            (Reader::File(file), Place::File(offset)) => {
                read_range(file, *offset, size).map_err(Error::io(&self.path))?
            }
            (Reader::Zip(zip), Place::Entry { index, skip }) => read_entry(zip, *index, *skip, size).map_err(fault)?,
            (_, Place::Nowhere(why)) => return Err(fault(why.clone())),
            _ => unreachable!("a place is made by the reader of its format"),
        };
        let values = tensor.dtype.to_f32(&bytes);
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err(fault(format!("element {at} is not a finite f32")));
        }
        Ok(values)
    }
}

enum Kind {
    Zip,
    Safetensors,
    OldPth,
    Unknown,
}

fn recognise(file: &mut File) -> std::io::Result<Kind> {
    let mut head = Vec::new();
    file.take(512).read_to_end(&mut head)?;
    file.rewind()?;
    let old_tar = head.get(257..262) == Some(b"ustar");
    Ok(match head.as_slice() {
        [b'P', b'K', 3, 4, ..] => Kind::Zip,
        _ if old_tar => Kind::OldPth,
        [0x80, 1..=5, ..] => Kind::OldPth,
        [_, _, _, _, _, 0, 0, 0, b'{', ..] => Kind::Safetensors,
        _ => Kind::Unknown,
    })
}

/// Every index of several files ends so.
const INDEX_ENDING: &str = ".index.json";

/// The file of weights in a directory of `transformers`, or the index of several, in the order that it looks for them; or that
/// of an export.
fn within(directory: &Path) -> Result<PathBuf, Error> {
    let known = [
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "model.pth",
    ];
    let mut paths = known.iter().map(|name| directory.join(name));
    paths.find(|path| path.is_file()).ok_or_else(|| {
        let cause = "the directory holds none of model.safetensors, pytorch_model.bin, their .index.json and model.pth: name \
                     the file of weights";
        Error::file(directory, cause)
    })
}

pub(super) fn entry_name(zip: &Zip, index: usize) -> Option<String> {
    Some(zip.name_for_index(index)?.ok()?.into_owned())
}

/// Size of a zip's entry, if its bytes can be read.
pub(super) fn entry_size(zip: &Zip, index: usize) -> Result<u64, String> {
    let entry = zip.by_index_data(index).map_err(|e| e.to_string())?;
    if entry.compression() != CompressionMethod::Stored {
        return Err(
            "it is compressed, and only uncompressed archives are read: write it anew with Python: \
             numpy.savez(new, **numpy.load(old))"
                .into(),
        );
    }
    Ok(entry.size())
}

fn read_range(file: &mut File, offset: u64, size: usize) -> std::io::Result<Vec<u8>> {
    // Names were listed only after the header's offsets were checked against the file's size.
    let mut bytes = vec![0; size];
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Some bytes of a zip's entry. The entry is read to its end, which checks its CRC.
pub(super) fn read_entry(zip: &mut Zip, index: usize, skip: u64, size: usize) -> Result<Vec<u8>, String> {
    let whole = entry_size(zip, index)?;
    if skip.checked_add(size as u64).is_none_or(|end| end > whole) {
        return Err(format!(
            "it needs {size} bytes after byte {skip}, its storage has {whole}"
        ));
    }
    let mut entry = zip.by_index(index).map_err(|e| e.to_string())?;
    let mut read = || -> std::io::Result<Vec<u8>> {
        copy(&mut entry.by_ref().take(skip), &mut sink())?;
        let mut bytes = Vec::new();
        entry.by_ref().take(size as u64).read_to_end(&mut bytes)?;
        copy(&mut entry, &mut sink())?;
        Ok(bytes)
    };
    let bytes = read().map_err(|e| format!("it is damaged: {e}"))?;
    if bytes.len() != size {
        return Err(format!("its storage ends after {} of {size} bytes", bytes.len()));
    }
    Ok(bytes)
}
