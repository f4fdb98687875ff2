//! What the answers and the test's hand share: one lock, and one signal that something changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use rustls::ServerConfig;
use tokio::sync::watch;

use super::access::{Access, Request};
use super::fault::{Cut, Rule};
use super::resource::Resource;
use super::store::Store;

/// What the test has asked of the streams of one resource, and how often.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Control {
    /// How many bookmarks every stream should have sent.
    pub(super) bookmarks: u64,
    /// How many times streams were cut.
    pub(super) cuts: u64,
    /// How they were, the last time.
    pub(super) cut: Option<Cut>,
    /// Whether streams keep quiet.
    pub(super) is_silent: bool,
    /// Whether the next event that is sent breaks off in its middle.
    pub(super) breaks_next: bool,
    /// Streams that are open.
    pub(super) open: usize,
}

/// Everything behind the lock.
#[derive(Debug)]
pub(super) struct State {
    pub(super) store: Store,
    pub(super) access: Access,
    pub(super) faults: Vec<Rule>,
    pub(super) log: Vec<Request>,
    pub(super) controls: BTreeMap<Resource, Control>,
    /// Whether watches may begin with the list.
    pub(super) streams_lists: bool,
    /// Resources that this server has never heard of.
    pub(super) unknown: BTreeSet<Resource>,
    /// What connections are accepted with; plain text if there is none.
    pub(super) tls: Option<Arc<ServerConfig>>,
    /// Requests so far: each answer carries a number of its own.
    pub(super) answers: u64,
}

impl State {
    /// A stream of a resource is over.
    pub(super) fn stream_closed(&mut self, resource: Resource) {
        let control = self.controls.entry(resource).or_default();
        control.open = control.open.saturating_sub(1);
    }
}

/// The state and its signal.
#[derive(Debug)]
pub(super) struct Inner {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

impl Inner {
    /// A server that holds nothing yet.
    pub(super) fn new(tls: Option<Arc<ServerConfig>>) -> Self {
        Self {
            state: Mutex::new(State {
                store: Store::new(),
                access: Access::default(),
                faults: Vec::new(),
                log: Vec::new(),
                controls: BTreeMap::new(),
                streams_lists: true,
                unknown: BTreeSet::new(),
                tls,
                answers: 0,
            }),
            changed: watch::Sender::new(()),
        }
    }

    /// The state. A thread that panicked with the lock has failed its test already.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Changes the state and wakes every stream.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.send_replace(());
        result
    }

    /// Told of every change from now on.
    pub(super) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}
