//! A typed HTTP client for the API: one call per endpoint, deadlines on every wait, errors as [`ProblemBody`].

use crate::error::{Code, ProblemBody};
use reqwest::{Method, RequestBuilder, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// Deadline of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest silence within an answer.
const READ_TIMEOUT: Duration = REQUEST_TIMEOUT;
/// Deadline of a download.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_hours(12);
/// Deadline of connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Time for which a connection that nobody uses is kept. The coordinator closes those that stand still for longer.
pub const KEEP: Duration = Duration::from_secs(20);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The coordinator did not answer.
    #[error("no answer from the coordinator at {url}: {source}")]
    Unreachable {
        /// The URL asked.
        url: String,
        /// What went wrong.
        #[source]
        source: reqwest::Error,
    },
    /// The coordinator refused.
    #[error("{0}")]
    Refused(ProblemBody),
}

impl Error {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused(problem) => problem.code.is_transient(),
        }
    }

    /// The code of a refusal.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Unreachable { .. } => None,
            Self::Refused(problem) => Some(problem.code),
        }
    }
}

/// A coordinator's API. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: String,
}

impl Client {
    /// A client for the coordinator at `base` (such as `http://127.0.0.1:7700`) with a bearer token.
    ///
    /// # Panics
    /// Never in practice: building a client fails only if no TLS provider could be set up.
    pub fn new(base: &str, token: &str) -> Self {
        // A provider that is already installed serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .timeout(REQUEST_TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .pool_idle_timeout(KEEP)
            .no_proxy()
            // A redirect would carry a body, or the token, to somebody who was not asked.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .expect("a client without certificates of its own can be built");
        Self {
            http,
            base: base.trim_end_matches('/').to_owned(),
            token: token.to_owned(),
        }
    }

    /// `GET /api/v1{path}`.
    ///
    /// # Errors
    /// [`Error`], as every call here.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.read(self.request(Method::GET, path)).await
    }

    /// `GET /api/v1{path}` for bytes.
    pub async fn get_bytes(&self, path: &str) -> Result<Vec<u8>, Error> {
        let response = self.send(self.request(Method::GET, path)).await?;
        response
            .bytes()
            .await
            .map(|b| b.to_vec())
            .map_err(|source| self.unreachable(source))
    }

    /// `GET /api/v1{path}` for bytes that come piece by piece, however long that takes.
    pub async fn download(&self, path: &str) -> Result<Download, Error> {
        let request = self.request(Method::GET, path).timeout(DOWNLOAD_TIMEOUT);
        Ok(Download {
            response: self.send(request).await?,
            url: self.base.clone(),
        })
    }

    /// `POST /api/v1{path}` with a JSON body.
    pub async fn post<B: Serialize + ?Sized, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, Error> {
        self.read(self.request(Method::POST, path).json(body)).await
    }

    /// `POST /api/v1{path}` with a JSON body, for an answer without one.
    pub async fn tell<B: Serialize + ?Sized>(&self, path: &str, body: &B) -> Result<(), Error> {
        self.send(self.request(Method::POST, path).json(body)).await.map(drop)
    }

    /// Submits a job document under an idempotency key.
    pub async fn submit(
        &self,
        document: &serde_json::Value,
        idempotency_key: &str,
    ) -> Result<crate::rest::JobDetail, Error> {
        let request = self
            .request(Method::POST, "/jobs")
            .header("Idempotency-Key", idempotency_key);
        self.read(request.json(document)).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}/api/v1{path}", self.base))
            .bearer_auth(&self.token)
    }

    async fn read<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Error> {
        let response = self.send(request).await?;
        response.json().await.map_err(|source| self.unreachable(source))
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, Error> {
        let response = request.send().await.map_err(|source| self.unreachable(source))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.text().await.unwrap_or_default();
        let problem = serde_json::from_str(&body).unwrap_or_else(|_| {
            ProblemBody::new(
                Code::Internal,
                format!("{status} without a readable explanation from {}", self.base),
            )
        });
        Err(Error::Refused(problem))
    }

    fn unreachable(&self, source: reqwest::Error) -> Error {
        Error::Unreachable {
            url: self.base.clone(),
            source,
        }
    }
}

/// An answer that is being read.
pub struct Download {
    response: Response,
    url: String,
}

impl Download {
    /// The next bytes; none at the end.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when they do not come.
    pub async fn chunk(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let chunk = self.response.chunk().await;
        let chunk = chunk.map_err(|source| Error::Unreachable {
            url: self.url.clone(),
            source,
        })?;
        Ok(chunk.map(|bytes| bytes.to_vec()))
    }
}
