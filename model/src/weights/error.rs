//! What can be wrong with a file of weights.

use medley_protocol::file;
use std::path::{Path, PathBuf};

/// Why weights cannot be read, or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{}: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        cause: String,
    },
    /// One tensor is not what it should be.
    #[error("{}: tensor {tensor}: {cause}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor, as the file names it.
        tensor: String,
        /// What is wrong and what to do.
        cause: String,
    },
}

impl Error {
    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    pub(super) fn file(path: &Path, cause: impl ToString) -> Self {
        Self::File {
            path: path.to_owned(),
            cause: cause.to_string(),
        }
    }

    pub(super) fn tensor(path: &Path, tensor: &str, cause: impl ToString) -> Self {
        Self::Tensor {
            path: path.to_owned(),
            tensor: tensor.to_owned(),
            cause: cause.to_string(),
        }
    }

    /// Whether the operating system refused for a reason that may pass.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Io { source, .. } if file::may_pass(source))
    }
}
