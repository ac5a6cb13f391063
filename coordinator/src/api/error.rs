//! The one error of the API: a code and a text for the user, and a cause for the log.
//!
//! What the user reads never contains the cause: it may hold names of tables, addresses or paths. The status comes from
//! the code by `medley_protocol`'s table, the body is problem+json (RFC 9457).

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use medley_protocol::error::{Code, ProblemBody};
use medley_protocol::spec::Problems;
use std::fmt::Write;

/// What handlers return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a request is refused, or failed.
#[derive(Debug, thiserror::Error)]
#[error("{body}")]
pub struct Error {
    body: ProblemBody,
    #[source]
    cause: Option<Cause>,
}

impl Error {
    /// An error with a text that tells the user what happened and what to do.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let body = ProblemBody::new(code, detail);
        Self { body, cause: None }
    }

    /// No such thing.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(Code::NotFound, detail)
    }

    /// The state does not allow this now.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(Code::Conflict, detail)
    }

    /// The claim names an old generation, incarnation or lease.
    pub fn stale(detail: impl Into<String>) -> Self {
        Self::new(Code::Stale, detail)
    }

    /// One field is wrong.
    pub fn invalid(path: impl Into<String>, message: impl Into<String>) -> Self {
        Problems::one(path, message).into()
    }

    /// A fault of ours; the user is told to look at the log.
    pub fn internal(cause: impl Into<Cause>) -> Self {
        Self::new(
            Code::Internal,
            "something went wrong here; the coordinator's log has the cause",
        )
        .caused_by(cause)
    }

    /// Adds the cause, for the log alone.
    pub fn caused_by(mut self, cause: impl Into<Cause>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// What kind of error this is.
    pub fn code(&self) -> Code {
        self.body.code
    }

    /// The cause with everything under it, in one line.
    fn causes(&self) -> String {
        let mut text = String::new();
        let mut next = self.cause.as_deref().map(|cause| cause as &dyn std::error::Error);
        while let Some(cause) = next {
            let separator = if text.is_empty() { "" } else { ": " };
            // Writing to a string does not fail.
            let _ = write!(text, "{separator}{cause}");
            next = cause.source();
        }
        text
    }

    fn log(&self) {
        let (code, detail) = (self.body.code, &self.body.detail);
        match code {
            Code::Internal => tracing::error!(cause = self.causes(), "{detail}"),
            Code::Unavailable => tracing::warn!(cause = self.causes(), "{detail}"),
            _ => tracing::debug!(?code, cause = self.causes(), "{detail}"),
        }
    }
}

impl From<Problems> for Error {
    fn from(problems: Problems) -> Self {
        let body = ProblemBody::from(problems);
        Self { body, cause: None }
    }
}

impl From<sqlx::Error> for Error {
    fn from(cause: sqlx::Error) -> Self {
        if is_passing(&cause) {
            return Self::new(Code::Unavailable, "the database does not answer; try again in a moment")
                .caused_by(cause);
        }
        Self::internal(cause)
    }
}

/// Whether the database failed in a way that may be over in a moment.
fn is_passing(error: &sqlx::Error) -> bool {
    match error {
        // The last one: a connection that ends while it is being made.
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::Protocol(_) => true,
        // Classes of SQLSTATE: 08 connection, 40 rollback for others' sake, 53 out of resources, 57P0x going down; and what ends
        // at a limit: a lock (55P03), a statement (57014), a transaction that idles (25P03).
        sqlx::Error::Database(e) => e.code().is_some_and(|code| {
            ["08", "40", "53", "57P0", "55P03", "57014", "25P03"]
                .iter()
                .any(|class| code.starts_with(class))
        }),
        _ => false,
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        self.log();
        let status = StatusCode::from_u16(self.body.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let json = serde_json::to_vec(&self.body).unwrap_or_default();
        let content_type = [(header::CONTENT_TYPE, "application/problem+json")];
        let mut response = (status, content_type, json).into_response();
        match self.body.code {
            Code::Unauthorized => {
                let scheme = HeaderValue::from_static("Bearer");
                response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
            }
            Code::Unavailable => {
                let seconds = HeaderValue::from_static("1");
                response.headers_mut().insert(header::RETRY_AFTER, seconds);
            }
            _ => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    async fn answer(error: Error) -> (StatusCode, Value) {
        let response = error.into_response();
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        let status = response.status();
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap())
    }

    #[tokio::test]
    async fn the_cause_stays_out_of_the_answer() {
        let error = Error::from(sqlx::Error::ColumnNotFound("secret_column".into()));
        assert!(error.causes().contains("secret_column"), "{}", error.causes());
        let (status, body) = answer(error).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(body["code"], "internal");
        assert!(!body.to_string().contains("secret_column"), "{body}");
    }

    #[tokio::test]
    async fn a_database_that_is_away_is_worth_another_try() {
        let cut_short = sqlx::Error::Protocol("unexpected response from SSLRequest: 0x00".into());
        for error in [sqlx::Error::PoolTimedOut, cut_short] {
            let (status, body) = answer(error.into()).await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(body["code"], "unavailable");
        }
    }

    #[tokio::test]
    async fn a_wrong_field_is_named() {
        let (status, body) = answer(Error::invalid("data.root", "no such directory")).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(body["detail"], "data.root: no such directory");
        assert_eq!(
            body["problems"],
            json!([{"path": "data.root", "message": "no such directory"}])
        );
    }
}
