//! Courses of packets: from one frame to what the driver program repeats with other clients.

use anyhow::{Context as _, Result, ensure};
use lb_common::course::{Course, HEADER};

/// Bytes of an Ethernet header, after which the driver writes.
const ETHERNET: usize = 14;

/// Which end of the packets is the client, of which each flow has its own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Client {
    /// It sends them.
    Source,
    /// It receives them.
    Destination,
}

/// What the driver makes of `frame`, whose client is flow 0's and which has exactly the bytes that
/// the driver puts back.
pub(super) fn course(frame: &[u8], client: Client) -> Result<Course> {
    let header: [u8; HEADER] = frame
        .get(ETHERNET..)
        .and_then(|packet| packet.try_into().ok())
        .context("the frame has not the driver's length")?;
    let is_v6 = header[0] >> 4 == 6;
    let (l4, protocol) = if is_v6 {
        (40, header[6])
    } else {
        (20, header[9])
    };
    let address = match (is_v6, client) {
        (false, Client::Source) => 12,
        (false, Client::Destination) => 16,
        (true, Client::Source) => 20,
        (true, Client::Destination) => 36,
    };
    let port = l4 + if client == Client::Source { 0 } else { 2 };
    let l4_checksum = l4 + if protocol == 6 { 16 } else { 6 };
    ensure!(matches!(protocol, 6 | 17), "neither TCP nor UDP");
    let word = |offset: usize| u16::from_be_bytes([header[offset], header[offset + 1]]);
    let ip_words = (0..l4).step_by(2).filter(|offset| {
        let varies = *offset == 10 || *offset == address || *offset == address + 2;
        !is_v6 && !varies
    });
    // A checksum is the complement of a sum, and taking a word off a sum is adding its complement.
    let varying = [address, address + 2, port].map(|offset| u32::from(!word(offset)));
    let base = u32::from(word(address)) << 16 | u32::from(word(address + 2));
    Ok(Course {
        header,
        position: 0,
        flows: 1,
        first: 0,
        base,
        address: u32::try_from(address)?,
        port: u32::try_from(port)?,
        ip_checksum: if is_v6 { 0 } else { 10 },
        ip_sum: ip_words.map(|offset| u32::from(word(offset))).sum(),
        l4_checksum: u32::try_from(l4_checksum)?,
        l4_sum: u32::from(!word(l4_checksum)) + varying.iter().sum::<u32>(),
        reserved: 0,
    })
}

/// The same course through `flows` flows in scrambled order.
pub(super) const fn among(course: Course, flows: u32) -> Course {
    Course { flows, ..course }
}

/// The same course through flow after flow, from number `first` on, never one again.
pub(super) const fn onward(course: Course, first: u32) -> Course {
    Course {
        flows: 0,
        first,
        position: 0,
        ..course
    }
}
