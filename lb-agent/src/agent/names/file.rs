//! The names file as it is written: whole at first, then longer by the lines of what changes, and whole
//! again once those are half as much as the rest. So a change costs its own line, and a cluster's
//! names are copied no more often than they have changed by half.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use serde::Deserialize;

use super::{Changes, Place};
use crate::memory;
use crate::model::name::ObjectName;
use crate::plan::NodeView;
use crate::plan::names::{Head, ServiceNames};
use crate::plan::snapshot::ServiceSnapshot;
use crate::state_file::{BUFFER, Replacement, write_line};

/// Bytes of appended lines that are never worth writing the file anew.
const LEAST: u64 = 1 << 16;

/// The file, and what this agent has written to it.
#[derive(Debug)]
pub(super) struct NamesFile {
    path: PathBuf,
    /// `None` while the file is another agent's: its lines are not kept, since what is gone
    /// meanwhile would stay.
    content: Option<Content>,
}

/// Where the lines are.
#[derive(Debug)]
struct Content {
    /// The first line.
    head: Vec<u8>,
    /// Bytes until the end of the lines that are in the order of names, the first line among them.
    ordered: u64,
    /// Bytes of the file.
    length: u64,
    /// The last line of each Service that has one behind those.
    appended: BTreeMap<ObjectName, Span>,
}

/// A line that was appended.
#[derive(Clone, Copy, Debug)]
struct Span {
    offset: u64,
    length: usize,
    /// Whether it says that there is no such Service.
    is_gone: bool,
}

/// What a line is about.
#[derive(Deserialize)]
struct LineName<'a> {
    #[serde(borrow)]
    namespace: &'a str,
    #[serde(borrow)]
    name: &'a str,
}

/// The newest of a Service, for a file that is written anew.
enum Newest {
    Appended(Span),
    Changed(Option<ServiceSnapshot>),
}

impl NamesFile {
    pub(super) const fn new(path: PathBuf) -> Self {
        Self {
            path,
            content: None,
        }
    }

    /// Makes the file say what has changed.
    pub(super) fn write(&mut self, head: &Head, place: &Place, changes: Changes) -> io::Result<()> {
        let mut line = Vec::new();
        write_line(&mut line, head)?;
        let is_large = changes.len() > 1000;
        match &mut self.content {
            Some(content) if content.has_room() && content.head == line => {
                content.append(&self.path, &place.view(), changes)?;
            }
            _ => self.replace(line, place, changes)?,
        }
        if is_large {
            memory::give_back();
        }
        Ok(())
    }

    /// Writes the file anew, with the newest line of each Service in the order of names.
    fn replace(&mut self, head: Vec<u8>, place: &Place, changes: Changes) -> io::Result<()> {
        let node = place.view();
        let mut replacement = Replacement::new(&self.path)?;
        let out = replacement.writer();
        out.write_all(&head)?;
        let old = self.content.take();
        let appended = old.iter().flat_map(|old| &old.appended);
        let mut newest: BTreeMap<ObjectName, Newest> = appended
            .map(|(name, span)| (name.clone(), Newest::Appended(*span)))
            .collect();
        let changes = changes.into_iter();
        newest.extend(changes.map(|(name, snapshot)| (name, Newest::Changed(snapshot))));
        match old {
            Some(old) => {
                let file = File::open(&self.path)?;
                merge(out, &file, old.ordered, newest, &node)?;
            }
            None => {
                for snapshot in newest.into_values() {
                    if let Newest::Changed(snapshot) = snapshot {
                        write_names(out, snapshot, &node)?;
                    }
                }
            }
        }
        replacement.finish()?;
        let length = std::fs::metadata(&self.path)?.len();
        self.content = Some(Content {
            head,
            ordered: length,
            length,
            appended: BTreeMap::new(),
        });
        Ok(())
    }
}

impl Content {
    /// Whether there may be more appended lines.
    const fn has_room(&self) -> bool {
        let most = self.ordered / 2;
        self.length - self.ordered <= if most > LEAST { most } else { LEAST }
    }

    fn append(
        &mut self,
        path: &std::path::Path,
        node: &NodeView<'_>,
        changes: Changes,
    ) -> io::Result<()> {
        let file = OpenOptions::new().append(true).open(path)?;
        if file.metadata()?.len() != self.length {
            return Err(io::Error::other("somebody else has written to it"));
        }
        // After a listing all lines together are as large as the file.
        let mut out = BufWriter::with_capacity(BUFFER, file);
        let mut text = Vec::new();
        let mut offset = self.length;
        for (name, snapshot) in changes {
            text.clear();
            let is_gone = snapshot.is_none();
            let line = match snapshot {
                Some(snapshot) => snapshot.names(node),
                None => ServiceNames {
                    namespace: name.namespace.to_string(),
                    name: name.name.to_string(),
                    ..ServiceNames::default()
                },
            };
            write_line(&mut text, &line)?;
            out.write_all(&text)?;
            let length = text.len();
            let span = Span {
                offset,
                length,
                is_gone,
            };
            self.appended.insert(name, span);
            offset += length as u64;
        }
        out.flush()?;
        self.length = offset;
        Ok(())
    }
}

/// Copies the ordered lines of a file to `out`, but for those of which there is a newer one.
fn merge(
    out: &mut impl Write,
    old: &File,
    ordered: u64,
    newest: BTreeMap<ObjectName, Newest>,
    node: &NodeView<'_>,
) -> io::Result<()> {
    let mut newest = newest.into_iter().peekable();
    let write = |out: &mut _, line: Newest| match line {
        Newest::Changed(snapshot) => write_names(out, snapshot, node),
        Newest::Appended(span) => copy(out, old, span),
    };
    let mut lines = BufReader::with_capacity(BUFFER, old.take(ordered));
    let mut line = Vec::new();
    lines.read_until(b'\n', &mut line)?;
    loop {
        line.clear();
        if lines.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let LineName { namespace, name } = serde_json::from_slice(&line)?;
        let place = |newer: &ObjectName| (&*newer.namespace, &*newer.name).cmp(&(namespace, name));
        while let Some((_, newer)) = newest.next_if(|(it, _)| place(it).is_lt()) {
            write(out, newer)?;
        }
        match newest.next_if(|(it, _)| place(it).is_eq()) {
            Some((_, newer)) => write(out, newer)?,
            None => out.write_all(&line)?,
        }
    }
    for (_, newer) in newest {
        write(out, newer)?;
    }
    Ok(())
}

fn copy(out: &mut impl Write, old: &File, span: Span) -> io::Result<()> {
    if span.is_gone {
        return Ok(());
    }
    let mut line = vec![0; span.length];
    old.read_exact_at(&mut line, span.offset)?;
    out.write_all(&line)
}

fn write_names(
    out: &mut impl Write,
    snapshot: Option<ServiceSnapshot>,
    node: &NodeView<'_>,
) -> io::Result<()> {
    snapshot.map_or(Ok(()), |snapshot| write_line(out, &snapshot.names(node)))
}
