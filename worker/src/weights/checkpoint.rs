//! Finding a checkpoint by what a person can point at.

use anyhow::{Context as _, bail};
use medley_protocol::checkpoint::{CheckpointPart, Manifest, ObjectRef, folder};
use medley_protocol::ids::{CheckpointId, StageId};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A checkpoint, and the directory of the object store that it lies in, if that can be told.
pub(super) struct Found {
    pub(super) manifest: Manifest,
    pub(super) store: Option<PathBuf>,
}

/// Finds the checkpoint at `path`: an output directory of `medley-worker train`, a stage's directory of parts in an object
/// store, or a file with a manifest.
pub(super) fn find(path: &Path) -> anyhow::Result<Found> {
    let path = path
        .canonicalize()
        .with_context(|| format!("--checkpoint {}", path.display()))?;
    if path.is_file() {
        let manifest = read(&path)?;
        return Ok(Found { manifest, store: None });
    }
    let trained = path.join("checkpoint.json");
    if trained.is_file() {
        let store = Some(path.join("store"));
        let manifest = read(&trained)?;
        return Ok(Found { manifest, store });
    }
    let store = path.parent().and_then(Path::parent).map(Path::to_owned);
    let manifest = last_whole(&path)?;
    Ok(Found { manifest, store })
}

fn read(path: &Path) -> anyhow::Result<Manifest> {
    let text = fs::read(path).with_context(|| format!("{}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is no manifest of a checkpoint", path.display()))
}

/// The manifest of the last checkpoint of which all parts lie in a stage's directory. Parts are named
/// `{step}-part-{part}-of-{parts}-{BLAKE3}`; the hashes are checked when they are read.
fn last_whole(directory: &Path) -> anyhow::Result<Manifest> {
    let named = || format!("--checkpoint {}", directory.display());
    let stage: Option<StageId> = directory
        .file_name()
        .and_then(|name| serde_json::from_value(name.to_str()?.into()).ok());
    let Some(stage) = stage else {
        bail!(
            "{}: neither an output of medley-worker train nor a stage's directory of checkpoints",
            directory.display()
        );
    };
    let mut sets: BTreeMap<(u64, u32), BTreeMap<u32, ObjectRef>> = BTreeMap::new();
    for entry in fs::read_dir(directory).with_context(named)? {
        let entry = entry.with_context(named)?;
        let name = entry.file_name();
        let Some((step, part, parts, blake3)) = name.to_str().and_then(part_of) else {
            continue;
        };
        let object = ObjectRef {
            key: format!("{}{}", folder(stage), name.to_string_lossy()),
            blake3,
            size_bytes: entry.metadata().with_context(named)?.len(),
        };
        sets.entry((step, parts)).or_default().insert(part, object);
    }
    let whole = sets
        .into_iter()
        .rev()
        .find(|((_, parts), set)| set.keys().copied().eq(0..*parts));
    let Some(((step, parts), set)) = whole else {
        bail!("{}: holds no whole checkpoint", directory.display());
    };
    Ok(assemble(stage, step, parts, set))
}

fn assemble(stage: StageId, step: u64, parts: u32, set: BTreeMap<u32, ObjectRef>) -> Manifest {
    let state_bytes = set.values().map(|object| object.size_bytes).sum();
    let mut offset_bytes = 0;
    let part = |(part, object): (u32, ObjectRef)| {
        let placed = CheckpointPart {
            step,
            part,
            parts,
            offset_bytes,
            state_bytes,
            object,
            tensors: None,
        };
        offset_bytes += placed.object.size_bytes;
        placed
    };
    Manifest {
        id: CheckpointId::generate(),
        stage,
        step,
        state_bytes,
        parts: set.into_iter().map(part).collect(),
    }
}

/// Step, part, parts and BLAKE3 in a part's name.
fn part_of(name: &str) -> Option<(u64, u32, u32, String)> {
    let (step, rest) = name.split_once("-part-")?;
    let (part, rest) = rest.split_once("-of-")?;
    let (parts, blake3) = rest.split_once('-')?;
    Some((
        step.parse().ok()?,
        part.parse().ok()?,
        parts.parse().ok()?,
        blake3.to_owned(),
    ))
}

/// The vocabulary in an object store that is a directory and holds one.
pub(super) fn only_vocabulary(store: &str) -> anyhow::Result<String> {
    let directory = store
        .strip_prefix("file://")
        .map(|path| Path::new(path).join("vocabularies"));
    let files: Vec<PathBuf> = directory
        .as_ref()
        .and_then(|directory| fs::read_dir(directory).ok())
        .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())).collect())
        .unwrap_or_default();
    let [file] = &files[..] else {
        let found = directory.map_or("is not looked into".into(), |_| {
            format!("holds {} vocabularies", files.len())
        });
        bail!("--vocab: {store} {found}; say which one the checkpoint was trained with");
    };
    fs::read_to_string(file).with_context(|| format!("{}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_step_of_which_all_parts_are_there_is_taken() {
        let store = tempfile::tempdir().unwrap();
        let stage = StageId::generate();
        let directory = store.path().join("checkpoints").join(stage.to_string());
        fs::create_dir_all(&directory).unwrap();
        for name in [
            "9-part-0-of-2-aa",
            "9-part-1-of-2-bb",
            "10-part-1-of-2-cc",
            "9-part-0-of-1-dd",
            "notes.txt",
        ] {
            fs::write(directory.join(name), name).unwrap();
        }
        let Found { manifest, store: found } = find(&directory).unwrap();
        assert_eq!(found.unwrap(), store.path().canonicalize().unwrap());
        assert_eq!((manifest.step, manifest.parts.len(), manifest.stage), (9, 2, stage));
        assert_eq!(manifest.parts[1].offset_bytes, 16);
        assert_eq!(manifest.parts[1].object.blake3, "bb");
        fs::remove_file(directory.join("9-part-1-of-2-bb")).unwrap();
        assert_eq!(find(&directory).unwrap().manifest.parts.len(), 1);
        assert!(find(store.path()).is_err());
    }
}
