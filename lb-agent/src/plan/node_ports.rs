//! At which of this node's addresses node ports are served.
//!
//! The default is `primary`: the node's first address of each family. Networks choose among the
//! addresses of its devices; an empty prefix chooses all of its family. A family that nothing
//! chooses has no node ports (kube-proxy then opens them at all addresses of that family). Loopback
//! addresses never take part here.

use std::collections::BTreeSet;
use std::net::IpAddr;

use lb_common::family::MappedAddress;
use lb_common::table::node_address::NodeAddress;

use super::NodeView;
use super::endpoints::mapped;
use super::source_ranges::contains;

/// Which addresses of the node take node ports: kube-proxy's `nodePortAddresses`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NodePortAddresses {
    /// The first address of each family that the Node object has.
    pub has_primary: bool,
    /// Those in one of these networks: network address and prefix length.
    pub networks: Vec<(IpAddr, u8)>,
}

impl Default for NodePortAddresses {
    fn default() -> Self {
        Self {
            has_primary: true,
            networks: Vec::new(),
        }
    }
}

impl NodePortAddresses {
    /// Those in these networks, and no others.
    pub const fn in_networks(networks: Vec<(IpAddr, u8)>) -> Self {
        Self {
            has_primary: false,
            networks,
        }
    }

    /// The addresses that take node ports, of a node with `local` addresses at its devices.
    pub fn select(
        &self,
        node: &NodeView<'_>,
        local: impl IntoIterator<Item = IpAddr>,
    ) -> BTreeSet<IpAddr> {
        let is_chosen = |address: IpAddr| {
            (self.has_primary && node.primary(address.is_ipv6()) == Some(address))
                || self.networks.iter().any(|held| contains(*held, address))
        };
        let usable = |address: &IpAddr| !address.is_loopback() && !address.is_unspecified();
        local
            .into_iter()
            .filter(usable)
            .filter(|address| is_chosen(*address))
            .collect()
    }
}

/// The entries of `NODE_ADDRESSES` of a node with `local` addresses, `chosen` of which take node
/// ports.
pub fn table(
    local: impl IntoIterator<Item = IpAddr>,
    chosen: &BTreeSet<IpAddr>,
) -> impl Iterator<Item = (MappedAddress, NodeAddress)> {
    local.into_iter().map(|address| {
        let key = mapped(address);
        (key, NodeAddress::new(key, chosen.contains(&address)))
    })
}
