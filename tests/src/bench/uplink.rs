//! A node's devices: an uplink with a way on, and that of a pod, in a namespace of their own, with routes to
//! clients and backends by next hops whose MACs are known. Nothing is sent there: programs that are test-run
//! ask its routing tables.

use anyhow::Result;
use lb_common::course::MACS;

use super::services::NEAR;
use crate::{
    command::ip,
    ns::{self, Namespace},
};

/// The uplink's interface index.
pub(super) const UPLINK: u32 = 13;
/// The pod's.
pub(super) const POD: u32 = 12;
/// MACs of each next hop and of each device, as frames have them that leave.
pub(super) const NEXT_HOP: [u8; 12] = [
    2, 0, 0, 0, 0, 9, MACS[0], MACS[1], MACS[2], MACS[3], MACS[4], MACS[5],
];

/// Makes the namespace.
pub(super) fn make() -> Result<Namespace> {
    let name = format!("{}{}-uplink", ns::PREFIX, std::process::id());
    let namespace = Namespace::create(name)?;
    namespace.sysctl(&[
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv6/conf/all/disable_ipv6", "0"),
        ("net/ipv6/conf/default/accept_dad", "0"),
    ])?;
    let mut batch = vec!["link set lo up".to_owned()];
    let [mac, neighbour] = [MACS, NEXT_HOP].map(receiver);
    for device in [UPLINK, POD] {
        batch.push(format!(
            "link add d{device} index {device} address {mac} type veth peer name p{device}"
        ));
        batch.extend(["p", "d"].map(|end| format!("link set {end}{device} up")));
    }
    for (gateway, networks) in [
        ("198.51.100.1", ["10.200.0.0/16", "172.20.0.0/16"]),
        ("fd00:ffff::1", ["fd00:200::/32", "fd00:100::/32"]),
    ] {
        batch.push(known(gateway, &neighbour, UPLINK));
        let route = |network| format!("route add {network} via {gateway} dev d{UPLINK} onlink");
        batch.extend(networks.map(route));
    }
    let endpoints = [false, true].map(|is_v6| NEAR.endpoints(is_v6));
    for endpoint in endpoints.iter().flatten() {
        let address = endpoint.ip();
        batch.push(format!("route add {address} dev d{POD}"));
        batch.push(known(&address.to_string(), &neighbour, POD));
    }
    batch.push(String::new());
    ip(namespace.name(), &batch.join("\n"))?;
    Ok(namespace)
}

/// The first of two MACs, for people.
fn receiver([a, b, c, d, e, f, ..]: [u8; 12]) -> String {
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

fn known(address: &str, mac: &str, device: u32) -> String {
    format!("neigh add {address} lladdr {mac} nud permanent dev d{device}")
}
