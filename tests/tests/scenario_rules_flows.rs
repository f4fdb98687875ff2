//! Table 11.12 of kube-proxy's own tests, against our flow table: which flows of a Service leave
//! their backend when it changes. kube-proxy deletes entries of the kernel's conntrack; here the
//! next packet of a UDP flow finds that its backend serves no more. What a backend of one Service
//! that another still has needs is in the planner's tests.

#![expect(
    clippy::tests_outside_test_module,
    reason = "a file of tests is a module of tests"
)]

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use lb_common::flow::{Hook, Protocol};
use lb_common::id::Seconds;
use lb_common::table::backend::BackendFlags;
use lb_common::table::device::Role;
use lb_common::verdict::Reason;
use lb_tests::given::{answer, first, packet};
use lb_tests::host::{self, Code, Ended};
use lb_tests::tables::{MemoryTables, ServicePort, World};

const CLUSTER_IP: &str = "172.30.1.1:8000";
const EXTERNAL_IP: &str = "192.168.99.100:8000";
const BALANCER: &str = "1.2.3.4:8000";
const FRONTENDS: [&str; 3] = [CLUSTER_IP, EXTERNAL_IP, BALANCER];
const SERVING: &str = "10.240.0.4:9090";
const NOW: Seconds = Seconds(1000);

fn end(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// The three addresses of the Service, which lead to `backend` alone at first.
fn tables(protocol: Protocol, backend: &str) -> MemoryTables {
    let mut world = World::default();
    for frontend in FRONTENDS {
        let port = ServicePort::new(end(frontend), protocol);
        world = world.port(port.backend(end(backend), 1));
    }
    MemoryTables::new(&world)
}

/// A flow that has been answered.
fn establish(tables: &MemoryTables, protocol: Protocol, frontend: &str, backend: &str) {
    let (client, service, backend) = (end("10.0.0.2:40000"), end(frontend), end(backend));
    let begun = first(protocol, client, service).build();
    let begun = host::run(tables, Hook::Ingress, &begun, NOW);
    assert_eq!((begun.code, begun.reason), (Code::Next, Reason::NewFlow));
    let answer = answer(protocol, backend, client).build();
    let answered = host::run(tables, Hook::Egress, &answer, NOW);
    assert_eq!(answered.reason, Reason::Established);
    tables.forget_notes();
}

/// The next packet of that flow.
fn next(tables: &MemoryTables, protocol: Protocol, frontend: &str) -> Ended {
    let packet = packet(protocol, end("10.0.0.2:40000"), end(frontend)).build();
    host::run(tables, Hook::Ingress, &packet, NOW)
}

/// Moves the three addresses to `SERVING`, as the planner does: a new set, and the flags of the old
/// backend's record.
fn move_to_serving(old: &MemoryTables, protocol: Protocol, backend: &str) -> MemoryTables {
    let mut world = World::default();
    for frontend in FRONTENDS {
        let port = ServicePort::new(end(frontend), protocol);
        // The old backend keeps its place and gets no slot.
        world = world.port(port.backend(end(backend), 0).backend(end(SERVING), 1));
    }
    let mut new = MemoryTables::new(&world);
    new.set_flags(end(backend), protocol, 0);
    take_flows(&mut new, old);
    new
}

/// Puts the flows of one set of tables into another.
fn take_flows(new: &mut MemoryTables, old: &MemoryTables) {
    let words = old.flows_v4.iter();
    new.flows_v4 = words
        .map(|word| word.load(Ordering::Relaxed).into())
        .collect();
}

#[test]
fn row_11_12_udp_flows_leave_backends_that_serve_no_more() {
    let udp = Protocol::Udp;
    for (row, backend) in [
        ("a, the old port", "10.240.0.4:8080"),
        ("c, not serving", "10.240.1.5:9090"),
        ("c, deleted", "10.240.2.6:9090"),
    ] {
        for frontend in FRONTENDS {
            let before = tables(udp, backend);
            establish(&before, udp, frontend, backend);
            let after = move_to_serving(&before, udp, backend);
            let ended = next(&after, udp, frontend);
            assert_eq!(ended.reason, Reason::NewFlow, "11.12.{row}: {frontend}");
            // i: each is counted.
            let notes = after.notes.borrow().clone();
            assert_eq!(notes, [Reason::BackendReplaced], "11.12.{row}: {frontend}");
            let flows = host::flows(&after);
            assert!(
                flows.iter().all(|flow| flow.contains(SERVING)),
                "{row}: {flows:?}"
            );
        }
    }
}

#[test]
fn row_11_12_udp_flows_to_a_serving_backend_stay_terminating_or_not() {
    let udp = Protocol::Udp;
    let serving = BackendFlags::SERVING;
    for flags in [serving, serving | BackendFlags::TERMINATING] {
        for frontend in FRONTENDS {
            let mut tables = tables(udp, SERVING);
            establish(&tables, udp, frontend, SERVING);
            tables.set_flags(end(SERVING), udp, flags);
            let ended = next(&tables, udp, frontend);
            assert_eq!(ended.reason, Reason::Established, "11.12.b: {frontend}");
            assert!(tables.notes.borrow().is_empty());
        }
    }
}

const NODE_PORT: &str = "192.168.0.2:32000";
const OUTSIDE: &str = "203.0.113.2:40000";

/// A Service of one endpoint on this node, at a node port, which is dialled from outside.
fn at_node_port(protocol: Protocol, backends: &[(&str, u16)]) -> MemoryTables {
    let node = end(NODE_PORT);
    let mut port = ServicePort::new(end(CLUSTER_IP), protocol).node_port(node.port());
    for (backend, weight) in backends {
        port = port.backend(end(backend), *weight);
    }
    let world = World::default().node_address(node.ip(), true);
    MemoryTables::new(&world.source(node.ip()).port(port))
}

#[test]
fn row_11_12_flows_of_a_node_port_leave_or_stay_by_their_backend() {
    let at = |tables: &MemoryTables, hook, frame: &[u8]| {
        host::run_at(tables, (Role::Uplink, hook), frame, NOW)
    };
    let (client, node) = (end(OUTSIDE), end(NODE_PORT));
    for (row, protocol, backend, is_kept) in [
        ("e, serving", Protocol::Udp, SERVING, true),
        ("e, others", Protocol::Udp, "10.240.2.6:9090", false),
        ("g", Protocol::Sctp, "10.240.2.6:9090", true),
    ] {
        let before = at_node_port(protocol, &[(backend, 1)]);
        let begun = at(
            &before,
            Hook::Ingress,
            &first(protocol, client, node).build(),
        );
        assert_eq!(begun.reason, Reason::NewFlow, "11.12.{row}");
        let reply = answer(protocol, end(backend), client).build();
        let reply = at(&before, Hook::Egress, &reply);
        assert_eq!(reply.reason, Reason::Established, "11.12.{row}");
        let mut after = at_node_port(protocol, &[(backend, 0), (SERVING, 1)]);
        if backend != SERVING {
            after.set_flags(end(backend), protocol, 0);
        }
        take_flows(&mut after, &before);
        let next = at(
            &after,
            Hook::Ingress,
            &packet(protocol, client, node).build(),
        );
        let expected = if is_kept {
            Reason::Established
        } else {
            Reason::NewFlow
        };
        assert_eq!(next.reason, expected, "11.12.{row}");
        let notes = after.notes.borrow().clone();
        assert_eq!(notes.is_empty(), is_kept, "11.12.{row}: {notes:?}");
    }
}

#[test]
fn row_11_12_other_ports_have_no_flows() {
    let tables = tables(Protocol::Udp, SERVING);
    let ended = next(&tables, Protocol::Udp, "10.240.0.4:3000");
    assert_eq!(
        (ended.code, ended.reason),
        (Code::Next, Reason::NotService),
        "11.12.d"
    );
    // ours: a port that the Service's cluster address does not have is refused, not let through.
    let ended = next(&tables, Protocol::Udp, "172.30.1.1:3000");
    assert_eq!(ended.reason, Reason::UnknownPort, "11.12.d");
    assert!(host::flows(&tables).is_empty(), "11.12.d and h");
}

#[test]
fn row_11_12_tcp_and_sctp_flows_stay() {
    for protocol in [Protocol::Tcp, Protocol::Sctp] {
        // SCTP's port cannot be changed.
        let backend = "10.240.2.6:8000";
        for frontend in FRONTENDS {
            let mut tables = tables(protocol, backend);
            establish(&tables, protocol, frontend, backend);
            tables.set_flags(end(backend), protocol, 0);
            let ended = next(&tables, protocol, frontend);
            assert_eq!(
                ended.reason,
                Reason::Established,
                "11.12.g: {protocol:?} {frontend}"
            );
        }
    }
}

#[test]
fn row_11_12_a_client_that_was_refused_is_served_once_there_are_endpoints() {
    let empty = World::default().port(ServicePort::new(end(CLUSTER_IP), Protocol::Udp));
    let before = MemoryTables::new(&empty);
    let ended = next(&before, Protocol::Udp, CLUSTER_IP);
    assert_eq!(ended.reason, Reason::NoEndpoints);
    // ours: nothing was remembered, so nothing is to be deleted.
    assert!(host::flows(&before).is_empty(), "11.12.h");
    let ended = next(&tables(Protocol::Udp, SERVING), Protocol::Udp, CLUSTER_IP);
    assert_eq!(ended.reason, Reason::NewFlow, "11.12.h");
}

#[test]
fn row_11_12_without_any_endpoint_udp_clients_are_refused() {
    let udp = Protocol::Udp;
    let before = tables(udp, SERVING);
    establish(&before, udp, CLUSTER_IP, SERVING);
    let empty = FRONTENDS.iter().fold(World::default(), |world, frontend| {
        world.port(ServicePort::new(end(frontend), udp))
    });
    let mut after = MemoryTables::new(&empty);
    take_flows(&mut after, &before);
    // ours: kube-proxy leaves the entries of a Service without endpoints, whose packets then go to
    // nobody in silence.
    let ended = next(&after, udp, CLUSTER_IP);
    assert_eq!(ended.reason, Reason::NoEndpoints, "11.12.j");
}
