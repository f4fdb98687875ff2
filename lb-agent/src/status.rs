//! How the agent says how it is: a small file in its state directory, which `steerage status` reads
//! also when the agent is dead.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// Name of the file in the state directory.
pub const FILE_NAME: &str = "status.json";
/// Version of the shape: raised by any change that an older command would misread.
pub const VERSION: u32 = 1;

/// What the agent says of itself. Written atomically whenever it changes; times are seconds since
/// the Unix epoch.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct AgentStatus {
    /// [`VERSION`].
    pub version: u32,
    /// The node it acts for.
    pub node: String,
    /// Version of the agent's program.
    pub agent_version: String,
    /// Its process id.
    pub pid: u32,
    /// When it started.
    pub started_at: u64,
    /// When the tables first were what the source says; `None` until then.
    pub first_sync_at: Option<u64>,
    /// When the tables last were what the source says.
    pub last_sync_at: Option<u64>,
    /// How many changes, or batches of them, the tables have come to say.
    #[serde(default)]
    pub syncs: u64,
    /// How long it took until the tables first were what the source says, in microseconds from the
    /// moment all objects were parsed.
    #[serde(default)]
    pub first_sync_micros: Option<u64>,
    /// How long the last change took, in microseconds from its arrival, parsed, until the tables
    /// said it.
    #[serde(default)]
    pub last_sync_micros: Option<u64>,
    /// What the first sync took of the processor.
    #[serde(default)]
    pub first_sync_spent: Option<SyncSpent>,
    /// Where objects come from: `kubernetes`, or such as `dir:/etc/steerage/manifests`.
    pub source: String,
    /// How the API server is; `None` where it is not the source.
    #[serde(default)]
    pub api: Option<ApiStatus>,
    /// The devices that have a role or should have one, and why.
    #[serde(default)]
    pub devices: Vec<DeviceRole>,
    /// Writes that failed and are tried again.
    pub pending_writes: u64,
    /// What is wrong now, one line each: broken files, failed writes, devices without programs.
    pub problems: Vec<String>,
}

/// Why a device has its role; which one that is, `DEVICES` says. One that should have a role and
/// cannot have it is here too.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct DeviceRole {
    /// Interface index.
    pub index: u32,
    /// In words that follow the device's name.
    pub why: String,
    /// Why it cannot have the role that it should have.
    #[serde(default)]
    pub obstacle: Option<String>,
    /// Why its packets go the plain way; `None` where those of new flows may be sent on at once.
    #[serde(default)]
    pub plain: Option<String>,
    /// Where XDP is asked for: why it does not run on the device, or sends nothing by it.
    #[serde(default)]
    pub no_xdp: Option<String>,
}

/// How the API server is.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ApiStatus {
    /// The server that is asked, such as `https://10.0.0.1:6443`.
    pub server: String,
    /// When an object last came from it.
    pub last_event_at: Option<u64>,
    /// When it last sent all Services and `EndpointSlices`.
    pub last_list_at: Option<u64>,
}

/// Processor time of a sync by its steps, in microseconds.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct SyncSpent {
    /// Joining Services with their slices.
    pub index_micros: u64,
    /// Planning.
    pub plan_micros: u64,
    /// Writing to the tables.
    pub write_micros: u64,
    /// Writing the names of what the tables hold, beside the loop.
    pub names_micros: u64,
}

impl AgentStatus {
    /// Whether the process that wrote this lives, as far as `proc` (normally `/proc`) tells.
    pub fn is_alive(&self, proc: &Path) -> bool {
        std::fs::read_to_string(proc.join(self.pid.to_string()).join("comm"))
            .is_ok_and(|name| name.trim_end() == "steerage")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_lives_while_its_process_has_its_name() {
        let proc = tempfile::tempdir().unwrap();
        let status = AgentStatus {
            pid: 41,
            ..AgentStatus::default()
        };
        assert!(!status.is_alive(proc.path()));
        std::fs::create_dir(proc.path().join("41")).unwrap();
        std::fs::write(proc.path().join("41/comm"), "bash\n").unwrap();
        assert!(!status.is_alive(proc.path()));
        std::fs::write(proc.path().join("41/comm"), "steerage\n").unwrap();
        assert!(status.is_alive(proc.path()));
    }
}
