//! A large cluster through an API server: a cold start from its lists, growth while it runs, a
//! hundred changes a second, and one Service of very many endpoints.
//!
//! A change is timed from the hand that gives it to the server until the word that names the new
//! endpoints is in the kernel: the server's own work and the way over its connection are within.

use std::{fs, ops::Range, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lb_agent::dataplane::{layout::Table, tables::WordReader};
use serde_json::{Value, json};

use super::super::{
    Options, bars,
    node::{NAME, Node, Start, time_until},
    report::{Figure, Report},
};
use super::{PEAK, mebibytes, milliseconds, percentile};
use crate::{apiserver::ApiServer, clock};

/// Endpoints of each Service, and of each slice of the large one.
const ENDPOINTS: u32 = 10;
const LARGE_ENDPOINTS: u32 = 100;
/// Time between two changes.
const PERIOD: Duration = Duration::from_millis(10);
/// Every such one of them is watched for in the maps: to read them all the time would take the
/// processor's caches from the agent.
const WATCHED: u32 = 10;
/// Times one slice of the large Service is changed.
const LARGE_CHANGES: u32 = 30;

/// Sizes of a run.
struct Size {
    services: u32,
    more: u32,
    /// Changes that are waited for.
    single: u32,
    changes: u32,
    /// Slices of the large Service.
    slices: u32,
}

/// Runs this part of the group.
pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let size = if options.is_smoke {
        Size {
            services: 100,
            more: 50,
            single: 10,
            changes: 200,
            slices: 5,
        }
    } else {
        Size {
            services: 10_000,
            more: 5_000,
            single: 200,
            changes: 6_000,
            slices: 50,
        }
    };
    let directory = tempfile::tempdir().context("make a directory for an agent")?;
    cluster(&size, directory.path(), report)?;
    large(size.slices, directory.path(), report)
}

fn cluster(size: &Size, directory: &Path, report: &mut Report) -> Result<()> {
    let mut node = Node::new(directory, None)?;
    let server = serve(&node, 0..size.services)?;
    let case = |services: u32| format!("{services} Services × {ENDPOINTS} by an API server");
    let start = follow(&mut node, &server, directory)?;
    let cold = format!("{}, cold", case(size.services));
    times(&cold, &start, report);
    memory(&cold, start.peak, 120.0, &node, report)?;

    single(size, &case(size.services), &node, &server, report)?;
    let table = WordReader::open(&node.paths(), Table::Services)?;
    let used = || table.copy().iter().filter(|word| **word != 0).count();
    let each = used() / usize::try_from(size.services)?;
    ensure!(each > 0, "Services have words");
    let all = size.services + size.more;
    let (began, processor) = (clock::now(), node.processor()?);
    apply(&server, size.services..all)?;
    let expected = each * usize::try_from(all)?;
    let grown = time_until("all Services are in the maps", began, || used() >= expected)?;
    let grow = format!("{}, {} more", case(all), size.more);
    let seconds = |metric| Figure::new(metric, "s");
    report.add(&grow, seconds("all in the maps"), &[grown.as_secs_f64()]);
    let taken = node.processor()?.saturating_sub(processor);
    report.add(&grow, seconds("processor"), &[taken.as_secs_f64()]);
    memory(&grow, 0, 180.0, &node, report)?;
    changes(size, &case(all), &node, &server, report)?;
    node.finish()
}

/// Changes one endpoint and waits until the agent has said how that went, again and again.
fn single(
    size: &Size,
    case: &str,
    node: &Node,
    server: &ApiServer,
    report: &mut Report,
) -> Result<()> {
    let mut writing = Vec::new();
    for number in 1..=size.single {
        let syncs = node.status().context("the agent has a status")?.syncs;
        let index = size.services / (size.single + 1) * number;
        // An endpoint that no other change here moves to: each of those has to show.
        server.apply(&slice(index, number % 13 + 30))?;
        writing.push(milliseconds(node.await_change(syncs)?));
    }
    let case = format!("{case}, 1 endpoint");
    let figure = Figure::new("change received to maps written, p50", "ms");
    report.add(&case, figure.at_most(bars::CHANGE_P50), &writing);
    let figure = Figure::new("change received to maps written, p99", "ms");
    let slowest = percentile(&writing, 99);
    report.add(&case, figure.at_most(bars::CHANGE_P99), &[slowest]);
    Ok(())
}

/// Changes one endpoint after another, each at its time.
fn changes(
    size: &Size,
    case: &str,
    node: &Node,
    server: &ApiServer,
    report: &mut Report,
) -> Result<()> {
    let table = WordReader::open(&node.paths(), Table::Services)?;
    let (mut seen, mut peak) = (Vec::new(), 0);
    let (began, processor) = (clock::now(), node.processor()?);
    for number in 1..=size.changes {
        let due = PERIOD * number;
        time_until("the time of the next change", began, || {
            began.elapsed() >= due
        })?;
        let index = number * 7919 % size.services;
        let change = slice(index, number / size.services + number % 13 + 1);
        if number % WATCHED != 0 {
            server.apply(&change)?;
            continue;
        }
        let before = table.copy();
        let told = clock::now();
        server.apply(&change)?;
        let visible = time_until("a change shows in the maps", told, || {
            table.copy() != before
        })?;
        seen.push(milliseconds(visible));
        if number % 100 == 0 {
            peak = peak.max(node.memory()?.anonymous);
        }
    }
    let elapsed = began.elapsed();
    let share = node.processor()?.saturating_sub(processor).as_secs_f64() / elapsed.as_secs_f64();
    let case = format!("{case}, {} changes", size.changes);
    let figure = Figure::new("changes a second", "1/s");
    report.add(
        &case,
        figure,
        &[f64::from(size.changes) / elapsed.as_secs_f64()],
    );
    let figure = Figure::new("server told to maps written, p50", "ms").at_most(5.0);
    report.add(&case, figure, &seen);
    let figure = Figure::new("server told to maps written, p99", "ms").at_most(50.0);
    report.add(&case, figure, &[percentile(&seen, 99)]);
    let figure = Figure::new("of a processor", "%").at_most(5.0);
    report.add(&case, figure, &[share * 100.0]);
    memory(&case, peak, 180.0, node, report)
}

/// One Service of many slices, 5 000 endpoints in 50 of a full run, of which one changes.
fn large(slices: u32, directory: &Path, report: &mut Report) -> Result<()> {
    let mut node = Node::new(directory, None)?;
    let server = serve(&node, 0..10)?;
    let name = "large";
    server.apply(&service_named(name, 0x0a60_ff00))?;
    for number in 0..slices {
        server.apply(&large_slice(number, 0))?;
    }
    follow(&mut node, &server, directory)?;
    let table = WordReader::open(&node.paths(), Table::Services)?;
    let (mut writing, mut seen) = (Vec::new(), Vec::new());
    let processor = node.processor()?;
    for version in 1..=LARGE_CHANGES {
        let syncs = node.status().context("the agent has a status")?.syncs;
        let before = table.copy();
        let told = clock::now();
        server.apply(&large_slice(version % slices, version))?;
        let visible = time_until("a change shows in the maps", told, || {
            table.copy() != before
        })?;
        seen.push(milliseconds(visible));
        writing.push(milliseconds(node.await_change(syncs)?));
    }
    let taken = node.processor()?.saturating_sub(processor);
    let case = format!("1 Service × {slices} slices × {LARGE_ENDPOINTS}, 1 slice");
    let figure = Figure::new("change received to maps written", "ms").at_most(10.0);
    report.add(&case, figure, &writing);
    let figure = Figure::new("server told to maps written", "ms");
    report.add(&case, figure, &seen);
    let figure = Figure::new("processor for a change", "ms").at_most(10.0);
    let each = milliseconds(taken) / f64::from(LARGE_CHANGES);
    report.add(&case, figure, &[each]);
    node.finish()
}

/// A server in the node's namespace, with this node and these Services.
fn serve(node: &Node, services: Range<u32>) -> Result<ApiServer> {
    let server = node.inside(ApiServer::start)?;
    server.apply(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NAME}}))?;
    apply(&server, services)?;
    Ok(server)
}

fn apply(server: &ApiServer, services: Range<u32>) -> Result<()> {
    for index in services {
        server.apply(&service_named(&name_of(index), 0x0a60_0100 + index))?;
        server.apply(&slice(index, 0))?;
    }
    Ok(())
}

/// Starts the agent on the server.
fn follow(node: &mut Node, server: &ApiServer, directory: &Path) -> Result<Start> {
    let kubeconfig = directory.join("kubeconfig");
    fs::write(&kubeconfig, server.kubeconfig(None).to_string())?;
    let path = kubeconfig.display().to_string();
    node.start_from(&["--source", "kubernetes", "--kubeconfig", &path])
}

fn name_of(index: u32) -> String {
    format!("service-{index}")
}

fn service_named(name: &str, address: u32) -> Value {
    let address = std::net::Ipv4Addr::from_bits(address).to_string();
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address],
            "ipFamilies": ["IPv4"], "selector": {"app": name},
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}],
        },
    })
}

/// The slice of a Service; its first endpoint is number `version` of those it could be.
fn slice(index: u32, version: u32) -> Value {
    let first = index * ENDPOINTS;
    let addresses = (0..ENDPOINTS).map(|member| {
        let moved = if member == 0 { version } else { 0 };
        0x0a80_0000 + first + member + moved * 0x4_0000
    });
    slice_named(&name_of(index), &name_of(index), addresses)
}

/// A slice of the large Service, likewise.
fn large_slice(number: u32, version: u32) -> Value {
    let first = number * LARGE_ENDPOINTS;
    let addresses = (0..LARGE_ENDPOINTS).map(|member| {
        let moved = if member == 0 { version } else { 0 };
        0x0af0_0000 + first + member + moved * 0x4000
    });
    slice_named(&format!("large-{number}"), "large", addresses)
}

fn slice_named(name: &str, service: &str, addresses: impl Iterator<Item = u32>) -> Value {
    let endpoints: Vec<Value> = addresses
        .map(|address| {
            json!({
                "addresses": [std::net::Ipv4Addr::from_bits(address).to_string()],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": format!("node-{}", address % 100),
                "targetRef": {
                    "kind": "Pod", "namespace": "default", "name": format!("pod-{address:x}"),
                },
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": name, "namespace": "default",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        "endpoints": endpoints,
    })
}

fn times(case: &str, start: &Start, report: &mut Report) {
    let spent = start.spent;
    let programming = spent.index_micros + spent.plan_micros + spent.write_micros;
    let seconds = |metric| Figure::new(metric, "s");
    for (figure, time) in [
        (
            seconds("first object to maps complete").at_most(3.0),
            start.programmed,
        ),
        (
            seconds("the same, processor").at_most(3.0),
            Duration::from_micros(programming),
        ),
        (seconds("start in all, processor"), start.processor),
    ] {
        report.add(case, figure, &[time.as_secs_f64()]);
    }
}

fn memory(case: &str, peak: u64, target: f64, node: &Node, report: &mut Report) -> Result<()> {
    let now = node.memory()?;
    let figure = Figure::new(PEAK, "MiB").at_most(target);
    report.add(case, figure, &[mebibytes(peak.max(now.anonymous))]);
    Ok(())
}
