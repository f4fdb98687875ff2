//! `steerage cleanup`: removes what agents with this pin directory created, and nothing else.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::args::{Output, Places};
use super::error::{CliError, while_doing};
use super::output::{Printer, own_document, show_once};
use crate::audit::{basis, node, report};
use crate::dataplane::bpffs::{
    PinPaths, is_version, parse_link_name, parse_xdp_link_name, read_dir_or_empty,
};
use crate::dataplane::chain;
use crate::dataplane::clsact;
use crate::dataplane::layout::Table;
use crate::dataplane::xdp;
use crate::lock::Lock;
use crate::plan::names;
use crate::status;
use crate::sysctl;

const EXAMPLES: &str = "\
Examples:
  steerage cleanup --dry-run
  steerage cleanup
  steerage cleanup --pin-dir /sys/fs/bpf/lab --state-dir /run/lab";

/// Arguments of `cleanup`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CleanupArgs {
    /// Show what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: Output,
}

/// One thing that goes.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct RemovalView {
    /// What it is.
    kind: RemovalKind,
    /// Where it is.
    path: PathBuf,
    /// Whether it was removed; false in a dry run.
    removed: bool,
}

/// What is removed, in the order in which it is: programs first, then what they use.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
enum RemovalKind {
    /// A program's link to a device: it is detached, its pin removed.
    Link,
    /// A program in a clsact filter of a device.
    Filter,
    /// A map.
    Map,
    /// Earlier values of the kernel's settings: put back, then removed.
    KernelSettings,
    /// A file in the state directory.
    StateFile,
    /// A directory that is empty then.
    Directory,
}

impl RemovalKind {
    const fn text(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Filter => "filter",
            Self::Map => "map",
            Self::KernelSettings => "kernel settings kept in",
            Self::StateFile => "file",
            Self::Directory => "directory",
        }
    }
}

pub(crate) fn run(args: &CleanupArgs, places: &Places) -> Result<(), CliError> {
    let printer = Printer::new(&args.output, places);
    // A living agent would use what is removed.
    let _lock = if !args.dry_run && places.pin_dir.is_dir() {
        Some(Lock::take(&places.pin_dir)?)
    } else {
        None
    };
    let mut removals = plan(&places.pin_dir, &places.state_dir)
        .map_err(while_doing("listing what there is to remove"))?;
    let mut failures = Vec::new();
    if !args.dry_run {
        for removal in &mut removals {
            match remove(removal) {
                Ok(()) => removal.removed = true,
                // The rest must go all the same; a directory that others use stays.
                Err(error) if is_in_use(removal, &error) => {}
                Err(error) => failures.push((removal.path.clone(), error)),
            }
        }
        removals.retain(|removal| removal.removed || removal.kind != RemovalKind::Directory);
    }
    let document = own_document("RemovalList", removals);
    show_once(printer.print(&document, |out, items, _| {
        removals_into(out, items, args.dry_run)
    })?)?;
    match failures.into_iter().next() {
        Some((path, error)) => Err(while_doing(format!("removing {}", path.display()))(error)),
        None => Ok(()),
    }
}

fn removals_into(out: &mut impl Write, removals: &[RemovalView], is_dry: bool) -> io::Result<()> {
    if removals.is_empty() {
        return writeln!(out, "nothing to remove");
    }
    for removal in removals {
        let verb = match (is_dry, removal.removed) {
            (true, _) => "would remove",
            (false, true) => "removed",
            (false, false) => "failed to remove",
        };
        writeln!(
            out,
            "{verb} {} {}",
            removal.kind.text(),
            removal.path.display()
        )?;
    }
    Ok(())
}

/// Everything of ours under both directories, in the order of removal. What has another name than
/// we give is not ours.
fn plan(pin_dir: &Path, state_dir: &Path) -> io::Result<Vec<RemovalView>> {
    let mut removals = Vec::new();
    let mut add = |kind, path| {
        removals.push(RemovalView {
            kind,
            path,
            removed: false,
        });
    };
    for version in names_in(pin_dir)?
        .into_iter()
        .filter(|name| is_version(name))
    {
        let version = pin_dir.join(version);
        let links = version.join("links");
        for name in names_in(&links)? {
            if parse_link_name(&name).is_some() || parse_xdp_link_name(&name).is_some() {
                add(RemovalKind::Link, links.join(name));
            }
        }
        let clsact = version.join("clsact");
        for name in names_in(&clsact)? {
            if name.parse::<u32>().is_ok() {
                add(RemovalKind::Filter, clsact.join(name));
            }
        }
        let maps = version.join("maps");
        for name in names_in(&maps)? {
            let is_table = Table::ALL.iter().any(|table| table.name() == name);
            if is_table || chain::ARRAYS.contains(&&*name) {
                add(RemovalKind::Map, maps.join(name));
            }
        }
        for directory in [links, clsact, maps, version] {
            if directory.is_dir() {
                add(RemovalKind::Directory, directory);
            }
        }
    }
    if pin_dir.is_dir() {
        add(RemovalKind::Directory, pin_dir.to_owned());
    }
    let kept = state_dir.join(sysctl::FILE_NAME);
    if kept.exists() {
        add(RemovalKind::KernelSettings, kept);
    }
    for name in [
        names::FILE_NAME,
        status::FILE_NAME,
        basis::FILE_NAME,
        node::FILE_NAME,
        report::FILE_NAME,
        report::REQUEST_NAME,
    ] {
        let path = state_dir.join(name);
        if path.exists() {
            add(RemovalKind::StateFile, path);
        }
    }
    if state_dir.is_dir() {
        add(RemovalKind::Directory, state_dir.to_owned());
    }
    // Stable: inner directories stay before outer ones.
    removals.sort_by_key(|removal| removal.kind);
    Ok(removals)
}

fn names_in(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in read_dir_or_empty(directory)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

fn remove(removal: &RemovalView) -> io::Result<()> {
    match removal.kind {
        RemovalKind::Link => xdp::release(&removal.path),
        RemovalKind::Map | RemovalKind::StateFile => fs::remove_file(&removal.path),
        RemovalKind::Filter => remove_filter(&removal.path),
        RemovalKind::KernelSettings => {
            let directory = removal.path.parent().ok_or(io::ErrorKind::InvalidInput)?;
            sysctl::restore(directory).map_err(io::Error::other)?;
            fs::remove_file(&removal.path)
        }
        RemovalKind::Directory => fs::remove_dir(&removal.path),
    }
}

/// Undoes what was done at the device that `mark` is named after: `<version>/clsact/<ifindex>`.
fn remove_filter(mark: &Path) -> io::Result<()> {
    let interface = mark
        .file_name()
        .and_then(|name| name.to_str()?.parse().ok())
        .ok_or(io::ErrorKind::InvalidInput)?;
    let paths = mark
        .ancestors()
        .nth(2)
        .and_then(PinPaths::of_version)
        .ok_or(io::ErrorKind::InvalidInput)?;
    clsact::remove(&paths, interface)
}

/// Whether a directory stays because something that is not ours is in it, or it is a mount point.
fn is_in_use(removal: &RemovalView, error: &io::Error) -> bool {
    removal.kind == RemovalKind::Directory
        && matches!(
            error.kind(),
            io::ErrorKind::DirectoryNotEmpty
                | io::ErrorKind::ResourceBusy
                | io::ErrorKind::NotFound
        )
}
