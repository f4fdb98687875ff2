//! Answers are packets that their receiver accepts, and nothing is answered that must not be.

use lb_common::answer::{Refusal, answer_echo};
use lb_common::family::{Family, V4, V6};
use lb_common::flow::{FlowTuple, Protocol};
use lb_common::packet::Frame;

use crate::given::{address, build, ip, parsed, tuple};
use crate::packets::diff::assert_same;
use crate::packets::{self, ACK, FIN, PacketBuilder, RST, SYN};

/// The frame, sent by the other side.
fn answer(packet: &PacketBuilder) -> Vec<u8> {
    let mut frame = packet.build();
    frame[..12].rotate_left(6);
    frame
}

fn refusal<F: Family>(frame: &[u8]) -> Option<Vec<u8>> {
    let packet = parsed::<F>(frame).unwrap();
    let mut frame = frame.to_vec();
    let refusal = Refusal::<F>::new(&Frame(&mut frame), &packet)?;
    // Nothing of what the resized packet held may be left.
    let mut answer = vec![0xa5; usize::try_from(refusal.length()).unwrap()];
    refusal.write(&mut Frame(&mut answer)).unwrap();
    Some(answer)
}

fn resets<F: Family>() {
    let from = tuple::<F>(Protocol::Tcp);
    let reset = |flags, sequence, acknowledgement| {
        let packet = build(&from.reverse())
            .flags(flags)
            .numbers(sequence, acknowledgement);
        answer(&packet.window(0).identification(0))
    };
    let segment = |flags, payload: &[u8]| {
        build(&from)
            .flags(flags)
            .numbers(u32::MAX, 5)
            .payload(payload)
            .build()
    };
    for (flags, payload, expected) in [
        (SYN, &b""[..], reset(RST | ACK, 0, 0)),
        (SYN | FIN, b"abc", reset(RST | ACK, 0, 4)),
        (FIN, b"", reset(RST | ACK, 0, 0)),
        (0, b"abc", reset(RST | ACK, 0, 2)),
        (ACK, b"abc", reset(RST, 5, 0)),
        (SYN | ACK, b"", reset(RST, 5, 0)),
    ] {
        assert_same(&expected, &refusal::<F>(&segment(flags, payload)).unwrap());
    }
    for flags in [RST, RST | ACK] {
        assert_eq!(refusal::<F>(&segment(flags, b"")), None);
    }
}

#[test]
fn tcp_is_refused_by_a_reset_that_its_sender_accepts() {
    resets::<V4>();
    resets::<V6>();
}

fn unreachables<F: Family>() {
    let (client, service) = (ip::<F>(address::<F>(1)), ip::<F>(address::<F>(2)));
    let code = if F::IS_V6 { [1, 4] } else { [3, 3] };
    let expected = |frame: &[u8]| {
        let length = ((frame.len() - 14) & !3).min(60);
        let packet = packets::icmp(service, client, code, [0; 4]);
        answer(&packet.payload(&frame[14..14 + length]).identification(0))
    };
    let udp = build(&tuple::<F>(Protocol::Udp));
    for length in 0..60 {
        let frame = udp.clone().payload(&vec![9; length]).build();
        assert_same(&expected(&frame), &refusal::<F>(&frame).unwrap());
    }
    for packet in [
        build(&tuple::<F>(Protocol::Sctp)),
        packets::echo_request(client, service),
        packets::raw(client, service, 47, b"0123"),
    ] {
        let frame = packet.build();
        assert_same(&expected(&frame), &refusal::<F>(&frame).unwrap());
    }
}

#[test]
fn everything_else_is_refused_as_port_unreachable() {
    unreachables::<V4>();
    unreachables::<V6>();
}

#[test]
fn ipv4_options_are_quoted() {
    let frame = build(&tuple::<V4>(Protocol::Udp)).options(8).build();
    let answer = refusal::<V4>(&frame).unwrap();
    assert_eq!(answer[42..], frame[14..]);
    let too_many = build(&tuple::<V4>(Protocol::Udp)).options(9).build();
    assert_eq!(
        refusal::<V4>(&too_many),
        None,
        "the quote would end before the ports"
    );
}

fn has_no_refusal<F: Family>(group: F::Address) {
    let (client, service) = (ip::<F>(address::<F>(1)), ip::<F>(address::<F>(2)));
    let udp = tuple::<F>(Protocol::Udp);
    let plain = build(&udp).payload(&[1; 80]);
    let mut to_group_mac = plain.build();
    to_group_mac[0] |= 1;
    let from_nobody = FlowTuple {
        source: F::from_halves([0, 0]),
        ..udp
    };
    let from_group = FlowTuple {
        source: group,
        ..udp
    };
    let to_group = FlowTuple {
        destination: group,
        ..udp
    };
    for frame in [
        packets::unreachable(client, service, &plain.build()).build(),
        packets::echo_reply(client, service).build(),
        packets::icmp(client, service, [200, 0], [0; 4]).build(),
        plain.fragments(40).remove(1),
        plain.clone().tag(0x8100).build(),
        to_group_mac,
        build(&from_nobody).build(),
        build(&from_group).build(),
        build(&to_group).build(),
    ] {
        assert_eq!(
            refusal::<F>(&frame),
            None,
            "{:?}",
            packets::diff::fields(&frame)
        );
    }
    assert!(refusal::<F>(&plain.build()).is_some());
    assert!(refusal::<F>(&plain.fragments(40).remove(0)).is_some());
}

#[test]
fn what_must_not_be_answered_is_not() {
    has_no_refusal::<V4>([224, 0, 0, 5]);
    has_no_refusal::<V4>([255; 4]);
    has_no_refusal::<V6>(V6::from_halves([0xff02_0000_0000_0000, 1]));
}

fn echoes<F: Family>() {
    let (client, service) = (ip::<F>(address::<F>(1)), ip::<F>(address::<F>(2)));
    for ttl in [1, 64, 255] {
        let mut frame = packets::echo_request(client, service).ttl(ttl).build();
        let packet = parsed::<F>(&frame).unwrap();
        answer_echo(&mut Frame(&mut frame), &packet).unwrap();
        assert_same(&answer(&packets::echo_reply(service, client)), &frame);
    }
}

#[test]
fn an_echo_request_becomes_its_reply() {
    echoes::<V4>();
    echoes::<V6>();
}
