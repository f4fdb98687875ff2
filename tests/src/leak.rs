//! What is left behind: the question every test and the demo end with.
//!
//! The kernel is asked, not the code under test: the tcx hooks and qdiscs of every device of every
//! node, the BPF file system, and whether the programs that were attached are still loaded.

use std::{collections::BTreeSet, fs, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{SchedClassifier, loaded_programs, tc::TcAttachType};
use serde_json::Value;

use crate::{
    clock,
    cluster::{BPF_FS, PIN_PREFIX},
    command,
    lab::{Lab, Node},
    ns::{self, Namespace},
};

/// How long the kernel may take to free a program after its last reference is gone.
const FREEING: Duration = Duration::from_secs(5);

/// What somebody else put on the hooks, and must find there afterwards.
#[derive(Clone, Debug, Default)]
pub struct Foreign {
    /// Ids of programs.
    pub programs: BTreeSet<u32>,
    /// Names of devices with a `clsact` qdisc.
    pub clsact: BTreeSet<String>,
}

/// The ids of all programs on tcx hooks of the lab's nodes.
pub fn attached_programs(lab: &Lab) -> Result<BTreeSet<u32>> {
    let mut ids = BTreeSet::new();
    for node in lab.nodes() {
        for device in devices(node)? {
            for hook in [TcAttachType::Ingress, TcAttachType::Egress] {
                ids.extend(programs_on(node, &device, hook)?);
            }
        }
    }
    Ok(ids)
}

/// The ids of all programs in clsact filters of the lab's nodes.
pub fn filter_programs(lab: &Lab) -> Result<BTreeSet<u32>> {
    let mut ids = BTreeSet::new();
    for node in lab.nodes() {
        for device in devices(node)? {
            for side in ["ingress", "egress"] {
                let show = ["-n", node.ns.name(), "filter", "show", "dev", &device, side];
                // A device without a clsact qdisc has no filters to show.
                let text = command::output(Command::new("tc").args(show), "")?.stdout;
                let text = String::from_utf8_lossy(&text).into_owned();
                let mut words = text.split_whitespace();
                while words.any(|word| word == "id") {
                    ids.extend(words.next().and_then(|id| id.parse::<u32>().ok()));
                }
            }
        }
    }
    Ok(ids)
}

/// The ids of all XDP programs on devices of the lab's nodes.
pub fn frame_programs(lab: &Lab) -> Result<BTreeSet<u32>> {
    let mut ids = BTreeSet::new();
    for node in lab.nodes() {
        let list = ["-n", node.ns.name(), "-json", "link", "show"];
        let text = command::run(Command::new("ip").args(list), "")?;
        let devices: Value = serde_json::from_str(&text).context("read what ip says")?;
        let programs = devices.as_array().into_iter().flatten();
        let programs = programs.filter_map(|device| device["xdp"]["prog"]["id"].as_u64());
        ids.extend(programs.filter_map(|id| u32::try_from(id).ok()));
    }
    Ok(ids)
}

/// The ids of the programs on one tcx hook, in the order in which they run.
pub fn programs_on(node: &Node, device: &str, hook: TcAttachType) -> Result<Vec<u32>> {
    node.ns.run(|| {
        let (_revision, programs) = SchedClassifier::query_tcx(device, hook)
            .with_context(|| format!("query tcx of {device} in {}", node.name))?;
        Ok(programs
            .iter()
            .map(aya::programs::ProgramInfo::id)
            .collect())
    })
}

/// Checks that no hook of a node carries anything but what is foreign.
pub fn check_hooks(lab: &Lab, foreign: &Foreign) -> Result<()> {
    let left: Vec<u32> = attached_programs(lab)?
        .difference(&foreign.programs)
        .copied()
        .collect();
    ensure!(left.is_empty(), "programs left on tcx hooks: {left:?}");
    let frames = frame_programs(lab)?;
    let left: Vec<_> = frames.difference(&foreign.programs).collect();
    ensure!(left.is_empty(), "programs left on XDP hooks: {left:?}");
    for node in lab.nodes() {
        let qdiscs = command::run(
            Command::new("tc").args(["-n", node.ns.name(), "qdisc", "show"]),
            "",
        )?;
        for line in qdiscs
            .lines()
            .filter(|line| line.starts_with("qdisc clsact"))
        {
            let device = line
                .split_whitespace()
                .skip_while(|word| *word != "dev")
                .nth(1);
            let is_foreign = device.is_some_and(|device| foreign.clsact.contains(device));
            ensure!(is_foreign, "a qdisc left in {}: {line}", node.name);
        }
    }
    Ok(())
}

/// Checks that the BPF file system holds nothing of the lab with this prefix.
pub fn check_pins(prefix: &str) -> Result<()> {
    let ours = format!("{PIN_PREFIX}{prefix}");
    for entry in fs::read_dir(BPF_FS).with_context(|| format!("read {BPF_FS}"))? {
        let name = entry?.file_name();
        let is_ours = name.to_str().is_some_and(|name| name.starts_with(&ours));
        ensure!(!is_ours, "pins left: {BPF_FS}/{}", name.display());
    }
    Ok(())
}

/// Checks that none of the programs is loaded any more, foreign ones aside.
pub fn check_unloaded(programs: &BTreeSet<u32>, foreign: &Foreign) -> Result<()> {
    let ours: BTreeSet<u32> = programs.difference(&foreign.programs).copied().collect();
    clock::eventually("the kernel frees our programs", FREEING, || {
        // A program may go between being listed and being asked; it is gone then, as wanted.
        let loaded: BTreeSet<u32> = loaded_programs().flatten().map(|info| info.id()).collect();
        Ok(ours.is_disjoint(&loaded).then_some(()))
    })
}

/// Checks that no namespace with this prefix exists.
pub fn check_namespaces(prefix: &str) -> Result<()> {
    let left = ns::existing(prefix);
    ensure!(left.is_empty(), "namespaces left: {left:?}");
    Ok(())
}

/// The names of a node's devices.
pub fn devices(node: &Node) -> Result<Vec<String>> {
    devices_of(&node.ns)
}

/// The names of the devices in a namespace.
pub fn devices_of(ns: &Namespace) -> Result<Vec<String>> {
    let list = ["-n", ns.name(), "-brief", "link", "show"];
    let listed = command::run(Command::new("ip").args(list), "")?;
    let names = listed
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    // A veth is shown as `name@peer`.
    Ok(names
        .filter_map(|name| name.split('@').next())
        .map(str::to_owned)
        .collect())
}
