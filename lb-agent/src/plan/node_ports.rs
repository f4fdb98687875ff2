//! At which of this node's addresses node ports are served.
//!
//! The default is `primary`: the node's first address of each family. Networks choose among the
//! addresses of its devices; an empty prefix chooses all of its family. A family that nothing
//! chooses has no node ports (kube-proxy then opens them at all addresses of that family). Loopback
//! addresses never take part here.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use lb_common::family::MappedAddress;
use lb_common::table::node_address::NodeAddress;

use super::NodeView;
use super::endpoints::mapped;
use super::source_ranges::contains;

/// Which addresses of the node take node ports: kube-proxy's `nodePortAddresses`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum NodePortAddresses {
    /// The first address of each family that the Node object has.
    #[default]
    Primary,
    /// Those in one of these networks: network address and prefix length.
    Networks(Vec<(IpAddr, u8)>),
}

impl NodePortAddresses {
    /// The addresses that take node ports, of a node with `local` addresses at its devices.
    pub fn select(
        &self,
        node: &NodeView<'_>,
        local: impl IntoIterator<Item = IpAddr>,
    ) -> BTreeSet<IpAddr> {
        let is_chosen = |address: IpAddr| match self {
            Self::Primary => node.primary(address.is_ipv6()) == Some(address),
            Self::Networks(networks) => networks.iter().any(|held| contains(*held, address)),
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

impl fmt::Display for NodePortAddresses {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Primary => formatter.write_str("primary"),
            Self::Networks(networks) => {
                for (position, (network, length)) in networks.iter().enumerate() {
                    let separator = if position == 0 { "" } else { "," };
                    write!(formatter, "{separator}{network}/{length}")?;
                }
                Ok(())
            }
        }
    }
}
