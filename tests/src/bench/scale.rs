//! 10 000 Services of 10 endpoints in each family: how long until the kernel has them, what they
//! take, how long one change takes, and what twice as many cost; then likewise through an API server.
//! And a million flows, and the tables by which backends are chosen.
//!
//! Seconds of the processor are what the agent itself took, so that they say little about what else
//! the machine did; seconds without that word are by the clock on the wall.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lb_agent::dataplane::{layout::Table, tables::WordReader};

mod api;
mod conntrack;
mod maglev;

use super::{
    Options, bars,
    manifests::{ENDPOINTS, Format, Manifests},
    node::{Node, Start, time_until},
    report::{Figure, Report},
    sizes,
};
use crate::{clock, scenario::to_f64};

/// Services of a full run.
const SERVICES: u32 = 10_000;
/// Times one endpoint is changed.
const CHANGES: u32 = 200;

/// Runs the group.
pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let (services, count) = if options.is_smoke {
        (SERVICES / 100, CHANGES / 20)
    } else {
        (SERVICES, CHANGES)
    };
    maglev::run(options, report)?;
    conntrack::run(options, report)?;
    noise(options, services / 10, report)?;
    let directory = tempfile::tempdir().context("make a directory for manifests")?;
    let case = name(services);
    report.say("  memory of the agent is looked at every 10 ms, so shorter peaks are missed");
    let began = clock::now();
    let manifests = Manifests::write(directory.path(), Format::Json, services)?;
    report.say(&format!(
        "  {} MiB of manifests written in {:.1?}",
        manifests.bytes()? >> 20,
        began.elapsed()
    ));
    let mut node = Node::new(directory.path(), None)?;
    let start = node.start(&manifests.directory)?;
    times(&format!("{case}, cold"), &start, None, report);
    tables(&case, &node, report)?;
    memory(&format!("{case}, cold"), start.peak, &node, report)?;
    let changed = changes(&case, (services, count), (&node, &manifests), None, report)?;
    memory(&format!("{case}, changes"), changed.peak, &node, report)?;
    node.stop()?;
    let again = node.start(&manifests.directory)?;
    times(&format!("{case}, restart"), &again, Some(&start), report);
    memory(&format!("{case}, restart"), again.peak, &node, report)?;
    node.finish()?;
    twice((services, count), &start, &changed, report)?;
    if !options.is_smoke {
        let yaml = cold_start(directory.path(), Format::Yaml, services)?;
        times(&format!("{case}, YAML"), &yaml, Some(&start), report);
    }
    api::run(options, report)
}

/// The same cold start of two agents in turn: the noise.
fn noise(options: &Options, services: u32, report: &mut Report) -> Result<()> {
    let rounds = if options.is_smoke { 1 } else { 5 };
    let directory = tempfile::tempdir().context("make a directory for manifests")?;
    let manifests = Manifests::write(directory.path(), Format::Json, services)?;
    let mut starts = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        for turn in 0..starts.len() {
            let mut node = Node::new(directory.path(), None)?;
            let position = (turn + round) % starts.len();
            starts[position].push(node.start(&manifests.directory)?);
            node.finish()?;
        }
    }
    let case = format!("A/A, {}, cold", name(services));
    for (metric, of) in NOISE {
        let [first, second] = starts
            .each_ref()
            .map(|all| -> Vec<f64> { all.iter().map(of).collect() });
        let figure = Figure::new(metric, "s");
        report.add_pairs(&case, figure, &second, ("itself", &first));
    }
    Ok(())
}

/// Something of a start.
type OfStart = (&'static str, fn(&Start) -> f64);

/// What is looked at for the noise.
const NOISE: [OfStart; 2] = [
    ("objects parsed to maps complete", |start| {
        start.programmed.as_secs_f64()
    }),
    ("start in all, processor", |start| {
        start.processor.as_secs_f64()
    }),
];

/// A cold start of twice the cluster, in tables of twice the size, and what one change costs there.
fn twice(
    (services, count): (u32, u32),
    once: &Start,
    changed: &Changed,
    report: &mut Report,
) -> Result<()> {
    let directory = tempfile::tempdir().context("make a directory for manifests")?;
    let manifests = Manifests::write(directory.path(), Format::Json, services * 2)?;
    let doubled = sizes::doubled(&sizes::for_services(services));
    let config = sizes::write(directory.path(), &doubled, "")?;
    let mut node = Node::new(directory.path(), Some(config))?;
    let start = node.start(&manifests.directory)?;
    let case = name(services * 2);
    let cold = format!("{case}, cold");
    times(&cold, &start, Some(once), report);
    let now = node.memory()?;
    let figure = Figure::new(PEAK, "MiB").beside("once", mebibytes(once.peak));
    report.add(&cold, figure, &[mebibytes(start.peak.max(now.anonymous))]);
    let effort = (services * 2, count.div_ceil(2));
    changes(&case, effort, (&node, &manifests), Some(changed), report)?;
    node.finish()
}

fn name(services: u32) -> String {
    format!("{services} Services × {ENDPOINTS} × 2")
}

/// A cold start on a node of its own.
fn cold_start(directory: &Path, format: Format, services: u32) -> Result<Start> {
    let manifests = Manifests::write(directory, format, services)?;
    let mut node = Node::new(directory, None)?;
    let start = node.start(&manifests.directory)?;
    node.finish()?;
    Ok(start)
}

/// How long the phases of a start took, beside those of another start.
fn times(case: &str, start: &Start, baseline: Option<&Start>, report: &mut Report) {
    let figures = phases(start);
    let baselines = baseline.map(phases);
    for (position, (figure, time)) in figures.into_iter().enumerate() {
        let before = baselines.as_ref().and_then(|all| all.get(position));
        let figure = match before {
            Some((_, before)) => figure.beside("cold, once", before.as_secs_f64()),
            None => figure,
        };
        report.add(case, figure, &[time.as_secs_f64()]);
    }
}

fn phases(start: &Start) -> [(Figure, Duration); 10] {
    let micros = Duration::from_micros;
    let spent = start.spent;
    let names = micros(spent.names_micros);
    let parsed = start.synced.saturating_sub(start.loaded);
    let seconds = |metric| Figure::new(metric, "s");
    let programming = spent.index_micros + spent.plan_micros + spent.write_micros;
    [
        (seconds("programs loaded and verified"), start.loaded),
        (seconds("files read to maps complete and named"), parsed),
        (
            seconds("objects parsed to maps complete").at_most(3.0),
            start.programmed,
        ),
        (
            seconds("the same, processor").at_most(3.0),
            micros(programming),
        ),
        (
            seconds("parse, processor"),
            start.others.saturating_sub(names),
        ),
        (seconds("index, processor"), micros(spent.index_micros)),
        (seconds("plan, processor"), micros(spent.plan_micros)),
        (seconds("write, processor"), micros(spent.write_micros)),
        (seconds("names, processor"), names),
        (seconds("start in all, processor"), start.processor),
    ]
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
    for table in Table::ALL {
        let figure = Figure::new(table.name(), "MiB");
        report.add(case, figure, &[sum(&[table])?]);
    }
    let figure = Figure::new("maps of services and backends, in all", "MiB").at_most(bars::TABLES);
    report.add(case, figure, &[sum(&others)?]);
    let figure = Figure::new("maps of flows", "MiB");
    report.add(case, figure, &[sum(&flows)?]);
    Ok(())
}

/// What the peak of the agent's anonymous memory is called.
const PEAK: &str = "agent's own memory, peak";

fn memory(case: &str, peak: u64, node: &Node, report: &mut Report) -> Result<()> {
    let now = node.memory()?;
    let figure = Figure::new(PEAK, "MiB").at_most(bars::AGENT);
    report.add(case, figure, &[mebibytes(peak.max(now.anonymous))]);
    let figure = Figure::new("agent's own memory, afterwards", "MiB");
    report.add(case, figure, &[mebibytes(now.anonymous)]);
    let figure = Figure::new("program and maps that it has mapped", "MiB");
    report.add(case, figure, &[mebibytes(now.mapped)]);
    Ok(())
}

/// What changes came to.
struct Changed {
    /// The most memory that was seen in between, in KiB.
    peak: u64,
    /// Milliseconds until the maps were written, of the middle one.
    written: f64,
    /// Milliseconds of processor for each.
    processor: f64,
}

/// Moves one endpoint, again and again; `once` is what it came to in a cluster of half the size.
fn changes(
    case: &str,
    (services, count): (u32, u32),
    (node, manifests): (&Node, &Manifests),
    once: Option<&Changed>,
    report: &mut Report,
) -> Result<Changed> {
    let table = WordReader::open(&node.paths(), Table::Services)?;
    let (mut writing, mut seen, mut peak) = (Vec::new(), Vec::new(), 0);
    let processor = node.processor()?;
    for version in 1..=count {
        let service = services / (count + 1) * version;
        let syncs = node.status().context("the agent has a status")?.syncs;
        let before = table.copy();
        let began = clock::now();
        manifests.replace(service, version % 15 + 1)?;
        let visible = time_until("a change shows in the maps", began, || {
            table.copy() != before
        })?;
        seen.push(milliseconds(visible));
        writing.push(milliseconds(node.await_change(syncs)?));
        peak = peak.max(node.memory()?.anonymous);
    }
    let case = format!("{case}, 1 endpoint");
    ensure!(writing.len() == seen.len(), "as many changes as answers");
    let mut figure =
        Figure::new("change parsed to maps written, p50", "ms").at_most(bars::CHANGE_P50);
    if let Some(once) = once {
        figure = figure.beside("once", once.written);
    }
    let written = report.add(&case, figure, &writing);
    let figure = Figure::new("change parsed to maps written, p99", "ms").at_most(bars::CHANGE_P99);
    report.add(&case, figure, &[percentile(&writing, 99)]);
    report
        .say("  of the next figure 100 ms are the quiet the directory is given before it is read");
    let figure = Figure::new("file renamed to map changed", "ms");
    report.add(&case, figure, &seen);
    let mut figure = Figure::new("processor for a change, parse and names included", "ms");
    if let Some(once) = once {
        figure = figure.beside("once", once.processor);
    }
    let taken = milliseconds(node.processor()?.saturating_sub(processor));
    let processor = report.add(&case, figure, &[taken / f64::from(count)]);
    Ok(Changed {
        peak,
        written,
        processor,
    })
}

/// The smallest sample that so many of a hundred do not exceed.
fn percentile(samples: &[f64], percent: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let position = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(position).copied().unwrap_or(f64::NAN)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn mebibytes(kibibytes: u64) -> f64 {
    to_f64(kibibytes) / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_sample_that_so_many_do_not_exceed() {
        let samples: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        let check = |percent, expected: f64| {
            assert!((percentile(&samples, percent) - expected).abs() < 0.5);
        };
        check(50, 100.0);
        check(99, 198.0);
        check(100, 200.0);
        assert!(percentile(&[], 50).is_nan());
    }
}
