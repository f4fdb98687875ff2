//! The objects as the source has them now, read as the agent reads them, and followed for as long as
//! the command looks.

use std::path::Path;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::agent::node_addresses::local;
use crate::agent::objects::ModelObjects;
use crate::agent::ranges::Ranges;
use crate::audit::basis::Basis;
use crate::cli::error::{CliError, while_doing};
use crate::cli::render::units;
use crate::clock;
use crate::interfaces::{Devices, Watcher, networks};
use crate::model::event::Event;
use crate::model::index::Model;
use crate::plan::ServiceView;
use crate::settings::SourceSettings;
use crate::source::directory::{self, DirectoryOptions};
use crate::source::kubernetes::events::{self, EventSink};
use crate::source::kubernetes::metrics::ApiMetrics;
use crate::source::kubernetes::{self, KubernetesOptions, Timing};
use crate::source::report::SourceReport;

/// Batches of events that may wait, as in the agent.
const QUEUED_BATCHES: usize = 16;
/// How long to listen before looking at the clock again.
const TURN: Duration = Duration::from_millis(100);

/// A source that is followed.
#[derive(Debug)]
pub(super) struct SourceObjects {
    model: Model,
    devices: Devices,
    name: String,
    /// Ended when this is dropped.
    tasks: JoinSet<Result<(), String>>,
    batches: mpsc::Receiver<Vec<Event>>,
    reports: watch::Receiver<SourceReport>,
    /// Kept, so that the source does not wait for notes in vain.
    _sink: EventSink,
    /// Dropped last: the rest runs on it.
    runtime: Runtime,
}

impl SourceObjects {
    /// Reads everything, for at most `patience`.
    pub(super) fn read(
        basis: &Basis,
        state_dir: &Path,
        patience: Duration,
    ) -> Result<Self, CliError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(while_doing("starting the runtime"))?;
        let (sender, batches) = mpsc::channel(QUEUED_BATCHES);
        let (reporter, reports) = watch::channel(SourceReport::default());
        let (sink, notes) = events::channel();
        let mut tasks = JoinSet::new();
        match basis.source() {
            SourceSettings::Directory(path) => {
                let options = DirectoryOptions::new(path);
                let run = async move {
                    let result = directory::run(options, sender, reporter).await;
                    result.map_err(|error| error.to_string())
                };
                tasks.spawn_on(run, runtime.handle());
            }
            SourceSettings::Kubernetes(api) => {
                let options = KubernetesOptions {
                    node_name: basis.node_name.clone(),
                    api,
                    state_dir: state_dir.to_owned(),
                    timing: Timing::default(),
                    // Waits are spread among nodes, and there is but one of us.
                    seed: u64::from(std::process::id()),
                    metrics: ApiMetrics::default(),
                    looks_on: true,
                };
                let run = async move {
                    let result = kubernetes::run(options, sender, reporter, notes).await;
                    result.map_err(|error| error.to_string())
                };
                tasks.spawn_on(run, runtime.handle());
            }
        }
        let mut objects = Self {
            model: Model::new(&basis.node_name).with_node_address(basis.node_address),
            devices: Devices::new(),
            name: basis.source().to_string(),
            tasks,
            batches,
            reports,
            _sink: sink,
            runtime,
        };
        objects.await_lists(patience)?;
        Ok(objects)
    }

    fn await_lists(&mut self, patience: Duration) -> Result<(), CliError> {
        let deadline = clock::instant() + patience;
        while !self.model.is_ready() {
            if clock::instant() >= deadline {
                return Err(CliError::Timeout {
                    waited_for: "reading all objects from the source",
                    timeout: units::duration(patience),
                    hint: self.problem(),
                });
            }
            self.listen(TURN)?;
        }
        Ok(())
    }

    /// Takes in what the source says within this time.
    pub(super) fn pump(&mut self, within: Duration) -> Result<(), CliError> {
        let deadline = clock::instant() + within;
        loop {
            let left = deadline.saturating_duration_since(clock::instant());
            if left.is_zero() {
                return self.read_devices();
            }
            self.listen(left.min(TURN))?;
        }
    }

    fn listen(&mut self, within: Duration) -> Result<(), CliError> {
        let Self { tasks, batches, .. } = self;
        let result = self.runtime.block_on(async {
            match timeout(within, batches.recv()).await {
                Err(_) => Ok(None),
                Ok(Some(batch)) => Ok(Some(batch)),
                Ok(None) => Err(match tasks.join_next().await {
                    Some(Ok(Err(message))) => message,
                    _ => "it ended unexpectedly".to_owned(),
                }),
            }
        });
        match result {
            Ok(batch) => {
                // What changed does not matter: everything is planned at each look.
                drop(self.model.apply_all(batch.into_iter().flatten()));
                Ok(())
            }
            Err(message) => Err(CliError::Source {
                source_name: self.name.clone(),
                message,
            }),
        }
    }

    /// What the source says is wrong, for whoever waited in vain.
    fn problem(&self) -> String {
        let report = self.reports.borrow();
        let api = report.api.iter().flat_map(|api| &api.problems);
        let api = api.map(ToString::to_string).next();
        let own = report.problems.iter().map(ToString::to_string).next();
        drop(report);
        api.or(own)
            .unwrap_or_else(|| format!("is {} there?", self.name))
    }

    /// Reads the devices of this machine, whose addresses nobody else may have.
    fn read_devices(&mut self) -> Result<(), CliError> {
        let read = async { Watcher::new()?.read().await };
        let devices = self.runtime.block_on(read);
        self.devices = devices.map_err(|error| CliError::Source {
            source_name: "this machine's devices".to_owned(),
            message: error.to_string(),
        })?;
        drop(self.model.set_device_addresses(local(&self.devices)));
        Ok(())
    }

    /// The devices of this machine, as they were at the last [`Self::pump`].
    pub(super) const fn devices(&self) -> &Devices {
        &self.devices
    }

    /// The objects as a planner reads them.
    pub(super) const fn objects(&self) -> ModelObjects<'_> {
        ModelObjects(&self.model)
    }

    /// Every Service with its slices.
    pub(super) fn views(&self) -> impl Iterator<Item = ServiceView<'_>> {
        let services = self.model.services();
        services.map(|service| ServiceView::new(service, self.model.slices(&service.name)))
    }

    /// The words of `CONFIG` that follow from the settings, from the objects and from the devices.
    pub(super) fn config(&self, basis: &Basis) -> Vec<(u32, u64)> {
        let of_node = self.model.pod_cidrs();
        let addresses = self.objects().node_view().addresses;
        let ranges = Ranges {
            services: &basis.service_cidrs,
            service_objects: self.model.service_cidrs(),
            pods: basis.pods(of_node),
            cluster_wide: basis.cluster_wide(),
            of_node,
            links: &networks(&self.devices, addresses),
        };
        let mut words = basis.config.clone();
        words.extend(ranges.words().words);
        words
    }
}
