//! Which packets can be sent on, and what becomes of them: beside what other packets show, what only the
//! kernel knows of one.

use lb_common::family::{Family, V4, V6};
use lb_common::flow::Protocol;
use lb_common::onward::{Answer, Hop, Offer, Question, Reach, Routes, Wire, may_begin};
use lb_common::packet::Frame;
use lb_common::table::device::Role;

use crate::given::{build, tuple};

const OWN: u32 = 3;
const NEXT: u32 = 4;

const WIRE: Wire = Wire {
    device: OWN,
    segment: 0,
    is_for_host: true,
    has_mark: false,
    has_tag: false,
};

const HOP: Hop = Hop {
    answer: Answer::Known,
    device: NEXT,
    has_programs: true,
    is_clear: true,
    is_open: true,
    role: Role::Workload,
};

/// Answers the first question, then the next ones.
struct Ways(Vec<Hop>);

impl Routes for Ways {
    fn hop<F: Family>(&mut self, _: &Question<F>) -> Hop {
        self.0.remove(0)
    }
}

fn frame<F: Family>(protocol: Protocol) -> Vec<u8> {
    let payload = vec![7; 3000];
    build(&tuple::<F>(protocol)).payload(&payload).build()
}

/// What is asked about a packet, if it can be sent on.
fn question<F: Family>(frame: &[u8], wire: Wire) -> Option<Question<F>> {
    let mut frame = frame.to_vec();
    Some(Offer::<F>::of(&mut Frame(&mut frame), wire)?.question)
}

fn sent<F: Family>(frame: &[u8], hop: Hop) -> Option<Vec<u8>> {
    let mut bytes = frame.to_vec();
    let mut frame = Frame(&mut bytes);
    let offer = Offer::<F>::of(&mut frame, WIRE)?;
    let device = offer.send(&mut frame, &mut Ways(vec![hop]))?;
    assert_eq!(device, NEXT);
    Some(frame.0.to_vec())
}

fn in_each_family(check: impl Fn(bool)) {
    check(false);
    check(true);
}

#[test]
fn what_the_kernel_knows_beside_the_bytes_keeps_a_packet_from_being_sent_on() {
    let is_offered = |wire| {
        let [v4, v6] = [
            question::<V4>(&frame::<V4>(Protocol::Tcp), wire).is_some(),
            question::<V6>(&frame::<V6>(Protocol::Tcp), wire).is_some(),
        ];
        assert_eq!(v4, v6);
        v4
    };
    assert!(is_offered(WIRE));
    let foreign = Wire {
        is_for_host: false,
        ..WIRE
    };
    let marked = Wire {
        has_mark: true,
        ..WIRE
    };
    let tagged = Wire {
        has_tag: true,
        ..WIRE
    };
    for wire in [foreign, marked, tagged] {
        assert!(!is_offered(wire), "{wire:?}");
    }
}

#[test]
fn the_largest_packet_on_the_wire_is_what_a_route_is_asked_for() {
    in_each_family(|is_v6| {
        let header = if is_v6 { 40 } else { 20 };
        let length = |protocol, segment| {
            let wire = Wire { segment, ..WIRE };
            if is_v6 {
                question::<V6>(&frame::<V6>(protocol), wire).map(|it| it.length)
            } else {
                question::<V4>(&frame::<V4>(protocol), wire).map(|it| it.length)
            }
        };
        assert_eq!(length(Protocol::Tcp, 0), Some(header + 20 + 3000));
        assert_eq!(length(Protocol::Tcp, 1448), Some(header + 20 + 1448));
        assert_eq!(length(Protocol::Udp, 1400), Some(header + 8 + 1400));
        // The kernel gives such a size where each segment has another.
        assert_eq!(length(Protocol::Udp, 0xffff), None);
        assert_eq!(length(Protocol::Sctp, 0xffff), None);
    });
}

#[test]
fn a_length_that_the_header_cannot_say_is_taken_from_what_is_to_be_cut() {
    let mut big = frame::<V6>(Protocol::Tcp);
    big[18..20].copy_from_slice(&[0, 0]);
    assert_eq!(question::<V6>(&big, WIRE), None);
    let cut = Wire {
        segment: 1440,
        ..WIRE
    };
    assert_eq!(question::<V6>(&big, cut).map(|it| it.length), Some(1500));
}

#[test]
fn a_source_that_is_no_single_host_is_left_to_the_host() {
    let with_source = |first: [u8; 2]| {
        let mut frame = frame::<V6>(Protocol::Udp);
        frame[22..24].copy_from_slice(&first);
        question::<V6>(&frame, WIRE).is_some()
    };
    assert!(with_source([0xfd, 0]) && with_source([0x20, 1]) && with_source([0xfe, 0xc0]));
    for first in [[0, 0], [0xff, 2], [0xfe, 0x80], [0xfe, 0xbf]] {
        assert!(!with_source(first), "{first:x?}");
    }
    // IPv4's header has a checksum, so the builder makes it.
    for (first, is_host) in [
        (0_u8, false),
        (10, true),
        (223, true),
        (224, false),
        (255, false),
    ] {
        let mut tuple = tuple::<V4>(Protocol::Udp);
        tuple.source = [first, 1, 2, 3];
        let frame = build(&tuple).build();
        assert_eq!(question::<V4>(&frame, WIRE).is_some(), is_host, "{first}");
    }
}

#[test]
fn a_route_and_known_programs_are_all_that_a_packet_needs() {
    in_each_family(|is_v6| {
        let protocol = Protocol::Udp;
        let sent = |hop| {
            if is_v6 {
                sent::<V6>(&frame::<V6>(protocol), hop)
            } else {
                sent::<V4>(&frame::<V4>(protocol), hop)
            }
        };
        let expected = if is_v6 {
            build(&tuple::<V6>(protocol)).ttl(63)
        } else {
            build(&tuple::<V4>(protocol)).ttl(63)
        };
        let expected = expected.payload(&vec![7; 3000]).build();
        assert_eq!(sent(HOP), Some(expected.clone()));
        let unresolved = Hop {
            answer: Answer::Unresolved,
            is_open: false,
            ..HOP
        };
        assert_eq!(sent(unresolved), Some(expected));
        let without = Hop {
            has_programs: false,
            ..HOP
        };
        assert_eq!(sent(without), None);
        assert_eq!(sent(Hop::NONE), None);
    });
}

#[test]
fn a_flow_begins_so_only_if_both_ways_are_known_open_and_the_same() {
    let question = question::<V4>(&frame::<V4>(Protocol::Tcp), WIRE).expect("it can be sent on");
    let back = Hop { device: OWN, ..HOP };
    let begins = |there, back, reach| may_begin(&question, reach, &mut Ways(vec![there, back]));
    assert!(begins(HOP, back, Reach::Here));
    let uplink = Hop {
        role: Role::Uplink,
        ..HOP
    };
    assert!(begins(uplink, back, Reach::Anywhere) && !begins(uplink, back, Reach::Here));
    for change in [
        |hop: Hop| Hop {
            answer: Answer::Unresolved,
            ..hop
        },
        |hop: Hop| Hop {
            answer: Answer::Other,
            ..hop
        },
        |hop: Hop| Hop {
            is_open: false,
            ..hop
        },
    ] {
        assert!(!begins(change(HOP), back, Reach::Anywhere));
        assert!(!begins(HOP, change(back), Reach::Anywhere));
    }
    let elsewhere = Hop {
        device: NEXT,
        ..HOP
    };
    assert!(!begins(HOP, elsewhere, Reach::Anywhere));
}

#[test]
fn a_flow_to_a_host_begins_so_unasked_by_devices_that_nobody_looks_at_and_with_unknown_neighbours()
{
    let question = question::<V4>(&frame::<V4>(Protocol::Tcp), WIRE).expect("it can be sent on");
    let there = Hop {
        answer: Answer::Unresolved,
        is_open: false,
        role: Role::Uplink,
        ..HOP
    };
    let back = Hop {
        device: OWN,
        ..there
    };
    let begins = |there, back, reach| may_begin(&question, reach, &mut Ways(vec![there, back]));
    for reach in [Reach::ToHost, Reach::AnywhereToHost] {
        assert!(begins(there, back, reach));
        assert!(!begins(
            there,
            Hop {
                device: NEXT,
                ..back
            },
            reach
        ));
        for change in [
            |hop: Hop| Hop {
                answer: Answer::Other,
                ..hop
            },
            |hop: Hop| Hop {
                is_clear: false,
                ..hop
            },
        ] {
            assert!(!begins(change(there), back, reach));
            assert!(!begins(there, change(back), reach));
        }
    }
    let pod = Hop { ..HOP };
    assert!(!begins(pod, back, Reach::ToHost), "it does not leave");
    assert!(begins(pod, back, Reach::AnywhereToHost));
    let closed = Hop {
        is_open: false,
        ..pod
    };
    assert!(!begins(closed, back, Reach::AnywhereToHost));
    assert!(!begins(there, back, Reach::Anywhere));
}
