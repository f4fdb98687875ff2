//! The benches: what it costs, measured on the machine at hand and printed beside the target.
//!
//! A bench judges nothing: absolute figures say as much about the machine as about the code. The
//! exception is `--smoke`, a run at a hundredth of the size that checks that every figure is there
//! and none is beyond ten times its target.

use std::path::Path;

use anyhow::{Result, bail};

mod datapath;
mod machine;
mod manifests;
mod node;
mod report;
mod scale;

use self::report::Report;
use crate::privilege;

/// What is run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// One group only, by its name.
    pub group: Option<String>,
    /// A hundredth of everything, with checks.
    pub is_smoke: bool,
}

/// A group: its name and how it is run.
type Group = (&'static str, fn(&Options, &mut Report) -> Result<()>);

/// The groups, in the order they are run in.
const GROUPS: [Group; 2] = [("scale", scale::run), ("datapath", datapath::run)];

/// Runs the benches and prints as they go; with `json`, writes machine and rows to that file too.
pub fn run(options: &Options, json: Option<&Path>) -> Result<()> {
    privilege::require_root()?;
    let known = |name: &str| GROUPS.iter().any(|(group, _)| *group == name);
    if let Some(group) = options.group.as_deref().filter(|group| !known(group)) {
        let names: Vec<&str> = GROUPS.iter().map(|(name, _)| *name).collect();
        bail!("no group {group}: there are {}", names.join(", "));
    }
    let mut report = Report::new(machine::describe()?);
    for (name, run) in GROUPS {
        if options.group.as_deref().is_none_or(|group| group == name) {
            report.heading(name);
            run(options, &mut report)?;
        }
    }
    report.finish(options.is_smoke, json)
}
