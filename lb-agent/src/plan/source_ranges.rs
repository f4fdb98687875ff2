//! `loadBalancerSourceRanges`: who may dial a Service's load balancer addresses.
//!
//! They concern new connections to load balancer addresses and nothing else: not node ports, not
//! cluster or external addresses. Pods and nodes are not exempt. Two things are ours: they hold
//! without endpoints too, and ranges of one family alone leave nobody of the other (kube-proxy
//! leaves everybody). An empty prefix means everybody: of its family, and of the other where no
//! network is of that.

use std::net::IpAddr;

use lb_common::table::source_range::SourceRangeKey;

use super::NodeView;
use super::endpoints::mapped;
use crate::model::service::Service;

/// The networks of one family that may dial.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SourceRanges {
    /// Network and prefix length, sorted, none inside another; none at all means nobody.
    pub networks: Vec<(IpAddr, u8)>,
    /// The Service's own load balancer addresses, from which packets of this node itself come where
    /// an address is bound to one of its devices; empty unless the node is in a network. Nobody else
    /// may use them as a source.
    pub of_this_node: Vec<IpAddr>,
}

impl SourceRanges {
    /// The ranges of one family of `service`; `None` where everybody may dial.
    pub fn of(service: &Service, node: &NodeView<'_>, is_v6: bool) -> Option<Self> {
        if service.source_ranges.is_empty() {
            return None;
        }
        let ranges = service.source_ranges.iter().copied();
        let mut ranges: Vec<_> = ranges
            .filter(|(network, _)| network.is_ipv6() == is_v6)
            .collect();
        let says_everybody = |ranges: &[(IpAddr, u8)]| ranges.iter().any(|range| range.1 == 0);
        if says_everybody(&ranges) || (ranges.is_empty() && says_everybody(&service.source_ranges))
        {
            return None;
        }
        // Shorter prefixes first, so that what lies inside another comes after it.
        ranges.sort_by_key(|&(network, length)| (length, network));
        let mut networks: Vec<(IpAddr, u8)> = Vec::new();
        for (network, length) in ranges {
            if !networks.iter().any(|held| contains(*held, network)) {
                networks.push((network, length));
            }
        }
        networks.sort_unstable();
        let is_node_inside = node
            .primary(is_v6)
            .is_some_and(|address| networks.iter().any(|held| contains(*held, address)));
        let own = service.load_balancer_ips.iter().copied();
        Some(Self {
            networks,
            of_this_node: own
                .filter(|address| is_node_inside && address.is_ipv6() == is_v6)
                .collect(),
        })
    }

    /// Whether `client` may dial. Packets of this node itself have `is_this_node`.
    pub fn allows(&self, client: IpAddr, is_this_node: bool) -> bool {
        self.networks.iter().any(|held| contains(*held, client))
            || (is_this_node && self.of_this_node.contains(&client))
    }

    /// The keys of `SOURCE_RANGES` for the service at `index`.
    pub fn keys(&self, index: u32) -> impl Iterator<Item = SourceRangeKey> {
        self.networks.iter().map(move |&(network, length)| {
            SourceRangeKey::network(index, mapped(network), length, network.is_ipv6())
        })
    }
}

/// Whether `address` is in the network, which is of the same family.
pub(crate) fn contains((network, length): (IpAddr, u8), address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let shift = 32_u32.saturating_sub(length.into());
            let mask = u32::MAX.checked_shl(shift).unwrap_or(0);
            network.to_bits() & mask == address.to_bits() & mask
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let shift = 128_u32.saturating_sub(length.into());
            let mask = u128::MAX.checked_shl(shift).unwrap_or(0);
            network.to_bits() & mask == address.to_bits() & mask
        }
        _ => false,
    }
}
