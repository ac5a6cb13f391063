//! The object store as ranks use it: immutable objects named by their content, verified in both directions.
//!
//! The store may be a directory or a bucket: see [`medley_protocol::store`]. Calls block: ranks are threads, not tasks; a small
//! runtime of its own drives the crate underneath.

use bytes::Bytes;
use futures_util::StreamExt;
use medley_protocol::checkpoint::ObjectRef;
use medley_protocol::store;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// Deadline of an operation on an object of no size, and the least speed of one on a large object.
const PATIENCE: Duration = Duration::from_mins(10);
const SLOWEST_BYTES_PER_S: u64 = 1 << 20;

/// What went wrong with which object.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL names no store that can be opened.
    #[error(transparent)]
    Url(#[from] store::Error),
    /// There is no thread for what goes on with the store.
    #[error("no thread for the object store: {0}")]
    Thread(#[source] std::io::Error),
    /// The bytes in the store are not those that were written.
    #[error("object {key} in {url} is damaged: {cause}")]
    Damaged {
        /// Key.
        key: String,
        /// The store.
        url: String,
        /// How it was noticed.
        cause: String,
    },
    /// The store answers, and has no such object.
    #[error("object {key} in {url} is missing")]
    Missing {
        /// Key.
        key: String,
        /// The store.
        url: String,
    },
    /// The store did not do as asked: it may do so later, or for others.
    #[error("object {key} in {url}: {cause}")]
    Failed {
        /// Key.
        key: String,
        /// The store.
        url: String,
        /// Why.
        cause: String,
    },
}

/// An open store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Objects {
    url: String,
    store: Arc<dyn ObjectStore>,
    runtime: Arc<tokio::runtime::Runtime>,
}

impl Objects {
    /// Opens the store at `url`.
    ///
    /// # Errors
    /// [`Error::Url`], [`Error::Thread`].
    pub fn open(url: &str) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("objects")
            .enable_all()
            .build()
            .map_err(Error::Thread)?;
        Ok(Self {
            url: url.into(),
            store: store::open(url)?,
            runtime: Arc::new(runtime),
        })
    }

    /// Writes an object under `{name}-{BLAKE3}`, unless it is there and sound, and reads it back.
    ///
    /// # Errors
    /// [`Error::Failed`] if it cannot be written, [`Error::Damaged`] if what is read back differs.
    pub fn put(&self, name: &str, bytes: impl Into<Bytes>) -> Result<ObjectRef, Error> {
        let bytes = bytes.into();
        let blake3 = blake3::hash(&bytes).to_hex().to_string();
        let object = ObjectRef {
            key: format!("{name}-{blake3}"),
            blake3,
            size_bytes: bytes.len() as u64,
        };
        match self.read(&object, |_| {}) {
            Err(Error::Missing { .. } | Error::Damaged { .. }) => {
                let path = self.path(&object)?;
                self.wait(&object, store::write(self.store.as_ref(), &path, &bytes))?;
                self.read(&object, |_| {})?;
            }
            there => there?,
        }
        Ok(object)
    }

    /// Reads an object and verifies size and hash; nothing larger than it should be is read.
    ///
    /// # Errors
    /// [`Error::Missing`] if it is not there, [`Error::Failed`] if it cannot be read, [`Error::Damaged`] if it is not what
    /// it should be.
    pub fn get(&self, object: &ObjectRef) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        self.read(object, |piece| {
            // Not before the size was found right.
            bytes.reserve_exact(object.size_bytes as usize - bytes.len());
            bytes.extend_from_slice(piece);
        })?;
        Ok(bytes)
    }

    /// Reads an object piece by piece; the pieces are good only if the object turns out to be.
    fn read(&self, object: &ObjectRef, mut take: impl FnMut(&[u8])) -> Result<(), Error> {
        let path = self.path(object)?;
        let size = self.wait(object, self.store.head(&path))?.size;
        if size != object.size_bytes {
            return Err(self.damaged(object, format!("it has {size} bytes instead of {}", object.size_bytes)));
        }
        let mut hasher = blake3::Hasher::new();
        self.wait(object, async {
            let mut pieces = store::read(Arc::clone(&self.store), path, size, store::PIECE);
            while let Some(piece) = pieces.next().await {
                let piece = piece?;
                hasher.update(&piece);
                take(&piece);
            }
            Ok(())
        })?;
        if hasher.finalize().to_hex().as_str() != object.blake3 {
            return Err(self.damaged(object, "its BLAKE3 differs from the one recorded".into()));
        }
        Ok(())
    }

    fn path(&self, object: &ObjectRef) -> Result<Path, Error> {
        if !ObjectRef::is_valid_key(&object.key) {
            return Err(self.failed(&object.key, "the key is not well formed".into()));
        }
        Ok(Path::from(object.key.as_str()))
    }

    fn wait<T>(
        &self,
        object: &ObjectRef,
        operation: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, Error> {
        let patience = PATIENCE + Duration::from_secs(object.size_bytes / SLOWEST_BYTES_PER_S);
        let limited = self
            .runtime
            .block_on(async { tokio::time::timeout(patience, operation).await });
        let key = object.key.as_str();
        match limited {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(object_store::Error::NotFound { .. })) => Err(Error::Missing {
                key: key.into(),
                url: self.url.clone(),
            }),
            Ok(Err(e)) => Err(self.failed(key, store::explain(&e))),
            Err(_) => Err(self.failed(key, format!("no answer within {} s", patience.as_secs()))),
        }
    }

    fn damaged(&self, object: &ObjectRef, cause: String) -> Error {
        let (key, url) = (object.key.clone(), self.url.clone());
        Error::Damaged { key, url, cause }
    }

    fn failed(&self, key: &str, cause: String) -> Error {
        let (key, url) = (key.into(), self.url.clone());
        Error::Failed { key, url, cause }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Objects) {
        let dir = tempfile::tempdir().unwrap();
        let objects = Objects::open(&format!("file://{}", dir.path().display())).unwrap();
        (dir, objects)
    }

    #[test]
    fn an_object_is_read_as_it_was_written_and_writing_it_again_is_harmless() {
        let (_dir, objects) = store();
        let object = objects.put("a/b", vec![1, 2, 3]).unwrap();
        assert_eq!(objects.put("a/b", vec![1, 2, 3]).unwrap(), object);
        assert_eq!(objects.get(&object).unwrap(), [1, 2, 3]);
        assert!(object.key.starts_with("a/b-"));
    }

    #[test]
    fn a_flipped_bit_and_a_torn_object_are_refused_by_name() {
        let (dir, objects) = store();
        let object = objects.put("a", vec![0; 1000]).unwrap();
        let file = dir.path().join(&object.key);
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[500] ^= 1;
        std::fs::write(&file, &bytes).unwrap();
        let error = objects.get(&object).unwrap_err().to_string();
        assert!(error.contains(&object.key) && error.contains("BLAKE3"), "{error}");
        std::fs::write(&file, &bytes[..999]).unwrap();
        let error = objects.get(&object).unwrap_err().to_string();
        assert!(error.contains("999 bytes instead of 1000"), "{error}");
        assert_eq!(
            objects.put("a", vec![0; 1000]).unwrap(),
            object,
            "writing again repairs it"
        );
        assert!(objects.get(&object).is_ok());
    }

    #[test]
    fn a_missing_object_and_a_bad_url_are_clear() {
        let (_dir, objects) = store();
        let object = ObjectRef {
            key: "nothing".into(),
            blake3: String::new(),
            size_bytes: 1,
        };
        assert!(matches!(objects.get(&object), Err(Error::Missing { .. })));
        let escaping = ObjectRef {
            key: "../x".into(),
            ..object
        };
        assert!(objects.get(&escaping).unwrap_err().to_string().contains("well formed"));
        assert!(matches!(Objects::open("nowhere"), Err(Error::Url(_))));
    }
}
