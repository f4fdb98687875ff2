//! Table 11.11's rows on when kube-proxy clears entries of UDP flows: which changes leave flows
//! behind that the agent takes out, since their own packets would not notice. And 11.12's last row:
//! a pass is for all of them.

use super::*;
use crate::dataplane::memory::Memory;
use crate::model::endpoint::EndpointSlice;
use crate::plan::planner::Planner;
use crate::plan::tests::{CAPACITY, settle};

fn udp_slice(name: &str, port: (&str, u16), endpoints: Vec<Endpoint>) -> EndpointSlice {
    let mut slice = slice(name, "svc1", &[port], endpoints);
    slice.ports[0].protocol = Protocol::Udp;
    slice.is_v6 = false;
    slice
}

fn udp_world(slices: &[EndpointSlice]) -> World {
    let mut world = World::default();
    let mut svc = service("svc1", &["172.30.0.41"], &[("dns", 53), ("dns-2", 54)]);
    for port in &mut svc.ports {
        port.protocol = Protocol::Udp;
    }
    world.add_service(svc);
    for slice in slices {
        world.add_slice(slice.clone());
    }
    world
}

/// Whether the change leaves flows to be taken out.
fn leaves_flows(before: &[EndpointSlice], after: &[EndpointSlice]) -> bool {
    let (mut planner, mut memory) = (Planner::new(CAPACITY), Memory::new(CAPACITY));
    settle(&mut planner, &mut memory, &udp_world(before));
    settle(&mut planner, &mut memory, &udp_world(after));
    !planner.departed().is_empty()
}

#[test]
fn row_11_11_changes_that_leave_udp_flows_behind() {
    let one = |port, endpoints| udp_slice("a", port, endpoints);
    let other = |endpoints| udp_slice("b", ("dns", 12), endpoints);
    let (first, second) = (|| elsewhere("10.1.1.1"), || elsewhere("10.1.1.2"));
    let ending = || conditions([0, 1, 1], first());
    let ended = || conditions([0, 0, 1], first());
    let dns = ("dns", 11);
    for (row, before, after, expected) in [
        (
            "unchanged",
            vec![one(dns, vec![first()])],
            vec![one(dns, vec![first()])],
            false,
        ),
        (
            "slice removed",
            vec![one(dns, vec![first()]), other(vec![second()])],
            vec![one(dns, vec![first()])],
            true,
        ),
        (
            "address removed",
            vec![one(dns, vec![first(), second()])],
            vec![one(dns, vec![first()])],
            true,
        ),
        (
            "port renamed",
            vec![one(dns, vec![first()])],
            vec![one(("dns-2", 11), vec![first()])],
            true,
        ),
        (
            "port renumbered",
            vec![one(dns, vec![first()])],
            vec![one(("dns", 22), vec![first()])],
            true,
        ),
        // ours: kube-proxy clears on these too, which deletes nothing that a new flow would not need:
        // our table has no entries of clients that were not translated.
        (
            "slice added",
            vec![one(dns, vec![first()])],
            vec![one(dns, vec![first()]), other(vec![second()])],
            false,
        ),
        (
            "address added",
            vec![one(dns, vec![first()])],
            vec![one(dns, vec![first(), second()])],
            false,
        ),
        (
            "none to one",
            vec![one(dns, vec![])],
            vec![one(dns, vec![first()])],
            false,
        ),
        // A terminating endpoint goes on serving its flows, and lets them go when it no longer does.
        (
            "ready to terminating",
            vec![one(dns, vec![first()])],
            vec![one(dns, vec![ending()])],
            false,
        ),
        (
            "terminating to gone",
            vec![one(dns, vec![ending()])],
            vec![one(dns, vec![ended()])],
            true,
        ),
    ] {
        assert_eq!(leaves_flows(&before, &after), expected, "11.11.n, {row}");
    }
}

#[test]
fn row_11_12_one_pass_over_the_flow_tables_is_for_all_that_left() {
    let (mut planner, mut memory) = (Planner::new(CAPACITY), Memory::new(CAPACITY));
    let many: Vec<_> = (1..=40)
        .map(|n| elsewhere(&format!("10.1.1.{n}")))
        .collect();
    settle(
        &mut planner,
        &mut memory,
        &udp_world(&[udp_slice("a", ("dns", 11), many)]),
    );
    settle(&mut planner, &mut memory, &udp_world(&[]));
    assert!(!planner.departed().is_empty());
    planner.departed_mut().begin_pass();
    planner.departed_mut().end_pass(0);
    assert!(planner.departed().is_empty(), "11.12.k");
}
