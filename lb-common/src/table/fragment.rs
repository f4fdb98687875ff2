//! `FRAGMENTS`: which ports a fragmented packet has, for the fragments that do not carry them
//! (RFC 791 §3.2, RFC 8200 §4.5). An LRU hash: losing an entry loses one datagram.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::family::Family;
use crate::flow::{Hook, Protocol};

/// Key of `FRAGMENTS`.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Hash, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct FragmentKey {
    /// Mapped source address.
    source: [u8; 16],
    /// Mapped destination address.
    destination: [u8; 16],
    /// Identification, network order; IPv4's 16 bits in the lower half.
    identification: [u8; 4],
    /// IANA protocol number.
    protocol: u8,
    /// [`Hook`]: each sees fragments of its own.
    hook: u8,
    /// Always 0.
    reserved: [u8; 2],
}

impl FragmentKey {
    /// The key of a fragment seen at `hook`.
    #[must_use]
    #[inline(always)]
    pub fn new<F: Family>(
        source: F::Address,
        destination: F::Address,
        identification: u32,
        protocol: Protocol,
        hook: Hook,
    ) -> Self {
        Self {
            source: F::mapped(source),
            destination: F::mapped(destination),
            identification: identification.to_be_bytes(),
            protocol: protocol.number(),
            hook: match hook {
                Hook::Ingress => 0,
                Hook::Egress => 1,
            },
            reserved: [0; 2],
        }
    }
}

/// Value of `FRAGMENTS`: the ports of the first fragment, network order. Four bytes, so that it is
/// read at once.
#[derive(
    Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq,
)]
#[repr(C)]
pub struct FragmentPorts {
    source: [u8; 2],
    destination: [u8; 2],
}

impl FragmentPorts {
    /// From ports in host order.
    #[must_use]
    #[inline(always)]
    pub const fn new(source: u16, destination: u16) -> Self {
        Self {
            source: source.to_be_bytes(),
            destination: destination.to_be_bytes(),
        }
    }

    /// Source port, host order.
    #[inline(always)]
    pub const fn source(self) -> u16 {
        u16::from_be_bytes(self.source)
    }

    /// Destination port, host order.
    #[inline(always)]
    pub const fn destination(self) -> u16 {
        u16::from_be_bytes(self.destination)
    }
}

const _: () = assert!(size_of::<FragmentKey>() == 40);
