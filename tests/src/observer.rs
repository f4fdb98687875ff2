//! The agent's API source in this process: what it says of an [`ApiServer`](crate::apiserver) goes
//! through the model and the planner into tables in memory, as in the agent.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use lb_agent::dataplane::Capacity;
use lb_agent::dataplane::memory::Memory;
use lb_agent::model::event::Event;
use lb_agent::model::index::Model;
use lb_agent::model::name::ObjectName;
use lb_agent::plan::{NodeView, ServiceView};
use lb_agent::reconcile::{Objects, Reconciler};
use lb_agent::settings::ApiSettings;
use lb_agent::source::kubernetes::{self, KubernetesOptions, Timing, events};
use lb_agent::source::report::SourceReport;
use tokio::sync::{mpsc, oneshot, watch};
use tracing_subscriber::fmt::MakeWriter;

use crate::apiserver::ApiServer;
use crate::clock;

/// Longer than anything takes that is waited for, on a busy machine too.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// The Node of the source.
pub const NODE: &str = "node-a";
/// Room enough for what tests make.
const CAPACITY: Capacity = Capacity {
    frontends: 4_096,
    services: 1_024,
    arena_words: 1 << 20,
    backends: 4_096,
    node_addresses: 64,
    source_ranges: 64,
};

/// Waits that are short enough for a test, and long enough for a busy machine.
pub fn quick() -> Timing {
    let mut timing = Timing::default();
    timing.backoff.first = Duration::from_millis(40);
    timing.backoff.longest = Duration::from_millis(400);
    timing.confirm = Duration::from_millis(100);
    timing
}

/// What the source has said so far, and what became of it.
#[derive(Debug)]
pub struct Seen {
    /// All objects.
    pub model: Model,
    /// The tables.
    pub tables: Reconciler<Memory>,
    /// Whether the tables were ever written.
    pub is_listed: bool,
    /// What is wrong.
    pub report: SourceReport,
    /// Full lists that began.
    pub restarts: usize,
}

/// A source that runs; it ends when this is dropped.
#[derive(Debug)]
pub struct Observer {
    seen: Arc<Mutex<Seen>>,
    log: Log,
    /// What becomes of it when it is dropped.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Observer {
    /// Starts a source that keeps its state in `directory`.
    pub fn start(api: ApiSettings, directory: &Path, timing: Timing) -> Result<Self> {
        let options = KubernetesOptions {
            node_name: NODE.to_owned(),
            api,
            state_dir: directory.to_owned(),
            timing,
            seed: 7,
        };
        let tables = Reconciler::start(Memory::new(CAPACITY))?;
        let seen = Arc::new(Mutex::new(Seen {
            model: Model::new(NODE),
            tables,
            is_listed: false,
            report: SourceReport::default(),
            restarts: 0,
        }));
        let (stop, is_stopped) = oneshot::channel();
        let log = Log::default();
        let thread = thread::Builder::new().name("observer".to_owned()).spawn({
            let (seen, log) = (Arc::clone(&seen), log.clone());
            move || observe(options, &seen, is_stopped, log)
        })?;
        Ok(Self {
            seen,
            log,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// What was seen so far.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    /// Waits until it is as `is_so` says.
    pub fn await_seen(&self, what: &str, mut is_so: impl FnMut(&Seen) -> bool) -> Result<()> {
        let result = clock::eventually(what, PATIENCE, || Ok(is_so(&self.seen()).then_some(())));
        result.map_err(|error| {
            let (services, report) = self.described();
            let log = self.log.text();
            anyhow!("{error}; services {services:?}, report {report:?}, log:\n{log}")
        })
    }

    fn described(&self) -> (Vec<String>, SourceReport) {
        let seen = self.seen();
        (services(&seen.model), seen.report.clone())
    }

    /// Waits until these are the Services, with so many endpoints: `ns/name 3`.
    pub fn await_services(&self, expected: &[&str]) -> Result<()> {
        let what = format!("the Services are {expected:?}");
        self.await_seen(&what, |seen| {
            seen.is_listed && services(&seen.model) == expected
        })
    }

    /// Lines of the log at level warning and above.
    pub fn warnings(&self) -> Vec<String> {
        let text = self.log.text();
        let lines = text
            .lines()
            .filter(|line| line.contains(" WARN ") || line.contains(" ERROR "));
        lines.map(str::to_owned).collect()
    }

    /// Whether the source has ended by itself.
    pub fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends it; an error if the source could not run.
    pub fn end(mut self) -> Result<()> {
        self.finish()
    }

    fn finish(&mut self) -> Result<()> {
        drop(self.stop.take());
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => bail!("the source panicked"),
            None => Ok(()),
        }
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        // Whoever wants to know how it ended calls `end`.
        drop(self.finish());
    }
}

/// Names of the Services and how many endpoints they have.
pub fn services(model: &Model) -> Vec<String> {
    let described = model.services().map(|service| {
        let slices = model.slices(&service.name);
        let count: usize = slices.map(|slice| slice.endpoints.len()).sum();
        format!("{} {count}", service.name)
    });
    described.collect()
}

/// How a server is reached by its address, with a token file and an authority as a pod has them.
pub fn service_account(server: &ApiServer, directory: &Path, token: &str) -> Result<ApiSettings> {
    let authority = server.authority_pem().context("a server with TLS")?;
    std::fs::write(directory.join("token"), token)?;
    std::fs::write(directory.join("ca.crt"), authority)?;
    Ok(ApiSettings {
        servers: vec![server.url()],
        service_account: PathBuf::from(directory),
        ..ApiSettings::default()
    })
}

fn observe(
    options: KubernetesOptions,
    seen: &Mutex<Seen>,
    mut is_stopped: oneshot::Receiver<()>,
    log: Log,
) -> Result<()> {
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(log)
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (sender, mut batches) = mpsc::channel(16);
        let (reporter, mut reports) = watch::channel(SourceReport::default());
        let (_sink, notes) = events::channel();
        let source = kubernetes::run(options, sender, reporter, notes);
        tokio::pin!(source);
        loop {
            tokio::select! {
                biased;
                _ = &mut is_stopped => return Ok(()),
                result = &mut source => return result.map_err(Into::into),
                Some(batch) = batches.recv() => take_in(&mut lock(seen), batch)?,
                Ok(()) = reports.changed() => {
                    lock(seen).report = reports.borrow_and_update().clone();
                }
            }
        }
    })
}

/// As the agent does it.
fn take_in(seen: &mut Seen, batch: Vec<Event>) -> Result<()> {
    let restarts = batch.iter().filter(|it| matches!(it, Event::Restarted(_)));
    seen.restarts += restarts.count();
    let changed = seen.model.apply_all(batch);
    for name in changed.services {
        seen.tables.changed(name);
    }
    let objects = ModelObjects(&seen.model);
    if changed.node {
        seen.tables.all_changed(&objects);
    }
    if !seen.is_listed && seen.model.is_ready() {
        seen.is_listed = true;
        seen.tables.listed(&objects);
    }
    seen.tables.run(&objects)?;
    seen.tables.dataplane().check()?;
    Ok(())
}

/// The model as the planner reads it.
struct ModelObjects<'a>(&'a Model);

impl Objects for ModelObjects<'_> {
    fn view(&self, name: &ObjectName) -> Option<ServiceView<'_>> {
        let service = self.0.service(name)?;
        Some(ServiceView::new(service, self.0.slices(name)))
    }

    fn names(&self) -> Vec<ObjectName> {
        let services = self.0.services();
        services.map(|service| service.name.clone()).collect()
    }

    fn node(&self) -> NodeView<'_> {
        let node = self.0.node();
        NodeView {
            name: self.0.node_name(),
            zone: node.and_then(|node| node.zone.as_deref()),
            addresses: node.map_or(&[], |node| &node.addresses),
            service_cidrs: self.0.service_cidrs(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the source logged.
#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&lock(&self.0)).into_owned()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        lock(&self.0).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
