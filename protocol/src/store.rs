//! The object store that a URL names, opened by all programs alike.
//!
//! The URL travels: the coordinator hands it to every rank, and it is in logs. So it says where the store is and nothing else.
//! Who a program is to an S3 store, and which way leads there, is in the program's own environment, in the variables that
//! other programs know too: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT`, `AWS_ALLOW_HTTP`, ….
//!
//! Objects may have gigabytes, and a request has a deadline. So objects are read and written in pieces ([`PIECE`]), some of
//! them at once, each with a deadline and some tries of its own.

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{
    BackoffConfig, ClientConfigKey, ObjectStore, ObjectStoreExt, ObjectStoreScheme, PutPayload, Result, RetryConfig,
};
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// Bytes that one request carries at most.
pub const PIECE: usize = 16 << 20;
/// Requests for one object at a time.
const AT_ONCE: usize = 4;
/// Deadline of a request, unless `AWS_TIMEOUT` says otherwise.
const REQUEST_TIMEOUT: &str = "60s";
/// Time from the first try of a request in which a further one begins. Whoever asks has a patience of their own: a rank that
/// cannot write a checkpoint says so, and goes on.
const RETRY_TIMEOUT: Duration = Duration::from_secs(15);
const RETRIES: usize = 4;
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// A URL names no store that can be opened.
#[derive(Debug, thiserror::Error)]
#[error("object store {url}: {cause}: give a URL such as file:///var/lib/medley/store or s3://bucket/folder")]
pub struct Error {
    /// The URL, without what should not be in it.
    pub url: String,
    /// Why.
    pub cause: String,
}

/// Opens the store at a URL. Nothing is asked of it yet.
///
/// # Errors
/// [`Error`].
pub fn open(url: &str) -> std::result::Result<Arc<dyn ObjectStore>, Error> {
    open_in(url, std::env::vars())
}

/// Opens the store at a URL as a program would that has this environment.
///
/// # Errors
/// [`Error`].
pub fn open_in(
    url: &str,
    environment: impl IntoIterator<Item = (String, String)>,
) -> std::result::Result<Arc<dyn ObjectStore>, Error> {
    let bad = |url: &str, cause: String| Error { url: url.into(), cause };
    let parsed = Url::parse(url).map_err(|e| bad(url, e.to_string()))?;
    let bare = bare(&parsed);
    if bare != parsed {
        let cause = "it may say no more than where the store is; credentials are given as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";
        return Err(bad(bare.as_str(), cause.into()));
    }
    let (scheme, root) = ObjectStoreScheme::parse(&parsed).map_err(|e| bad(url, e.to_string()))?;
    match (scheme, parsed.scheme()) {
        // A checkpoint that was reported must survive a loss of power.
        (ObjectStoreScheme::Local, _) => Ok(below(root, LocalFileSystem::new().with_fsync(true))),
        (ObjectStoreScheme::AmazonS3, "s3") => {
            let store = s3(&parsed, environment).map_err(|e| bad(url, explain(&e)))?;
            Ok(below(root, store))
        }
        _ => Err(bad(url, "only directories and S3 can be reached".into())),
    }
}

fn below(root: Path, store: impl ObjectStore) -> Arc<dyn ObjectStore> {
    Arc::new(PrefixStore::new(store, root))
}

/// The URL without credentials and questions.
fn bare(url: &Url) -> Url {
    let mut bare = url.clone();
    // Only URLs without a host refuse this, and have none of it.
    let _ = bare.set_username("");
    let _ = bare.set_password(None);
    bare.set_query(None);
    bare.set_fragment(None);
    bare
}

/// A bucket, reached as the environment says.
fn s3(url: &Url, environment: impl IntoIterator<Item = (String, String)>) -> Result<AmazonS3> {
    // A provider that is already installed serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let timeout = AmazonS3ConfigKey::Client(ClientConfigKey::Timeout);
    let usual = AmazonS3Builder::new().with_config(timeout, REQUEST_TIMEOUT);
    let said = environment.into_iter().filter(|(name, _)| name.starts_with("AWS_"));
    let builder = said.fold(usual, |builder, (name, value)| {
        match name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
            // The URL names the bucket.
            Ok(AmazonS3ConfigKey::Bucket) | Err(_) => builder,
            Ok(key) => builder.with_config(key, value),
        }
    });
    let retry = RetryConfig {
        backoff: BackoffConfig {
            max_backoff: LONGEST_PAUSE,
            ..BackoffConfig::default()
        },
        max_retries: RETRIES,
        retry_timeout: RETRY_TIMEOUT,
    };
    builder.with_url(url.as_str()).with_retry(retry).build()
}

/// The bytes of an object that has so many, in order, in pieces of `piece` bytes. Of these some are held at a time, and none is read
/// before there is room for it.
pub fn read(
    store: Arc<dyn ObjectStore>,
    path: Path,
    size_bytes: u64,
    piece: usize,
) -> impl Stream<Item = Result<Bytes>> + Send + Unpin + 'static {
    let pieces = (0..size_bytes).step_by(piece).map(move |from| {
        let (store, path) = (Arc::clone(&store), path.clone());
        async move {
            let to = size_bytes.min(from + piece as u64);
            store.get_range(&path, from..to).await
        }
    });
    stream::iter(pieces).buffered(AT_ONCE).boxed()
}

/// Writes an object, or writes it anew. It is there with its last byte, not before.
///
/// # Errors
/// Those of the store.
pub async fn write(store: &dyn ObjectStore, path: &Path, bytes: &Bytes) -> Result<()> {
    if bytes.len() <= PIECE {
        return store.put(path, PutPayload::from(bytes.clone())).await.map(drop);
    }
    let mut upload = store.put_multipart(path).await?;
    let pieces: Vec<_> = (0..bytes.len())
        .step_by(PIECE)
        .map(|from| upload.put_part(bytes.slice(from..bytes.len().min(from + PIECE)).into()))
        .collect();
    let written = stream::iter(pieces)
        .map(Ok)
        .try_for_each_concurrent(AT_ONCE, |piece| piece);
    let done = match written.await {
        Ok(()) => upload.complete().await.map(drop),
        Err(error) => Err(error),
    };
    if done.is_err() {
        // What is left of an upload takes room. The first error is the one to be told.
        let _ = upload.abort().await;
    }
    done
}

/// An error of a store in one line, with what may help against it.
pub fn explain(error: &object_store::Error) -> String {
    let said = causes(error);
    let code = said
        .split_once("<Code>")
        .and_then(|(_, rest)| rest.split_once("</Code>"))
        .map(|(code, _)| code);
    let denied = matches!(
        error,
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. }
    );
    // Not every service gives a refusal the status of one.
    let refused = denied || code.is_some_and(|code| REFUSALS.contains(&code));
    match code {
        Some("NoSuchBucket") => "there is no such bucket: make it, or name another one in the URL".into(),
        Some(code) if refused => format!("access is refused ({code}): {CREDENTIALS}"),
        Some(code) => format!("it answers {code}"),
        None if refused => format!("access is refused: {CREDENTIALS}"),
        None if said.contains("169.254.169.254") => format!("there are no credentials: {CREDENTIALS}"),
        None if said.contains("LOCATION") => "the bucket is elsewhere: check AWS_REGION".into(),
        None if said.contains("(Connect)") => format!("{said}: check AWS_ENDPOINT"),
        None => said,
    }
}

const REFUSALS: [&str; 4] = [
    "AccessDenied",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
];
const CREDENTIALS: &str =
    "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment of this program, and what they allow";

/// The error and what caused it, each said once.
fn causes(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
        next = cause.source();
    }
    said.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_with_credentials_is_refused_and_they_are_not_repeated() {
        for url in ["s3://KEY:SECRET@bucket/a", "s3://bucket/a?aws_secret_access_key=SECRET"] {
            let error = open(url).unwrap_err().to_string();
            assert!(error.contains("AWS_SECRET_ACCESS_KEY"), "{error}");
            assert!(!error.contains("SECRET@") && !error.contains("=SECRET"), "{error}");
        }
    }

    #[test]
    fn a_url_that_names_no_store_says_what_to_give() {
        for url in ["store", "nonsense://x", "gs://bucket/a", "https://example.net/a"] {
            let error = open(url).unwrap_err().to_string();
            assert!(error.contains(url) && error.contains("s3://bucket/folder"), "{error}");
        }
    }

    #[test]
    fn the_environment_says_how_a_bucket_is_reached_and_the_url_which_one() {
        let url = Url::parse("s3://bucket/folder").unwrap();
        let with = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
            s3(&url, pairs)
        };
        let store = with(&[
            ("AWS_BUCKET", "other"),
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_ENDPOINT", "http://127.0.0.1:1"),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_OF_NO_MEANING", "x"),
            ("PATH", "/bin"),
        ]);
        assert_eq!(store.unwrap().to_string(), "AmazonS3(bucket)");
        let error = with(&[("AWS_ACCESS_KEY_ID", "key")]).unwrap_err();
        assert!(explain(&error).to_lowercase().contains("secret"), "{error}");
    }

    #[test]
    fn what_a_store_answers_is_told_with_what_helps() {
        let body = |code: &str| format!("status 404\n<Error><Code>{code}</Code></Error>").into();
        let path = || "a".to_owned();
        let missing = object_store::Error::NotFound {
            path: path(),
            source: body("NoSuchBucket"),
        };
        assert!(explain(&missing).contains("no such bucket"));
        let denied = object_store::Error::PermissionDenied {
            path: path(),
            source: body("InvalidAccessKeyId"),
        };
        assert!(explain(&denied).contains("(InvalidAccessKeyId): check AWS_ACCESS_KEY_ID"));
        let unsigned = object_store::Error::Generic {
            store: "S3",
            source: body("SignatureDoesNotMatch"),
        };
        assert!(explain(&unsigned).contains("(SignatureDoesNotMatch): check AWS_ACCESS_KEY_ID"));
        let busy = object_store::Error::Generic {
            store: "S3",
            source: body("SlowDown"),
        };
        assert_eq!(explain(&busy), "it answers SlowDown");
        let lines = object_store::Error::Generic {
            store: "S3",
            source: "one\n  two".into(),
        };
        assert_eq!(explain(&lines), "Generic S3 error: one two");
    }
}
