//! The object store that holds datasets, checkpoints and results.

use anyhow::Context;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use url::Url;

/// The URL of a store in a directory of this machine.
///
/// # Errors
/// When the path is not absolute.
pub fn url_of_directory(path: &Path) -> anyhow::Result<String> {
    Url::from_file_path(path)
        .map(String::from)
        .map_err(|()| anyhow::anyhow!("the store's directory {} is not an absolute path", path.display()))
}

/// The directory of this machine that a URL names, if it names one.
pub fn directory(url: &str) -> Option<PathBuf> {
    let parsed = Url::parse(url).ok().filter(|url| url.scheme() == "file")?;
    parsed.to_file_path().ok()
}

/// Opens the store at a URL. A directory is made if it is missing.
///
/// # Errors
/// When the URL names no store that this build can reach.
pub fn open(url: &str) -> anyhow::Result<Arc<dyn ObjectStore>> {
    let advice = || format!("object store {url}: give --store a URL such as file:///var/lib/medley/store");
    let parsed = Url::parse(url).with_context(advice)?;
    if parsed.scheme() == "file" {
        let path = parsed
            .to_file_path()
            .map_err(|()| anyhow::anyhow!("it names no directory of this machine"))
            .with_context(advice)?;
        std::fs::create_dir_all(&path)
            .with_context(|| format!("cannot make the store's directory {}", path.display()))?;
        return Ok(Arc::new(LocalFileSystem::new_with_prefix(&path).with_context(advice)?));
    }
    let (store, prefix) = object_store::parse_url(&parsed).with_context(advice)?;
    Ok(Arc::new(PrefixStore::new(store, prefix)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::ObjectStoreExt;

    #[tokio::test]
    async fn objects_of_a_directory_are_found_under_its_url() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("with space");
        let url = url_of_directory(&path).unwrap();
        let store = open(&url).unwrap();
        assert_eq!(directory(&url), Some(path.clone()));
        assert_eq!(directory("memory:///"), None);
        std::fs::create_dir(path.join("a")).unwrap();
        std::fs::write(path.join("a/b.json"), "{}").unwrap();
        let object = store.get(&"a/b.json".into()).await.unwrap();
        assert_eq!(object.bytes().await.unwrap(), "{}");
    }

    #[test]
    fn a_url_that_names_no_store_says_what_to_give() {
        for url in ["store", "nonsense://x"] {
            assert!(open(url).unwrap_err().to_string().contains("--store"), "{url}");
        }
    }
}
