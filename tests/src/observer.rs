//! An agent's source and inside as a [`Follower`](crate::follower::Follower) has them, on a thread of
//! their own: they go on by themselves while a test does something to the server and waits for what
//! comes of it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use lb_agent::dataplane::memory::Memory;
use lb_agent::model::event::Event;
use lb_agent::model::index::Model;
use lb_agent::settings::ApiSettings;
use lb_agent::source::kubernetes::events::EventSink;
use lb_agent::source::kubernetes::metrics::ApiMetrics;
use lb_agent::source::kubernetes::{KubernetesOptions, Timing};
use lb_agent::source::report::SourceReport;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tracing_subscriber::fmt::MakeWriter;

use crate::apiserver::ApiServer;
use crate::clock;
use crate::follower::Source;
use crate::replica::Replica;

/// Longer than anything takes that is waited for, on a busy machine too.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// The Node of the source.
pub const NODE: &str = "node-a";
/// Where random waits and failures begin.
const SEED: u64 = 7;

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
    /// The agent's inside.
    pub replica: Replica,
    /// What is wrong.
    pub report: SourceReport,
    /// Full lists that began.
    pub restarts: usize,
    /// Where Kubernetes Events go, once the source runs.
    sink: Option<EventSink>,
}

impl Seen {
    /// Whether the tables were ever written.
    pub const fn is_listed(&self) -> bool {
        self.replica.is_listed()
    }

    /// The tables.
    ///
    /// # Panics
    ///
    /// Never: an observed agent lives.
    pub fn memory(&self) -> &Memory {
        self.replica.memory().expect("an observed agent lives")
    }
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
        Self::start_counted(api, directory, timing, ApiMetrics::default())
    }

    /// Likewise, and counts what it asks.
    pub fn start_counted(
        api: ApiSettings,
        directory: &Path,
        timing: Timing,
        metrics: ApiMetrics,
    ) -> Result<Self> {
        let options = KubernetesOptions {
            node_name: NODE.to_owned(),
            api,
            state_dir: directory.to_owned(),
            timing,
            seed: SEED,
            metrics,
            looks_on: false,
        };
        let seen = Arc::new(Mutex::new(Seen {
            replica: Replica::new(NODE, SEED)?,
            report: SourceReport::default(),
            restarts: 0,
            sink: None,
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

    /// Where the agent drops in what is to be told by Kubernetes Events.
    pub fn sink(&self) -> Result<EventSink> {
        clock::eventually("the source runs", PATIENCE, || Ok(self.seen().sink.clone()))
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
        (services(seen.replica.model()), seen.report.clone())
    }

    /// Waits until these are the Services, with so many endpoints: `ns/name 3`.
    pub fn await_services(&self, expected: &[&str]) -> Result<()> {
        let what = format!("the Services are {expected:?}");
        self.await_seen(&what, |seen| {
            seen.is_listed() && services(seen.replica.model()) == expected
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
        let mut source = Source::start(&Handle::current(), options);
        lock(seen).sink = Some(source.sink.clone());
        loop {
            tokio::select! {
                biased;
                _ = &mut is_stopped => return Ok(()),
                Some(ended) = source.tasks.join_next() => return ended?,
                Some(batch) = source.batches.recv() => take_in(&mut lock(seen), batch)?,
                Ok(()) = source.reports.changed() => {
                    lock(seen).report = source.reports.borrow_and_update().clone();
                }
            }
        }
    })
}

fn take_in(seen: &mut Seen, batch: Vec<Event>) -> Result<()> {
    let restarts = batch.iter().filter(|it| matches!(it, Event::Restarted(_)));
    seen.restarts += restarts.count();
    seen.replica.take_in(batch)?;
    seen.replica.settle()?;
    seen.memory().check()?;
    Ok(())
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
