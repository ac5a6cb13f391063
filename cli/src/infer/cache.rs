//! A folder that keeps objects fetched from a coordinator, laid out as an object store.
//!
//! Objects are named by their content and verified when they are fetched and when they are found here; one that is damaged
//! is fetched again. A file appears under its name only when it is whole.

use crate::connect::explain;
use crate::console::{Screen, bytes};
use anyhow::{Context as _, Result, bail};
use indicatif::ProgressBar;
use medley_protocol::checkpoint::ObjectRef;
use medley_protocol::client::Client;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// The folder.
#[derive(Debug)]
pub(super) struct Cache(PathBuf);

impl Cache {
    /// The folder given by the user, or the usual one.
    ///
    /// # Errors
    /// When it cannot be made, or there is no usual one.
    pub(super) fn new(given: Option<&Path>) -> Result<Self> {
        let usual = || usual(std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME"));
        let folder = given.map(Path::to_owned).or_else(usual);
        let folder = folder.context("no folder to keep checkpoints in: give --cache")?;
        let named = || format!("--cache {}", folder.display());
        fs::create_dir_all(&folder).with_context(named)?;
        Ok(Self(folder.canonicalize().with_context(named)?))
    }

    /// Its URL as an object store.
    pub(super) fn url(&self) -> String {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(byte);
        let escaped = self.0.as_os_str().as_bytes().iter().map(|byte| match byte {
            byte if plain(byte) => char::from(*byte).to_string(),
            byte => format!("%{byte:02X}"),
        });
        format!("file://{}", escaped.collect::<String>())
    }

    /// Fetches those of the objects that are not here.
    ///
    /// # Errors
    /// When one cannot be fetched or written, or is not what it should be. The others stay.
    pub(super) async fn hold(
        &self,
        client: &Client,
        objects: impl Iterator<Item = &ObjectRef>,
        screen: &Screen,
    ) -> Result<()> {
        let mut missing = Vec::new();
        for object in objects {
            let path = self.path(object)?;
            if !is_whole(&path, object) {
                missing.push((path, object));
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let total = missing.iter().map(|(_, object)| object.size_bytes).sum();
        screen.line(&format!("fetching {} into {}", bytes(total), self.0.display()));
        let bar = screen.bar("fetching", Some(total));
        for (path, object) in missing {
            fetch(client, object, &path, &bar).await?;
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn path(&self, object: &ObjectRef) -> Result<PathBuf> {
        if !ObjectRef::is_valid_key(&object.key) {
            bail!("the coordinator names an object {:?}, which is no key", object.key);
        }
        Ok(self.0.join(&object.key))
    }
}

/// Where programs of this user keep what they can make again.
fn usual(xdg: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let named = |value: Option<OsString>| value.map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = named(xdg).or_else(|| Some(named(home)?.join(".cache")))?;
    Some(caches.join("medley"))
}

/// Whether a file holds what the object should be.
fn is_whole(path: &Path, object: &ObjectRef) -> bool {
    let hash = || -> std::io::Result<bool> {
        let file = File::open(path)?;
        if file.metadata()?.len() != object.size_bytes {
            return Ok(false);
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(file)?;
        Ok(hasher.finalize().to_hex().as_str() == object.blake3)
    };
    // What cannot be read is fetched again.
    hash().unwrap_or(false)
}

async fn fetch(client: &Client, object: &ObjectRef, path: &Path, bar: &ProgressBar) -> Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".partial-{}", std::process::id()));
    let partial = PathBuf::from(partial);
    let fetched = download(client, object, &partial, bar).await;
    let moved = fetched.and_then(|()| fs::rename(&partial, path).with_context(|| path.display().to_string()));
    if moved.is_err() {
        // What is left of it is of no use; if it cannot be removed, the first error matters more.
        let _ = fs::remove_file(&partial);
    }
    moved
}

async fn download(client: &Client, object: &ObjectRef, path: &Path, bar: &ProgressBar) -> Result<()> {
    let named = || path.display().to_string();
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    let mut file = File::create(path).with_context(named)?;
    let (mut hasher, mut size) = (blake3::Hasher::new(), 0);
    let mut download = client
        .download(&format!("/objects/{}", object.key))
        .await
        .map_err(explain)?;
    while let Some(chunk) = download.chunk().await.map_err(explain)? {
        size += chunk.len() as u64;
        if size > object.size_bytes {
            break;
        }
        hasher.update(&chunk);
        file.write_all(&chunk).with_context(named)?;
        bar.inc(chunk.len() as u64);
    }
    if size != object.size_bytes || hasher.finalize().to_hex().as_str() != object.blake3 {
        bail!(
            "object {} is not what was written under this name: the coordinator's object store is damaged",
            object.key
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Coordinator;

    fn object(key: &str, bytes: &[u8]) -> ObjectRef {
        ObjectRef {
            key: key.into(),
            blake3: blake3::hash(bytes).to_hex().to_string(),
            size_bytes: bytes.len() as u64,
        }
    }

    async fn hold(cache: &Cache, coordinator: &Coordinator, object: &ObjectRef) -> Result<()> {
        let objects = std::iter::once(object);
        cache.hold(&coordinator.client(), objects, &Screen::captured().0).await
    }

    #[tokio::test]
    async fn an_object_is_fetched_once_and_again_only_if_it_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(Some(dir.path())).unwrap();
        let coordinator = Coordinator::start().await;
        let part = object("checkpoints/a/part-0", b"weights");
        coordinator.put_object(&part.key, b"weights".into());
        hold(&cache, &coordinator, &part).await.unwrap();
        let path = dir.path().join(&part.key);
        assert_eq!(fs::read(&path).unwrap(), b"weights");

        coordinator.put_object(&part.key, b"another".into());
        hold(&cache, &coordinator, &part).await.unwrap();
        fs::write(&path, "wEights").unwrap();
        let error = hold(&cache, &coordinator, &part).await.unwrap_err().to_string();
        assert!(
            error.contains("checkpoints/a/part-0") && error.contains("damaged"),
            "{error}"
        );
        coordinator.put_object(&part.key, b"weights".into());
        hold(&cache, &coordinator, &part).await.unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"weights");
        assert_eq!(
            fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "nothing half is left"
        );
    }

    #[tokio::test]
    async fn a_longer_object_and_a_key_that_leaves_the_folder_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(Some(dir.path())).unwrap();
        let coordinator = Coordinator::start().await;
        coordinator.put_object("a", b"weights and more".into());
        let longer = object("a", b"weights");
        assert!(hold(&cache, &coordinator, &longer).await.is_err());
        let outside = object("../a", b"weights");
        let error = hold(&cache, &coordinator, &outside).await.unwrap_err().to_string();
        assert!(error.contains("no key"), "{error}");
    }

    #[test]
    fn the_usual_folder_is_the_users_cache() {
        let os = |text: &str| Some(OsString::from(text));
        assert_eq!(usual(os("/c"), os("/home/a")), Some("/c/medley".into()));
        assert_eq!(usual(os(""), os("/home/a")), Some("/home/a/.cache/medley".into()));
        assert_eq!(usual(None, None), None);
    }

    #[test]
    fn a_folder_of_any_name_is_a_url() {
        let cache = Cache("/a b/50%#é".into());
        assert_eq!(cache.url(), "file:///a%20b/50%25%23%C3%A9");
    }
}
