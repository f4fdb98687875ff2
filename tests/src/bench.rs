//! The benches: what it costs, measured on the machine at hand and printed beside the target.
//!
//! Contender and baseline alternate in one run, and ratios come first: they hold elsewhere too.
//!
//! A bench judges nothing: absolute figures say as much about the machine as about the code. The
//! exception is `--smoke`, a run at a hundredth of the size that checks that every figure is there
//! and none is beyond ten times its target.

use std::{
    io::{self, Write as _},
    path::Path,
};

use anyhow::{Result, bail, ensure};

mod bars;
mod compare;
mod course;
mod datapath;
mod document;
mod ground;
mod machine;
mod manifests;
mod net;
mod node;
mod plot;
mod race;
mod report;
mod rig;
mod scale;
mod services;
mod sizes;
mod traffic;
mod uplink;

use self::report::{Kept, Report};
use crate::privilege;

/// What is run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// One group only, by its name.
    pub group: Option<String>,
    /// A hundredth of everything, with checks.
    pub is_smoke: bool,
    /// Of `datapath` only the cases whose names contain this text, and no other group.
    pub only: Option<String>,
}

/// The group that [`Options::only`] is about.
const SELECTIVE: &str = "datapath";

impl Options {
    /// Whether the case is run.
    fn wants(&self, case: &str) -> bool {
        self.only.as_deref().is_none_or(|text| case.contains(text))
    }

    /// Whether a group is run.
    fn wants_group(&self, name: &str) -> bool {
        let group = self.group.as_deref();
        group.is_none_or(|group| group == name) && (self.only.is_none() || name == SELECTIVE)
    }
}

/// A group: its name and how it is run.
type Group = (&'static str, fn(&Options, &mut Report) -> Result<()>);

/// The groups, in the order they are run in.
const GROUPS: [Group; 3] = [
    ("datapath", datapath::run),
    ("net", net::run),
    ("scale", scale::run),
];

/// Runs the benches and prints as they go; with `json`, writes machine and rows to that file too.
pub fn run(options: &Options, json: Option<&Path>) -> Result<()> {
    privilege::require_root()?;
    let known = |name: &str| GROUPS.iter().any(|(group, _)| *group == name);
    if let Some(group) = options.group.as_deref().filter(|group| !known(group)) {
        let names: Vec<&str> = GROUPS.iter().map(|(name, _)| *name).collect();
        bail!("no group {group}: there are {}", names.join(", "));
    }
    ensure!(
        GROUPS.iter().any(|(name, _)| options.wants_group(name)),
        "only {SELECTIVE} can be run in parts"
    );
    let mut report = Report::new(machine::describe()?);
    for (name, run) in GROUPS {
        if options.wants_group(name) {
            report.heading(name);
            run(options, &mut report)?;
            if let Some(path) = json {
                report.write(path)?;
            }
        }
    }
    report.finish(options.is_smoke)
}

/// Prints two kept runs beside each other.
pub fn compare(before: &Path, after: &Path) -> Result<()> {
    let text = compare::compare(&Kept::read(before)?, &Kept::read(after)?);
    // A reader that left has seen enough.
    io::stdout().write_all(text.as_bytes()).ok();
    Ok(())
}

/// Makes `docs/performance.md` and its plots, below `root`, from a kept run.
pub fn document(kept: &Path, root: &Path) -> Result<()> {
    document::write(&Kept::read(kept)?, root)
}
