//! Why a rank gives up, and whether starting again may help.

use crate::checkpoint;
use crate::collective::deal;
use crate::objects;
use medley_data::loader::Fault;
use std::io::ErrorKind;

/// A rank's last words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Failure {
    /// Why, for people.
    pub reason: String,
    /// Whether starting again may help: false for errors of the spec or the data.
    pub retry: bool,
}

impl Failure {
    /// Something that another start may not meet: a peer, a file system, a deadline.
    pub fn passing(reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self { reason, retry: true }
    }

    /// Something that stays wrong until a person changes the spec or the data.
    pub fn lasting(reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self { reason, retry: false }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::passing(error.to_string())
    }
}

impl From<deal::Error> for Failure {
    fn from(error: deal::Error) -> Self {
        Self::lasting(error.to_string())
    }
}

impl From<checkpoint::Error> for Failure {
    fn from(error: checkpoint::Error) -> Self {
        Self::lasting(error.to_string())
    }
}

impl From<objects::Error> for Failure {
    fn from(error: objects::Error) -> Self {
        let retry = matches!(error, objects::Error::Failed { .. });
        let reason = error.to_string();
        Self { reason, retry }
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        let reason = fault.to_string();
        // A read may succeed later; a file that is gone or changed stays so until someone puts it back.
        let retry = matches!(&fault, Fault::Read { source, .. } if source.kind() != ErrorKind::NotFound);
        Self { reason, retry }
    }
}
