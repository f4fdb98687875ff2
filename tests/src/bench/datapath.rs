//! The kernel programs: what the verifier made of them, and what a packet costs them.
//!
//! A packet that is rewritten cannot be run again and again, so there are two ways to measure. A
//! packet of no service runs a million times in one call. Packets of a service run once a call,
//! each from its original bytes; the kernel's clock around one run adds tens of nanoseconds, which
//! the empty program, measured the same way, shows.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use lb_agent::{
    dataplane::load::{Loaded, Variant, WORKLOAD_EGRESS, WORKLOAD_INGRESS},
    settings::Sizes,
};

use super::{
    Options,
    manifests::{Format, Manifests},
    node::Node,
    report::{Figure, Report},
};
use crate::{clock, packets, probe, scenario::to_f64};

/// Rounds of each measurement.
const ROUNDS: u32 = 5;
/// What programs are compared with: one that returns at once.
const EMPTY: &str = "empty program";
/// Services that the tables hold.
const SERVICES: u32 = 100;

/// Runs the group.
pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let directory = tempfile::tempdir().context("make a directory for manifests")?;
    let manifests = Manifests::write(directory.path(), Format::Json, SERVICES)?;
    let mut node = Node::new(directory.path(), None)?;
    node.start(&manifests.directory)?;
    let began = clock::now();
    let mut loaded = Loaded::load(node.paths().root(), &Sizes::default(), Variant::Normal)?;
    ensure!(loaded.is_adopted(), "the agent's own tables are used");
    let figure = Figure::new("both programs loaded and verified", "s");
    report.add("load", figure, &[began.elapsed().as_secs_f64()]);
    for name in [WORKLOAD_INGRESS, WORKLOAD_EGRESS] {
        sizes(name, loaded.program(name)?, report)?;
    }
    let repeat = if options.is_smoke { 10_000 } else { 1_000_000 };
    probe::with_empty_program(|empty| {
        repeated(&mut loaded, empty, repeat, report)?;
        single(&mut loaded, empty, repeat / 200, report)
    })?;
    report.say("  not measured yet: replies, ICMP, fragments, packets of real devices, kube-proxy");
    drop(loaded);
    node.finish()
}

fn sizes(name: &'static str, program: &SchedClassifier, report: &mut Report) -> Result<()> {
    let info = program.info()?;
    let verified = info.verified_instruction_count().unwrap_or(0);
    for (metric, unit, value) in [
        ("instructions the verifier looked at", "", verified),
        ("translated", "B", info.size_translated().unwrap_or(0)),
        ("native code", "B", info.size_jitted()),
    ] {
        report.add(name, Figure::new(metric, unit), &[f64::from(value)]);
    }
    Ok(())
}

/// A packet of no service, many times in one call.
fn repeated(
    loaded: &mut Loaded,
    empty: &SchedClassifier,
    repeat: u32,
    report: &mut Report,
) -> Result<()> {
    let figure = Figure::new("a packet", "ns");
    let pairs = [
        ("10.128.0.1:40000", "10.128.0.2:8080"),
        ("[fd00::1]:40000", "[fd00::2]:8080"),
    ];
    for (client, server) in pairs {
        let (client, server): (SocketAddr, SocketAddr) = (client.parse()?, server.parse()?);
        let family = if client.is_ipv4() { "IPv4" } else { "IPv6" };
        let frame = packets::tcp(client, server).payload(&[0; 64]).build();
        let case = format!("no service, {family} TCP");
        let samples = rounds(empty, &frame, repeat)?;
        let baseline = report.add(&case, figure.of(EMPTY), &samples);
        for (name, side) in [(WORKLOAD_INGRESS, "from"), (WORKLOAD_EGRESS, "to")] {
            let program = loaded.program(name)?;
            let output = once(program, &frame)?.1;
            ensure!(output == frame, "a packet of no service is left alone");
            let case = format!("no service, {side} the pod, {family} TCP");
            let samples = rounds(program, &frame, repeat)?;
            report.add(&case, figure.beside(EMPTY, baseline), &samples);
        }
    }
    Ok(())
}

/// Packets of a service, from the pod, one a call.
fn single(
    loaded: &mut Loaded,
    empty: &SchedClassifier,
    count: u32,
    report: &mut Report,
) -> Result<()> {
    let figure = Figure::new("a packet, one a call", "ns");
    let program = loaded.program(WORKLOAD_INGRESS)?;
    for (client, server) in [
        ("10.128.200.1", "10.96.1.7:80"),
        ("fd00::1", "[fd00:10:96::107]:80"),
    ] {
        let server: SocketAddr = server.parse()?;
        let client = |port: u16| -> Result<SocketAddr> {
            Ok((client.parse::<std::net::IpAddr>()?, port).into())
        };
        let family = if server.is_ipv4() { "IPv4" } else { "IPv6" };
        let opening = packets::tcp(client(20_000)?, server).flags(packets::SYN);
        let frame = opening.build();
        let samples = (0..count).map(|_| Ok(once(empty, &frame)?.0));
        let samples: Result<Vec<f64>> = samples.collect();
        let case = format!("one a call, {family} TCP");
        let baseline = report.add(&case, figure.of(EMPTY), &samples?);
        let figure = figure.beside(EMPTY, baseline);
        let samples = (0..count).map(|index| {
            let port = 20_000 + u16::try_from(index % 20_000)?;
            let opening = packets::tcp(client(port)?, server).flags(packets::SYN);
            rewritten(program, &opening.build())
        });
        let samples: Result<Vec<f64>> = samples.collect();
        report.add(&format!("new flow, {family} TCP"), figure, &samples?);
        let later = packets::tcp(client(20_000)?, server)
            .payload(&[0; 64])
            .build();
        let samples = (0..count).map(|_| rewritten(program, &later));
        let samples: Result<Vec<f64>> = samples.collect();
        report.add(&format!("established, {family} TCP"), figure, &samples?);
    }
    Ok(())
}

/// Nanoseconds of one packet in each round of `repeat`.
fn rounds(program: &SchedClassifier, frame: &[u8], repeat: u32) -> Result<Vec<f64>> {
    let round = |_| {
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.repeat = repeat;
        Ok(nanoseconds(program.test_run(options)?.duration))
    };
    (0..ROUNDS).map(round).collect()
}

/// Nanoseconds of one run, and what became of the packet.
fn once(program: &SchedClassifier, frame: &[u8]) -> Result<(f64, Vec<u8>)> {
    let mut output = vec![0; frame.len() + 64];
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options.data_out = Some(&mut output);
    let result = program.test_run(options)?;
    output.truncate(usize::try_from(result.data_size_out)?);
    Ok((nanoseconds(result.duration), output))
}

/// [`once`] for a packet that must be translated.
fn rewritten(program: &SchedClassifier, frame: &[u8]) -> Result<f64> {
    let (time, output) = once(program, frame)?;
    ensure!(output != frame, "a packet of a service was not translated");
    Ok(time)
}

fn nanoseconds(time: Duration) -> f64 {
    to_f64(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}
