//! The object store that holds datasets, checkpoints and results.

use anyhow::Context;
use futures_util::StreamExt;
use medley_protocol::store;
use object_store::ObjectStore;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// Longest wait for a store's first answer.
const PATIENCE: Duration = Duration::from_secs(30);

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

/// Opens the store at a URL, which must answer. A directory is made if it is missing.
///
/// # Errors
/// When the URL names no store that can be opened, or the store cannot be used.
pub async fn open(url: &str) -> anyhow::Result<Arc<dyn ObjectStore>> {
    let store = store::open(url).context("--store")?;
    if let Some(path) = directory(url) {
        std::fs::create_dir_all(&path)
            .with_context(|| format!("cannot make the store's directory {}", path.display()))?;
        return Ok(store);
    }
    let why = match tokio::time::timeout(PATIENCE, store.list(None).next()).await {
        Ok(None | Some(Ok(_))) => return Ok(store),
        Ok(Some(Err(error))) => store::explain(&error),
        Err(_) => format!("no answer within {} s: check AWS_ENDPOINT", PATIENCE.as_secs()),
    };
    anyhow::bail!("--store {url} cannot be used: {why}")
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
        let store = open(&url).await.unwrap();
        assert_eq!(directory(&url), Some(path.clone()));
        assert_eq!(directory("s3://bucket/a"), None);
        std::fs::create_dir(path.join("a")).unwrap();
        std::fs::write(path.join("a/b.json"), "{}").unwrap();
        let object = store.get(&"a/b.json".into()).await.unwrap();
        assert_eq!(object.bytes().await.unwrap(), "{}");
    }

    #[tokio::test]
    async fn a_url_that_names_no_store_says_what_to_give() {
        for url in ["store", "nonsense://x"] {
            let error = open(url).await.unwrap_err();
            assert!(format!("{error:#}").contains("--store: object store"), "{error:#}");
        }
    }
}
