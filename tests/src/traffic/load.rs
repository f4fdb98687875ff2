//! New connections without end, counted by who took them; every failure is kept.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Result, anyhow};

use crate::{
    clock,
    ns::Namespace,
    traffic::{
        Spread, Transport,
        client::{PATIENCE, one_short},
    },
};

/// The pause between connections of one thread, about 500 a second.
const PAUSE: Duration = Duration::from_millis(2);

/// Failures kept with their message; all are counted.
const KEPT_FAILURES: usize = 10;

/// What became of the connections so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Successful connections by server.
    pub by_server: Spread,
    /// Connections that failed.
    pub failures: u64,
    /// The first few failures in words.
    pub messages: Vec<String>,
    /// The slowest successful connection.
    pub slowest: Duration,
}

impl LoadReport {
    /// Successful connections.
    pub fn connections(&self) -> u64 {
        self.by_server.values().sum()
    }
}

/// A running load generator: one thread for each destination.
#[derive(Debug)]
pub struct Load {
    report: Arc<Mutex<LoadReport>>,
    /// Connections that were tried, for each destination.
    tried: Vec<Arc<AtomicU64>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Load {
    /// Starts connecting from inside `ns` to every destination, over and over.
    pub fn start(ns: &Namespace, destinations: &[(SocketAddr, Transport)]) -> Result<Self> {
        let report = Arc::new(Mutex::new(LoadReport::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (mut tried, mut threads) = (Vec::new(), Vec::new());
        for (server, transport) in destinations.iter().copied() {
            let (shared, stopped) = (Arc::clone(&report), Arc::clone(&stop));
            let counter = Arc::new(AtomicU64::new(0));
            tried.push(Arc::clone(&counter));
            threads.push(ns.spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    connect_and_count(server, transport, &shared);
                    counter.fetch_add(1, Ordering::Relaxed);
                    thread::park_timeout(PAUSE);
                }
                Ok(())
            })?);
        }
        Ok(Self {
            report,
            tried,
            stop,
            threads,
        })
    }

    /// The counts so far.
    pub fn snapshot(&self) -> LoadReport {
        self.report
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits until `more` further connections were tried, to whichever destinations.
    pub fn wait_for(&self, more: u64) -> Result<()> {
        let tried = |report: LoadReport| report.connections() + report.failures;
        let goal = tried(self.snapshot()) + more;
        let what = format!("{more} further connections");
        clock::eventually(&what, Duration::from_secs(30), || {
            Ok((tried(self.snapshot()) >= goal).then_some(()))
        })
    }

    /// Waits until `more` further connections were tried to each destination.
    pub fn wait_for_each(&self, more: u64) -> Result<()> {
        let tried = || self.tried.iter().map(|one| one.load(Ordering::Relaxed));
        let goals: Vec<u64> = tried().map(|count| count + more).collect();
        let what = format!("{more} further connections to each destination");
        clock::eventually(&what, Duration::from_secs(30), || {
            let is_there = tried().zip(&goals).all(|(count, goal)| count >= *goal);
            Ok(is_there.then_some(()))
        })
    }

    /// Waits until every connection that is under way now has ended and is counted: the next one of each
    /// destination began later.
    pub fn settle(&self) -> Result<()> {
        self.wait_for_each(2)
    }

    /// Ends the load and returns the final counts.
    pub fn stop(mut self) -> Result<LoadReport> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread
                .join()
                .map_err(|_panic| anyhow!("a load thread panicked"))??;
        }
        Ok(self.snapshot())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // Whoever drops a load does not ask for its counts.
            thread.join().ok();
        }
    }
}

fn connect_and_count(server: SocketAddr, transport: Transport, report: &Mutex<LoadReport>) {
    let started = clock::now();
    let outcome = one_short(server, transport, PATIENCE);
    let took = started.elapsed();
    let failure = outcome.as_ref().err();
    let message = failure.map(|error| format!("{transport} {server} after {took:?}: {error}"));
    let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
    report.failures += u64::from(message.is_some());
    let room = KEPT_FAILURES.saturating_sub(report.messages.len());
    report.messages.extend(message.into_iter().take(room));
    if let Ok(greeting) = outcome {
        *report.by_server.entry(greeting.server).or_default() += 1;
        report.slowest = report.slowest.max(took);
    }
    drop(report);
}
