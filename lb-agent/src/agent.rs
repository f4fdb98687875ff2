//! The agent: composes source, model, planner and dataplane into one loop.
//!
//! ```text
//!  lock ─► load or adopt ─► restore ─► objects listed ─► tables complete ─► attach ─► loop
//! ```
//!
//! Devices are attached to only once the tables are complete, so that no packet meets half of
//! them; links of an earlier agent stay where they are and get the new programs at once. The
//! datapath is left in place however the agent ends.

mod audit;
pub mod config;
mod devices;
mod error;
mod frames;
mod names;
pub(crate) mod node_addresses;
mod notes;
pub(crate) mod objects;
mod outside;
mod published;
pub(crate) mod ranges;
mod redirect;
mod reload;
#[cfg(test)]
mod scale;
mod setup;
mod source;
mod timers;

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::clock;
use crate::config::layers::Layers;
use crate::config::reload::{Effective, Watched};
use crate::dataplane::DataplaneError;
use crate::dataplane::attach::Attachments;
use crate::dataplane::bpffs::{self, PinPaths};
use crate::dataplane::load::{self, Loaded, Variant};
use crate::dataplane::maps::BpfDataplane;
use crate::dataplane::sweep::{STEP_INTERVAL, Sweeper};
use crate::interfaces::{Devices, REREAD, Watcher};
use crate::lock::Lock;
use crate::memory;
use crate::model::event::Event;
use crate::model::index::Model;
use crate::plan;
use crate::reconcile::{Reconciler, retry_delay};
use crate::settings::Settings;
use crate::source::report::{Reporter, SourceReport};
use crate::status::SyncSpent;
use audit::AuditKeeper;
use devices::DeviceKeeper;
pub use error::AgentError;
use names::NamesKeeper;
use node_addresses::NodeAddressKeeper;
use notes::Notes;
use objects::ModelObjects;
use outside::OutsideKeeper;
use published::Published;
use timers::{now, ticks, until};

/// How long tables are written before the loop looks at signals and devices again.
const SLICE: Duration = Duration::from_millis(20);
/// How often ids and regions are looked at that nothing needs any more.
const RECLAIM_INTERVAL: Duration = Duration::from_mins(1);
/// Time between the beginnings of two passes over the flow tables: one is for all changes in between.
const CUT_INTERVAL: Duration = Duration::from_millis(250);

/// Runs the agent until it is told to end by SIGTERM or SIGINT.
pub fn run(settings: Settings) -> Result<(), AgentError> {
    run_until_told(settings, None)
}

/// Runs the agent likewise, and takes over what changes in the files the settings came from.
pub fn run_watched(effective: Effective, watched: Watched) -> Result<(), AgentError> {
    for warning in effective.layers.all_warnings() {
        tracing::warn!("{warning}");
    }
    run_until_told(effective.settings, Some((effective.layers, watched)))
}

fn run_until_told(settings: Settings, files: Option<(Layers, Watched)>) -> Result<(), AgentError> {
    settings.validate()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| AgentError::Runtime {
            operation: "starting the runtime",
            source,
        })?;
    let result = runtime.block_on(start(settings, files));
    // A scan of the source may be under way; nobody waits for it.
    runtime.shutdown_background();
    result
}

async fn start(settings: Settings, files: Option<(Layers, Watched)>) -> Result<(), AgentError> {
    let variant = if settings.debug_datapath {
        Variant::Debug
    } else {
        Variant::Normal
    };
    load::check(&settings.sizes, variant)?;
    bpffs::prepare(&settings.pin_dir)?;
    let _lock = Lock::take(&settings.pin_dir)?;
    let mut tasks = JoinSet::new();
    let mut agent = Agent::new(settings, variant)?;
    let (reload_sender, reloads) = mpsc::channel(1);
    if let Some((layers, watched)) = files {
        agent.layers = layers;
        tasks.spawn(async move {
            watched.run(reload_sender).await;
            Ok(())
        });
    }
    if agent.settings.debug_datapath {
        setup::forward_log(&mut agent.loaded, &mut tasks)?;
    }
    let (batches, reports) = agent.start_source(&mut tasks)?;
    agent.serve(batches, reports, reloads, tasks).await
}

struct Agent {
    settings: Settings,
    /// The layers that the settings came from, to compare with later ones.
    layers: Layers,
    /// Why changed settings were not taken over.
    config_problem: Option<String>,
    loaded: Loaded,
    reconciler: Reconciler<BpfDataplane>,
    keeper: DeviceKeeper,
    addresses: NodeAddressKeeper,
    model: Model,
    devices: Devices,
    sweeper: Sweeper,
    published: Published,
    audits: AuditKeeper,
    outside: OutsideKeeper,
    /// Walks through the flow tables in a row that have found no flow whose packets are sent on.
    walks_without: u32,
    /// Why the kernel is not set as the settings ask.
    kernel_problems: Vec<String>,
    names: NamesKeeper,
    /// Processor time that was spent on the model.
    index_time: Duration,
    reporter: Reporter,
    /// What is told by Kubernetes Events.
    notes: Notes,
    /// Whether the reconciler was told that everything is listed.
    is_listed: bool,
    /// Whether the tables have been complete once.
    has_synced: bool,
    /// Whether there is something to plan or to write.
    has_work: bool,
    /// Writes that failed in a row.
    failures: u32,
    write_problem: Option<String>,
    /// When to try again to write.
    retry_at: Option<Instant>,
    /// When to look at the devices again, beside what events say.
    devices_at: Option<Instant>,
    /// When to go on taking out UDP flows that have lost their backend.
    cut_at: Option<Instant>,
    /// When the next pass over the flow tables may begin.
    next_pass_at: Instant,
}

impl Agent {
    fn new(settings: Settings, variant: Variant) -> Result<Self, AgentError> {
        let published = Published::new(&settings)?;
        audit::write_basis(&settings)?;
        let mut loaded = Loaded::load(&settings.pin_dir, &settings.sizes, variant)?;
        let is_adopted = loaded.is_adopted();
        let mut dataplane = BpfDataplane::open(loaded.paths())?;
        setup::write_config(&mut dataplane, &settings)?;
        // Nothing is touched or opened by an agent that cannot run.
        let outside = OutsideKeeper::start(&settings, PinPaths::new(&settings.pin_dir))?;
        let kernel_problems = setup::write_kernel(&settings);
        let addresses = NodeAddressKeeper::new(dataplane.node_addresses()?);
        let roles = dataplane.device_roles()?;
        let reconciler = Reconciler::start(dataplane)?;
        // The copy of an earlier agent's tables is gone.
        memory::give_back();
        let (attachments, failures) = Attachments::adopt(&mut loaded, settings.attachment, &roles)?;
        for failure in failures {
            tracing::warn!("taking over a link: {failure}");
        }
        tracing::info!(
            node = settings.node_name,
            pins = %settings.pin_dir.display(),
            adopted = is_adopted,
            method = attachments.method().name(),
            devices = attachments.devices().count(),
            "datapath loaded"
        );
        Ok(Self {
            keeper: DeviceKeeper::new(attachments, loaded.paths(), &settings, &roles)?,
            addresses,
            model: Model::new(&settings.node_name)
                .with_node_address(settings.services.node_address),
            audits: AuditKeeper::new(&settings),
            names: NamesKeeper::new(settings.state_dir.join(plan::names::FILE_NAME)),
            settings,
            layers: Layers::default(),
            config_problem: None,
            loaded,
            reconciler,
            devices: Devices::new(),
            sweeper: Sweeper::default(),
            index_time: Duration::ZERO,
            published,
            outside,
            walks_without: 0,
            kernel_problems,
            reporter: Reporter::default(),
            notes: Notes::default(),
            is_listed: false,
            has_synced: false,
            has_work: false,
            failures: 0,
            write_problem: None,
            retry_at: None,
            devices_at: None,
            cut_at: None,
            next_pass_at: now(),
        })
    }

    async fn serve(
        &mut self,
        mut batches: mpsc::Receiver<Vec<Event>>,
        mut reports: watch::Receiver<SourceReport>,
        mut reloads: mpsc::Receiver<Result<Effective, String>>,
        mut tasks: JoinSet<Result<(), AgentError>>,
    ) -> Result<(), AgentError> {
        let failed = |source| AgentError::Runtime {
            operation: "listening for signals",
            source,
        };
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut watcher = Watcher::new()?;
        self.read_devices(&watcher).await;
        self.publish()?;
        let mut sweeps = ticks(STEP_INTERVAL);
        let mut reclaims = ticks(RECLAIM_INTERVAL);
        let mut rereads = ticks(REREAD);
        let mut requests = ticks(audit::REQUEST_INTERVAL);
        loop {
            let (publish_at, names_at) = (self.published.due_at(), self.names.due_at());
            tokio::select! {
                biased;
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                () = watcher.changed() => self.read_devices(&watcher).await,
                _ = rereads.tick() => self.read_devices(&watcher).await,
                () = until(self.devices_at) => self.read_devices(&watcher).await,
                Some(ended) = tasks.join_next() => return ended.unwrap_or(Err(AgentError::SourceEnded))
                    .and(Err(AgentError::SourceEnded)),
                Some(batch) = batches.recv() => {
                    self.take_in(batch);
                    while let Ok(batch) = batches.try_recv() {
                        self.take_in(batch);
                    }
                    // Most batches are one change, which is done before the loop has gone round.
                    if self.retry_at.is_none() {
                        self.work();
                    }
                }
                Ok(()) = reports.changed() => {
                    let report = reports.borrow_and_update().clone();
                    self.take_report(&report);
                }
                () = self.outside.reports_changed() => self.published.status_changed(),
                Some(result) = reloads.recv() => self.take_config(result),
                () = until(self.retry_at) => self.work(),
                () = tokio::task::yield_now(), if self.has_work && self.retry_at.is_none() => {
                    self.work();
                }
                () = until(self.cut_at) => self.cut(),
                _ = sweeps.tick() => self.sweep(),
                _ = reclaims.tick() => self.reclaim(),
                _ = requests.tick() => self.look_for_request(),
                () = until(publish_at) => self.publish()?,
                written = self.names.written() => {
                    if written? {
                        self.published.named(self.spent());
                    }
                }
                () = until(names_at) => {
                    self.names.begin(&mut self.reconciler, ModelObjects(&self.model), self.is_listed);
                }
                () = until(Some(self.audits.due_at())) => self.audit(),
            }
        }
        if self.names.finish().await? {
            self.published.named(self.spent());
        }
        self.publish()?;
        tracing::info!("ending; the datapath stays in place");
        Ok(())
    }

    fn take_in(&mut self, batch: Vec<Event>) {
        self.published.objects_changed();
        self.outside.arrived(&batch);
        self.names.changed();
        let begin = clock::thread_time();
        let changed = self.model.apply_all(batch);
        self.index_time += clock::thread_time().saturating_sub(begin);
        for name in changed.services {
            self.reconciler.changed(name);
        }
        let objects = ModelObjects(&self.model);
        if changed.node || changed.cidrs {
            self.reconciler.all_changed(&objects);
        }
        if changed.node {
            self.outside.node_changed(&self.model);
            self.devices_at = Some(now());
        }
        if changed.cidrs || (changed.node && self.is_listed) {
            self.write_cidrs();
        }
        // The model itself keeps what a list that is repeated has not named yet, so this is said
        // once.
        if !self.is_listed && self.model.is_ready() {
            self.is_listed = true;
            self.write_cidrs();
            self.reconciler.listed(&ModelObjects(&self.model));
        }
        self.has_work = true;
    }

    fn spent(&self) -> SyncSpent {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let reconcile = self.reconciler.spent();
        SyncSpent {
            index_micros: micros(self.index_time),
            plan_micros: micros(reconcile.plan),
            write_micros: micros(reconcile.write),
            names_micros: micros(self.names.spent()),
        }
    }

    fn take_report(&mut self, report: &SourceReport) {
        for problem in self.reporter.fresh(report) {
            tracing::warn!("{problem}");
        }
        let api = report.api.iter().flat_map(|api| &api.problems);
        self.published.source_problems = api
            .map(ToString::to_string)
            .chain(report.problems.iter().map(ToString::to_string))
            .collect();
        self.published.set_api(report.api.as_ref());
        self.notes.set_objects(report, &self.model);
        self.published.status_changed();
    }

    /// Plans and writes for a while.
    fn work(&mut self) {
        let objects = ModelObjects(&self.model);
        let start = clock::instant();
        self.retry_at = None;
        let result = loop {
            match self.reconciler.step(&objects) {
                Ok(true) if start.elapsed() < SLICE => {}
                result => break result,
            }
        };
        self.outside.worked(start.elapsed());
        match result {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => return self.postpone(&error),
        }
        self.has_work = false;
        self.failures = 0;
        self.write_problem = None;
        if self.reconciler.is_synced() {
            self.published.synced(clock::unix_seconds());
            if !self.has_synced {
                self.has_synced = true;
                tracing::info!(
                    services = self.model.services().len(),
                    writes = self.reconciler.applied(),
                    "tables are complete"
                );
                self.keep_devices();
                memory::give_back();
            }
            self.outside.synced(
                &self.model,
                self.reconciler.planner(),
                &self.settings,
                &self.devices,
            );
            self.names.synced();
        }
        if self.reconciler.has_flows_to_cut() && self.cut_at.is_none() {
            self.cut_at = Some(self.next_pass_at);
        }
    }

    /// Goes on taking out UDP flows that have lost their backend.
    fn cut(&mut self) {
        self.cut_at = None;
        if now() >= self.next_pass_at {
            self.next_pass_at = now() + CUT_INTERVAL;
        }
        match self.reconciler.cut() {
            Ok(true) => self.cut_at = Some(now()),
            Ok(false) if self.reconciler.has_flows_to_cut() => {
                self.cut_at = Some(self.next_pass_at);
            }
            Ok(false) => {}
            Err(error) => self.postpone(&error),
        }
    }

    fn postpone(&mut self, error: &DataplaneError) {
        self.failures = self.failures.saturating_add(1);
        let delay = retry_delay(self.failures);
        let problem = error.to_string();
        if self.write_problem.as_ref() != Some(&problem) {
            tracing::warn!(retry_after = ?delay, "{problem}");
            self.note("TablesNotWritten", &problem);
        }
        self.write_problem = Some(problem);
        self.has_work = true;
        self.retry_at = Some(now() + delay);
        self.published.status_changed();
    }

    fn reclaim(&mut self) {
        // What lasts is told again.
        self.published.status_changed();
        match self.reconciler.sweep() {
            Ok(()) => {
                self.has_work = true;
                self.names.changed();
            }
            Err(error) => self.postpone(&error),
        }
    }

    fn publish(&mut self) -> Result<(), AgentError> {
        let mut problems = self.published.source_problems.clone();
        problems.extend(self.config_problem.clone());
        problems.extend(self.write_problem.clone());
        let reports = self.reconciler.planner().reports();
        self.tell(&reports);
        let described = reports.iter();
        problems.extend(described.map(|(name, report)| format!("{name}: {report}")));
        problems.extend(self.keeper.problems().cloned());
        problems.extend(self.addresses.problem().cloned());
        problems.extend(self.kernel_problems.iter().cloned());
        problems.extend(self.outside.reports().into_values());
        let pending = u64::from(self.write_problem.is_some())
            + u64::try_from(self.reconciler.parked().count()).unwrap_or(u64::MAX);
        self.outside.published(
            self.reconciler.planner(),
            &self.settings.sizes,
            self.model.services().len(),
            self.keeper.devices(),
            pending,
            problems.len(),
        );
        self.published.write(pending, problems, self.keeper.roles())
    }
}
