//! The ways in which CNIs connect pods that the lab can imitate.

use std::{fmt, str::FromStr};

/// How pods hang on their node and how nodes reach each other's pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CniShape {
    /// A route per pod (/32 and /128) to its veth; the node answers for the gateway
    /// 169.254.1.1; nodes route to each other's pod networks over the underlay. Calico's and AWS's
    /// way.
    Routed,
    /// A bridge per node with the gateway address on it; nodes route to each other's pod networks
    /// over the underlay. flannel's `host-gw` way.
    Bridge {
        /// Whether bridged packets also pass the host's firewall.
        br_netfilter: bool,
    },
    /// A bridge per node (with `br_netfilter`), and a VXLAN device towards the other nodes.
    /// flannel's default way.
    Vxlan,
}

impl CniShape {
    /// Every shape.
    pub const ALL: [Self; 4] = [
        Self::Routed,
        Self::Bridge { br_netfilter: true },
        Self::Bridge {
            br_netfilter: false,
        },
        Self::Vxlan,
    ];

    /// Whether the pods of a node share a bridge.
    pub const fn has_bridge(self) -> bool {
        !matches!(self, Self::Routed)
    }

    /// Whether bridged packets pass the host's firewall.
    pub const fn has_br_netfilter(self) -> bool {
        matches!(self, Self::Bridge { br_netfilter: true } | Self::Vxlan)
    }

    /// The pods' MTU in bytes.
    pub const fn pod_mtu(self) -> u16 {
        match self {
            // 50 bytes for Ethernet, IPv4, UDP and VXLAN around every packet.
            Self::Vxlan => 1450,
            Self::Routed | Self::Bridge { .. } => 1500,
        }
    }
}

impl fmt::Display for CniShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Routed => "routed",
            Self::Bridge { br_netfilter: true } => "bridge",
            Self::Bridge {
                br_netfilter: false,
            } => "bridge-without-br-netfilter",
            Self::Vxlan => "vxlan",
        })
    }
}

impl FromStr for CniShape {
    type Err = UnknownShape;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shape = Self::ALL
            .into_iter()
            .find(|shape| shape.to_string() == text);
        shape.ok_or_else(|| UnknownShape(text.to_owned()))
    }
}

/// A name that is no shape's.
#[derive(Debug)]
pub struct UnknownShape(String);

impl fmt::Display for UnknownShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = CniShape::ALL.map(|shape| shape.to_string()).join(", ");
        write!(f, "`{}` is no shape; the shapes are: {names}", self.0)
    }
}

impl std::error::Error for UnknownShape {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_is_read_back_from_its_name() {
        for shape in CniShape::ALL {
            assert_eq!(
                shape.to_string().parse::<CniShape>().expect("its own name"),
                shape
            );
        }
    }
}
