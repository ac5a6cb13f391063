//! Weights in several files: an index beside them says which tensor lies in which, as `transformers` splits large models.
//!
//! An index is not trusted: it names files of its own directory only, and each tensor must lie where it says.

use super::error::Error;
use super::source::{Place, Source, Stored};
use medley_protocol::file;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Longest index: one of ten thousand tensors has a megabyte.
const MAX_INDEX: u64 = 1 << 24;

/// Which file each tensor lies in.
#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Opens all files of an index, and lists its tensors in the order of the files.
pub(super) fn open(index: &Path) -> Result<(Vec<Source>, Vec<Stored>), Error> {
    let (mut shards, mut tensors) = (Vec::new(), Vec::new());
    for (name, wanted) in files(index)? {
        let source = Source::open_file(beside(index, &name, wanted.len())?)?;
        for tensor in wanted {
            let Some(at) = source.tensors().iter().position(|stored| stored.name == tensor) else {
                let cause = format!("it is not there, where {} says it lies", index.display());
                return Err(Error::tensor(source.path(), &tensor, cause));
            };
            let place = Place::Shard {
                shard: shards.len(),
                index: at,
            };
            let stored = source.tensors()[at].clone();
            tensors.push(Stored { place, ..stored });
        }
        shards.push(source);
    }
    Ok((shards, tensors))
}

/// The names of the files, and the tensors of each.
fn files(index: &Path) -> Result<BTreeMap<String, Vec<String>>, Error> {
    let mut json = Vec::new();
    let file = file::open(index).map_err(Error::io(index))?;
    file.take(MAX_INDEX).read_to_end(&mut json).map_err(Error::io(index))?;
    let read: Index = serde_json::from_slice(&json)
        .map_err(|e| Error::file(index, format!("it is no index of weights in several files: {e}")))?;
    if read.weight_map.is_empty() {
        return Err(Error::file(index, "its weight_map names no tensor"));
    }
    let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tensor, file) in read.weight_map {
        files.entry(file).or_default().push(tensor);
    }
    Ok(files)
}

/// The path of a file that the index names.
fn beside(index: &Path, name: &str, tensors: usize) -> Result<PathBuf, Error> {
    if Path::new(name).file_name() != Some(name.as_ref()) {
        let cause = format!("it names the file {name:?}, which is not of its own directory");
        return Err(Error::file(index, cause));
    }
    let path = index.with_file_name(name);
    if !path.is_file() {
        let cause = format!(
            "this file is missing: {} says that {tensors} tensors lie in it",
            index.display()
        );
        return Err(Error::file(&path, cause));
    }
    Ok(path)
}
