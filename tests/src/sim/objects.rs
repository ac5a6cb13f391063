//! An object store in memory; objects are named by their content.

use super::toy::{Toy, number};
use medley_protocol::checkpoint::{Manifest, ObjectRef};
use std::collections::BTreeMap;

#[derive(Default)]
pub(super) struct Objects(BTreeMap<String, Vec<u8>>);

impl Objects {
    pub(super) fn put(&mut self, folder: &str, bytes: &[u8]) -> ObjectRef {
        let hash = format!("{:016x}", number(bytes));
        let key = format!("{folder}/{hash}");
        self.0.insert(key.clone(), bytes.to_vec());
        ObjectRef {
            key,
            blake3: hash,
            size_bytes: bytes.len() as u64,
        }
    }

    pub(super) fn get(&self, object: &ObjectRef) -> Option<&[u8]> {
        self.0.get(&object.key).map(Vec::as_slice)
    }

    /// The state that a checkpoint holds, unless it is torn.
    pub(super) fn load(&self, manifest: &Manifest) -> Option<Toy> {
        let parts: Option<Vec<&[u8]>> = manifest.parts.iter().map(|part| self.get(&part.object)).collect();
        let toy = Toy::from_bytes(&parts?.concat())?;
        (toy.step == manifest.step).then_some(toy)
    }
}
