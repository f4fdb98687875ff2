//! An agent that follows an API server: the agent's own source, model, planner and reconciler over
//! real connections, on tables in memory.
//!
//! Nothing of it moves on but while [`Follower::pump`] or [`Follower::await_tables`] runs, so a test
//! decides what the agent has heard of when something befalls it. One that lives by itself is an
//! [`Observer`](crate::observer::Observer).

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use lb_agent::dataplane::Actual;
use lb_agent::model::event::Event;
use lb_agent::settings::ApiSettings;
use lb_agent::source::kubernetes::backoff::Backoff;
use lb_agent::source::kubernetes::events::{self, EventSink};
use lb_agent::source::kubernetes::metrics::ApiMetrics;
use lb_agent::source::kubernetes::{self, KubernetesOptions, Timing};
use lb_agent::source::report::SourceReport;
use tempfile::TempDir;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::apiserver::ApiServer;
use crate::clock;
use crate::replica::Replica;

/// Batches of events that may wait, as in the agent.
const QUEUED_BATCHES: usize = 16;
/// How long to listen before looking at the clock again.
const TURN: Duration = Duration::from_millis(5);

/// A source that runs, and what it says.
#[derive(Debug)]
pub(crate) struct Source {
    /// Ended when this is dropped.
    pub(crate) tasks: JoinSet<Result<()>>,
    pub(crate) batches: mpsc::Receiver<Vec<Event>>,
    pub(crate) reports: watch::Receiver<SourceReport>,
    /// Where Kubernetes Events go.
    pub(crate) sink: EventSink,
}

impl Source {
    /// Starts one on this runtime.
    pub(crate) fn start(runtime: &Handle, options: KubernetesOptions) -> Self {
        let (sender, batches) = mpsc::channel(QUEUED_BATCHES);
        let (reporter, reports) = watch::channel(SourceReport::default());
        let (sink, notes) = events::channel();
        let mut tasks = JoinSet::new();
        tasks.spawn_on(
            async move { Ok(kubernetes::run(options, sender, reporter, notes).await?) },
            runtime,
        );
        Self {
            tasks,
            batches,
            reports,
            sink,
        }
    }
}

/// An agent and the server it follows.
#[derive(Debug)]
pub struct Follower {
    /// The agent's inside.
    pub replica: Replica,
    /// Dropped before the runtime it runs on.
    source: Source,
    runtime: Runtime,
    options: KubernetesOptions,
    /// Where the source keeps addresses; removed with this.
    _state_dir: TempDir,
}

impl Follower {
    /// An agent of the named node that begins to follow a server which speaks plain HTTP.
    pub fn start(server: &ApiServer, node: &str, seed: u64) -> Result<Self> {
        let state_dir = TempDir::new()?;
        let kubeconfig = state_dir.path().join("kubeconfig");
        fs::write(&kubeconfig, server.kubeconfig(None).to_string())?;
        let options = KubernetesOptions {
            node_name: node.to_owned(),
            api: ApiSettings {
                kubeconfigs: vec![kubeconfig],
                ..ApiSettings::default()
            },
            state_dir: state_dir.path().to_owned(),
            timing: timing(),
            seed,
            metrics: ApiMetrics::default(),
            looks_on: false,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(Self {
            replica: Replica::new(node, seed)?,
            source: Source::start(runtime.handle(), options.clone()),
            runtime,
            options,
            _state_dir: state_dir,
        })
    }

    /// The agent dies, wherever it is, and another begins with the tables as they are.
    pub fn restart(&mut self) -> Result<()> {
        self.options.seed = self.options.seed.wrapping_add(1);
        self.source = Source::start(self.runtime.handle(), self.options.clone());
        self.replica.restart()
    }

    /// Listens for at most this long to what the server says next, and takes that in without writing
    /// anything; whether there was something.
    pub fn pump(&mut self, within: Duration) -> Result<bool> {
        let Source { tasks, batches, .. } = &mut self.source;
        self.runtime.block_on(async {
            match timeout(within, batches.recv()).await {
                Err(_) => Ok(false),
                Ok(Some(batch)) => self.replica.take_in(batch).map(|()| true),
                Ok(None) => {
                    tasks.join_next().await.context("no source")???;
                    bail!("the source has ended")
                }
            }
        })
    }

    /// Listens and writes until the tables stand the check, which says what is wrong with them.
    pub fn await_tables(
        &mut self,
        check: impl Fn(&Actual) -> Result<()>,
        within: Duration,
    ) -> Result<()> {
        self.await_replica(|replica| check(&replica.tables()?), within)
    }

    /// The same, of everything inside the agent.
    pub fn await_replica(
        &mut self,
        check: impl Fn(&Replica) -> Result<()>,
        within: Duration,
    ) -> Result<()> {
        let started = clock::now();
        let mut is_worth_a_look = true;
        loop {
            let is_late = started.elapsed() >= within;
            if is_worth_a_look || is_late {
                self.replica.settle()?;
                let is_synced = self.replica.is_synced();
                if is_late && !is_synced {
                    bail!("not synced: {:?}", self.report());
                }
                // Looking takes longer than all else, and what is not synced is not yet right.
                if is_synced {
                    match check(&self.replica) {
                        Ok(()) => return Ok(()),
                        Err(error) if is_late => {
                            return Err(error.context(format!("{:?}", self.report())));
                        }
                        Err(_) => {}
                    }
                }
            }
            is_worth_a_look = self.pump(TURN)?;
        }
    }

    /// What the source says of itself.
    pub fn report(&self) -> SourceReport {
        self.source.reports.borrow().clone()
    }
}

/// Short waits: a test server answers at once or not at all.
const fn timing() -> Timing {
    Timing {
        connect: Duration::from_secs(5),
        answer: Duration::from_secs(5),
        initial: Duration::from_secs(5),
        confirm: Duration::from_millis(5),
        idle: Duration::from_secs(5),
        stream: Duration::from_mins(5),
        absent: Duration::from_mins(5),
        backoff: Backoff {
            first: Duration::from_millis(2),
            longest: Duration::from_millis(20),
        },
    }
}
