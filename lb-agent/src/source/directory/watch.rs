//! The kernel's word on when the directory changes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

use super::MAX_QUIETS;
use super::scan::format_of;
use crate::source::report::{Detail, FieldProblem, Problem};

/// What has happened since it was last asked.
#[derive(Debug, Default)]
struct Pending {
    names: Mutex<BTreeSet<String>>,
    /// Whether the watched directory itself is gone; another may have its inode by now.
    is_lost: AtomicBool,
    wake: Notify,
}

/// Watches a directory by inotify.
#[derive(Debug)]
pub(super) struct Watch {
    path: PathBuf,
    rescan: Duration,
    pending: Arc<Pending>,
    /// The watcher, for the directory of this identity.
    watcher: Option<((u64, u64), RecommendedWatcher)>,
    failure: Option<notify::Error>,
}

impl Watch {
    /// A watch of nothing yet.
    pub(super) fn new(path: PathBuf, rescan: Duration) -> Self {
        Self {
            path,
            rescan,
            pending: Arc::default(),
            watcher: None,
            failure: None,
        }
    }

    /// Watches the directory that is there now, which may be another than before.
    pub(super) fn renew(&mut self, identity: Option<(u64, u64)>) {
        let is_lost = self.pending.is_lost.swap(false, Ordering::Relaxed);
        if !is_lost && self.watcher.as_ref().map(|(watched, _)| *watched) == identity {
            return;
        }
        self.watcher = None;
        self.failure = None;
        let Some(identity) = identity else { return };
        match self.start() {
            Ok(watcher) => self.watcher = Some((identity, watcher)),
            Err(error) => self.failure = Some(error),
        }
    }

    /// The names of the files that were said to have changed.
    pub(super) fn take(&self) -> BTreeSet<String> {
        std::mem::take(
            &mut *self
                .pending
                .names
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Why the directory is not watched, if it is not.
    pub(super) fn problem(&self) -> Option<Problem> {
        let error = self.failure.as_ref()?;
        let detail = Detail::Unwatched {
            message: error.to_string(),
            seconds: self.rescan.as_secs(),
        };
        Some(Problem {
            file: self.path.display().to_string().into(),
            position: None,
            object: None,
            problem: FieldProblem::new("", detail),
        })
    }

    /// Returns once something changed and it has been quiet for a moment, or patience is over.
    pub(super) async fn changed(&self, patience: Duration, quiet: Duration) {
        let first = tokio::time::timeout(patience, self.pending.wake.notified()).await;
        if first.is_err() {
            return;
        }
        for _ in 0..MAX_QUIETS {
            if tokio::time::timeout(quiet, self.pending.wake.notified())
                .await
                .is_err()
            {
                return;
            }
        }
    }

    fn start(&self) -> notify::Result<RecommendedWatcher> {
        let (pending, path) = (Arc::clone(&self.pending), self.path.clone());
        let mut watcher = notify::recommended_watcher(move |event| pending.note(&path, event))?;
        watcher.watch(&self.path, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    }
}

impl Pending {
    fn note(&self, directory: &Path, event: notify::Result<notify::Event>) {
        // An error, such as a queue that overflowed, means that anything may have changed.
        if let Ok(event) = event {
            // Our own reading is an event too.
            if matches!(event.kind, EventKind::Access(access) if !is_write_end(access)) {
                return;
            }
            let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            for path in &event.paths {
                if path == directory {
                    self.is_lost.store(true, Ordering::Relaxed);
                }
                let name = path.file_name().and_then(|name| name.to_str());
                if let Some(name) = name.filter(|name| format_of(name).is_some()) {
                    names.insert(name.to_owned());
                }
            }
        }
        self.wake.notify_one();
    }
}

const fn is_write_end(access: notify::event::AccessKind) -> bool {
    use notify::event::{AccessKind, AccessMode};
    matches!(access, AccessKind::Close(AccessMode::Write))
}
