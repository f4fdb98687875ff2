//! What the bench's driver program and the bench agree on: which packets are made, in which order.
//!
//! A test run repeats one packet, as the program left it. The driver puts the packet's headers back
//! before each run and gives it the client of the flow whose turn it is; both sides compute that
//! client by [`client`]. No program of the datapath uses this.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::hash;

/// Bytes of a packet, from its IP header on, that the driver puts back.
pub const HEADER: usize = 64;
/// MACs of receiver and sender, as each frame has them. The driver puts them back where programs write
/// others.
pub const MACS: [u8; 12] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
/// The low bits of a flow's number that choose the port, the others the address.
pub const PORT_BITS: u32 = 14;
/// The lowest port of a client: the first of 2^14 that end below 32 768.
pub const FIRST_PORT: u16 = 16_384;

/// What the driver makes: one value, written by the bench before each run; the driver moves
/// `position` on and leaves the last packet's headers in `header`.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes)]
#[repr(C)]
pub struct Course {
    /// The packet's first bytes. Address, port and checksums in it are the driver's to fill in.
    pub header: [u8; HEADER],
    /// Packets made so far.
    pub position: u64,
    /// Flows to choose from; 0 means that each packet is of the next flow, once and for all.
    pub flows: u32,
    /// Number of the first flow.
    pub first: u32,
    /// The low 32 bits of the first client's address, in host order.
    pub base: u32,
    /// Offset in `header` of the client's address, or of its last four bytes.
    pub address: u32,
    /// Offset in `header` of the client's port.
    pub port: u32,
    /// Offset in `header` of the IP header's checksum, 0 if it has none.
    pub ip_checksum: u32,
    /// Sum over the IP header's other 16-bit words.
    pub ip_sum: u32,
    /// Offset in `header` of the transport checksum.
    pub l4_checksum: u32,
    /// Sum over what else it covers.
    pub l4_sum: u32,
    /// No gap in memory.
    pub reserved: u32,
}

impl Course {
    /// The number of the flow whose turn it is at `position`.
    ///
    /// Among `flows` it is any, equally likely and without an order that a processor could foresee.
    #[inline(always)]
    pub const fn turn(&self, position: u64) -> u32 {
        let number = if self.flows == 0 {
            hash::lower(position)
        } else {
            hash::scale(hash::lower(hash::mix(position, 0x5_eed0)), self.flows)
        };
        self.first.wrapping_add(number)
    }
}

/// The client of flow number `flow`: how much to add to the first client's address, and its port.
#[inline(always)]
pub const fn client(flow: u32) -> (u32, u16) {
    let [_, _, high, low] = (flow & ((1 << PORT_BITS) - 1)).to_be_bytes();
    let port = FIRST_PORT.wrapping_add(u16::from_be_bytes([high, low]));
    (flow >> PORT_BITS, port)
}

/// The internet checksum of words that add up to `sum`.
#[inline(always)]
pub const fn finished(sum: u32) -> u16 {
    let sum = (sum >> 16).wrapping_add(sum & 0xffff);
    let [_, _, high, low] = (sum >> 16).wrapping_add(sum & 0xffff).to_be_bytes();
    !u16::from_be_bytes([high, low])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_flow_has_a_client_of_its_own() {
        let clients: BTreeSet<_> = (0..100_000).map(client).collect();
        assert_eq!(clients.len(), 100_000);
        assert_eq!(client(0), (0, 16_384));
        assert_eq!(client(16_384 + 5), (1, 16_389));
    }

    #[test]
    fn a_scrambled_course_reaches_all_flows_and_stays_among_them() {
        let mut course = Course::read_from_bytes(&[0; size_of::<Course>()]).unwrap();
        course.flows = 64;
        course.first = 7;
        let turns: BTreeSet<_> = (0..1000).map(|position| course.turn(position)).collect();
        assert_eq!(turns, (7..71).collect());
        course.flows = 0;
        assert_eq!(course.turn(3), 10);
    }

    #[test]
    fn a_checksum_is_the_complement_of_the_folded_sum() {
        assert_eq!(finished(0), 0xffff);
        assert_eq!(finished(0x1_ffff), 0xfffe);
        assert_eq!(finished(0xffff_ffff), 0);
    }
}
