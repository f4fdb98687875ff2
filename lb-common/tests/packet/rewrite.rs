//! A rewritten packet is, byte for byte, the one that would have been built.

use lb_common::checksum::{Sum, update};
use lb_common::family::{Family, V4, V6};
use lb_common::flow::{FlowTuple, Protocol};
use lb_common::icmp::parse_quoted;
use lb_common::packet::{Frame, FrameHead, PacketRead, PacketWrite};
use lb_common::parse::{Packet, Transport};
use lb_common::rewrite::{
    ChecksumFix, ErrorRewrite, PacketRewrite, Rewrite, RewriteError, apply, apply_error,
};
use proptest::prelude::*;

use crate::given::{any_protocol, any_tuple, build, ip, parsed, tuple};
use crate::packets::diff::assert_same;
use crate::packets::{self, PacketBuilder};

fn any_rewrite<F: Family>() -> impl Strategy<Value = Rewrite<F>> {
    any_protocol().prop_flat_map(|protocol| {
        (any_tuple::<F>(protocol), any_tuple::<F>(protocol))
            .prop_map(|(from, to)| Rewrite { from, to })
    })
}

fn rewritten<F: Family>(frame: &[u8], packet: &Packet<F>, rewrite: &Rewrite<F>) -> Vec<u8> {
    let mut frame = frame.to_vec();
    apply(&mut Frame(&mut frame), packet, rewrite).unwrap();
    frame
}

/// A rewritten packet is the packet that would have been built with the new tuple, and rewriting
/// it back gives the old one.
fn rewrite_equals_building<F: Family>(
    rewrite: &Rewrite<F>,
    shape: impl Fn(PacketBuilder) -> PacketBuilder,
) {
    let before = shape(build(&rewrite.from)).build();
    let after = shape(build(&rewrite.to)).build();
    let packet = parsed::<F>(&before).unwrap();
    let actual = rewritten(&before, &packet, rewrite);
    assert_same(&after, &actual);
    let packet = parsed::<F>(&actual).unwrap();
    assert_same(&before, &rewritten(&actual, &packet, &rewrite.inverse()));
}

/// What `inet_proto_csum_replace_by_diff` does to a whole checksum, in memory order, with
/// `BPF_F_MARK_MANGLED_0` for UDP: one call for the addresses, one for the ports.
struct KernelModel<'a>(Frame<'a>);

impl PacketRead for KernelModel<'_> {
    fn length(&self) -> u32 {
        self.0.length()
    }

    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.0.read(offset)
    }

    fn read_padded<const N: usize>(&self, offset: u32, length: u32) -> Option<[u8; N]> {
        self.0.read_padded(offset, length)
    }
}

impl PacketWrite for KernelModel<'_> {
    type Head<'p>
        = FrameHead<'p>
    where
        Self: 'p;

    fn head<const N: usize>(&mut self) -> Option<FrameHead<'_>> {
        self.0.head::<N>()
    }

    fn write<const N: usize>(&mut self, offset: u32, bytes: [u8; N]) -> Option<()> {
        self.0.write(offset, bytes)
    }

    fn write_first<const N: usize>(
        &mut self,
        offset: u32,
        bytes: &[u8; N],
        length: u32,
    ) -> Option<()> {
        self.0.write_first(offset, bytes, length)
    }
}

impl PacketRewrite for KernelModel<'_> {
    fn fix_l4(&mut self, fix: ChecksumFix) -> Option<()> {
        for delta in [fix.address_delta, fix.port_delta] {
            let field = u16::from_ne_bytes(self.0.read(fix.offset)?);
            if delta == 0 || fix.is_udp && field == 0 {
                continue;
            }
            let (sum, carry) = u32::from(!field).overflowing_add(delta);
            let sum = sum + u32::from(carry);
            let sum = (sum & 0xffff) + (sum >> 16);
            let sum = (sum & 0xffff) + (sum >> 16);
            let mut field = !u16::try_from(sum).unwrap();
            if fix.is_udp && field == 0 {
                field = 0xffff;
            }
            self.0.write(fix.offset, field.to_ne_bytes())?;
        }
        Some(())
    }
}

fn kernel_agrees<F: Family>(rewrite: &Rewrite<F>, payload: &[u8]) {
    let frame = build(&rewrite.from).payload(payload).build();
    let packet = parsed::<F>(&frame).unwrap();
    let mut kernel = frame.clone();
    apply(&mut KernelModel(Frame(&mut kernel)), &packet, rewrite).unwrap();
    assert_same(&rewritten(&frame, &packet, rewrite), &kernel);
}

fn fragments_stay_one_datagram<F: Family>(rewrite: &Rewrite<F>) {
    let before = build(&rewrite.from).payload(&[3; 90]).fragments(40);
    let after = build(&rewrite.to).payload(&[3; 90]).fragments(40);
    // The first fragment of SCTP does not say how long the packet is that its checksum is over.
    let skipped = usize::from(rewrite.from.protocol == Protocol::Sctp);
    for (before, after) in before.iter().zip(&after).skip(skipped) {
        let packet = parsed::<F>(before).unwrap();
        assert_same(after, &rewritten(before, &packet, rewrite));
    }
}

/// An error about the packet with the tuple `quoted.from` becomes the one about `quoted.to`.
fn error_equals_building<F: Family>(
    quoted: &Rewrite<F>,
    outer: &Rewrite<F>,
    quote_length: usize,
    shape: impl Fn(PacketBuilder) -> PacketBuilder,
) {
    let error = |outer: &FlowTuple<F>, quoted: &FlowTuple<F>| {
        let frame = shape(build(quoted)).build();
        let (source, destination) = (ip::<F>(outer.source), ip::<F>(outer.destination));
        packets::time_exceeded(source, destination, &frame, quote_length).build()
    };
    let mut frame = error(&outer.from, &quoted.from);
    let packet = parsed::<F>(&frame).unwrap();
    let Transport::IcmpError { quoted: offset, .. } = packet.transport() else {
        panic!("{packet:?}");
    };
    let inner = parse_quoted::<F>(&Frame(&mut frame), &packet, offset).unwrap();
    assert_eq!(inner.tuple, quoted.from);
    let rewrite = ErrorRewrite {
        quoted: *quoted,
        source: outer.to.source,
        destination: outer.to.destination,
    };
    apply_error(&mut Frame(&mut frame), &packet, &inner, &rewrite).unwrap();
    assert_same(&error(&outer.to, &quoted.to), &frame);
}

proptest! {
    #[test]
    fn a_rewritten_ipv4_packet_is_the_one_that_would_have_been_built(
        rewrite in any_rewrite::<V4>(),
        payload in prop::collection::vec(any::<u8>(), 0..40),
        options in 0_usize..=10,
    ) {
        rewrite_equals_building(&rewrite, |packet| packet.payload(&payload).options(options));
        kernel_agrees(&rewrite, &payload);
        fragments_stay_one_datagram(&rewrite);
    }

    #[test]
    fn a_rewritten_ipv6_packet_is_the_one_that_would_have_been_built(
        rewrite in any_rewrite::<V6>(),
        payload in prop::collection::vec(any::<u8>(), 0..40),
        tags in 0_usize..=2,
    ) {
        rewrite_equals_building(&rewrite, |packet| {
            let packet = packet.payload(&payload).extension(60, &[0, 1, 4, 0, 0, 0, 0]);
            (0..tags).fold(packet, |packet, _| packet.tag(0x8100))
        });
        kernel_agrees(&rewrite, &payload);
        fragments_stay_one_datagram(&rewrite);
    }

    #[test]
    fn a_rewritten_ipv4_error_is_the_one_that_would_have_been_built(
        quoted in any_rewrite::<V4>(),
        outer in any_rewrite::<V4>(),
        quote in 6_usize..=24,
        words in 0_usize..=4,
    ) {
        let length = (quote + words) * 4;
        error_equals_building(&quoted, &outer, length, |packet| packet.payload(b"data").options(words));
    }

    #[test]
    fn a_rewritten_ipv6_error_is_the_one_that_would_have_been_built(
        quoted in any_rewrite::<V6>(),
        outer in any_rewrite::<V6>(),
        // A quote may end before the checksum or after it, but not within it.
        words in 13_usize..=20,
    ) {
        error_equals_building(&quoted, &outer, words * 4, |packet| {
            packet.payload(b"data").extension(60, &[0, 1, 4, 0, 0, 0, 0])
        });
    }

    #[test]
    fn an_updated_checksum_is_the_one_computed_anew(
        mut words in prop::collection::vec(any::<u16>(), 2..40),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u16>()), 0..20),
    ) {
        // A packet is never all zeros; there alone the two forms of zero could differ.
        words[0] |= 1;
        let full = |words: &[u16]| {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
            u16::from_be_bytes(etherparse::checksum::Sum16BitWords::new().add_slice(&bytes).ones_complement().to_ne_bytes())
        };
        let mut checksum = full(&words);
        for (index, new) in edits {
            let index = 1 + index.index(words.len() - 1);
            checksum = update(checksum, Sum::ZERO.replace_word(words[index], new));
            words[index] = new;
            prop_assert_eq!(checksum, full(&words));
        }
    }
}

#[test]
fn a_datagram_without_checksum_keeps_none() {
    fn check<F: Family>() {
        let from = tuple::<F>(Protocol::Udp);
        let to = from.reverse();
        rewrite_equals_building(&Rewrite { from, to }, PacketBuilder::without_checksum);
    }
    check::<V4>();
    check::<V6>();
}

#[test]
fn a_computed_zero_is_sent_as_all_ones() {
    let from = tuple::<V4>(Protocol::Udp);
    let mut to = from;
    // Every checksum belongs to one of the ports.
    while build(&to).build()[40..42] != [0xff, 0xff] {
        to.source_port = to.source_port.wrapping_add(1);
        assert_ne!(to, from, "some port has this checksum");
    }
    rewrite_equals_building(&Rewrite { from, to }, |packet| packet);
    kernel_agrees(&Rewrite { from, to }, &[]);
    kernel_agrees(&Rewrite { from: to, to: from }, &[]);
}

#[test]
fn other_ports_of_a_fragmented_sctp_packet_are_refused_and_nothing_changes() {
    let from = tuple::<V6>(Protocol::Sctp);
    let to = FlowTuple {
        destination_port: 8080,
        ..from
    };
    let before = build(&from).payload(&[3; 90]).fragments(40).remove(0);
    let mut frame = before.clone();
    let packet = parsed::<V6>(&frame).unwrap();
    let result = apply(&mut Frame(&mut frame), &packet, &Rewrite { from, to });
    assert_eq!(result, Err(RewriteError::SctpFragment));
    assert_same(&before, &frame);
}

#[test]
fn a_rewrite_to_itself_changes_nothing() {
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
        let from = tuple::<V4>(protocol);
        rewrite_equals_building(&Rewrite { from, to: from }, |packet| packet);
    }
}

#[test]
fn a_damaged_checksum_stays_damaged() {
    let from = tuple::<V4>(Protocol::Tcp);
    let to = FlowTuple {
        destination: [10, 1, 1, 1],
        destination_port: 8080,
        ..from
    };
    let mut frame = build(&from).build();
    frame[51] ^= 0x40;
    let packet = parsed::<V4>(&frame).unwrap();
    let after = rewritten(&frame, &packet, &Rewrite { from, to });
    assert_ne!(after[50..52], build(&to).build()[50..52]);
}

/// RFC 1624 §4: the header whose checksum eqn. 2 of RFC 1141 gets wrong.
#[test]
fn the_example_of_rfc_1624_holds() {
    assert_eq!(
        update(0xdd2f, Sum::ZERO.replace_word(0x5555, 0x3285)),
        0x0000
    );
}

/// RFC 1071 §3: the sum of these bytes, in either byte order.
#[test]
fn the_example_of_rfc_1071_holds() {
    let sum = [0x0001, 0xf203, 0xf4f5, 0xf6f7]
        .into_iter()
        .fold(Sum::ZERO, Sum::word);
    assert_eq!(sum.fold(), 0xddf2);
    let in_memory = u16::try_from(sum.in_memory_order()).unwrap();
    assert_eq!(in_memory.to_ne_bytes(), [0xdd, 0xf2]);
    assert_eq!(Sum::from_memory_order(sum.in_memory_order()).fold(), 0xddf2);
}
