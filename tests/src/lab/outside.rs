//! A client outside the cluster: on a network of its own, behind a router that reaches the nodes.
//!
//! ```text
//!   client ─ 203.0.113.0/24 ─ router ─┐
//!                                     fabric ─ node1, node2, …
//! ```
//!
//! The nodes know the client's network by a route over the router, as they would by their default
//! gateway. Where service addresses lead is the router's business: what a load balancer announces by
//! ARP or BGP is a route here, see [`Outside::route`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::{
    command::{await_device, ip},
    lab::{FABRIC_BRIDGE, Node, UPLINK, address, node},
    ns::Namespace,
};

/// The router's device towards the client.
pub(super) const INNER: &str = "lan0";
/// The router's device towards the fabric.
pub(super) const OUTER: &str = "wan0";

/// The world outside of the cluster.
#[derive(Debug)]
pub struct Outside {
    /// Where the client's processes run.
    pub ns: Namespace,
    /// The client's address.
    pub v4: Ipv4Addr,
    /// The client's address.
    pub v6: Ipv6Addr,
    /// The router, which may be asked to do more than forward.
    pub router: Namespace,
}

impl Outside {
    /// Builds router and client, connects the router to the fabric, and tells the nodes about it.
    pub(super) fn build(prefix: &str, fabric: &Namespace, nodes: &[Node]) -> Result<Self> {
        let outside = Self {
            ns: Namespace::create(format!("{prefix}-outside"))?,
            v4: address::outside_v4(2),
            v6: address::outside_v6(2),
            router: Namespace::create(format!("{prefix}-router"))?,
        };
        for ns in [&outside.ns, &outside.router] {
            ns.sysctl(node::NO_WAITING)?;
        }
        outside.router.sysctl(&[
            // Whatever the way that packets come by: this is not the filter that is tested.
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
        ])?;
        outside.connect(fabric)?;
        for node in nodes {
            ip(node.ns.name(), &routes_to_client())?;
        }
        Ok(outside)
    }

    fn connect(&self, fabric: &Namespace) -> Result<()> {
        let (client, router) = (self.ns.name(), self.router.name());
        ip(
            fabric.name(),
            &format!(
                "link add router type veth peer name {OUTER} netns {router}\n\
                 link set router master {FABRIC_BRIDGE} up\n"
            ),
        )?;
        ip(
            router,
            &format!(
                "link set lo up\n\
                 link set {OUTER} up\n\
                 addr add {}/{} dev {OUTER}\n\
                 addr add {}/{} dev {OUTER} nodad\n\
                 link add {INNER} type veth peer name eth0 netns {client}\n\
                 link set {INNER} up\n\
                 addr add {}/24 dev {INNER}\n\
                 addr add {}/64 dev {INNER} nodad\n\
                 route add blackhole {}\n\
                 route add blackhole {}\n",
                address::ROUTER_V4,
                address::NODE_PREFIX_V4,
                address::ROUTER_V6,
                address::NODE_PREFIX_V6,
                address::outside_v4(1),
                address::outside_v6(1),
                address::FORGED_V4,
                address::FORGED_V6,
            ),
        )?;
        ip(
            client,
            &format!(
                "link set lo up\n\
                 link set eth0 up\n\
                 addr add {}/24 dev eth0\n\
                 addr add {}/64 dev eth0 nodad\n\
                 route add 0.0.0.0/0 via {}\n\
                 route add ::/0 via {} dev eth0\n",
                self.v4,
                self.v6,
                address::outside_v4(1),
                address::outside_v6(1),
            ),
        )?;
        await_device(router, OUTER)?;
        await_device(router, INNER)?;
        await_device(client, "eth0")
    }

    /// Sends what the client sends to these networks, each of an IPv4 and an IPv6 one, to `node`.
    pub fn route(&self, networks: &[[&str; 2]], node: &Node) -> Result<()> {
        let routes = networks.iter().flat_map(|[v4, v6]| {
            [
                format!("route replace {v4} via {} dev {OUTER}", node.v4),
                format!("route replace {v6} via {} dev {OUTER}", node.v6),
            ]
        });
        let batch: Vec<_> = routes.collect();
        ip(self.router.name(), &batch.join("\n")).map(drop)
    }

    /// Both addresses of the client, IPv4 first.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

/// The nodes' way to the client's network.
fn routes_to_client() -> String {
    format!(
        "route add {} via {} dev {UPLINK}\n\
         route add {} via {} dev {UPLINK}\n",
        address::OUTSIDE_V4,
        address::ROUTER_V4,
        address::OUTSIDE_V6,
        address::ROUTER_V6,
    )
}
