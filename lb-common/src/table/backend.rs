//! `BACKENDS`: backend index → address and port that serve; one entry for each address, port and
//! protocol, shared by all services.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::family::MappedAddress;
use crate::flow::Protocol;
use crate::id::BackendId;

/// Value of `BACKENDS`. Written by the agent only, before any region names its id; afterwards only
/// `flags` changes, until the index is freed.
#[derive(
    Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq,
)]
#[repr(C)]
pub struct BackendRecord {
    /// Mapped address in network order.
    address: MappedAddress,
    /// Port in network order.
    port: [u8; 2],
    /// IANA protocol number; 0 where the index is not in use.
    protocol: u8,
    /// [`BackendFlags`].
    flags: u8,
    /// The id's generation, big-endian.
    generation: [u8; 2],
    /// Always 0.
    reserved: [u8; 10],
}

/// What is known of a backend, as bits.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct BackendFlags(pub u8);

impl BackendFlags {
    /// Runs on this node.
    pub const LOCAL: u8 = 1;
    /// Its endpoint's `serving` condition.
    pub const SERVING: u8 = 2;
    /// Its endpoint's `terminating` condition.
    pub const TERMINATING: u8 = 4;

    /// Whether all bits of `bits` are set.
    #[inline(always)]
    pub const fn has(self, bits: u8) -> bool {
        self.0 & bits == bits
    }
}

impl BackendRecord {
    /// The record of the backend with this `id`.
    #[must_use]
    pub const fn new(
        id: BackendId,
        address: MappedAddress,
        port: u16,
        protocol: Protocol,
        flags: BackendFlags,
    ) -> Self {
        let [_, _, high, low] = id.generation().to_be_bytes();
        Self {
            address,
            port: port.to_be_bytes(),
            protocol: protocol.number(),
            flags: flags.0,
            generation: [high, low],
            reserved: [0; 10],
        }
    }

    /// Whether this is the record of `id` and not of one that had the index before or after.
    #[inline(always)]
    pub const fn is(&self, id: BackendId) -> bool {
        let [high, low] = self.generation;
        u32::from_be_bytes([0, 0, high, low]) == id.generation() && self.protocol != 0
    }

    /// The mapped address.
    #[inline(always)]
    pub const fn address(&self) -> MappedAddress {
        self.address
    }

    /// The port in host order.
    #[inline(always)]
    pub const fn port(&self) -> u16 {
        u16::from_be_bytes(self.port)
    }

    /// The protocol; `None` where the index is not in use.
    #[inline(always)]
    pub const fn protocol(&self) -> Option<Protocol> {
        Protocol::from_number(self.protocol)
    }

    /// What is known of it.
    #[inline(always)]
    pub const fn flags(&self) -> BackendFlags {
        BackendFlags(self.flags)
    }

    /// The id's generation.
    #[inline(always)]
    pub const fn generation(&self) -> u32 {
        let [high, low] = self.generation;
        u32::from_be_bytes([0, 0, high, low])
    }
}

const _: () = assert!(size_of::<BackendRecord>() == 32);
