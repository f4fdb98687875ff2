//! What `decide` says of a packet of which only the tuple is known: the function of the kernel
//! programs, on a packet made for it.

use lb_common::decide::{Action, Sighting, Workspace, decide};
use lb_common::family::Family;
use lb_common::flow::{FlowTuple, Protocol};
use lb_common::packet::Frame;
use lb_common::parse::parse;
use lb_common::tables::Tables;
use lb_common::verdict::Reason;

/// The end of a decision.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Decided<F: Family> {
    pub(super) reason: Reason,
    /// The packet as it goes on, where it is translated.
    pub(super) translated: Option<FlowTuple<F>>,
}

/// Decides about a packet with `tuple` and `tcp_flags`.
pub(super) fn decided<F: Family>(
    tables: &impl Tables,
    seen: &Sighting,
    tuple: &FlowTuple<F>,
    tcp_flags: u8,
) -> Decided<F> {
    let mut bytes = packet(tuple, tcp_flags);
    let frame = Frame(&mut bytes);
    let Ok(parsed) = parse::<F>(&frame, 0) else {
        return Decided {
            reason: Reason::Malformed,
            translated: None,
        };
    };
    let mut workspace = Workspace::<F>::default();
    let verdict = decide(&frame, &parsed, seen, tables, &mut workspace);
    Decided {
        reason: verdict.reason,
        translated: (verdict.action == Action::Translate)
            .then(|| workspace.rewrite().map(|rewrite| rewrite.to))
            .flatten(),
    }
}

/// A packet from its IP header on, without payload; checksums, which nothing here asks for, are zero.
fn packet<F: Family>(tuple: &FlowTuple<F>, tcp_flags: u8) -> Vec<u8> {
    let transport = transport(tuple, tcp_flags);
    let length = |more: usize| u16::try_from(transport.len() + more).unwrap_or(u16::MAX);
    let protocol = tuple.protocol.number();
    let (source, destination) = (F::mapped(tuple.source), F::mapped(tuple.destination));
    let mut bytes = Vec::new();
    if F::IS_V6 {
        bytes.extend([0x60, 0, 0, 0]);
        bytes.extend(length(0).to_be_bytes());
        bytes.extend([protocol, 64]);
        bytes.extend(source);
        bytes.extend(destination);
    } else {
        bytes.extend([0x45, 0]);
        bytes.extend(length(20).to_be_bytes());
        bytes.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
        // The last four bytes of the mapped form.
        bytes.extend(&source[12..]);
        bytes.extend(&destination[12..]);
    }
    bytes.extend(transport);
    bytes
}

fn transport<F: Family>(tuple: &FlowTuple<F>, tcp_flags: u8) -> Vec<u8> {
    let mut bytes = tuple.source_port.to_be_bytes().to_vec();
    bytes.extend(tuple.destination_port.to_be_bytes());
    match tuple.protocol {
        // Sequence and acknowledgement numbers; five words of header.
        Protocol::Tcp => {
            bytes.extend([0; 8]);
            bytes.extend([0x50, tcp_flags, 0xff, 0xff, 0, 0, 0, 0]);
        }
        Protocol::Udp => bytes.extend([0, 8, 0, 0]),
        // Verification tag, checksum, and a chunk that says nothing.
        Protocol::Sctp => bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 11, 0, 0, 4]),
    }
    bytes
}

#[cfg(test)]
mod tests {
    use lb_common::family::{V4, V6};
    use lb_common::parse::{TcpFlags, Transport};

    use super::*;

    fn check<F: Family>(source: F::Address, destination: F::Address) {
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
            let tuple = FlowTuple::<F> {
                source,
                destination,
                source_port: 41_000,
                destination_port: 80,
                protocol,
            };
            let mut bytes = packet(&tuple, 2);
            let parsed = parse::<F>(&Frame(&mut bytes), 0).unwrap();
            let Transport::Ports {
                tuple: read,
                tcp_flags,
            } = parsed.transport()
            else {
                panic!("{parsed:?}")
            };
            assert_eq!(read, tuple);
            let expected = (protocol == Protocol::Tcp).then_some(TcpFlags(2));
            assert_eq!(tcp_flags, expected);
        }
    }

    #[test]
    fn the_packet_says_what_the_tuple_and_the_flags_say() {
        check::<V4>([10, 0, 1, 7], [10, 96, 0, 1]);
        let v6 = |last| {
            let mut address = [0; 16];
            (address[0], address[15]) = (0xfd, last);
            address
        };
        check::<V6>(v6(7), v6(1));
    }
}
