//! What this host itself sends by an uplink, which programs of their own decide about; each packet
//! through the kernel's programs and the host's decision alike.

#![expect(
    clippy::tests_outside_test_module,
    reason = "a file of tests is a module of tests"
)]
#![expect(
    clippy::significant_drop_tightening,
    reason = "a bench lives for its test"
)]

use std::net::SocketAddr;

use lb_common::flow::Hook;
use lb_common::table::device::Role;
use lb_common::verdict::Reason;
use lb_tests::given::{answer, each, first};
use lb_tests::host::Code;
use lb_tests::outside;
use lb_tests::packets::diff;
use lb_tests::prog::Bench;

const IN: (Role, Hook) = (Role::Uplink, Hook::Ingress);
const OUT: (Role, Hook) = (Role::Uplink, Hook::Egress);

/// The same packets that others send and this host forwards are nobody's business here.
#[test]
fn this_host_is_refused_and_dropped_as_a_client_and_who_it_forwards_is_not() {
    each(|place, protocol| {
        let mut bench = Bench::new(&outside::world());
        let (client, blocked) = (outside::client(place), outside::blocked(place));
        let stranger = SocketAddr::new(place.address(205, 1), 80);
        let unknown = SocketAddr::new(place.dialled(10).ip(), 81);
        let unallocated = SocketAddr::new(place.service(200), 80);
        for (source, dialled, (code, reason)) in [
            (
                client,
                place.dialled(20),
                (Code::Redirect, Reason::NoEndpoints),
            ),
            (client, unknown, (Code::Redirect, Reason::UnknownPort)),
            (
                blocked,
                outside::balancer(place, 14),
                (Code::Drop, Reason::SourceRange),
            ),
            // Nowhere is a device that leads there and has programs of ours.
            (
                client,
                place.dialled(10),
                (Code::Redirect, Reason::NoWayToBackend),
            ),
            (client, unallocated, (Code::Next, Reason::NotService)),
            (client, stranger, (Code::Next, Reason::NotService)),
        ] {
            let frame = first(protocol, source, dialled).build();
            bench.host.is_of_host.set(true);
            bench.send_at(OUT, &frame).expect_end(code, reason);
            bench.host.is_of_host.set(false);
            bench
                .send_at(OUT, &frame)
                .expect_end(Code::Next, Reason::NotService);
        }
    });
}

/// It is a backend, too: of a flow that came by the uplink, and whose endpoint has its address.
#[test]
fn what_this_host_answers_as_an_endpoint_gets_the_service_address_back() {
    each(|place, protocol| {
        let mut bench = Bench::new(&outside::world());
        let (client, backend) = (outside::client(place), place.backend(protocol));
        for dialled in outside::dialled(place) {
            let begun = bench.send_at(IN, &first(protocol, client, dialled).build());
            let seen = outside::source_of(&begun.ended.frame, place);
            bench.host.is_of_host.set(true);
            let outcome = bench.send_at(OUT, &answer(protocol, backend, seen).build());
            bench.host.is_of_host.set(false);
            assert_eq!(outcome.ended.reason, Reason::Established);
            let restored = answer(protocol, dialled, client).build();
            diff::assert_same(&restored, &outcome.ended.frame);
        }
    });
}

/// Whatever its bytes are, down to none: a frame that is cut or tagged is no other than a forwarded one.
#[test]
fn frames_of_this_host_that_are_cut_or_tagged_are_decided_about_alike() {
    each(|place, protocol| {
        let mut bench = Bench::new(&outside::world());
        bench.host.is_of_host.set(true);
        let whole = first(protocol, outside::client(place), place.dialled(20)).build();
        let mut tagged = whole.clone();
        tagged.splice(12..12, [0x81, 0x00, 0x00, 0x05]);
        for frame in [&whole, &tagged] {
            for length in 14..frame.len() {
                let _ended = bench.send_if_taken(OUT, &frame[..length]);
            }
        }
        // Nobody can be answered behind a tag.
        bench
            .send_at(OUT, &tagged)
            .expect_end(Code::Drop, Reason::RefusalSuppressed);
    });
}
