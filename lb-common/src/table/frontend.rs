//! `FRONTENDS`: address, port and protocol that a client dials → the service port behind it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::family::MappedAddress;
use crate::flow::Protocol;

/// Key of `FRONTENDS`. Written by the agent only.
#[derive(
    Clone,
    Copy,
    Debug,
    Eq,
    FromBytes,
    Hash,
    Immutable,
    IntoBytes,
    KnownLayout,
    Ord,
    PartialEq,
    PartialOrd,
)]
#[repr(C)]
pub struct FrontendKey {
    /// Mapped address in network order.
    address: MappedAddress,
    /// Port in network order; 0 in the entry that says "this is a service address".
    port: [u8; 2],
    /// IANA protocol number; 0 in the entry that says "this is a service address".
    protocol: u8,
    /// Always 0: hash maps compare every byte.
    reserved: u8,
}

impl FrontendKey {
    /// The key of a port of a service address.
    #[must_use]
    #[inline(always)]
    pub const fn new(address: MappedAddress, port: u16, protocol: Protocol) -> Self {
        Self {
            address,
            port: port.to_be_bytes(),
            protocol: protocol.number(),
            reserved: 0,
        }
    }

    /// The key that says of `address` that it is a service address.
    #[must_use]
    #[inline(always)]
    pub const fn service_address(address: MappedAddress) -> Self {
        Self {
            address,
            port: [0; 2],
            protocol: 0,
            reserved: 0,
        }
    }

    /// The key of a node port of one family: a wildcard, looked up once the address that was dialled
    /// is found in `NODE_ADDRESSES`. Its address is the family's unspecified one, which no service
    /// can have.
    #[must_use]
    #[inline(always)]
    pub const fn node_port(is_v6: bool, port: u16, protocol: Protocol) -> Self {
        Self::new(if is_v6 { ANY_V6 } else { ANY_V4 }, port, protocol)
    }

    /// Whether this is a key of [`Self::node_port`].
    #[must_use]
    pub fn is_node_port(&self) -> bool {
        self.address == ANY_V4 || self.address == ANY_V6
    }

    /// The mapped address.
    #[inline(always)]
    pub const fn address(&self) -> MappedAddress {
        self.address
    }

    /// The port in host order, 0 for a service address.
    #[inline(always)]
    pub const fn port(&self) -> u16 {
        u16::from_be_bytes(self.port)
    }

    /// The protocol, `None` for a service address.
    #[inline(always)]
    pub const fn protocol(&self) -> Option<Protocol> {
        Protocol::from_number(self.protocol)
    }

    /// 32 bits of the key that its value repeats. Independent of the kernel's own hash, so that a
    /// reader who was handed another key's value notices.
    #[inline(always)]
    pub const fn fingerprint(&self) -> u32 {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = self.address;
        let high = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        let low = u64::from_be_bytes([i, j, k, l, m, n, o, p]);
        let [port_high, port_low] = self.port;
        let rest = u64::from_be_bytes([0, 0, 0, 0, 0, port_high, port_low, self.protocol]);
        let mixed = crate::hash::mix(crate::hash::mix(high, low), rest);
        crate::hash::upper(mixed)
    }
}

/// `::`, the address of an IPv6 node port.
const ANY_V6: MappedAddress = [0; 16];
/// `::ffff:0.0.0.0`, the address of an IPv4 node port.
const ANY_V4: MappedAddress = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0];

/// What kind of address a client dialled.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum FrontendKind {
    /// Not a port: the address belongs to a service (refuse or echo).
    ServiceAddress = 0,
    /// `spec.clusterIPs`.
    ClusterIp = 1,
    /// `spec.ports[].nodePort` (wildcard entry).
    NodePort = 2,
    /// `spec.externalIPs`.
    ExternalIp = 3,
    /// `status.loadBalancer.ingress[].ip`.
    LoadBalancer = 4,
}

/// Value of `FRONTENDS`, one word.
///
/// ```text
///  63            32 31      29 28     27  24 22        21              0
/// | fingerprint    | unused   | ranges | kind | ready ep | service index  |
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FrontendValue(pub u64);

const INDEX_MASK: u64 = 0x3f_ffff;
const READY_BIT: u64 = 1 << 22;
const KIND_SHIFT: u32 = 24;
const RANGES_BIT: u64 = 1 << 28;

impl FrontendValue {
    /// The value of `key`. `has_ready` matters for a service address only: whether an echo request
    /// to it is answered.
    #[must_use]
    pub fn new(key: &FrontendKey, kind: FrontendKind, service_index: u32, has_ready: bool) -> Self {
        let ready = if has_ready { READY_BIT } else { 0 };
        let kind = match kind {
            FrontendKind::ServiceAddress => 0,
            FrontendKind::ClusterIp => 1,
            FrontendKind::NodePort => 2,
            FrontendKind::ExternalIp => 3,
            FrontendKind::LoadBalancer => 4_u64,
        };
        Self(
            u64::from(key.fingerprint()) << 32
                | kind << KIND_SHIFT
                | ready
                | (u64::from(service_index) & INDEX_MASK),
        )
    }

    /// Whether this is the value of `key`: if not, the element was reused under the reader's eyes.
    #[inline(always)]
    pub const fn belongs_to(self, key: &FrontendKey) -> bool {
        crate::hash::upper(self.0) == key.fingerprint()
    }

    /// Index into `SERVICES`; 0 for a service address.
    #[inline(always)]
    pub const fn service_index(self) -> u32 {
        crate::hash::lower(self.0 & INDEX_MASK)
    }

    /// Whether any service port of this address has a ready endpoint.
    #[inline(always)]
    pub const fn has_ready(self) -> bool {
        self.0 & READY_BIT != 0
    }

    /// The same for a frontend whose clients must be in a network of `SOURCE_RANGES`.
    #[must_use]
    pub const fn with_source_ranges(self) -> Self {
        Self(self.0 | RANGES_BIT)
    }

    /// Whether only clients may dial it whose address is in a network of `SOURCE_RANGES`.
    #[inline(always)]
    pub const fn has_source_ranges(self) -> bool {
        self.0 & RANGES_BIT != 0
    }

    /// The kind, `None` for a number that this version does not know.
    #[inline(always)]
    pub const fn kind(self) -> Option<FrontendKind> {
        match (self.0 >> KIND_SHIFT) & 0xf {
            0 => Some(FrontendKind::ServiceAddress),
            1 => Some(FrontendKind::ClusterIp),
            2 => Some(FrontendKind::NodePort),
            3 => Some(FrontendKind::ExternalIp),
            4 => Some(FrontendKind::LoadBalancer),
            _ => None,
        }
    }
}

const _: () = assert!(size_of::<FrontendKey>() == 20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_ports_of_the_families_are_different_keys_and_no_other_key_is_one() {
        let v4 = FrontendKey::node_port(false, 30_080, Protocol::Tcp);
        let v6 = FrontendKey::node_port(true, 30_080, Protocol::Tcp);
        assert_ne!(v4, v6);
        assert!(v4.is_node_port() && v6.is_node_port());
        let mut address = v4.address();
        address[15] = 1;
        assert!(!FrontendKey::new(address, 30_080, Protocol::Tcp).is_node_port());
        address = [0; 16];
        address[9] = 1;
        assert!(!FrontendKey::new(address, 30_080, Protocol::Tcp).is_node_port());
    }

    #[test]
    fn the_bit_of_source_ranges_leaves_the_rest_of_a_value_alone() {
        let key = FrontendKey::new([7; 16], 80, Protocol::Tcp);
        let plain = FrontendValue::new(&key, FrontendKind::LoadBalancer, 0x3f_ffff, true);
        let ranged = plain.with_source_ranges();
        assert!(!plain.has_source_ranges() && ranged.has_source_ranges());
        assert!(ranged.belongs_to(&key) && ranged.has_ready());
        assert_eq!(ranged.service_index(), 0x3f_ffff);
        assert_eq!(ranged.kind(), Some(FrontendKind::LoadBalancer));
    }
}
