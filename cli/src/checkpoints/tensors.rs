//! The tensors of a checkpoint by their hashes: which of them are damaged, and which differ between two checkpoints.

use crate::connect::explain;
use anyhow::{Context, Result, bail};
use medley_protocol::checkpoint::TensorHash;
use medley_protocol::client::Client;
use medley_protocol::error::Code;
use medley_protocol::rest::CheckpointView;
use std::collections::BTreeMap;

/// The tensors of a checkpoint in the order of their bytes, as ranks have listed them. A list that is gone or is not what was
/// written is left out, as is one that nobody wrote.
///
/// # Errors
/// When the coordinator does not answer or refuses.
pub(super) async fn listed(client: &Client, checkpoint: &CheckpointView) -> Result<Vec<TensorHash>> {
    let mut tensors = Vec::new();
    for object in checkpoint.parts.iter().filter_map(|part| part.tensors.as_ref()) {
        let bytes = match client.get_bytes(&format!("/objects/{}", object.key)).await {
            Ok(bytes) => bytes,
            Err(error) if error.code() == Some(Code::NotFound) => continue,
            Err(error) => return Err(explain(error)),
        };
        if blake3::hash(&bytes).to_hex().as_str() == object.blake3 {
            let list: Vec<TensorHash> = serde_json::from_slice(&bytes).with_context(|| {
                format!(
                    "object {} is no list of tensors: it was written by another version",
                    object.key
                )
            })?;
            tensors.extend(list);
        }
    }
    Ok(tensors)
}

/// A tensor's name among all of a state.
fn name(tensor: &TensorHash) -> String {
    format!("{} {}", tensor.section, tensor.name)
}

/// Hashes tensors while the bytes of a state pass by, and keeps the names of those that are not what was written. Nothing is
/// said of a tensor of which bytes are missing.
#[derive(Debug)]
pub(super) struct Passing {
    expected: std::vec::IntoIter<TensorHash>,
    /// The tensor that comes next, or of which the first bytes have passed.
    now: Option<TensorHash>,
    hasher: blake3::Hasher,
    /// Where the bytes go on.
    at: u64,
    damaged: Vec<String>,
}

impl Passing {
    pub(super) fn new(tensors: Vec<TensorHash>) -> Self {
        let mut expected = tensors.into_iter();
        Self {
            now: expected.next(),
            expected,
            hasher: blake3::Hasher::new(),
            at: 0,
            damaged: Vec::new(),
        }
    }

    /// Some bytes of the state, which follow those that came before or lie behind them.
    pub(super) fn pass(&mut self, offset: u64, bytes: &[u8]) {
        let (gap, end) = (self.at..offset, offset + bytes.len() as u64);
        self.at = end;
        while let Some(tensor) = self.now.take_if(|tensor| tensor.offset_bytes < end) {
            let tensor_end = tensor.offset_bytes + tensor.size_bytes;
            if !gap.is_empty() && tensor.offset_bytes < gap.end {
                self.next();
                continue;
            }
            let from = tensor.offset_bytes.max(offset) - offset;
            let to = tensor_end.min(end) - offset;
            self.hasher.update(&bytes[from as usize..to as usize]);
            if tensor_end > end {
                self.now = Some(tensor);
                break;
            }
            if self.hasher.finalize().to_hex().as_str() != tensor.blake3 {
                self.damaged.push(name(&tensor));
            }
            self.next();
        }
    }

    fn next(&mut self) {
        self.now = self.expected.next();
        self.hasher.reset();
    }

    /// The tensors that are damaged.
    pub(super) fn damaged(self) -> Vec<String> {
        self.damaged
    }
}

/// A tensor that is not the same in two checkpoints.
#[derive(Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct Differing {
    section: String,
    name: String,
    /// BLAKE3 in the first one, if it has the tensor.
    first: Option<String>,
    /// BLAKE3 in the second one, if it has the tensor.
    second: Option<String>,
}

/// What differs between two checkpoints, and of how many tensors in all.
///
/// # Errors
/// When one has no hashes of tensors.
pub(super) fn compare(first: Vec<TensorHash>, second: Vec<TensorHash>) -> Result<(Vec<Differing>, usize)> {
    for (which, tensors) in [("first", &first), ("second", &second)] {
        if tensors.is_empty() {
            bail!("the {which} checkpoint has no hashes of its tensors, or they are gone from the store");
        }
    }
    let mut both: BTreeMap<(u64, String, String), [Option<String>; 2]> = BTreeMap::new();
    let mut places: BTreeMap<(String, String), u64> = BTreeMap::new();
    for (which, tensors) in [first, second].into_iter().enumerate() {
        for tensor in tensors {
            let key = (tensor.section, tensor.name);
            // In the order of the state, as far as the two have the same one.
            let place = *places.entry(key.clone()).or_insert(tensor.offset_bytes);
            both.entry((place, key.0, key.1)).or_default()[which] = Some(tensor.blake3);
        }
    }
    let all = both.len();
    let differing = both.into_iter().filter(|(_, [first, second])| first != second);
    let differing = differing.map(|((_, section, name), [first, second])| Differing {
        section,
        name,
        first,
        second,
    });
    Ok((differing.collect(), all))
}

impl Differing {
    /// Section, name and the beginnings of the hashes, for people.
    pub(super) fn cells(&self) -> [String; 4] {
        let short = |hash: &Option<String>| {
            hash.as_ref()
                .map_or("none".into(), |hash| hash.chars().take(12).collect())
        };
        [
            self.section.clone(),
            self.name.clone(),
            short(&self.first),
            short(&self.second),
        ]
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A tensor of these bytes.
    pub(in super::super) fn tensor(section: &str, name: &str, offset: u64, bytes: &[u8]) -> TensorHash {
        TensorHash {
            section: section.into(),
            name: name.into(),
            offset_bytes: offset,
            size_bytes: bytes.len() as u64,
            blake3: blake3::hash(bytes).to_hex().to_string(),
        }
    }

    fn tensors(bytes: &[u8]) -> Vec<TensorHash> {
        let places = [("params", "a", 16..20), ("params", "b", 32..70), ("m", "a", 70..100)];
        places
            .map(|(section, name, at)| tensor(section, name, at.start as u64, &bytes[at]))
            .to_vec()
    }

    #[test]
    fn the_tensor_is_named_whose_bytes_are_damaged_however_they_come() {
        let sound: Vec<u8> = (0..100).collect();
        for (at, expected) in [(17, &["params a"][..]), (25, &[]), (69, &["params b"]), (70, &["m a"])] {
            let mut bytes = sound.clone();
            bytes[at] ^= 1;
            for size in [1, 7, 33, 100] {
                let mut passing = Passing::new(tensors(&sound));
                for (chunk, at) in bytes.chunks(size).zip((0..).step_by(size)) {
                    passing.pass(at, chunk);
                }
                assert_eq!(passing.damaged(), expected, "byte {at} in chunks of {size}");
            }
        }
    }

    #[test]
    fn nothing_is_said_of_a_tensor_of_which_bytes_are_missing() {
        let sound: Vec<u8> = (0..100).collect();
        for gap in [40..50, 18..40, 65..71] {
            let mut bytes = sound.clone();
            bytes[99] ^= 1;
            let mut passing = Passing::new(tensors(&sound));
            passing.pass(0, &bytes[..gap.start]);
            passing.pass(gap.end as u64, &bytes[gap.end..]);
            let expected: &[&str] = if gap.end > 70 { &[] } else { &["m a"] };
            assert_eq!(passing.damaged(), expected, "{gap:?}");
        }
    }

    #[test]
    fn tensors_are_compared_by_name_wherever_they_lie() {
        let first = vec![
            tensor("params", "b", 0, b"same"),
            tensor("params", "a", 4, b"one"),
            tensor("m", "a", 8, b"gone"),
        ];
        let second = vec![tensor("params", "a", 0, b"two"), tensor("params", "b", 4, b"same")];
        let (differing, all) = compare(first.clone(), second).unwrap();
        let names: Vec<_> = differing
            .iter()
            .map(|one| (one.section.as_str(), one.name.as_str()))
            .collect();
        assert_eq!((names, all), (vec![("params", "a"), ("m", "a")], 3));
        assert_eq!(differing[1].cells()[3], "none");
        assert!(compare(first, Vec::new()).unwrap_err().to_string().contains("second"));
    }
}
