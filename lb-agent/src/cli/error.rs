//! What can go wrong in a command, each with the exit code scripts see and the one line people do.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use aya::maps::MapError;

use crate::agent::AgentError;
use crate::dataplane::DataplaneError;
use crate::dataplane::layout::Table;
use crate::dataplane::load::LoadError;
use crate::dataplane::maps::TablesError;
use crate::dataplane::tables::OpenError;
use crate::lock::LockError;
use crate::settings::SettingsError;

/// Exit codes besides 0 (done) and 2 (usage, clap's own).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Exit {
    /// Something failed while running.
    Runtime = 1,
    /// The arguments make no sense together.
    Usage = 2,
    /// The object that was asked for does not exist.
    NotFound = 3,
    /// There are no pins, or no agent where one is needed.
    Unreachable = 4,
    /// What was checked is not healthy.
    Unhealthy = 5,
    /// The user may not do this.
    Privilege = 6,
    /// What was waited for did not happen in time.
    Timeout = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Runtime => 1,
            Exit::Usage => 2,
            Exit::NotFound => 3,
            Exit::Unreachable => 4,
            Exit::Unhealthy => 5,
            Exit::Privilege => 6,
            Exit::Timeout => 7,
        })
    }
}

/// A command's failure. The text says what happened and what to do about it, in one line.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// No pins: no agent has run with this pin directory, or it was cleaned up.
    #[error(
        "no maps are pinned in {}: start the agent (steerage run) or name its directory with --pin-dir",
        .pin_dir.display()
    )]
    NoPins {
        /// Where they were looked for.
        pin_dir: PathBuf,
    },
    /// The pins are those of another version.
    #[error(
        "{} holds maps of layout {}, this command reads {expected}: use the agent's own version of steerage",
        .pin_dir.display(), .found.join(", ")
    )]
    OtherVersion {
        /// Where they are.
        pin_dir: PathBuf,
        /// The directories there.
        found: Vec<String>,
        /// The one we read.
        expected: String,
    },
    /// The kernel refused for want of privileges.
    #[error("{operation}: permission denied: run it as root, or with CAP_BPF and CAP_NET_ADMIN")]
    Privilege {
        /// What was tried.
        operation: String,
    },
    /// A read or write failed.
    #[error("{operation}: {source}")]
    Io {
        /// What was tried.
        operation: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A pinned map cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The tables cannot be read.
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
    /// A map cannot be read.
    #[error("reading table {table}: {source}")]
    Map {
        /// Which table.
        table: Table,
        /// What aya says.
        #[source]
        source: MapError,
    },
    /// A file of the agent's cannot be understood.
    #[error("{}: {source}: it is not of this version; restart the agent", .path.display())]
    StateFile {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// No object of this name.
    #[error("no {what} {name}: {hint}")]
    NotFound {
        /// The kind of object.
        what: &'static str,
        /// The name that was asked for.
        name: String,
        /// How to find the right name.
        hint: &'static str,
    },
    /// Arguments that clap cannot judge alone.
    #[error("{message}: {hint}")]
    Usage {
        /// What is wrong.
        message: String,
        /// How it should be.
        hint: &'static str,
    },
    /// A wait ended without success.
    #[error("{waited_for} did not happen within {timeout}: {hint}")]
    Timeout {
        /// What was waited for.
        waited_for: &'static str,
        /// How long.
        timeout: String,
        /// Where to look.
        hint: String,
    },
    /// Nothing more than the exit code: the output said it all.
    #[error("the agent is not healthy: {reason}")]
    Unhealthy {
        /// Why.
        reason: String,
    },
    /// The tables are not what they should be: the output says in what.
    #[error("{count} differences: {hint}")]
    Drift {
        /// How many.
        count: usize,
        /// What to do.
        hint: &'static str,
    },
    /// The agent has not said what it makes its plan from.
    #[error(
        "no {} in {}: no agent of this version has run with this --state-dir",
        crate::audit::basis::FILE_NAME, .state_dir.display()
    )]
    NoBasis {
        /// Where it was looked for.
        state_dir: PathBuf,
    },
    /// Only an agent may write the tables.
    #[error(
        "the agent does not run, and only it writes the tables: start it, it repairs them as it starts"
    )]
    NoAgent,
    /// The source of the objects cannot be read.
    #[error("reading the objects from {source_name}: {message}")]
    Source {
        /// Which source.
        source_name: String,
        /// What is wrong with it.
        message: String,
    },
    /// The tables contradict themselves.
    #[error("{0}: the agent repairs this when it runs; see steerage status")]
    Inconsistent(String),
    /// The agent ended with an error.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// Another agent uses the pin directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Settings that cannot be.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A file of settings.
    #[error(transparent)]
    Config(#[from] crate::config::error::ConfigError),
}

impl CliError {
    /// The exit code scripts see.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::NoPins { .. }
            | Self::OtherVersion { .. }
            | Self::NoBasis { .. }
            | Self::NoAgent => Exit::Unreachable,
            Self::Privilege { .. } => Exit::Privilege,
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Exit::Privilege
            }
            Self::Open(error) => exit_of_open(error),
            Self::Io { .. }
            | Self::StateFile { .. }
            | Self::Inconsistent(_)
            | Self::Source { .. }
            | Self::Lock(_)
            | Self::Dataplane(_)
            | Self::Map { .. } => Exit::Runtime,
            Self::Agent(error) => exit_of_agent(error),
            Self::NotFound { .. } => Exit::NotFound,
            Self::Usage { .. } | Self::Config(_) | Self::Settings(_) => Exit::Usage,
            Self::Timeout { .. } => Exit::Timeout,
            Self::Unhealthy { .. } | Self::Drift { .. } => Exit::Unhealthy,
        }
    }

    /// Whether the reader of our output has left (`steerage … | head`), which is no error.
    #[must_use]
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }
}

fn exit_of_agent(error: &AgentError) -> Exit {
    match error {
        AgentError::Settings(_) => Exit::Usage,
        AgentError::Load(LoadError::Privilege { .. }) => Exit::Privilege,
        // As for the commands that read: the pins are there, and are not ours to use.
        AgentError::Load(LoadError::OtherVersion { .. } | LoadError::PinnedLayout { .. }) => {
            Exit::Unreachable
        }
        AgentError::Tables(TablesError::Open(error)) => exit_of_open(error),
        _ => Exit::Runtime,
    }
}

fn exit_of_open(error: &OpenError) -> Exit {
    match error {
        OpenError::Missing { .. } | OpenError::Layout { .. } => Exit::Unreachable,
        OpenError::Open {
            source: MapError::SyscallError(error),
            ..
        } if is_refused(&error.io_error) => Exit::Privilege,
        OpenError::Map { source, .. } if is_refused(source) => Exit::Privilege,
        OpenError::Open { .. } | OpenError::Map { .. } => Exit::Runtime,
    }
}

/// `EPERM` and `EACCES`: the user may not.
fn is_refused(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// Says of an I/O error what was being done.
pub(crate) fn while_doing(operation: impl Into<String>) -> impl FnOnce(io::Error) -> CliError {
    let operation = operation.into();
    move |source| CliError::Io { operation, source }
}
