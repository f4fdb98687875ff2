//! A directory of ordinary Kubernetes manifests, watched for changes: `--source dir:PATH`.
//!
//! * Read are `*.yaml`, `*.yml` and `*.json` directly in the directory (as `kubectl apply -f`
//!   does without `-R`), in the order of their names. Hidden files and editors' copies are not.
//! * A YAML file may have several documents, and a document may be a `List`. Kinds other than
//!   Service, `EndpointSlice`, Node and `ServiceCIDR` are ignored. A namespace that is not named
//!   is `default`.
//! * What is broken is reported with its place, and *what the file held before stays* until it is
//!   repaired. Nothing stays over a restart of the agent: a broken document is then not there.
//! * A directory that vanishes says nothing about its objects: they stay until it is back.
//! * Write files whole, by a rename: one that is written slowly may be read in between.
//!
//! Changes come by inotify, after a moment of quiet. Since events can be lost, the directory is
//! also looked through from time to time, which costs a `stat` per file.

mod document;
mod header;
mod holdings;
mod object;
mod parse;
mod scan;
mod text;
mod watch;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, watch as channel};

pub use self::scan::MAX_FILE_BYTES;
use self::scan::{Scan, Scanner};
use self::watch::Watch;
use crate::model::event::Event;
use crate::source::report::SourceReport;

/// Where to read and how often.
#[derive(Clone, Debug)]
pub struct DirectoryOptions {
    /// The directory.
    pub path: PathBuf,
    /// How long nothing must have happened before changes are read.
    pub quiet: Duration,
    /// How often to look through the directory without being told.
    pub rescan: Duration,
}

impl DirectoryOptions {
    /// The usual: 100 ms of quiet, every 30 s in any case.
    pub const fn new(path: PathBuf) -> Self {
        Self {
            path,
            quiet: Duration::from_millis(100),
            rescan: Duration::from_secs(30),
        }
    }
}

/// Why a directory cannot be a source.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It could not be read at the start: check `--source`, and the permissions. Nothing has been
    /// programmed.
    #[error("read the directory {path} of --source: {source}; name a directory that can be read")]
    Unreadable {
        /// The directory.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The reader ended by a panic: a bug.
    #[error("the reader of the directory {path} ended unexpectedly: {source}")]
    Reader {
        /// The directory.
        path: PathBuf,
        /// How it ended.
        #[source]
        source: tokio::task::JoinError,
    },
}

/// How long changes may keep a scan waiting, in moments of quiet.
const MAX_QUIETS: u32 = 10;

/// Reads the directory and sends what there is, then what changes, until nobody receives.
///
/// The first batch ends with a `Listed` of every kind. The report is replaced whenever what is
/// wrong changes. Watching begins before the first reading, so that no change falls between.
pub async fn run(
    options: DirectoryOptions,
    events: mpsc::Sender<Vec<Event>>,
    reports: channel::Sender<SourceReport>,
) -> Result<(), DirectoryError> {
    let mut watch = Watch::new(options.path.clone(), options.rescan);
    let mut scanner = Scanner::new(options.path.clone());
    let mut is_first = true;
    loop {
        watch.renew(scanner.identity());
        let named = watch.take();
        let (returned, result) = scan(&options, scanner, named).await?;
        scanner = returned;
        let (batch, is_calm) = match result {
            Ok(Scan { events, is_torn }) => (events, !is_torn),
            Err(source) if is_first => {
                return Err(DirectoryError::Unreadable {
                    path: options.path,
                    source,
                });
            }
            // Nothing tells when a directory comes back.
            Err(_) => (Vec::new(), false),
        };
        is_first = false;
        let mut report = scanner.report();
        report.problems.extend(watch.problem());
        reports.send_if_modified(|current| {
            let is_new = *current != report;
            *current = report;
            is_new
        });
        if !batch.is_empty() && events.send(batch).await.is_err() {
            return Ok(());
        }
        let patience = if is_calm {
            options.rescan
        } else {
            options.rescan.min(RETRY)
        };
        tokio::select! {
            () = events.closed() => return Ok(()),
            () = watch.changed(patience, options.quiet) => {}
        }
    }
}

/// A directory that is read when it is told to, and not watched: for tests of what becomes of
/// manifests.
#[derive(Debug)]
pub struct Reading(Scanner);

impl Reading {
    /// Reads nothing yet.
    pub fn new(path: PathBuf) -> Self {
        Self(Scanner::new(path))
    }

    /// What has changed since the last reading, and all that is wrong now. Files in `written` are
    /// read whether they look changed or not.
    pub fn read(&mut self, written: &BTreeSet<String>) -> io::Result<(Vec<Event>, SourceReport)> {
        let scan = self.0.scan(written)?;
        Ok((scan.events, self.0.report()))
    }
}

/// How soon to look again at a directory that is gone or a file that was being written.
const RETRY: Duration = Duration::from_secs(1);

/// One scan, off the threads that serve the network.
async fn scan(
    options: &DirectoryOptions,
    mut scanner: Scanner,
    named: BTreeSet<String>,
) -> Result<(Scanner, io::Result<Scan>), DirectoryError> {
    let work = tokio::task::spawn_blocking(move || {
        let result = scanner.scan(&named);
        (scanner, result)
    });
    work.await.map_err(|source| DirectoryError::Reader {
        path: options.path.clone(),
        source,
    })
}

#[cfg(test)]
mod tests;
