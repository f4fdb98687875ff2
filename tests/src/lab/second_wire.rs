//! A second wire between a node and the router, for paths whose two directions differ.
//!
//! ```text
//!                      wan0 ─── fabric ─── eth0
//!   client ─── router                           node
//!                      wan1 ────────────── eth1
//! ```
//!
//! The node has a default route by each, so that both are uplinks; the reverse-path filters of both
//! are loose, as they must be where a packet comes by another way than its answer goes.

use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{Lab, Node, Outside, UPLINK, address, outside};
use crate::command::{self, await_device, ip};

/// The node's second uplink.
pub const SECOND_UPLINK: &str = "eth1";
/// The router's device towards it.
const OUTER: &str = "wan1";
/// Host number of the router on the second wire.
const ROUTER: u8 = 253;

/// One of a node's two ways to the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By the fabric.
    First,
    /// By the second wire.
    Second,
}

impl Way {
    /// Both.
    pub const ALL: [Self; 2] = [Self::First, Self::Second];
}

impl Lab {
    /// Joins a node to the router by a second wire. A client outside must have been added.
    ///
    /// # Panics
    ///
    /// When there is no such node, or no client outside.
    pub fn add_second_wire(&self, node: u8) -> Result<()> {
        let (node, router) = (self.node(node), &self.outside().router);
        let (number, ns) = (node.number, node.ns.name());
        ip(
            ns,
            &format!(
                "link add {SECOND_UPLINK} type veth peer name {OUTER} netns {}\n",
                router.name()
            ),
        )?;
        // The stricter one of `all` and the device's own counts, and 2 is the larger number.
        for device in [UPLINK, SECOND_UPLINK] {
            let filter = format!("net/ipv4/conf/{device}/rp_filter");
            node.ns.sysctl(&[(&filter, "2")])?;
        }
        let join = |device: &str, host: u8| {
            format!(
                "link set {device} up\n\
                 addr add {}/24 dev {device}\n\
                 addr add {}/64 dev {device} nodad\n",
                address::second_wire_v4(host),
                address::second_wire_v6(host),
            )
        };
        ip(router.name(), &join(OUTER, ROUTER))?;
        let defaults = format!(
            "route add 0.0.0.0/0 via {} dev {SECOND_UPLINK} metric 2048\n\
             route add ::/0 via {} dev {SECOND_UPLINK} metric 2048\n",
            address::second_wire_v4(ROUTER),
            address::second_wire_v6(ROUTER),
        );
        ip(ns, &(join(SECOND_UPLINK, number) + &defaults))?;
        await_device(ns, SECOND_UPLINK)?;
        await_device(router.name(), OUTER)
    }
}

impl Outside {
    /// Sends what the client sends to these networks to `node` by this way, see [`Self::route`].
    pub fn route_by(&self, way: Way, networks: &[[&str; 2]], node: &Node) -> Result<()> {
        let second = node.number;
        let (v4, v6, device) = match way {
            Way::First => return self.route(networks, node),
            Way::Second => (
                address::second_wire_v4(second),
                address::second_wire_v6(second),
                OUTER,
            ),
        };
        let routes = networks.iter().flat_map(|[network_v4, network_v6]| {
            [
                format!("route replace {network_v4} via {v4} dev {device}\n"),
                format!("route replace {network_v6} via {v6} dev {device}\n"),
            ]
        });
        ip(self.router.name(), &routes.collect::<String>()).map(drop)
    }
}

impl Outside {
    /// Packets that the router has sent and received by this way.
    pub fn passed(&self, way: Way) -> Result<[u64; 2]> {
        let device = match way {
            Way::First => outside::OUTER,
            Way::Second => OUTER,
        };
        let show = ["-n", self.router.name(), "-s", "-j", "link", "show", device];
        let text = command::run(Command::new("ip").args(show), "")?;
        let links: Value = serde_json::from_str(&text).context("read what ip says")?;
        let counts = ["tx", "rx"].map(|side| links[0]["stats64"][side]["packets"].as_u64());
        let [Some(sent), Some(received)] = counts else {
            bail!("no counts of {device} in {text}");
        };
        Ok([sent, received])
    }
}

impl Node {
    /// Answers the client outside by this way, whichever its packets come by.
    pub fn answer_by(&self, way: Way) -> Result<()> {
        let (v4, v6, device) = match way {
            Way::First => (address::ROUTER_V4, address::ROUTER_V6, UPLINK),
            Way::Second => (
                address::second_wire_v4(ROUTER),
                address::second_wire_v6(ROUTER),
                SECOND_UPLINK,
            ),
        };
        let batch = format!(
            "route replace {} via {v4} dev {device}\n\
             route replace {} via {v6} dev {device}\n",
            address::OUTSIDE_V4,
            address::OUTSIDE_V6,
        );
        ip(self.ns.name(), &batch).map(drop)
    }
}
