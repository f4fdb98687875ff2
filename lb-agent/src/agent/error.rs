//! Why the agent could not start, or ended.

use std::io;
use std::path::PathBuf;

use crate::dataplane::DataplaneError;
use crate::dataplane::attach::AttachError;
use crate::dataplane::bpffs::BpffsError;
use crate::dataplane::load::LoadError;
use crate::dataplane::maps::TablesError;
use crate::dataplane::xdp::XdpError;
use crate::interfaces::InterfaceError;
use crate::lock::LockError;
use crate::outside::OutsideError;
use crate::settings::SettingsError;
use crate::source::directory::DirectoryError;
use crate::source::kubernetes::access::AccessError;

/// Why the agent could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The operator must correct the settings.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Another agent runs.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// There is no bpffs.
    #[error(transparent)]
    Bpffs(#[from] BpffsError),
    /// The datapath could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The tables could not be opened.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// The tables could not be read or written.
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
    /// Pinned links could not be looked at.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// Pinned XDP links could not be looked at.
    #[error(transparent)]
    Xdp(#[from] XdpError),
    /// Devices cannot be watched.
    #[error(transparent)]
    Interfaces(#[from] InterfaceError),
    /// The source cannot be read.
    #[error(transparent)]
    Source(#[from] DirectoryError),
    /// The API server cannot be asked.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The operator must make the directory writable.
    #[error("writing {}: {source}", path.display())]
    State {
        /// A file or directory of the state directory.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The debug object's log could not be read.
    #[error("reading the log of the debug datapath: {source}")]
    DebugLog {
        /// What aya says.
        #[source]
        source: aya_log::Error,
    },
    /// The system has no room for the runtime.
    #[error("{operation}: {source}")]
    Runtime {
        /// What was tried.
        operation: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The servers for health and metrics could not start.
    #[error(transparent)]
    Outside(#[from] OutsideError),
    /// A task ended that should not: a bug.
    #[error("the task that reads the source ended")]
    SourceEnded,
}
