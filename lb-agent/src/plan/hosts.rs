//! Which addresses are those of other nodes' hosts, as far as can be known of them.
//!
//! A CNI's rules accept what is forwarded to its pods and from them. What comes from outside and is for the
//! host of another node is neither, so it may not be left to the node's filters. No object says of an
//! endpoint whether its Pod has the host's network, and this agent does not read the Nodes of others. What it
//! does know are ranges of pods:
//!
//! * Where the operator gives the cluster's ranges of a family, no pod has an address outside of them.
//! * Else the Node's `podCIDRs` say that pods have networks of their own. An address on a link on which the
//!   Node has its own is then none of a pod's, unless that network and the Node's own pods' overlap.
//! * Else nothing is known: pods may be on the nodes' own link.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::source_ranges::contains;

/// A network: address and prefix length.
type Network = (IpAddr, u8);

/// The networks of hosts, without those of pods among them. The cluster's pods have `cluster_cidrs`, those
/// of the Node `pod_cidrs`; it has its own addresses on links with these `networks`.
pub fn host_networks(
    cluster_cidrs: &[Network],
    pod_cidrs: &[Network],
    networks: &[Network],
) -> Vec<Network> {
    let everything = [
        IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::from(Ipv6Addr::UNSPECIFIED),
    ];
    let mut hosts = Vec::new();
    for any in everything {
        let is_of_family = |network: &&Network| network.0.is_ipv6() == any.is_ipv6();
        if cluster_cidrs.iter().any(|network| is_of_family(&network)) {
            hosts.push((any, 0));
            continue;
        }
        let pods: Vec<_> = pod_cidrs.iter().filter(is_of_family).collect();
        let links = networks.iter().filter(is_of_family);
        let apart = links.filter(|link| {
            let mut pods = pods.iter();
            !pods.any(|pods| overlap(**link, **pods))
        });
        hosts.extend(apart.filter(|_| !pods.is_empty()));
    }
    hosts
}

fn overlap(one: Network, other: Network) -> bool {
    contains(one, other.0) || contains(other, one.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Vec<Network> {
        let parse = |text: &&str| {
            let (network, length) = text.split_once('/').unwrap();
            (network.parse().unwrap(), length.parse().unwrap())
        };
        texts.iter().map(parse).collect()
    }

    #[test]
    fn what_is_no_pods_for_sure_is_a_hosts() {
        let links = ["172.18.0.2/16", "fc00:f00::2/64"];
        for (cluster, pods, links, expected, what) in [
            (
                &["10.244.0.0/16"][..],
                &["10.244.1.0/24", "fd00:1::/64"][..],
                &links[..],
                &["0.0.0.0/0", "fc00:f00::2/64"][..],
                "IPv4 by the cluster's ranges, IPv6 by the link",
            ),
            (
                &["10.244.0.0/16", "fd00::/48"],
                &[],
                &[],
                &["0.0.0.0/0", "::/0"],
                "the cluster's ranges are enough",
            ),
            (
                &[],
                &["10.244.1.0/24"],
                &links,
                &["172.18.0.2/16"],
                "the Node's pods are elsewhere, of IPv4",
            ),
            (&[], &[], &links, &[], "pods may be on the nodes' link"),
            (
                &[],
                &["172.18.7.0/24"],
                &["172.18.0.2/16", "192.0.2.1/24"],
                &["192.0.2.1/24"],
                "pods inside the nodes' network",
            ),
            (
                &[],
                &["172.18.0.0/15"],
                &["172.18.0.2/24"],
                &[],
                "the nodes' network inside the pods'",
            ),
            (
                &[],
                &["10.244.1.0/24"],
                &[],
                &[],
                "a Node whose address has no network",
            ),
        ] {
            let told = host_networks(&networks(cluster), &networks(pods), &networks(links));
            assert_eq!(told, networks(expected), "{what}");
        }
    }
}
