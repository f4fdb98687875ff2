//! The lab's addressing plan. Node and pod numbers can be read off every address.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Prefix length of the underlay, IPv4.
pub const NODE_PREFIX_V4: u8 = 24;
/// Prefix length of the underlay, IPv6.
pub const NODE_PREFIX_V6: u8 = 64;
/// The nodes' default gateway: the fabric, which forwards nothing.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 254);
/// The nodes' default gateway: the fabric, which forwards nothing.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x200, 0, 0, 0, 0, 0, 0xfe);
/// The way to the client outside.
pub const ROUTER_V4: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 253);
/// The way to the client outside.
pub const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x200, 0, 0, 0, 0, 0, 0xfd);
/// All nodes, IPv4.
pub const NODES_V4: &str = "10.200.0.0/24";
/// All nodes, IPv6.
pub const NODES_V6: &str = "fd00:200::/64";
/// The second wire between a node and the router, IPv4.
pub const SECOND_WIRE_V4: &str = "10.201.0.0/24";
/// The second wire between a node and the router, IPv6.
pub const SECOND_WIRE_V6: &str = "fd00:201::/64";
/// Clients whom nobody can answer: the router drops what goes to them. Part of the network of the
/// client outside, IPv4.
pub const FORGED_V4: &str = "203.0.113.128/25";
/// Clients whom nobody can answer. Part of the network of the client outside, IPv6.
pub const FORGED_V6: &str = "2001:db8:203:0:f::/80";
/// The network of the client outside, IPv4.
pub const OUTSIDE_V4: &str = "203.0.113.0/24";
/// The network of the client outside, IPv6.
pub const OUTSIDE_V6: &str = "2001:db8:203::/64";
/// External and load balancer addresses, IPv4. No device has any of them.
pub const EXTERNAL_V4: &str = "198.51.100.0/24";
/// External and load balancer addresses, IPv6. No device has any of them.
pub const EXTERNAL_V6: &str = "2001:db8:51::/64";
/// All pods of all nodes, IPv4.
pub const CLUSTER_CIDR_V4: &str = "10.244.0.0/16";
/// All pods of all nodes, IPv6.
pub const CLUSTER_CIDR_V6: &str = "fd00:10:244::/48";
/// Service addresses, IPv4.
pub const SERVICE_CIDR_V4: &str = "10.96.0.0/16";
/// Service addresses, IPv6.
pub const SERVICE_CIDR_V6: &str = "fd00:10:96::/112";

/// The underlay address of a node.
pub const fn node_v4(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 200, 0, node)
}

/// The underlay address of a node.
pub const fn node_v6(node: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x200, 0, 0, 0, 0, 0, node as u16)
}

/// Host number `host` of a node's pod network, 10.244.N.0/24.
pub const fn pod_v4(node: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, node, host)
}

/// Host number `host` of a node's pod network, `fd00:10:244:N::/64`.
pub const fn pod_v6(node: u8, host: u8) -> Ipv6Addr {
    // The group of a node is written in decimal digits, as IPv4 has them: node 10 is `:10:`.
    let group = (node / 100) as u16 * 0x100 + (node / 10 % 10) as u16 * 0x10 + (node % 10) as u16;
    Ipv6Addr::new(0xfd00, 0x10, 0x244, group, 0, 0, 0, host as u16)
}

/// Host number `host` of the service network.
pub const fn service_v4(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 96, 0, host)
}

/// Host number `host` of the service network.
pub const fn service_v6(host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, host as u16)
}

/// Host number `host` of the client's network outside.
pub const fn outside_v4(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, host)
}

/// Host number `host` of the client's network outside.
pub const fn outside_v6(host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x203, 0, 0, 0, 0, host as u16)
}

/// Host number `host` of the second wire.
pub const fn second_wire_v4(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 201, 0, host)
}

/// Host number `host` of the second wire.
pub const fn second_wire_v6(host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x201, 0, 0, 0, 0, 0, host as u16)
}

/// Client number `host`, less than 128, of those whom nobody can answer.
pub const fn forged_v4(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, 128 + host % 128)
}

/// Client number `host` of those whom nobody can answer.
pub const fn forged_v6(host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x203, 0, 0xf, 0, 0, host as u16)
}

/// Host number `host` of the external addresses.
pub const fn external_v4(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, host)
}

/// Host number `host` of the external addresses.
pub const fn external_v6(host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, host as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_number_reads_the_same_in_both_families() {
        assert_eq!(pod_v4(12, 3).to_string(), "10.244.12.3");
        assert_eq!(pod_v6(12, 3).to_string(), "fd00:10:244:12::3");
        assert_eq!(node_v6(2).to_string(), "fd00:200::2");
        assert_eq!(service_v6(10).to_string(), "fd00:10:96::a");
        assert_eq!(outside_v6(2).to_string(), "2001:db8:203::2");
        assert_eq!(external_v6(16).to_string(), "2001:db8:51::10");
    }
}
