//! A pod: a namespace with one device, connected to its node in the CNI's way.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;

use crate::{
    command::{await_device, ip},
    lab::{CniShape, Node, address, node},
    ns::Namespace,
};

/// The gateway of a routed pod: an address nobody has, for which the node answers ARP.
const ROUTED_GATEWAY_V4: &str = "169.254.1.1";

/// The hardware address of the node's end of every routed pod's veth, and the link-local address
/// that follows from it: the same everywhere, so that a pod's configuration knows nothing of its
/// node.
const ROUTED_MAC: &str = "ee:ee:ee:ee:ee:ee";
const ROUTED_GATEWAY_V6: &str = "fe80::ecee:eeff:feee:eeee";

/// Host numbers below this one are the node's own (gateway, tunnel).
const FIRST_HOST: u8 = 10;

/// A pod of the lab.
#[derive(Debug)]
pub struct Pod {
    /// The pod's name; at most 13 characters, for it is part of its device's name.
    pub name: String,
    /// The number of its node.
    pub node: u8,
    /// Where its processes run.
    pub ns: Namespace,
    /// Its address.
    pub v4: Ipv4Addr,
    /// Its address.
    pub v6: Ipv6Addr,
    /// The node's end of its veth.
    pub host_device: String,
    /// Counts the pods of the lab, never reused while a later pod exists.
    pub(super) index: u8,
}

impl Pod {
    pub(super) fn build(
        shape: CniShape,
        prefix: &str,
        name: &str,
        node: &Node,
        index: u8,
    ) -> Result<Self> {
        let host = FIRST_HOST + index;
        let pod = Self {
            name: name.to_owned(),
            node: node.number,
            ns: Namespace::create(format!("{prefix}-{name}"))?,
            v4: address::pod_v4(node.number, host),
            v6: address::pod_v6(node.number, host),
            host_device: format!("v-{name}"),
            index,
        };
        pod.ns.sysctl(node::NO_WAITING)?;
        match shape {
            CniShape::Routed => pod.connect_routed(shape, node)?,
            CniShape::Bridge { .. } | CniShape::Vxlan => {
                pod.connect_bridged(shape, node)?;
                await_device(node.ns.name(), node::POD_BRIDGE)?;
            }
        }
        await_device(node.ns.name(), &pod.host_device)?;
        await_device(pod.ns.name(), "eth0")?;
        Ok(pod)
    }

    /// Calico's way: the pod has no neighbour but the gateway, the node a route to the pod.
    fn connect_routed(&self, shape: CniShape, node: &Node) -> Result<()> {
        let (device, ns, mtu) = (&self.host_device, self.ns.name(), shape.pod_mtu());
        let (v4, v6) = (self.v4, self.v6);
        ip(
            node.ns.name(),
            &format!(
                "link add {device} address {ROUTED_MAC} mtu {mtu} type veth \
                 peer name eth0 mtu {mtu} netns {ns}\n"
            ),
        )?;
        node.ns.sysctl(&[
            (&format!("net/ipv4/conf/{device}/proxy_arp"), "1"),
            // The kernel would answer after a random delay of up to 0.8 s.
            (&format!("net/ipv4/neigh/{device}/proxy_delay"), "0"),
            (&format!("net/ipv6/conf/{device}/proxy_ndp"), "1"),
        ])?;
        ip(
            node.ns.name(),
            &format!(
                "link set {device} up\n\
                 route add {v4}/32 dev {device} scope link\n\
                 route add {v6}/128 dev {device}\n"
            ),
        )?;
        ip(
            ns,
            &format!(
                "link set lo up\n\
                 link set eth0 up\n\
                 addr add {v4}/32 dev eth0\n\
                 addr add {v6}/128 dev eth0 nodad\n\
                 route add {ROUTED_GATEWAY_V4} dev eth0 scope link\n\
                 route add 0.0.0.0/0 via {ROUTED_GATEWAY_V4} dev eth0\n\
                 route add ::/0 via {ROUTED_GATEWAY_V6} dev eth0\n"
            ),
        )?;
        Ok(())
    }

    /// flannel's way: the pods of a node are neighbours, the bridge is their gateway.
    fn connect_bridged(&self, shape: CniShape, node: &Node) -> Result<()> {
        let (device, ns, mtu) = (&self.host_device, self.ns.name(), shape.pod_mtu());
        let (v4, v6) = (self.v4, self.v6);
        ip(
            node.ns.name(),
            &format!(
                "link add {device} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {ns}\n\
                 link set {device} master {bridge} up\n",
                bridge = node::POD_BRIDGE,
            ),
        )?;
        ip(
            ns,
            &format!(
                "link set lo up\n\
                 link set eth0 up\n\
                 addr add {v4}/24 dev eth0\n\
                 addr add {v6}/64 dev eth0 nodad\n\
                 route add 0.0.0.0/0 via {} dev eth0\n\
                 route add ::/0 via {} dev eth0\n",
                address::pod_v4(node.number, 1),
                address::pod_v6(node.number, 1),
            ),
        )?;
        Ok(())
    }

    /// Both addresses, IPv4 first.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// Both addresses with a port, IPv4 first.
    pub fn sockets(&self, port: u16) -> [SocketAddr; 2] {
        self.addresses()
            .map(|address| SocketAddr::new(address, port))
    }
}
