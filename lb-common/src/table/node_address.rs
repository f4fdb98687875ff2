//! `NODE_ADDRESSES`: the addresses of this node, and which of them take node ports.
//!
//! Kept live from the addresses of the devices. A packet to an address that takes node ports is
//! looked up under [`FrontendKey::node_port`]; a miss goes on to the host, which may listen there.
//! Clients with an address of this node count as clients of the cluster.
//!
//! [`FrontendKey::node_port`]: super::frontend::FrontendKey::node_port

use crate::family::MappedAddress;
use crate::hash;

/// Value of `NODE_ADDRESSES`, one word; its key is the mapped address.
///
/// ```text
///  63            32 31                     1  0
/// | fingerprint    | unused                 | node ports |
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NodeAddress(pub u64);

const NODE_PORTS_BIT: u64 = 1;

impl NodeAddress {
    /// The value of `address`.
    #[must_use]
    pub fn new(address: MappedAddress, takes_node_ports: bool) -> Self {
        let bits = if takes_node_ports { NODE_PORTS_BIT } else { 0 };
        Self(u64::from(Self::fingerprint(address)) << 32 | bits)
    }

    /// Whether this is the value of `address`: if not, the element was reused under the reader's
    /// eyes.
    #[inline(always)]
    pub const fn belongs_to(self, address: MappedAddress) -> bool {
        hash::upper(self.0) == Self::fingerprint(address)
    }

    /// Whether node ports are served at the address.
    #[inline(always)]
    pub const fn takes_node_ports(self) -> bool {
        self.0 & NODE_PORTS_BIT != 0
    }

    /// 32 bits of the address, independent of the kernel's own hash. The halves go in one after the
    /// other: mixed with each other, equal ones would all be the same.
    #[inline(always)]
    const fn fingerprint(address: MappedAddress) -> u32 {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address;
        let high = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        let low = u64::from_be_bytes([i, j, k, l, m, n, o, p]);
        hash::upper(hash::mix(hash::mix(high, 1), low))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_knows_its_address() {
        for takes_node_ports in [false, true] {
            let value = NodeAddress::new([3; 16], takes_node_ports);
            assert!(value.belongs_to([3; 16]) && !value.belongs_to([4; 16]));
            assert_eq!(value.takes_node_ports(), takes_node_ports);
        }
    }
}
