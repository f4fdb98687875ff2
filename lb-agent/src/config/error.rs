//! What can be wrong with files of settings.

use std::path::PathBuf;

use super::document::{API_VERSION, KIND};
use super::kube_proxy;

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The operator must make the file readable.
    #[error("reading {}: {source}", .path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The operator must correct the file.
    #[error("{}:{line}: {message}", .path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Line, from 1.
        line: u64,
        /// The field and what is wrong with it.
        message: String,
    },
    /// The operator must correct the file.
    #[error(
        "{}:{line}: kind {kind:?} of {api_version:?} is not known: use {KIND} of {API_VERSION}, or {} of {}",
        .path.display(), kube_proxy::KIND, kube_proxy::API_VERSION
    )]
    Kind {
        /// Which file.
        path: PathBuf,
        /// Line of the document, from 1.
        line: u64,
        /// What it says.
        kind: String,
        /// What it says.
        api_version: String,
    },
    /// Two layers cannot be joined: a bug, since each was read by the same rules.
    #[error("joining the settings: {source}")]
    Merge {
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
}
