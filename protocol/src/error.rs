//! One table from error code to HTTP status and problem+json body (RFC 9457).

use crate::spec::{Problem, Problems};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What went wrong, as machines read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The request could not be read.
    BadRequest,
    /// The spec or a parameter is wrong; `problems` names the fields.
    Invalid,
    /// No valid token.
    Unauthorized,
    /// The token's role does not allow this.
    Forbidden,
    /// No such thing.
    NotFound,
    /// The state does not allow this now.
    Conflict,
    /// The claim names an old generation, incarnation or lease.
    Stale,
    /// An idempotency key was used with another body.
    IdempotencyMismatch,
    /// The body is too large.
    TooLarge,
    /// Try again later.
    Unavailable,
    /// A fault of ours; the log has the cause.
    Internal,
}

impl Code {
    /// The HTTP status of this code.
    pub const fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Conflict | Self::Stale => 409,
            Self::TooLarge => 413,
            Self::Invalid | Self::IdempotencyMismatch => 422,
            Self::Internal => 500,
            Self::Unavailable => 503,
        }
    }

    /// A short title for people.
    pub const fn title(self) -> &'static str {
        match self {
            Self::BadRequest => "the request cannot be read",
            Self::Invalid => "the request is not valid",
            Self::Unauthorized => "a valid token is needed",
            Self::Forbidden => "the token does not allow this",
            Self::NotFound => "not found",
            Self::Conflict => "not possible in the present state",
            Self::Stale => "superseded by a newer generation",
            Self::IdempotencyMismatch => "the idempotency key belongs to another request",
            Self::TooLarge => "the request is too large",
            Self::Unavailable => "not available now",
            Self::Internal => "internal error",
        }
    }

    /// Whether the same request may succeed later.
    pub const fn is_transient(self) -> bool {
        matches!(self, Self::Unavailable | Self::Internal)
    }
}

/// The body of every error response, `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemBody {
    /// Machine-readable code.
    pub code: Code,
    /// [`Code::title`].
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What happened this time and what to do.
    pub detail: String,
    /// Wrong fields, when `code` is `invalid`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

impl ProblemBody {
    /// A body for `code` with a detail for the user.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let title = code.title().into();
        Self {
            code,
            title,
            status: code.status(),
            detail: detail.into(),
            problems: Vec::new(),
        }
    }
}

impl From<Problems> for ProblemBody {
    fn from(Problems(problems): Problems) -> Self {
        let detail = match problems.as_slice() {
            [only] => only.to_string(),
            several => format!("{} fields are wrong", several.len()),
        };
        let mut body = Self::new(Code::Invalid, detail);
        body.problems = problems;
        body
    }
}

/// The detail, and each problem on a line of its own unless it is the detail.
impl fmt::Display for ProblemBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.detail)?;
        let problems = self.problems.iter().map(Problem::to_string);
        for problem in problems.filter(|problem| *problem != self.detail) {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_problem_is_said_once_and_several_on_a_line_each() {
        let one = ProblemBody::from(Problems::one("lanes.count", "is 0"));
        assert_eq!(one.to_string(), "lanes.count: is 0");
        let mut several = Problems::one("", "no table");
        several.0.extend(Problems::one("seed", "is -1").0);
        let several = ProblemBody::from(several);
        assert_eq!(several.to_string(), "2 fields are wrong\n  no table\n  seed: is -1");
    }
}
