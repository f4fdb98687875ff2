//! What the agent tells the commands: `status.json` in its state directory, beside the names.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use super::AgentError;
use crate::clock;
use crate::settings::Settings;
use crate::source::report::ApiReport;
use crate::state_file::write_json;
use crate::status::{self, AgentStatus, ApiStatus, DeviceRole, SyncSpent};

/// How long changes of the status are collected.
const STATUS_DELAY: Duration = Duration::from_millis(10);
/// The least time between two writes of the status: a file that is replaced costs more than the
/// change of a small Service.
const STATUS_INTERVAL: Duration = Duration::from_millis(100);

/// The file, and when it is to be written next.
#[derive(Debug)]
pub(super) struct Published {
    directory: PathBuf,
    status: AgentStatus,
    /// What is wrong with the source.
    pub(super) source_problems: Vec<String>,
    status_due: Option<Instant>,
    /// When the file was last written.
    written_at: Option<Instant>,
    /// When the first change arrived that the tables do not say yet.
    changed_at: Option<Instant>,
    /// When the tables were complete for the first time, and how many microseconds it took: said
    /// once there are names, since whoever waits for it may ask for them next.
    first_sync: Option<(u64, u64)>,
}

impl Published {
    /// Makes the state directory.
    pub(super) fn new(settings: &Settings) -> Result<Self, AgentError> {
        let directory = settings.state_dir.clone();
        fs::create_dir_all(&directory).map_err(|source| AgentError::State {
            path: directory.clone(),
            source,
        })?;
        Ok(Self {
            status: AgentStatus {
                version: status::VERSION,
                node: settings.node_name.clone(),
                agent_version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                started_at: clock::unix_seconds(),
                source: settings.source.to_string(),
                ..AgentStatus::default()
            },
            directory,
            source_problems: Vec::new(),
            status_due: None,
            written_at: None,
            changed_at: None,
            first_sync: None,
        })
    }

    /// When the file is to be written.
    pub(super) const fn due_at(&self) -> Option<Instant> {
        self.status_due
    }

    /// Objects have changed.
    pub(super) fn objects_changed(&mut self) {
        let now = Instant::from_std(clock::instant());
        self.changed_at.get_or_insert(now);
    }

    /// What the status says has changed.
    pub(super) fn status_changed(&mut self) {
        let soon = Instant::from_std(clock::instant()) + STATUS_DELAY;
        let earliest = self.written_at.map(|at| at + STATUS_INTERVAL);
        let due = earliest.map_or(soon, |earliest| soon.max(earliest));
        self.status_due.get_or_insert(due);
    }

    /// How the API server is.
    pub(super) fn set_api(&mut self, report: Option<&ApiReport>) {
        self.status.api = report.map(|report| ApiStatus {
            server: report.server.clone(),
            last_event_at: report.last_event_at,
            last_list_at: report.last_list_at,
        });
    }

    /// The tables are what the objects say, at `time` (seconds since the epoch).
    pub(super) fn synced(&mut self, time: u64) {
        if let Some(changed_at) = self.changed_at.take() {
            let took = clock::instant().duration_since(changed_at.into_std());
            let micros = u64::try_from(took.as_micros()).ok();
            self.status.syncs += 1;
            self.status.last_sync_micros = micros;
            self.first_sync = self.first_sync.or(micros.map(|micros| (time, micros)));
        }
        self.status.last_sync_at = Some(time);
        self.status_changed();
    }

    /// The names of what the tables held at a sync can be read; `spent` is what was taken until then.
    pub(super) fn named(&mut self, spent: SyncSpent) {
        if let Some((time, micros)) = self.first_sync
            && self.status.first_sync_at.is_none()
        {
            self.status.first_sync_at = Some(time);
            self.status.first_sync_micros = Some(micros);
            self.status.first_sync_spent = Some(spent);
            self.status_changed();
        }
    }

    /// Writes the status.
    pub(super) fn write(
        &mut self,
        pending_writes: u64,
        problems: Vec<String>,
        devices: &[DeviceRole],
    ) -> Result<(), AgentError> {
        self.status_due = None;
        self.written_at = Some(Instant::from_std(clock::instant()));
        self.status.pending_writes = pending_writes;
        self.status.problems = problems;
        devices.clone_into(&mut self.status.devices);
        let path = self.directory.join(status::FILE_NAME);
        write_json(&path, &self.status).map_err(|source| AgentError::State { path, source })
    }
}
