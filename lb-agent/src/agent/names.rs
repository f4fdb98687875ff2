//! The names file, written beside the loop: what changed is collected, its snapshots are taken where
//! the planner is, and a blocking task merges them into the file that is there.
//!
//! One task runs at a time. What changed is appended to the file, or a new file takes its place in one
//! step; neither takes the loop's time.

mod file;

use std::collections::BTreeMap;
use std::future::pending;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::AgentError;
use super::objects::ModelObjects;
use super::timers::now;
use crate::clock;
use crate::dataplane::Dataplane;
use crate::model::name::ObjectName;
use crate::model::node::Node;
use crate::plan::NodeView;
use crate::plan::names::{Head, VERSION};
use crate::plan::snapshot::ServiceSnapshot;
use crate::reconcile::Reconciler;
use file::NamesFile;

/// How long changes are collected.
const DELAY: Duration = Duration::from_millis(200);
/// The same before the tables are complete: what changes then is nearly everything.
const FIRST_DELAY: Duration = Duration::from_secs(5);
/// At least this many times as long as the last write took: names are for people.
const SHARE: u32 = 20;

/// What changed: `None` for a Service that is gone.
type Changes = BTreeMap<ObjectName, Option<ServiceSnapshot>>;

/// A write that runs.
type Running = JoinHandle<(NamesFile, io::Result<Duration>)>;

/// Keeps the names file up to date.
#[derive(Debug)]
pub(super) struct NamesKeeper {
    path: PathBuf,
    /// The file while nothing writes it.
    file: Option<NamesFile>,
    running: Option<Running>,
    began: Instant,
    due: Option<Instant>,
    delay: Duration,
    /// Whether the write that runs, or the last one, began after the tables were complete.
    is_complete: bool,
    /// Processor time that the last write took.
    spent: Duration,
}

/// This agent's Node, to be looked at from elsewhere.
struct Place {
    name: String,
    node: Option<Arc<Node>>,
    device_addresses: Vec<IpAddr>,
    service_cidrs: Vec<(IpAddr, u8)>,
}

impl NamesKeeper {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            file: Some(NamesFile::new(path.clone())),
            path,
            running: None,
            began: now(),
            due: None,
            delay: FIRST_DELAY,
            is_complete: false,
            spent: Duration::ZERO,
        }
    }

    /// When to call [`Self::begin`].
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.due.filter(|_| self.running.is_none())
    }

    /// Objects have changed.
    pub(super) fn changed(&mut self) {
        self.due.get_or_insert(now() + self.delay);
    }

    /// The tables are complete. Whoever waited for the first time may ask for names next; what was
    /// begun before, with tables that were not complete any more, does not count.
    pub(super) fn synced(&mut self) {
        if !self.is_complete {
            self.delay = DELAY;
            self.due = Some(now());
        }
    }

    /// Begins to write what changed. Nothing has names before objects are listed: until then those
    /// of an earlier agent stay.
    pub(super) fn begin<D: Dataplane>(
        &mut self,
        reconciler: &mut Reconciler<D>,
        objects: ModelObjects<'_>,
        is_listed: bool,
    ) {
        self.due = None;
        if !is_listed {
            return;
        }
        let Some(mut file) = self.file.take() else {
            return;
        };
        let ModelObjects(model) = objects;
        let touched = reconciler.take_touched();
        let planner = reconciler.planner();
        let node = objects.node_view();
        let changes: Changes = touched
            .into_iter()
            .map(|name| {
                let service = model.shared_service(&name);
                let snapshot = service
                    .map(|service| planner.snapshot(service, model.shared_slices(&name), &node));
                (name, snapshot)
            })
            .collect();
        let head = Head {
            version: VERSION,
            node: model.node_name().to_owned(),
            reports: planner.report_names(),
        };
        let place = Place {
            name: model.node_name().to_owned(),
            node: model.shared_node().cloned(),
            device_addresses: model.device_addresses().to_vec(),
            service_cidrs: model.service_cidrs().to_vec(),
        };
        self.is_complete |= reconciler.is_synced();
        self.began = now();
        self.running = Some(tokio::task::spawn_blocking(move || {
            let begin = clock::thread_time();
            let result = file.write(&head, &place, changes);
            let spent = clock::thread_time().saturating_sub(begin);
            (file, result.map(|()| spent))
        }));
    }

    /// Returns when a write has ended, never where none runs: whether the file has names of complete
    /// tables.
    pub(super) async fn written(&mut self) -> Result<bool, AgentError> {
        let Some(running) = &mut self.running else {
            return pending().await;
        };
        let result = match running.await {
            Ok((file, result)) => {
                self.file = Some(file);
                result
            }
            Err(error) => Err(io::Error::other(error)),
        };
        self.running = None;
        let took = now().duration_since(self.began);
        self.delay = self.delay.min(DELAY).max(took * SHARE);
        let is_complete = self.is_complete;
        result
            .map(|spent| {
                self.spent = spent;
                is_complete
            })
            .map_err(|source| AgentError::State {
                path: self.path.clone(),
                source,
            })
    }

    /// Processor time that the last write took.
    pub(super) const fn spent(&self) -> Duration {
        self.spent
    }

    /// Waits for a write that runs, as [`Self::written`] does.
    pub(super) async fn finish(&mut self) -> Result<bool, AgentError> {
        match self.running {
            Some(_) => self.written().await,
            None => Ok(self.is_complete),
        }
    }
}

impl Place {
    fn view(&self) -> NodeView<'_> {
        let node = self.node.as_deref();
        NodeView {
            name: &self.name,
            zone: node.and_then(|node| node.zone.as_deref()),
            addresses: node.map_or(&[], |node| &node.addresses),
            device_addresses: &self.device_addresses,
            service_cidrs: &self.service_cidrs,
        }
    }
}

#[cfg(test)]
mod tests;
