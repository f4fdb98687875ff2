//! A cluster's network on one machine: nodes and pods are namespaces, the wires between them veths.
//!
//! ```text
//!   pod ─ veth ─┐                                   ┌─ veth ─ pod
//!   pod ─ veth ─┤ node1 ─ eth0 ─┐       ┌─ eth0 ─ node2 ─ …
//!               └               fabric (a bridge)
//!                                       │
//!                    client ─ router ───┘   where a test asks for them
//! ```
//!
//! How pods hang on their node and how nodes carry pods' packets to each other is the
//! [`CniShape`]. All shapes share what makes a real cluster hard to be a guest in: strict
//! reverse-path filters, a firewall that drops invalid packets first and forwards only what a CNI
//! accepts, and no help from any sysctl but `ip_forward`. Nothing here leaves the machine.

use std::{
    net::IpAddr,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result};

use crate::{
    command::ip,
    ns::{self, Namespace},
    privilege,
};

pub mod address;
mod firewall;
mod frames;
mod node;
mod outside;
mod path;
mod pod;
mod second_wire;
mod shape;
mod strays;
mod turn;

use self::turn::Turn;
pub use self::{
    node::{Node, TUNNEL, UPLINK},
    outside::Outside,
    path::Damage,
    pod::Pod,
    second_wire::{SECOND_UPLINK, Way},
    shape::CniShape,
};

/// The underlay's bridge, in the namespace `fabric`.
const FABRIC_BRIDGE: &str = "br0";

/// Numbers the labs of this process.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A running lab; dropping it removes it.
#[derive(Debug)]
pub struct Lab {
    // Fields are dropped in order: the leaves before what they hang on, and the next lab's turn last.
    outside: Option<Outside>,
    pods: Vec<Pod>,
    nodes: Vec<Node>,
    fabric: Namespace,
    shape: CniShape,
    prefix: String,
    _turn: Turn,
}

impl Lab {
    /// Builds the fabric and `nodes` nodes of the given shape, without pods.
    ///
    /// Waits until no other lab of this process exists.
    pub fn build(shape: CniShape, nodes: u8) -> Result<Self> {
        let turn = Turn::take();
        privilege::require_root()?;
        ns::sweep(Path::new(crate::cluster::BPF_FS));
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{}{}-{number}", ns::PREFIX, std::process::id());
        let fabric = fabric(&prefix)?;
        let nodes = (1..=nodes)
            .map(|node| Node::build(shape, &prefix, node, nodes, &fabric))
            .collect::<Result<_>>()?;
        Ok(Self {
            outside: None,
            pods: Vec::new(),
            nodes,
            fabric,
            shape,
            prefix,
            _turn: turn,
        })
    }

    /// Adds a pod to node number `node` (counted from 1) and connects it as the CNI would.
    pub fn add_pod(&mut self, name: &str, node: u8) -> Result<&Pod> {
        let index = self.pods.iter().map(|pod| pod.index + 1).max().unwrap_or(0);
        let pod = Pod::build(self.shape, &self.prefix, name, self.node(node), index)
            .with_context(|| format!("add pod {name} to node{node}"))?;
        self.pods.push(pod);
        Ok(&self.pods[self.pods.len() - 1])
    }

    /// Adds several pods, each given as name and node number.
    pub fn add_pods(&mut self, pods: &[(&str, u8)]) -> Result<()> {
        pods.iter()
            .try_for_each(|(name, node)| self.add_pod(name, *node).map(drop))
    }

    /// Adds a client outside of the cluster, behind a router.
    pub fn add_outside(&mut self) -> Result<()> {
        let outside = Outside::build(&self.prefix, &self.fabric, &self.nodes);
        self.outside = Some(outside.context("add a client outside of the cluster")?);
        Ok(())
    }

    /// The client outside of the cluster.
    ///
    /// # Panics
    ///
    /// When none was added.
    #[track_caller]
    pub fn outside(&self) -> &Outside {
        let outside = self.outside.as_ref();
        outside.unwrap_or_else(|| panic!("the lab has no client outside"))
    }

    /// Removes a pod and its devices.
    ///
    /// # Panics
    ///
    /// When there is no such pod.
    pub fn remove_pod(&mut self, name: &str) -> Result<()> {
        let position = self.pods.iter().position(|pod| pod.name == name);
        let pod = self
            .pods
            .remove(position.unwrap_or_else(|| panic!("no pod {name}")));
        // The device goes now; the namespace's own end would come some time later.
        ip(
            self.node(pod.node).ns.name(),
            &format!("link del {}\n", pod.host_device),
        )?;
        Ok(())
    }

    /// The pod called `name`.
    ///
    /// # Panics
    ///
    /// When there is no such pod.
    #[track_caller]
    pub fn pod(&self, name: &str) -> &Pod {
        let pod = self.pods.iter().find(|pod| pod.name == name);
        pod.unwrap_or_else(|| panic!("the lab has no pod called {name}"))
    }

    /// All pods, in the order they were added.
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// The node with the given number, counted from 1.
    ///
    /// # Panics
    ///
    /// When there is no such node.
    #[track_caller]
    pub fn node(&self, number: u8) -> &Node {
        let node = self.nodes.iter().find(|node| node.number == number);
        node.unwrap_or_else(|| panic!("the lab has no node {number}"))
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The namespace that joins the nodes.
    pub const fn fabric(&self) -> &Namespace {
        &self.fabric
    }

    /// How pods and nodes are connected.
    pub const fn shape(&self) -> CniShape {
        self.shape
    }

    /// What the names of this lab's namespaces begin with; unique on the machine.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// How a person looks into the lab, for the message of a failed test.
    pub fn how_to_enter(&self) -> String {
        let entry = |role: &str, ns: &Namespace| {
            format!("  {role:10} nsenter --net=/run/netns/{}\n", ns.name())
        };
        let nodes = self.nodes.iter().map(|node| entry(&node.name, &node.ns));
        let outside = self.outside.iter();
        let outside = outside.map(|outside| entry("outside", &outside.ns));
        nodes
            .chain(outside)
            .chain(self.pods.iter().map(|pod| entry(&pod.name, &pod.ns)))
            .collect()
    }
}

/// The wire between the nodes: a bridge, which is also the gateway to a world that is not there.
fn fabric(prefix: &str) -> Result<Namespace> {
    let fabric = Namespace::create(format!("{prefix}-fabric"))?;
    fabric.sysctl(node::NO_WAITING)?;
    fabric.sysctl(&[
        ("net/ipv4/ip_forward", "0"),
        ("net/ipv6/conf/all/forwarding", "0"),
    ])?;
    let gateway =
        |address: IpAddr, length: u8| format!("addr add {address}/{length} dev {FABRIC_BRIDGE}\n");
    ip(
        fabric.name(),
        &[
            "link set lo up\n",
            &format!("link add {FABRIC_BRIDGE} type bridge stp_state 0 mcast_snooping 0\n"),
            &format!("link set {FABRIC_BRIDGE} up\n"),
            &gateway(address::GATEWAY_V4.into(), address::NODE_PREFIX_V4),
            &gateway(address::GATEWAY_V6.into(), address::NODE_PREFIX_V6),
        ]
        .concat(),
    )?;
    Ok(fabric)
}
