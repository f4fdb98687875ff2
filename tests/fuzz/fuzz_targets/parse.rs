//! Whatever bytes arrive: the parser neither panics nor reads past the packet, what it finds lies
//! within the packet, and a rewrite followed by its inverse is the identity.

#![no_main]

use lb_common::answer::{Refusal, answer_echo};
use lb_common::family::{Family, V4, V6};
use lb_common::flow::Protocol;
use lb_common::icmp::{QuotedPacket, parse_quoted};
use lb_common::packet::{Frame, PacketRead as _};
use lb_common::parse::{Packet, Transport, parse, parse_link};
use lb_common::rewrite::{ErrorRewrite, Rewrite, apply, apply_error};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    let frame = Frame(&mut bytes);
    match parse_link(&frame) {
        Ok(link) if link.is_v6 => check::<V6>(bytes, link.l3),
        Ok(link) => check::<V4>(bytes, link.l3),
        Err(_) => {}
    }
});

fn check<F: Family>(mut bytes: Vec<u8>, l3: u32) {
    let frame = Frame(&mut bytes);
    let length = frame.length();
    let Ok(parsed) = parse::<F>(&frame, l3) else {
        return;
    };
    assert!(parsed.l3 < parsed.l4 && parsed.l4 <= parsed.end() && parsed.end() <= length);

    if let Some(refusal) = Refusal::<F>::new(&frame, &parsed) {
        let mut answer = vec![0xa5; usize::try_from(refusal.length()).unwrap()];
        refusal.write(&mut Frame(&mut answer)).unwrap();
        let answered = parse::<F>(&Frame(&mut answer), 14).unwrap();
        assert_eq!(answered.source, parsed.destination);
        assert_eq!(answered.destination, parsed.source);
    }
    match parsed.transport() {
        Transport::Ports { tuple, .. } => {
            let mut to = tuple.reverse();
            if tuple.protocol == Protocol::Sctp {
                (to.source_port, to.destination_port) = (tuple.source_port, tuple.destination_port);
            }
            let rewrite = Rewrite { from: tuple, to };
            apply(&mut Frame(&mut bytes), &parsed, &rewrite).unwrap();
            let again = parse::<F>(&Frame(&mut bytes), l3).unwrap();
            assert_eq!(again.tuple(), Some(to));
            apply(&mut Frame(&mut bytes), &again, &rewrite.inverse()).unwrap();
            let back = parse::<F>(&Frame(&mut bytes), l3).unwrap();
            assert_eq!(back, parsed);
        }
        Transport::IcmpError { quoted, .. } => {
            if let Ok(quoted) = parse_quoted::<F>(&frame, &parsed, quoted) {
                check_error(bytes, &parsed, &quoted);
            }
        }
        Transport::EchoRequest => {
            answer_echo(&mut Frame(&mut bytes), &parsed).unwrap();
            let reply = parse::<F>(&Frame(&mut bytes), l3).unwrap();
            assert_eq!(reply.source, parsed.destination);
        }
        Transport::LaterFragment { .. } | Transport::Other { .. } => {}
    }
}

fn check_error<F: Family>(mut bytes: Vec<u8>, parsed: &Packet<F>, quoted: &QuotedPacket<F>) {
    assert!(quoted.l3 < quoted.l4 && quoted.l4 + 4 <= quoted.end);
    if quoted.tuple.protocol == Protocol::Sctp {
        return;
    }
    let rewrite = ErrorRewrite {
        quoted: Rewrite {
            from: quoted.tuple,
            to: quoted.tuple.reverse(),
        },
        source: parsed.destination,
        destination: parsed.source,
    };
    apply_error(&mut Frame(&mut bytes), parsed, quoted, &rewrite).unwrap();
    let frame = Frame(&mut bytes);
    let again = parse::<F>(&frame, parsed.l3).unwrap();
    let again = parse_quoted::<F>(&frame, &again, quoted.l3).unwrap();
    assert_eq!(again.tuple, quoted.tuple.reverse());
}
