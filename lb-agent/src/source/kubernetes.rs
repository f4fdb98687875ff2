//! The API server as source: `--source kubernetes`.
//!
//! ```text
//!   requests ◄── Machine (pure) ──► model events ──► agent
//!      │            ▲   ▲  └──────► what to say: log, status, Kubernetes Events
//!      ▼            │   └── time
//!   connection ── answers, in pieces
//! ```
//!
//! * Watched are Services and `EndpointSlices` with kube-proxy's selectors, `ServiceCIDR`s (a server
//!   without that API is gone on without), and this agent's Node alone.
//! * Each object is converted as it arrives and dropped; no copy of the cluster is kept beside the
//!   model, and never more than one object's JSON.
//! * What is listed replaces what was there as a whole, and nothing is taken for gone before both
//!   Services and `EndpointSlices` are known to be complete.
//! * Whatever goes wrong, what is programmed stays and the agent asks again, after a while that
//!   doubles up to half a minute, at the next server if there is one.
//!
//! Why the watches are our own: `docs/decisions/0007-own-watches.md`.

pub mod access;
pub mod backoff;
mod connection;
mod decode;
pub mod events;
mod failure;
mod holdings;
mod known;
pub mod machine;
pub mod metrics;
pub mod problem;
pub mod request;
pub mod servers;
mod shell;
mod split;
mod watch;

use std::path::PathBuf;
use std::time::Duration;

use self::backoff::Backoff;
use self::metrics::ApiMetrics;
pub use self::shell::run;
use crate::settings::ApiSettings;

/// Time since the source started.
pub type Time = Duration;

/// What the source is told when it starts.
#[derive(Clone, Debug)]
pub struct KubernetesOptions {
    /// `metadata.name` of this Node.
    pub node_name: String,
    /// Where the servers are and how to identify.
    pub api: ApiSettings,
    /// Where the servers' addresses are kept for the next start.
    pub state_dir: PathBuf,
    /// How long to wait for what.
    pub timing: Timing,
    /// Where random waits begin.
    pub seed: u64,
    /// What is counted.
    pub metrics: ApiMetrics,
    /// Whether this only looks on beside the node's agent: then it sends no Events, and leaves the
    /// kept addresses to the agent.
    pub looks_on: bool,
}

/// How long to wait for what.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timing {
    /// For a connection.
    pub connect: Time,
    /// For an answer, and for the next piece of a list.
    pub answer: Time,
    /// For the next object of a streaming list: a server that does not know them never ends one.
    pub initial: Time,
    /// For an error in the first line of a watch.
    pub confirm: Time,
    /// For anything on a watch: servers send a bookmark every minute.
    pub idle: Time,
    /// After how long the server is to end a watch, at least; at most twice that.
    pub stream: Time,
    /// Before looking again for an API that the server did not have.
    pub absent: Time,
    /// Before asking again.
    pub backoff: Backoff,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Time::from_secs(5),
            answer: Time::from_secs(30),
            initial: Time::from_secs(10),
            confirm: Time::from_secs(1),
            idle: Time::from_secs(150),
            stream: Time::from_mins(5),
            absent: Time::from_mins(5),
            backoff: Backoff {
                first: Time::from_millis(250),
                longest: Time::from_secs(30),
            },
        }
    }
}

/// How a connection fails.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Fault {
    /// There is none, for this reason.
    Unreachable(String),
    /// The server cannot prove who it is, for this reason.
    Certificate(String),
    /// There is nothing to identify with, for this reason.
    Credentials(String),
    /// It ended within an answer.
    Cut,
}

#[cfg(test)]
mod tests;
