//! What the agent tells the commands: `names.json` and `status.json` in its state directory.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use super::AgentError;

use super::objects::ModelObjects;
use crate::clock;
use crate::plan::names;
use crate::plan::planner::Planner;
use crate::plan::snapshot::Snapshot;
use crate::settings::Settings;
use crate::source::report::ApiReport;
use crate::state_file::write_json;
use crate::status::{self, AgentStatus, ApiStatus};

/// How long changes of names are collected: a large cluster's names take a while to write.
const NAMES_DELAY: Duration = Duration::from_millis(200);
/// At least this many times as long as the last write of names took: the tables wait meanwhile.
const NAMES_SHARE: u32 = 20;
/// How long changes of the status are collected.
const STATUS_DELAY: Duration = Duration::from_millis(10);

/// The two files, and when they are to be written next.
#[derive(Debug)]
pub(super) struct Published {
    directory: PathBuf,
    status: AgentStatus,
    /// What is wrong with the source.
    pub(super) source_problems: Vec<String>,
    names_due: Option<Instant>,
    status_due: Option<Instant>,
    has_names: bool,
    /// How long changes of names are collected now.
    names_delay: Duration,
    /// When the first change arrived that the tables do not say yet.
    changed_at: Option<Instant>,
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
            names_due: None,
            status_due: None,
            has_names: false,
            names_delay: NAMES_DELAY,
            changed_at: None,
        })
    }

    /// When the next file is to be written.
    pub(super) fn due_at(&self) -> Option<Instant> {
        match (self.names_due, self.status_due) {
            (Some(names), Some(status)) => Some(names.min(status)),
            (names, status) => names.or(status),
        }
    }

    /// Objects have changed, and with them what ids stand for.
    pub(super) fn objects_changed(&mut self) {
        let now = Instant::from_std(clock::instant());
        self.changed_at.get_or_insert(now);
        self.names_due.get_or_insert(now + self.names_delay);
    }

    /// What the status says has changed.
    pub(super) fn status_changed(&mut self) {
        let due = Instant::from_std(clock::instant()) + STATUS_DELAY;
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
            self.status.first_sync_micros = self.status.first_sync_micros.or(micros);
        }
        if self.status.first_sync_at.is_none() {
            // Whoever waits for the first sync may ask for names next.
            self.status.first_sync_at = Some(time);
            self.names_due = Some(Instant::from_std(clock::instant()));
        }
        self.status.last_sync_at = Some(time);
        self.status_changed();
    }

    /// Writes what is due, names first. Nothing has names before objects are listed: until then
    /// those of an earlier agent stay.
    pub(super) fn write(
        &mut self,
        planner: &Planner,
        objects: ModelObjects<'_>,
        is_listed: bool,
        pending_writes: u64,
        problems: Vec<String>,
    ) -> Result<(), AgentError> {
        let now = Instant::from_std(clock::instant());
        let is_first = self.status.first_sync_at.is_some() && !self.has_names;
        if is_listed && (is_first || self.names_due.is_some_and(|due| due <= now)) {
            let path = self.directory.join(names::FILE_NAME);
            let snapshot = Snapshot::new(planner, objects.node_view(), objects.views());
            write_json(&path, &snapshot).map_err(|source| AgentError::State { path, source })?;
            self.names_due = None;
            let took = clock::instant().duration_since(now.into_std());
            self.names_delay = NAMES_DELAY.max(took * NAMES_SHARE);
            self.has_names = self.status.first_sync_at.is_some();
        }
        if !is_listed {
            self.names_due = None;
        }
        self.status_due = None;
        self.status.pending_writes = pending_writes;
        self.status.problems = problems;
        let path = self.directory.join(status::FILE_NAME);
        write_json(&path, &self.status).map_err(|source| AgentError::State { path, source })
    }
}
