//! Reading the directory: which files there are, and which of them changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io::{self, BufReader, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::holdings::{FileContent, Holdings};
use super::parse;
use super::text::Format;
use crate::model::event::{Event, Kind};
use crate::source::intern::Interner;
use crate::source::report::{Detail, FieldProblem, Problem, SourceReport};

/// The largest file that is read.
pub const MAX_FILE_BYTES: u64 = 64 << 20;

/// What tells that a file has not changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// The outcome of a scan.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) events: Vec<Event>,
    /// Whether a file changed while it was read, so that another scan is due.
    pub(super) is_torn: bool,
}

/// Reads a directory again and again.
#[derive(Debug)]
pub(super) struct Scanner {
    path: PathBuf,
    stamps: BTreeMap<Arc<str>, Stamp>,
    holdings: Holdings,
    interner: Interner,
    /// Why the directory could not be read the last time.
    failure: Option<Problem>,
    has_listed: bool,
}

impl Scanner {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            stamps: BTreeMap::new(),
            holdings: Holdings::default(),
            interner: Interner::default(),
            failure: None,
            has_listed: false,
        }
    }

    /// Device and inode of the directory, which change when another takes its place.
    pub(super) fn identity(&self) -> Option<(u64, u64)> {
        fs::metadata(&self.path)
            .ok()
            .map(|metadata| (metadata.dev(), metadata.ino()))
    }

    /// Reads what changed, and the files of these names in any case: a file can change twice
    /// within one tick of the clock that stamps it. The first scan ends with a full list.
    pub(super) fn scan(&mut self, named: &BTreeSet<String>) -> io::Result<Scan> {
        let files = match list(&self.path) {
            Ok(files) => files,
            Err(error) => {
                self.failure = Some(unreadable(self.path.display().to_string().into(), &error));
                return Err(error);
            }
        };
        self.failure = None;
        let mut is_torn = false;
        let mut changes = Vec::new();
        for name in self.holdings.file_names() {
            if !files.contains_key(&*name) {
                self.stamps.remove(&name);
                changes.push((name, None));
            }
        }
        self.stamps.retain(|name, _| files.contains_key(&**name));
        for (name, format) in files {
            let name = Arc::<str>::from(name);
            let before = match fs::metadata(self.path.join(&*name)) {
                Ok(metadata) => Some(Stamp::of(&metadata)),
                Err(_) => None,
            };
            let is_known = before.is_some() && self.stamps.get(&name) == before.as_ref();
            if is_known && !named.contains(&*name) {
                continue;
            }
            let content = self.read(&name, format);
            let after = fs::metadata(self.path.join(&*name))
                .ok()
                .as_ref()
                .map(Stamp::of);
            if before != after && self.has_listed {
                // Half of one text and half of another: what it held stays until it is quiet.
                is_torn = true;
                self.stamps.remove(&name);
                continue;
            }
            is_torn |= before != after;
            if let Some(stamp) = before {
                self.stamps.insert(Arc::clone(&name), stamp);
            }
            changes.push((name, content));
        }
        let mut events = self.holdings.replace(changes);
        self.interner.sweep();
        if !self.has_listed {
            self.has_listed = true;
            events.extend(Kind::ALL.map(Event::Listed));
        }
        Ok(Scan { events, is_torn })
    }

    /// All that is wrong at present.
    pub(super) fn report(&self) -> SourceReport {
        let mut report = self.holdings.report();
        report.problems.extend(self.failure.clone());
        report
    }

    /// What a file holds; nothing when it is gone.
    fn read(&mut self, name: &Arc<str>, format: Format) -> Option<FileContent> {
        let path = self.path.join(&**name);
        let content = File::open(path).and_then(|file| {
            if file.metadata()?.len() > MAX_FILE_BYTES {
                return Ok(None);
            }
            // A file that grows meanwhile ends here, and is read again since its stamp changes.
            let reader = BufReader::new(file.take(MAX_FILE_BYTES));
            parse::parse_file(name, format, reader, &mut self.interner).map(Some)
        });
        let problem = match content {
            Ok(Some(content)) => return Some(content),
            Ok(None) => Problem {
                file: Arc::clone(name),
                position: None,
                object: None,
                problem: FieldProblem::new(
                    "",
                    Detail::TooLarge {
                        limit_mib: MAX_FILE_BYTES >> 20,
                    },
                ),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => unreadable(Arc::clone(name), &error),
        };
        Some(FileContent {
            problems: vec![problem],
            is_partial: true,
            ..FileContent::default()
        })
    }
}

fn unreadable(file: Arc<str>, error: &io::Error) -> Problem {
    let detail = Detail::Unreadable {
        message: error.to_string(),
    };
    Problem {
        file,
        position: None,
        object: None,
        problem: FieldProblem::new("", detail),
    }
}

/// The manifests of a directory, by name.
fn list(path: &Path) -> io::Result<BTreeMap<String, Format>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let Some(format) = format_of(&name) else {
            continue;
        };
        // Through symbolic links, since that is how ConfigMaps are mounted.
        if !fs::metadata(entry.path()).is_ok_and(|metadata| metadata.is_dir()) {
            files.insert(name, format);
        }
    }
    Ok(files)
}

/// How a file is written; nothing for one that is no manifest, or hidden.
pub(super) fn format_of(name: &str) -> Option<Format> {
    if name.starts_with('.') {
        return None;
    }
    match Path::new(name).extension()?.to_str()? {
        "yaml" | "yml" => Some(Format::Yaml),
        "json" => Some(Format::Json),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
