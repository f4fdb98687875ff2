//! At which addresses of this node health-check node ports are served: those of the node ports.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::proxy_health::IpFamily;
use crate::config::value::{Cidr, NodePortAddress};

/// The addresses to listen on for `family`; unspecified for all of them. A family of which none is
/// left has none, where kube-proxy would take all.
///
/// `node` are the Node's addresses, the primary one of each family first, `local` those of this
/// host's devices.
pub fn listen_addresses(
    wanted: &[NodePortAddress],
    family: IpFamily,
    node: &[IpAddr],
    local: &[IpAddr],
) -> Vec<IpAddr> {
    let is_ours = |address: &IpAddr| address.is_ipv6() == family.is_v6();
    let mut addresses = Vec::new();
    for one in wanted {
        match one {
            NodePortAddress::All => return vec![unspecified(family)],
            NodePortAddress::Range(Cidr(network, 0)) if is_ours(network) => {
                return vec![unspecified(family)];
            }
            NodePortAddress::Primary => {
                let primary = node.iter().find(|address| is_ours(address));
                // A Node's loopback address is a sign that nobody knows its address.
                addresses.extend(primary.filter(|address| !address.is_loopback()));
            }
            NodePortAddress::Localhost => {
                addresses.push(match family {
                    IpFamily::V4 => Ipv4Addr::LOCALHOST.into(),
                    IpFamily::V6 => Ipv6Addr::LOCALHOST.into(),
                });
            }
            NodePortAddress::Range(range) => {
                addresses.extend(
                    local
                        .iter()
                        .filter(|address| is_ours(address) && contains(*range, **address)),
                );
            }
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

const fn unspecified(family: IpFamily) -> IpAddr {
    match family {
        IpFamily::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpFamily::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

fn contains(Cidr(network, length): Cidr, address: IpAddr) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    };
    let mask = !u128::MAX.checked_shr(length.into()).unwrap_or(0);
    network.is_ipv6() == address.is_ipv6() && bits(network) & mask == bits(address) & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(wanted: &[&str], family: IpFamily, node: &[&str], local: &[&str]) -> Vec<String> {
        let wanted: Vec<_> = wanted.iter().map(|text| text.parse().unwrap()).collect();
        let parse = |texts: &[&str]| -> Vec<IpAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        listen_addresses(&wanted, family, &parse(node), &parse(local))
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn addresses_are_those_of_the_node_ports() {
        let local = [
            "10.20.30.51",
            "100.200.201.1",
            "127.0.0.1",
            "2001:db8::1",
            "::1",
        ];
        let node = ["10.20.30.51", "2001:db8::1", "10.20.30.52"];
        for (wanted, v4, v6) in [
            (&["primary"][..], &["10.20.30.51"][..], &["2001:db8::1"][..]),
            (&["10.20.30.0/24"], &["10.20.30.51"], &[]),
            (&["0.0.0.0/0"], &["0.0.0.0"], &[]),
            (&["::/0"], &[], &["::"]),
            (&["all"], &["0.0.0.0"], &["::"]),
            (&["2001:db8::/64", "::1/128"], &[], &["::1", "2001:db8::1"]),
            (&["127.0.0.0/8"], &["127.0.0.1"], &[]),
            (&["localhost"], &["127.0.0.1"], &["::1"]),
            (&["192.0.2.0/24"], &[], &[]),
            (
                &["10.20.30.0/24", "primary"],
                &["10.20.30.51"],
                &["2001:db8::1"],
            ),
            (&["1.2.3.0/24", "0.0.0.0/0"], &["0.0.0.0"], &[]),
        ] {
            assert_eq!(
                listen(wanted, IpFamily::V4, &node, &local),
                v4,
                "{wanted:?}"
            );
            assert_eq!(
                listen(wanted, IpFamily::V6, &node, &local),
                v6,
                "{wanted:?}"
            );
        }
    }

    #[test]
    fn a_family_without_an_address_has_none() {
        assert_eq!(
            listen(&["primary"], IpFamily::V6, &["10.0.0.1"], &[]),
            [""; 0]
        );
        assert_eq!(
            listen(&["primary"], IpFamily::V4, &["127.0.0.1"], &[]),
            [""; 0]
        );
    }
}
