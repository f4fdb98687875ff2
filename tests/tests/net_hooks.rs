//! Other people's programs on the hooks we use: they run as before, and stay when we go.
#![expect(
    clippy::tests_outside_test_module,
    reason = "an integration test is a test module"
)]

use std::{collections::BTreeSet, process::Command};

use anyhow::{Context as _, Result, ensure};
use aya::programs::tc::TcAttachType;
use lb_tests::{
    command,
    lab::{CniShape, Node},
    leak::{self, Foreign},
    probe::Probe,
    scenario::{self, PORT, Stage},
    traffic::Transport,
};

const HOOKS: [TcAttachType; 2] = [TcAttachType::Ingress, TcAttachType::Egress];

/// Adds a `clsact` qdisc to a device, and a filter to each side of it.
fn add_filters(node: &Node, device: &str) -> Result<Vec<Probe>> {
    let add = [
        "-n",
        node.ns.name(),
        "qdisc",
        "add",
        "dev",
        device,
        "clsact",
    ];
    command::run(Command::new("tc").args(add), "")?;
    HOOKS
        .into_iter()
        .map(|hook| Probe::attach_filter(node, device, hook))
        .collect()
}

/// Traffic through the client's veth, both ways, which every neighbour must see.
fn expect_all_to_see(stage: &Stage, probes: &[&Probe]) -> Result<()> {
    let runs = probes
        .iter()
        .map(|probe| probe.runs())
        .collect::<Result<Vec<_>>>()?;
    for address in stage.web.sockets(PORT) {
        for transport in Transport::ALL {
            stage.ask("client", address, transport)?;
        }
    }
    probes
        .iter()
        .zip(runs)
        .try_for_each(|(probe, before)| probe.has_run_since(before))
}

/// Attaches a neighbour to each side of a device.
fn attach_probes(node: &Node, device: &str) -> Result<Vec<Probe>> {
    HOOKS
        .into_iter()
        .map(|hook| Probe::attach(node, device, hook))
        .collect()
}

/// A dry run of `cleanup` says what it would do, and does nothing.
fn expect_dry_run_to_change_nothing(stage: &Stage) -> Result<()> {
    let before = leak::attached_programs(&stage.cluster.lab)?;
    let text = stage.cluster.steerage(1, &["cleanup", "--dry-run"])?;
    ensure!(
        !text.trim().is_empty(),
        "a dry run must say what it would do"
    );
    let after = leak::attached_programs(&stage.cluster.lab)?;
    ensure!(before == after, "a dry run detached: {before:?}, {after:?}");
    stage
        .ask("client", stage.web.sockets(PORT)[0], Transport::Tcp)
        .map(drop)
}

fn check(shape: CniShape) -> Result<()> {
    let mut stage = Stage::build_without_agents(shape)?;
    let device = stage.cluster.lab.pod("client").host_device.clone();
    let mut probes = attach_probes(stage.cluster.lab.node(1), &device)?;
    let filters = add_filters(stage.cluster.lab.node(1), &device)?;
    stage.start()?;
    probes.extend(attach_probes(stage.cluster.lab.node(1), &device)?);
    let on_tcx: Vec<&Probe> = probes.iter().collect();
    let all: Vec<&Probe> = probes.iter().chain(&filters).collect();
    expect_all_to_see(&stage, &all).context("while the agent runs")?;
    stage.cluster.crash_agent(1)?;
    stage.cluster.await_agents()?;
    expect_all_to_see(&stage, &all).context("after a restart")?;
    expect_dry_run_to_change_nothing(&stage)?;

    let node = stage.cluster.lab.node(1);
    let ingress = leak::programs_on(node, &device, TcAttachType::Ingress)?;
    let ours = ingress
        .iter()
        .position(|id| all.iter().all(|probe| probe.id() != *id));
    ensure!(ours == Some(0), "ours must come first: {ingress:?}");

    let foreign = Foreign {
        programs: all.iter().map(|probe| probe.id()).collect(),
        clsact: BTreeSet::from([device.clone()]),
    };
    for number in 1..=3 {
        stage.cluster.agent(number).terminate()?;
    }
    stage.cluster.steerage(1, &["cleanup"])?;
    let left = leak::programs_on(stage.cluster.lab.node(1), &device, TcAttachType::Ingress)?;
    let theirs: Vec<u32> = on_tcx.iter().step_by(2).map(|probe| probe.id()).collect();
    ensure!(
        left == theirs,
        "cleanup changed the hook: {left:?}, not {theirs:?}"
    );
    // Node 1 is clean; the others still carry ours, which `finish` wants to see go.
    scenario::finish(stage, &foreign)
}

#[test]
fn neighbours_on_the_hooks_run_before_and_after_us_and_stay() {
    for shape in CniShape::ALL {
        check(shape).unwrap_or_else(|error| panic!("{shape}: {error:#}"));
    }
}
