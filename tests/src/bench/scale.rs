//! 10 000 Services of 10 endpoints in each family: how long until the kernel has them, what they
//! take, and how long one change takes.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lb_agent::dataplane::{layout::Table, tables::WordReader};

use super::{
    Options,
    manifests::{ENDPOINTS, Format, Manifests},
    node::{Node, Start, time_until},
    report::{Figure, Report},
};
use crate::{clock, scenario::to_f64};

/// Services of a full run.
const SERVICES: u32 = 10_000;
/// Times one endpoint is changed.
const CHANGES: u32 = 9;

/// Runs the group.
pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let services = if options.is_smoke {
        SERVICES / 100
    } else {
        SERVICES
    };
    let directory = tempfile::tempdir().context("make a directory for manifests")?;
    let case = format!("{services} Services × {ENDPOINTS} × 2");
    report.say("  seconds are wall clock unless they are of the processor; memory of the agent is");
    report.say("  looked at every 10 ms, so shorter peaks are missed");
    if !options.is_smoke {
        let start = cold_start(directory.path(), Format::Yaml, services)?;
        times(&format!("{case}, YAML"), &start, report);
    }
    let began = clock::now();
    let manifests = Manifests::write(directory.path(), Format::Json, services)?;
    report.say(&format!(
        "  {} MiB of manifests written in {:.1?}",
        manifests.bytes()? >> 20,
        began.elapsed()
    ));
    let mut node = Node::new(directory.path())?;
    let start = node.start(&manifests.directory)?;
    times(&format!("{case}, JSON"), &start, report);
    tables(&case, &node, report)?;
    memory(&case, "cold start", start.peak, &node, report)?;
    let peak = changes(&case, services, &node, &manifests, report)?;
    memory(&case, "changes", peak, &node, report)?;
    node.stop()?;
    let again = node.start(&manifests.directory)?;
    times(&format!("{case}, restart"), &again, report);
    memory(&case, "restart", again.peak, &node, report)?;
    node.finish()
}

/// A cold start on a node of its own.
fn cold_start(directory: &Path, format: Format, services: u32) -> Result<Start> {
    let manifests = Manifests::write(directory, format, services)?;
    let mut node = Node::new(directory)?;
    let start = node.start(&manifests.directory)?;
    node.finish()?;
    Ok(start)
}

fn times(case: &str, start: &Start, report: &mut Report) {
    let parsing = start
        .synced
        .saturating_sub(start.loaded)
        .saturating_sub(start.programmed);
    for (figure, time) in [
        (
            Figure::new("programs loaded and verified", "s"),
            start.loaded,
        ),
        (Figure::new("files read and parsed", "s"), parsing),
        (
            Figure::new("objects parsed to maps complete", "s").at_most(3.0),
            start.programmed,
        ),
        (
            Figure::new("the same and names, processor time", "s"),
            start.planner,
        ),
        (Figure::new("start in all", "s"), start.synced),
        (Figure::new("start, processor time", "s"), start.processor),
    ] {
        report.add(case, figure, &[time.as_secs_f64()]);
    }
}

/// Memory of the maps.
fn tables(case: &str, node: &Node, report: &mut Report) -> Result<()> {
    let sum = |tables: &[Table]| -> Result<f64> {
        let bytes: Result<Vec<u64>> = tables.iter().map(|it| node.table_bytes(*it)).collect();
        Ok(mebibytes(bytes?.iter().sum::<u64>() / 1024))
    };
    let flows = [
        Table::FlowsV4,
        Table::FlowsV6,
        Table::Fragments,
        Table::Affinity,
    ];
    let others: Vec<Table> = Table::ALL
        .into_iter()
        .filter(|table| !flows.contains(table))
        .collect();
    for table in [
        Table::Arena,
        Table::Backends,
        Table::Frontends,
        Table::Services,
    ] {
        let figure = Figure::new(table.name(), "MiB");
        report.add(case, figure, &[sum(&[table])?]);
    }
    let figure = Figure::new("maps of services and backends, in all", "MiB").at_most(64.0);
    report.add(case, figure, &[sum(&others)?]);
    let figure = Figure::new("maps of flows", "MiB");
    report.add(case, figure, &[sum(&flows)?]);
    Ok(())
}

fn memory(case: &str, when: &str, peak: u64, node: &Node, report: &mut Report) -> Result<()> {
    let now = node.memory()?;
    let case = format!("{case}, {when}");
    let figure = Figure::new("agent's own memory, peak", "MiB").at_most(120.0);
    report.add(&case, figure, &[mebibytes(peak.max(now.anonymous))]);
    let figure = Figure::new("agent's own memory, afterwards", "MiB");
    report.add(&case, figure, &[mebibytes(now.anonymous)]);
    let figure = Figure::new("program and maps that it has mapped", "MiB");
    report.add(&case, figure, &[mebibytes(now.mapped)]);
    Ok(())
}

/// Moves one endpoint, again and again; returns the most memory seen in between.
fn changes(
    case: &str,
    services: u32,
    node: &Node,
    manifests: &Manifests,
    report: &mut Report,
) -> Result<u64> {
    let table = WordReader::open(&node.paths(), Table::Services)?;
    let (mut writing, mut seen, mut peak) = (Vec::new(), Vec::new(), 0);
    for version in 1..=CHANGES {
        let service = services / (CHANGES + 1) * version;
        let syncs = node.status().context("the agent has a status")?.syncs;
        let before = table.copy();
        let began = clock::now();
        manifests.replace(service, version)?;
        let visible = time_until("a change shows in the maps", began, || {
            table.copy() != before
        })?;
        seen.push(milliseconds(visible));
        writing.push(milliseconds(node.await_change(syncs)?));
        peak = peak.max(node.memory()?.anonymous);
    }
    let case = format!("{case}, 1 endpoint");
    ensure!(writing.len() == seen.len(), "as many changes as answers");
    let figure = Figure::new("change parsed to maps written", "ms").at_most(5.0);
    report.add(&case, figure, &writing);
    report
        .say("  of the next figure 100 ms are the quiet the directory is given before it is read");
    let figure = Figure::new("file renamed to map changed", "ms");
    report.add(&case, figure, &seen);
    Ok(peak)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn mebibytes(kibibytes: u64) -> f64 {
    to_f64(kibibytes) / 1024.0
}
