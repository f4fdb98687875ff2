//! A node: uplink, forwarding, firewall, and the CNI's devices and routes towards other nodes.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, Result};

use crate::{
    command::{self, ip},
    lab::{CniShape, FABRIC_BRIDGE, address, firewall},
    ns::Namespace,
};

/// The device of a node that leads to the fabric.
pub const UPLINK: &str = "eth0";

/// The bridge of a node's pods.
pub(super) const POD_BRIDGE: &str = "cni0";

/// The tunnel device between nodes, where the shape has one; its addresses are number 0 of the node's
/// pod network.
pub const TUNNEL: &str = "flannel.1";

/// No duplicate address detection and no router discovery: the addresses are ours and known, and
/// nothing shall wait a second for them.
pub(super) const NO_WAITING: &[(&str, &str)] = &[
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/default/disable_ipv6", "0"),
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/all/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
];

/// What a node is strict and lenient about, before it has any device.
const NODE_SYSCTLS: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/conf/default/forwarding", "1"),
    ("net/ipv4/conf/all/rp_filter", "1"),
    ("net/ipv4/conf/default/rp_filter", "1"),
];

/// A node of the lab.
#[derive(Debug)]
pub struct Node {
    /// `node1`, `node2`, …
    pub name: String,
    /// Counted from 1.
    pub number: u8,
    /// Where its devices, its agent and its sockets are.
    pub ns: Namespace,
    /// Its address on the underlay.
    pub v4: Ipv4Addr,
    /// Its address on the underlay.
    pub v6: Ipv6Addr,
}

impl Node {
    /// Builds node `number` of `nodes` and connects it to the fabric.
    pub(super) fn build(
        shape: CniShape,
        prefix: &str,
        number: u8,
        nodes: u8,
        fabric: &Namespace,
    ) -> Result<Self> {
        let name = format!("node{number}");
        let node = Self {
            ns: Namespace::create(format!("{prefix}-{name}"))?,
            name,
            number,
            v4: address::node_v4(number),
            v6: address::node_v6(number),
        };
        node.connect(shape, nodes, fabric)
            .with_context(|| format!("build {}", node.name))?;
        Ok(node)
    }

    fn connect(&self, shape: CniShape, nodes: u8, fabric: &Namespace) -> Result<()> {
        self.ns.sysctl(NO_WAITING)?;
        self.ns.sysctl(NODE_SYSCTLS)?;
        firewall::install(shape, &self.ns)?;
        let (name, ns) = (&self.name, self.ns.name());
        let wire = format!(
            "link add {name} type veth peer name {UPLINK} netns {ns}\n\
             link set {name} master {FABRIC_BRIDGE} up\n"
        );
        ip(fabric.name(), &wire)?;
        let mut batch = self.underlay();
        if shape.has_bridge() {
            batch += &self.bridge(shape);
        }
        if shape == CniShape::Vxlan {
            batch += &self.tunnel(shape);
        }
        for other in (1..=nodes).filter(|other| *other != self.number) {
            batch += &match shape {
                CniShape::Routed | CniShape::Bridge { .. } => routes_over_underlay(other),
                CniShape::Vxlan => routes_over_tunnel(other),
            };
        }
        ip(ns, &batch)?;
        if shape == CniShape::Vxlan {
            let forwarding = tunnel_forwarding(self.number, nodes);
            command::run(
                self.ns.command("bridge")?.args(["-batch", "-"]),
                &forwarding,
            )?;
        }
        Ok(())
    }

    fn underlay(&self) -> String {
        format!(
            "link set lo up\n\
             link set {UPLINK} up\n\
             addr add {}/{} dev {UPLINK}\n\
             addr add {}/{} dev {UPLINK} nodad\n\
             route add 0.0.0.0/0 via {}\n\
             route add ::/0 via {} dev {UPLINK}\n",
            self.v4,
            address::NODE_PREFIX_V4,
            self.v6,
            address::NODE_PREFIX_V6,
            address::GATEWAY_V4,
            address::GATEWAY_V6,
        )
    }

    fn bridge(&self, shape: CniShape) -> String {
        let mtu = shape.pod_mtu();
        let (v4, v6) = (
            address::pod_v4(self.number, 1),
            address::pod_v6(self.number, 1),
        );
        format!(
            "link add {POD_BRIDGE} type bridge stp_state 0 mcast_snooping 0\n\
             link set {POD_BRIDGE} mtu {mtu} up\n\
             addr add {v4}/24 dev {POD_BRIDGE}\n\
             addr add {v6}/64 dev {POD_BRIDGE} nodad\n"
        )
    }

    /// `dev` makes the kernel subtract the tunnel's header from the uplink's MTU; it is also stated,
    /// so that the lab does not depend on it.
    fn tunnel(&self, shape: CniShape) -> String {
        let (v4, v6) = (
            address::pod_v4(self.number, 0),
            address::pod_v6(self.number, 0),
        );
        format!(
            "link add {TUNNEL} address {mac} mtu {mtu} type vxlan id 1 local {local} \
             dev {UPLINK} dstport 8472 nolearning\n\
             link set {TUNNEL} up\n\
             addr add {v4}/32 dev {TUNNEL}\n\
             addr add {v6}/128 dev {TUNNEL} nodad\n",
            mac = tunnel_mac(self.number),
            mtu = shape.pod_mtu(),
            local = self.v4,
        )
    }

    /// Gives this node's routes to the pods of node `other` an MTU of `mtu` bytes: from now on it is
    /// the narrow place of that path, and says so to whoever sends more.
    pub fn narrow_routes_to(&self, shape: CniShape, other: u8, mtu: u16) -> Result<()> {
        let routes = match shape {
            CniShape::Routed | CniShape::Bridge { .. } => routes_over_underlay(other),
            CniShape::Vxlan => routes_over_tunnel(other),
        };
        let mut batch = String::new();
        for route in routes
            .lines()
            .filter_map(|line| line.strip_prefix("route add "))
        {
            // Writing to a string cannot fail.
            writeln!(batch, "route replace {route} mtu lock {mtu}").ok();
        }
        ip(self.ns.name(), &batch).map(drop)
    }

    /// Both underlay addresses.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

fn routes_over_underlay(other: u8) -> String {
    format!(
        "route add {}/24 via {} dev {UPLINK}\n\
         route add {}/64 via {} dev {UPLINK}\n",
        address::pod_v4(other, 0),
        address::node_v4(other),
        address::pod_v6(other, 0),
        address::node_v6(other),
    )
}

/// The other node's tunnel address as an on-link gateway, with everything about it written down:
/// nothing is learnt or resolved on a tunnel.
fn routes_over_tunnel(other: u8) -> String {
    let mac = tunnel_mac(other);
    let mut batch = String::new();
    for (network, gateway) in [
        (
            format!("{}/24", address::pod_v4(other, 0)),
            IpAddr::from(address::pod_v4(other, 0)),
        ),
        (
            format!("{}/64", address::pod_v6(other, 0)),
            IpAddr::from(address::pod_v6(other, 0)),
        ),
    ] {
        // Writing to a string cannot fail.
        writeln!(
            batch,
            "neigh add {gateway} lladdr {mac} dev {TUNNEL} nud permanent"
        )
        .ok();
        writeln!(
            batch,
            "route add {network} via {gateway} dev {TUNNEL} onlink"
        )
        .ok();
    }
    batch
}

/// A locally administered address that names its node.
fn tunnel_mac(node: u8) -> String {
    format!("02:00:00:00:f1:{node:02x}")
}

/// The forwarding entries of the tunnel, in the language of `bridge -batch`.
fn tunnel_forwarding(own: u8, nodes: u8) -> String {
    let mut batch = String::new();
    for other in (1..=nodes).filter(|other| *other != own) {
        let (mac, node) = (tunnel_mac(other), address::node_v4(other));
        // Writing to a string cannot fail.
        writeln!(batch, "fdb append {mac} dev {TUNNEL} dst {node}").ok();
    }
    batch
}
