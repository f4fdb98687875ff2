//! Who talks to whom: flow tuples, the hook that sees them, and the pair of entries a translated
//! flow has.
//!
//! A translation is symmetric. The entry at one hook says `key → translated`; its **partner** at
//! the other hook says `reverse(translated) → reverse(key)`. One is computed from the other, so a
//! lost half can be rebuilt by the next packet of either direction.
//!
//! ```text
//!            ingress (from the pod)                       egress (to the pod)
//! plain      C:c → V:v   ⇒  C:t → B:b        partner     B:b → C:t   ⇒  V:v → C:c
//! hairpin    C:c → V:v   ⇒  C:t → C:b        partner     C:b → C:t   ⇒  V:v → C:c
//!  and leg 2 C:b → V:s   ⇒  C:b → C:t        partner     C:t → C:b   ⇒  V:s → C:b
//! host       C:c → V:v   ⇒  S:s → B:b        partner     B:b → S:s   ⇒  V:v → C:c  (hooks exchanged)
//! outside    C:c → V:v   ⇒  C:t → B:b        partner     B:b → C:t   ⇒  V:v → C:c
//!  and leg 2 B:b → S:s   ⇒  B:b → C:t        partner     C:t → B:b   ⇒  S:s → B:b
//! ```
//!
//! C is the client, V the service address, B the backend; a hairpin is a client that is its own
//! backend. From outside, with a backend on another node, S is an address of this node. `t` is `c` unless another flow of the same client already holds that reply tuple.

use crate::family::{Family, V4, V6};
use crate::id::{BackendId, ServiceId};

/// A transport protocol that services can have (RFC 9293, 768, 9260), by its IANA number. Wide, so
/// that [`FlowTuple`] has no gap: the compiler copies what is behind a gap byte by byte.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u32)]
pub enum Protocol {
    /// TCP.
    Tcp = 6,
    /// UDP.
    Udp = 17,
    /// SCTP.
    Sctp = 132,
}

impl Protocol {
    /// The protocol with this IANA number.
    #[inline(always)]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            132 => Some(Self::Sctp),
            _ => None,
        }
    }

    /// The IANA number.
    #[inline(always)]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// Addresses, ports and protocol of a packet. Addresses in network order, ports in host order.
/// Aligned and without a gap, so that it is copied word by word.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(C, align(8))]
pub struct FlowTuple<F: Family> {
    /// Address the packet comes from.
    pub source: F::Address,
    /// Address the packet goes to.
    pub destination: F::Address,
    /// Port the packet comes from.
    pub source_port: u16,
    /// Port the packet goes to.
    pub destination_port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
}

const _: () = assert!(size_of::<FlowKey<V4>>() == 24 && size_of::<FlowKey<V6>>() == 48);

impl<F: Family> FlowTuple<F> {
    /// The tuple of a packet in the other direction.
    #[must_use]
    #[inline(always)]
    pub const fn reverse(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: self.protocol,
        }
    }
}

/// The side of a device a program runs on. Part of a flow's key: a backend's reply passes its own
/// device's ingress untouched and is restored only at the client's egress. Wide, so that [`FlowKey`]
/// has no gap.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u64)]
pub enum Hook {
    /// Packets that the device hands to this host: for a workload, what the pod sends.
    Ingress = 0,
    /// Packets that this host hands to the device: for a workload, what the pod receives.
    Egress = 1,
}

impl Hook {
    /// The hook at which packets of the other direction are translated.
    #[must_use]
    #[inline(always)]
    pub const fn other(self) -> Self {
        match self {
            Self::Ingress => Self::Egress,
            Self::Egress => Self::Ingress,
        }
    }
}

/// What a flow entry is found by.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(C)]
pub struct FlowKey<F: Family> {
    /// The tuple as the packet has it at `hook`.
    pub tuple: FlowTuple<F>,
    /// Where the packet is seen.
    pub hook: Hook,
}

/// Which way a packet of an entry travels.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum Direction {
    /// From the client to the service.
    Original = 0,
    /// From the backend to the client.
    Reply = 1,
}

impl Direction {
    /// The other direction.
    #[must_use]
    #[inline(always)]
    pub const fn other(self) -> Self {
        match self {
            Self::Original => Self::Reply,
            Self::Reply => Self::Original,
        }
    }
}

/// How packets of a flow leave the hook; fixed when the flow begins and the same for both
/// directions, or the host's conntrack would see half a flow.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum Path {
    /// The kernel routes the translated packet.
    #[default]
    Routed = 0,
    /// Client and backend are ports of one bridge: the destination MAC becomes the backend's and
    /// the bridge forwards.
    Bridged = 1,
    /// The ingress program sends the packet on itself, to where the kernel would route it.
    SentOn = 2,
    /// The client is this host, whose packets leave by an uplink: from there they are sent to the backend,
    /// and the answers are handed to the host as if they had come by that uplink.
    OfHost = 3,
}

/// One half of a translated flow, as the flow table holds it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FlowEntry<F: Family> {
    /// What a packet of this half looks like when it arrives at the hook.
    pub key: FlowKey<F>,
    /// What it looks like when it leaves. The protocol is the key's.
    pub translated: FlowTuple<F>,
    /// Direction of the packets that find this entry.
    pub direction: Direction,
    /// How they leave.
    pub path: Path,
    /// Whether the flow's first packet came by an uplink: where its packets leave by an uplink
    /// again, they get a source address of this node, or its replies would not pass here.
    pub is_from_outside: bool,
    /// The service port that was dialled.
    pub service: ServiceId,
    /// The backend that serves.
    pub backend: BackendId,
}

impl<F: Family> FlowEntry<F> {
    /// The entry of the packets that travel the other way.
    #[must_use]
    #[inline(always)]
    pub const fn partner(&self) -> Self {
        Self {
            key: FlowKey {
                tuple: self.translated.reverse(),
                hook: self.key.hook.other(),
            },
            translated: self.key.tuple.reverse(),
            direction: self.direction.other(),
            path: self.path,
            is_from_outside: self.is_from_outside,
            service: self.service,
            backend: self.backend,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_partner_of_a_partner_is_the_entry_itself() {
        let tuple = |s: u8, d: u8, sp, dp| FlowTuple::<V4> {
            source: [10, 0, 0, s],
            destination: [10, 0, 0, d],
            source_port: sp,
            destination_port: dp,
            protocol: Protocol::Tcp,
        };
        let entry = FlowEntry {
            key: FlowKey {
                tuple: tuple(1, 2, 40000, 80),
                hook: Hook::Ingress,
            },
            translated: tuple(1, 3, 40001, 8080),
            direction: Direction::Original,
            path: Path::Bridged,
            is_from_outside: true,
            service: ServiceId::new(3, 1),
            backend: BackendId::new(9, 0),
        };
        let partner = entry.partner();
        assert_eq!(partner.key.tuple, tuple(3, 1, 8080, 40001));
        assert_eq!(partner.translated, tuple(2, 1, 80, 40000));
        assert_eq!(partner.partner(), entry);
    }
}
