//! A lab with one real agent per node, fed from a directory of Kubernetes manifests.
//!
//! Everything an agent owns outside its namespace (pins, state, log) is named after the lab, so two
//! runs on one machine cannot meet, and [`Cluster::finish`] can ask whether anything is left.

use std::{fs, path::Path, thread};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::mount::{MsFlags, mount};
use tempfile::TempDir;

use crate::{
    lab::{CniShape, Lab},
    leak,
};

mod agent;
mod manifest;

pub use self::{
    agent::{Agent, Program},
    manifest::{Condition, Endpoint, Exposure, Manifests, Pair, Policy, Port, Service, sockets},
};

/// Where the BPF file system is mounted.
pub const BPF_FS: &str = "/sys/fs/bpf";

/// What the names of the agents' pin directories begin with; the lab's prefix follows.
pub const PIN_PREFIX: &str = "steerage-";

/// A running cluster. Dropping it kills the agents and removes what they left.
#[derive(Debug)]
pub struct Cluster {
    /// One agent per node, in the nodes' order. Dropped before the lab they run in.
    agents: Vec<Agent>,
    /// The manifests that the agents read.
    pub manifests: Manifests,
    /// The namespaces.
    pub lab: Lab,
    directory: TempDir,
}

impl Cluster {
    /// Builds the lab and its manifests (nodes and service networks), without starting agents.
    pub fn build(shape: CniShape, nodes: u8) -> Result<Self> {
        let program = Program::find()?;
        let lab = Lab::build(shape, nodes)?;
        mount_bpf_fs()?;
        let directory = tempfile::Builder::new()
            .prefix(&format!("{}-", lab.prefix()))
            .tempdir()
            .context("make a directory for manifests, state and logs")?;
        let manifests = Manifests::create(directory.path())?;
        manifests.write_cluster(&lab)?;
        let agents = lab
            .nodes()
            .iter()
            .map(|node| Agent::new(&program, node, lab.prefix(), directory.path()))
            .collect::<Result<_>>()?;
        Ok(Self {
            agents,
            manifests,
            lab,
            directory,
        })
    }

    /// Gives the agents, which have yet to be started, these `sizes` of tables, in YAML.
    pub fn set_sizes(&mut self, sizes: &str) -> Result<()> {
        self.set_config(&format!("sizes: {sizes}\n"))
    }

    /// Gives the agents, which have yet to be started, these settings, in YAML.
    pub fn set_config(&mut self, settings: &str) -> Result<()> {
        let path = self.directory.path().join("config.yaml");
        let text =
            format!("apiVersion: steerage.dev/v1alpha1\nkind: SteerageConfiguration\n{settings}");
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        for agent in &mut self.agents {
            agent.config = Some(path.clone());
        }
        Ok(())
    }

    /// Starts the agents that do not run and waits until each has done its first sync.
    pub fn start_agents(&mut self) -> Result<()> {
        for (agent, node) in self.agents.iter_mut().zip(self.lab.nodes()) {
            agent.start(node)?;
        }
        self.await_agents()
    }

    /// Waits, for all at once, until every agent has done its first sync.
    pub fn await_agents(&self) -> Result<()> {
        let nodes = self.lab.nodes();
        thread::scope(|scope| {
            let waiters: Vec<_> = self
                .agents
                .iter()
                .zip(nodes)
                .map(|(agent, node)| scope.spawn(move || agent.await_first_sync(node)))
                .collect();
            waiters.into_iter().try_for_each(|waiter| {
                waiter
                    .join()
                    .map_err(|_panic| anyhow!("a waiting thread panicked"))?
            })
        })
    }

    /// The agent of node number `node`, counted from 1.
    ///
    /// # Panics
    ///
    /// When there is no such node.
    #[track_caller]
    pub fn agent(&mut self, node: u8) -> &mut Agent {
        &mut self.agents[usize::from(node) - 1]
    }

    /// All agents, in the nodes' order.
    pub fn agents(&self) -> &[Agent] {
        &self.agents
    }

    /// Kills the agent of node number `node` with SIGKILL and starts it again, without waiting for
    /// its sync.
    ///
    /// # Panics
    ///
    /// When there is no such node.
    pub fn crash_agent(&mut self, node: u8) -> Result<()> {
        let agent = &mut self.agents[usize::from(node) - 1];
        agent.kill()?;
        agent.start(self.lab.node(node))
    }

    /// Runs a command of the CLI against the pins of a node, inside its namespace.
    pub fn steerage(&self, node: u8, arguments: &[&str]) -> Result<String> {
        self.agents[usize::from(node) - 1].cli(self.lab.node(node), arguments)
    }

    /// Stops the agents, runs `steerage cleanup` on every node and checks that nothing is left:
    /// no pin, no program on any device, no qdisc of ours. `foreign` names the programs and qdiscs
    /// that were there for another reason.
    pub fn finish(mut self, foreign: &leak::Foreign) -> Result<()> {
        let mut attached = leak::attached_programs(&self.lab)?;
        if attached.is_empty() {
            // The way of kernels without tcx, and of settings that ask for it.
            attached = leak::filter_programs(&self.lab)?;
        }
        attached.extend(leak::frame_programs(&self.lab)?);
        ensure!(
            !attached.is_empty(),
            "no program was attached, so nothing can have been tested"
        );
        for (agent, node) in self.agents.iter_mut().zip(self.lab.nodes()) {
            agent.terminate()?;
            agent.cleanup(node)?;
        }
        leak::check_hooks(&self.lab, foreign)?;
        leak::check_pins(self.lab.prefix())?;
        leak::check_unloaded(&attached, foreign)
    }

    /// Prints what a person needs after a failure: the ends of the agents' logs, how to look inside.
    pub fn print_diagnosis(&self) {
        let logs: String = self.agents.iter().map(Agent::log_tail).collect();
        let entries = self.lab.how_to_enter();
        eprintln!("{logs}--- how to enter while it runs ---\n{entries}");
    }

    /// The directory with manifests, state and logs.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for (agent, node) in self.agents.iter_mut().zip(self.lab.nodes()) {
            agent.abandon(node);
        }
    }
}

/// Mounts the BPF file system where nobody has yet. It stays: it is the machine's, not the lab's.
pub fn mount_bpf_fs() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read the mounts")?;
    let is_mounted = mounts
        .lines()
        .any(|line| line.split(' ').nth(1) == Some(BPF_FS));
    if is_mounted {
        return Ok(());
    }
    let no_data: Option<&str> = None;
    mount(Some("bpf"), BPF_FS, Some("bpf"), MsFlags::empty(), no_data)
        .with_context(|| format!("mount the BPF file system at {BPF_FS}"))
}
