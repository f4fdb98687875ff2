//! The parser finds what the builder put in, at every length, and refuses contradictions.

use lb_common::family::{Family, V4, V6};
use lb_common::flow::Protocol;
use lb_common::icmp::{ErrorKind, parse_quoted};
use lb_common::packet::Frame;
use lb_common::parse::{FragmentPart, ParseError, TcpFlags, Transport, parse, parse_link};
use proptest::prelude::*;

use crate::given::{address, build, ip, parsed, tuple};
use crate::packets;

const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

fn both(check_v4: impl Fn(Protocol), check_v6: impl Fn(Protocol)) {
    for protocol in PROTOCOLS {
        check_v4(protocol);
        check_v6(protocol);
    }
}

fn finds_the_tuple<F: Family>(protocol: Protocol) {
    let packet = parsed::<F>(&build::<F>(&tuple(protocol)).payload(b"x").build()).unwrap();
    let Transport::Ports {
        tuple: found,
        tcp_flags,
    } = packet.transport()
    else {
        panic!("{packet:?}");
    };
    assert_eq!(found, tuple(protocol));
    let is_tcp = protocol == Protocol::Tcp;
    assert_eq!(tcp_flags, is_tcp.then_some(TcpFlags::ACK));
    assert_eq!((packet.l3, packet.ttl), (14, 64));
    assert_eq!(packet.fragment.part(), FragmentPart::Whole);
}

#[test]
fn every_protocol_of_both_families_is_parsed() {
    both(finds_the_tuple::<V4>, finds_the_tuple::<V6>);
}

fn is_too_short_at_every_length<F: Family>(protocol: Protocol) {
    let frame = build::<F>(&tuple(protocol)).payload(b"xyz").build();
    for length in 0..frame.len() {
        let error = parsed::<F>(&frame[..length]).unwrap_err();
        assert_eq!(error, ParseError::TooShort, "at {length}");
    }
}

#[test]
fn a_packet_cut_anywhere_is_too_short() {
    both(
        is_too_short_at_every_length::<V4>,
        is_too_short_at_every_length::<V6>,
    );
}

fn transport_header_must_be_within_the_ip_packet<F: Family>(protocol: Protocol) {
    let needed = match protocol {
        Protocol::Tcp => 20,
        Protocol::Udp => 8,
        Protocol::Sctp => 12,
    };
    for present in 0..=needed {
        let (from, to) = (ip::<F>(address::<F>(1)), ip::<F>(address::<F>(2)));
        let mut frame = packets::raw(from, to, protocol.number(), &vec![0; present]).build();
        // Ethernet pads short frames: what follows the IP packet is not its.
        frame.extend([0xff; 40]);
        let result = parsed::<F>(&frame);
        assert_eq!(
            result.is_ok(),
            present == needed,
            "{protocol:?} with {present} bytes"
        );
    }
}

#[test]
fn ethernet_padding_is_no_transport_header() {
    both(
        transport_header_must_be_within_the_ip_packet::<V4>,
        transport_header_must_be_within_the_ip_packet::<V6>,
    );
}

#[test]
fn ipv4_options_move_the_transport_header() {
    for words in [0, 1, 10] {
        let frame = build::<V4>(&tuple(Protocol::Tcp)).options(words).build();
        let packet = parsed::<V4>(&frame).unwrap();
        assert_eq!(usize::try_from(packet.l4).unwrap(), 34 + 4 * words);
        assert_eq!(packet.tuple(), Some(tuple(Protocol::Tcp)));
    }
}

#[test]
fn headers_that_contradict_themselves_are_refused() {
    let good = build::<V4>(&tuple(Protocol::Tcp)).build();
    let with = |first: u8| {
        let mut frame = good.clone();
        frame[14] = first;
        parsed::<V4>(&frame).unwrap_err()
    };
    assert_eq!(with(0x44), ParseError::BadHeaderLength);
    assert_eq!(with(0x65), ParseError::WrongVersion);
    assert_eq!(with(0x4f), ParseError::TooShort);
    let mut frame = build::<V6>(&tuple(Protocol::Tcp)).build();
    frame[14] = 0x45;
    assert_eq!(parsed::<V6>(&frame), Err(ParseError::WrongVersion));
}

#[test]
fn up_to_two_vlan_tags_are_skipped() {
    let untagged = build::<V6>(&tuple(Protocol::Udp));
    let single = untagged.clone().tag(0x8100);
    let double = untagged.clone().tag(0x88a8).tag(0x8100);
    for (packet, l3) in [(&untagged, 14), (&single, 18), (&double, 22)] {
        let packet = parsed::<V6>(&packet.build()).unwrap();
        assert_eq!(
            (packet.l3, packet.tuple()),
            (l3, Some(tuple(Protocol::Udp)))
        );
    }
    let triple = double.tag(0x8100).build();
    assert_eq!(parsed::<V6>(&triple), Err(ParseError::NotIp));
}

#[test]
fn ipv6_extension_headers_are_walked() {
    let pad = [0, 1, 4, 0, 0, 0, 0];
    let packet = build::<V6>(&tuple(Protocol::Tcp))
        .extension(0, &pad)
        .extension(60, &[1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        .extension(43, &[0, 4, 0, 0, 0, 0, 0])
        .extension(51, &[1, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1])
        .extension(44, &[0, 0, 0, 0, 0, 0, 7]);
    let found = parsed::<V6>(&packet.build()).unwrap();
    assert_eq!(found.l4, 54 + 8 + 16 + 8 + 12 + 8);
    assert_eq!(found.tuple(), Some(tuple(Protocol::Tcp)));
    assert_eq!(
        found.fragment.part(),
        FragmentPart::Whole,
        "an atomic fragment is whole"
    );

    let six = packet.extension(60, &pad);
    assert_eq!(
        parsed::<V6>(&six.build()).unwrap().tuple(),
        Some(tuple(Protocol::Tcp))
    );
    let seven = six.extension(60, &pad).build();
    assert_eq!(parsed::<V6>(&seven), Err(ParseError::TooManyExtensions));
}

#[test]
fn long_chains_of_extension_headers_are_refused() {
    for (units, is_walked) in [(63_u8, true), (64, false)] {
        let mut rest = vec![units];
        rest.resize((usize::from(units) + 1) * 8 - 1, 0);
        let frame = build::<V6>(&tuple(Protocol::Udp))
            .extension(60, &rest)
            .build();
        assert_eq!(parsed::<V6>(&frame).is_ok(), is_walked);
    }
}

#[test]
fn a_source_routed_packet_is_not_for_its_destination_yet() {
    let frame = build::<V6>(&tuple(Protocol::Udp))
        .extension(43, &[0, 4, 1, 0, 0, 0, 0])
        .build();
    let packet = parsed::<V6>(&frame).unwrap();
    assert_eq!(packet.transport(), Transport::Other { protocol: 43 });
}

fn fragments_are_told_apart<F: Family>(protocol: Protocol) {
    let packet = build::<F>(&tuple(protocol))
        .payload(&[7; 100])
        .identification(0x4321);
    let fragments = packet.fragments(48);
    let parts: Vec<_> = fragments
        .iter()
        .map(|frame| parsed::<F>(frame).unwrap())
        .collect();
    let identification = 0x4321;
    assert_eq!(
        parts[0].fragment.part(),
        FragmentPart::First { identification }
    );
    assert_eq!(parts[0].tuple(), Some(tuple(protocol)));
    assert!(parts.len() > 2);
    for part in &parts[1..] {
        assert_eq!(part.fragment.part(), FragmentPart::Later { identification });
        assert_eq!(part.transport(), Transport::LaterFragment { protocol });
    }
}

#[test]
fn only_first_fragments_have_ports() {
    both(
        fragments_are_told_apart::<V4>,
        fragments_are_told_apart::<V6>,
    );
}

fn errors_are_told_apart<F: Family>(kinds: &[(u8, ErrorKind)]) {
    let (router, client) = (ip::<F>(address::<F>(9)), ip::<F>(address::<F>(1)));
    for protocol in PROTOCOLS {
        let quoted = build::<F>(&tuple(protocol)).build();
        for &(number, expected) in kinds {
            let packet = packets::icmp(router, client, [number, 0], [0; 4]).payload(&quoted[14..]);
            let mut frame = packet.build();
            let packet = parsed::<F>(&frame).unwrap();
            let Transport::IcmpError { kind, quoted } = packet.transport() else {
                panic!("{packet:?}");
            };
            assert_eq!(kind, expected);
            let quoted = parse_quoted(&Frame(&mut frame), &packet, quoted).unwrap();
            assert_eq!(quoted.tuple, tuple::<F>(protocol));
        }
    }
}

#[test]
fn errors_of_both_families_are_told_apart() {
    use ErrorKind::{ParameterProblem, Redirect, TimeExceeded, TooBig, Unreachable};
    errors_are_told_apart::<V4>(&[
        (3, Unreachable),
        (5, Redirect),
        (11, TimeExceeded),
        (12, ParameterProblem),
    ]);
    errors_are_told_apart::<V6>(&[
        (1, Unreachable),
        (2, TooBig),
        (3, TimeExceeded),
        (4, ParameterProblem),
    ]);
}

fn a_short_quote_has_no_tuple<F: Family>(_: Protocol) {
    let (router, client) = (ip::<F>(address::<F>(9)), ip::<F>(address::<F>(1)));
    let quoted = build::<F>(&tuple(Protocol::Udp)).payload(&[1; 30]).build();
    let shortest = if F::IS_V6 { 44 } else { 24 };
    for length in 0..60 {
        let mut frame = packets::time_exceeded(router, client, &quoted, length).build();
        frame.extend([0xff; 60]);
        let packet = parsed::<F>(&frame).unwrap();
        let Transport::IcmpError { quoted, .. } = packet.transport() else {
            panic!("{packet:?}");
        };
        let quoted = parse_quoted::<F>(&Frame(&mut frame), &packet, quoted);
        assert_eq!(
            quoted.is_ok(),
            length >= shortest,
            "with {length} bytes quoted"
        );
    }
}

#[test]
fn a_quote_without_ports_is_refused() {
    both(
        a_short_quote_has_no_tuple::<V4>,
        a_short_quote_has_no_tuple::<V6>,
    );
}

#[test]
fn an_icmpv6_redirect_quotes_in_an_option() {
    let (router, client) = (ip::<V6>(address::<V6>(9)), ip::<V6>(address::<V6>(1)));
    let quoted = build::<V6>(&tuple(Protocol::Tcp)).build();
    let target = [2, 1, 2, 0, 0, 0, 0, 1];
    let header = [4, 8, 0, 0, 0, 0, 0, 0];
    for before in [&[][..], &target] {
        let message = [&[0; 32], before, &header, &quoted[14..]].concat();
        let packet = packets::icmp(router, client, [137, 0], [0; 4]).payload(&message);
        let mut frame = packet.build();
        let packet = parsed::<V6>(&frame).unwrap();
        let Transport::IcmpError {
            kind: ErrorKind::Redirect,
            quoted,
        } = packet.transport()
        else {
            panic!("{packet:?}");
        };
        let quoted = parse_quoted::<V6>(&Frame(&mut frame), &packet, quoted).unwrap();
        assert_eq!(quoted.tuple, tuple(Protocol::Tcp));
    }
}

fn echo_is_told_apart<F: Family>(_: Protocol) {
    let (client, service) = (ip::<F>(address::<F>(1)), ip::<F>(address::<F>(2)));
    let request = packets::echo_request(client, service);
    assert_eq!(
        parsed::<F>(&request.build()).unwrap().transport(),
        Transport::EchoRequest
    );
    let protocol = if F::IS_V6 { 58 } else { 1 };
    for frame in [
        packets::echo_reply(client, service).build(),
        request.fragments(8).remove(0),
    ] {
        let packet = parsed::<F>(&frame).unwrap();
        assert_eq!(packet.transport(), Transport::Other { protocol });
    }
}

#[test]
fn only_whole_echo_requests_are_echo_requests() {
    both(echo_is_told_apart::<V4>, echo_is_told_apart::<V6>);
}

fn a_zero_length_is_the_packets_own<F: Family>(length_field: usize) {
    let mut frame = build::<F>(&tuple(Protocol::Tcp))
        .payload(&[0; 1000])
        .build();
    frame[length_field..length_field + 2].fill(0);
    assert_eq!(parsed::<F>(&frame), Err(ParseError::TooShort));
    frame.resize(100_000, 0);
    let packet = parsed::<F>(&frame).unwrap();
    assert_eq!(packet.total_length, 100_000 - 14);
    assert_eq!(packet.tuple(), Some(tuple(Protocol::Tcp)));
}

#[test]
fn only_a_segment_above_64_kib_may_leave_its_length_open() {
    a_zero_length_is_the_packets_own::<V4>(16);
    a_zero_length_is_the_packets_own::<V6>(18);
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), l3 in 0_u32..80) {
        let length = bytes.len();
        let frame = Frame(&mut bytes);
        let _link = parse_link(&frame);
        if let Ok(packet) = parse::<V4>(&frame, l3) {
            prop_assert!(usize::try_from(packet.end()).unwrap() <= length);
        }
        if let Ok(packet) = parse::<V6>(&frame, l3) {
            prop_assert!(usize::try_from(packet.end()).unwrap() <= length);
        }
    }
}
