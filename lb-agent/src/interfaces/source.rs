//! The addresses by which flows leave a device that must come back to this node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Device;

/// For each family, as `DEVICES` has them: an address of the Node that the device carries, else the
/// device's first that is of use elsewhere, else the Node's own, else the unspecified one.
pub fn source_addresses(device: &Device, node_addresses: &[IpAddr]) -> (Ipv4Addr, Ipv6Addr) {
    let choose = |is_v6: bool| {
        let of_family = move |address: &&IpAddr| address.is_ipv6() == is_v6 && is_global(**address);
        let mut carried = device.addresses.iter().filter(of_family);
        let mut of_node = node_addresses.iter().filter(of_family);
        let of_both = carried
            .clone()
            .find(|address| node_addresses.contains(address));
        of_both
            .or_else(|| carried.next())
            .or_else(|| of_node.next())
            .copied()
    };
    let v4 = match choose(false) {
        Some(IpAddr::V4(address)) => address,
        _ => Ipv4Addr::UNSPECIFIED,
    };
    let v6 = match choose(true) {
        Some(IpAddr::V6(address)) => address,
        _ => Ipv6Addr::UNSPECIFIED,
    };
    (v4, v6)
}

/// Whether an address means the same elsewhere: neither loopback nor link-local.
const fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            !address.is_loopback() && !address.is_link_local() && !address.is_unspecified()
        }
        IpAddr::V6(address) => {
            !address.is_loopback() && !address.is_unicast_link_local() && !address.is_unspecified()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(carried: &[&str], of_node: &[&str], expected: (&str, &str)) {
        let parse = |texts: &[&str]| -> Vec<IpAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let device = Device {
            addresses: parse(carried),
            ..Device::default()
        };
        let (v4, v6) = source_addresses(&device, &parse(of_node));
        assert_eq!((&*v4.to_string(), &*v6.to_string()), expected);
    }

    #[test]
    fn a_device_s_own_address_comes_before_the_nodes_and_the_nodes_on_it_before_others() {
        let node = ["192.0.2.1", "2001:db8::1"];
        let uplink = ["198.51.100.9", "192.0.2.1", "fe80::1", "2001:db8::1"];
        check(&uplink, &node, ("192.0.2.1", "2001:db8::1"));
        check(
            &["10.244.1.0", "fe80::7"],
            &node,
            ("10.244.1.0", "2001:db8::1"),
        );
        check(
            &["169.254.1.1", "fe80::7"],
            &node,
            ("192.0.2.1", "2001:db8::1"),
        );
    }

    #[test]
    fn a_family_without_any_address_has_the_unspecified_one() {
        check(&["192.0.2.7"], &[], ("192.0.2.7", "::"));
        check(&["fe80::1"], &["127.0.0.1"], ("0.0.0.0", "::"));
    }
}
