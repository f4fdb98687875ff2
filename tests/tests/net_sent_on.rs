//! Packets that are sent on at once, through the kernel's programs and its own routing tables, and through
//! the host's decision over the same ones: verdict, bytes with TTL and checksums, tables and counters.

#![expect(
    clippy::tests_outside_test_module,
    reason = "a file of tests is a module of tests"
)]
#![expect(
    clippy::significant_drop_tightening,
    reason = "a bench lives for its test"
)]

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use lb_common::flow::{Hook, Protocol};
use lb_common::onward::Answer;
use lb_common::table::device::Role;
use lb_common::verdict::Reason;
use lb_tests::command::ip;
use lb_tests::crossing::{self, BACKEND, CLIENT, Script, TAGS, UPLINK, cross, role};
use lb_tests::given::{self, PLACES, Place};
use lb_tests::host::Code;
use lb_tests::ns::{self, Namespace};
use lb_tests::outside;
use lb_tests::prog::Bench;

/// Packets of each node and family.
const PACKETS: usize = 1500;
/// The MAC of every device of the node: that of the receiver of every built packet.
const MAC: &str = "02:00:00:00:00:02";
/// The MAC of every neighbour.
const NEIGHBOUR: &str = "02:00:00:00:00:09";
/// Both, as frames have them that leave.
const MACS: [u8; 12] = [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 2];

/// A node, for the test of this name, whose backend is a pod of its own, or on another one.
fn node(test: &str, is_local: bool) -> Result<Namespace> {
    let name = format!("{}{}-redirect-{test}", ns::PREFIX, std::process::id());
    let node = Namespace::create(name)?;
    node.sysctl(&[
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv6/conf/all/disable_ipv6", "0"),
        ("net/ipv6/conf/default/accept_dad", "0"),
    ])?;
    let mut batch = "link set lo up\n".to_owned();
    for (device, mtu) in [(CLIENT, 1500), (BACKEND, 1300), (UPLINK, 1500)] {
        batch += &pair(device, mtu);
    }
    for place in PLACES {
        batch += &routes(place, is_local);
    }
    ip(node.name(), &batch)?;
    Ok(node)
}

fn pair(device: u32, mtu: u16) -> String {
    format!(
        "link add d{device} index {device} address {MAC} mtu {mtu} type veth peer name p{device}\n\
         link set p{device} up\n\
         link set d{device} up\n"
    )
}

/// The ways that the model has: see [`crossing::tables`].
fn routes(place: Place, is_local: bool) -> String {
    let (host, network) = if place.is_v6() { (128, 96) } else { (32, 16) };
    let (client, backend) = (place.pod(2), place.pod(3));
    let (own, far) = (place.address(192, 0), place.address(203, 0));
    let backend_device = if is_local { BACKEND } else { UPLINK };
    // A route's own MTU is what a host forwards by.
    let stranger = outside::client(place).ip();
    format!(
        "route add {client}/{host} dev d{CLIENT}\n\
         route add {backend}/{host} dev d{backend_device} mtu lock 1300\n\
         route add local {own}/{network} dev lo table local\n\
         route add {far}/{network} dev d{UPLINK}\n\
         neigh add {client} lladdr {NEIGHBOUR} nud permanent dev d{CLIENT}\n\
         neigh add {backend} lladdr {NEIGHBOUR} nud permanent dev d{backend_device}\n\
         neigh add {stranger} lladdr {NEIGHBOUR} nud permanent dev d{UPLINK}\n"
    )
}

/// What became of the packets of one run.
#[derive(Debug, Default)]
struct Counted {
    sent_on: usize,
    by_xdp: usize,
    begun: usize,
    sources: usize,
    left: usize,
}

/// Random packets at the node's devices. What comes by the uplink is seen by XDP first: what it takes must
/// be what tc makes of it then.
fn run(is_local: bool, place: Place, seed: u64) -> Counted {
    let mut tables = crossing::tables(is_local, Answer::Known);
    for macs in tables.fib.macs.values_mut() {
        *macs = MACS;
    }
    crossing::let_take(&mut tables, &[CLIENT, BACKEND, UPLINK]);
    let fib = tables.fib.clone();
    let mut bench = Bench::new(&outside::world());
    bench.change(|host| {
        *host = tables;
        crossing::open(host, &[CLIENT, BACKEND, UPLINK]);
    });
    let _attached = bench.attach_frames(UPLINK);
    let mut script = Script::new(seed, place);
    let mut counted = Counted::default();
    for _ in 0..PACKETS {
        let (device, frame) = script.next_packet();
        bench.stand_at(device);
        let taken = if device == UPLINK {
            bench.send_frame(&frame)
        } else {
            None
        };
        let crossed = cross(&fib, device, &frame, |device, hook, frame| {
            bench.stand_at(device);
            let (outcome, _) = bench.send_if_taken((role(device), hook), frame);
            outcome.ended
        });
        if let Some(taken) = taken {
            let sent = taken.device.map(|device| (device, taken.frame));
            assert_eq!(
                sent, crossed.left,
                "XDP's is on the left, tc's on the right"
            );
            assert!(crossed.is_sent_on);
            bench.stand_at(UPLINK);
            for tags in TAGS {
                let mut tagged = frame.clone();
                tagged.splice(12..12, tags.iter().copied());
                assert_eq!(bench.send_frame(&tagged), None, "{tags:?}");
            }
            counted.by_xdp += 1;
            let [(arrived, _), (left, _)] = taken.counts;
            counted.begun += usize::from(arrived == Reason::NewFlow);
            counted.sources += usize::from(left == Reason::NewSource);
        }
        counted.sent_on += usize::from(crossed.is_sent_on);
        if let Some((device, frame)) = crossed.left {
            counted.left += 1;
            script.learn(device, &frame);
        }
    }
    counted
}

fn check(test: &str, is_local: bool) -> Result<()> {
    let node = node(test, is_local)?;
    node.run(|| {
        for (place, seed) in PLACES.into_iter().zip([3, 4]) {
            let counted = run(is_local, place, seed);
            let Counted {
                sent_on,
                by_xdp,
                begun,
                sources,
                left,
            } = counted;
            let begins = begun * 200 > PACKETS && (is_local || sources * 200 > PACKETS);
            ensure!(
                sent_on * 4 > PACKETS && left > sent_on && by_xdp * 20 > PACKETS && begins,
                "{place:?}: of {PACKETS}, {counted:?}"
            );
        }
        Ok(())
    })
    .context("packets at a node's devices")
}

#[test]
fn packets_to_a_pod_of_this_node_are_sent_on_as_the_model_says() {
    check("here", true).expect("the kernel and the host agree");
}

#[test]
fn packets_to_a_pod_of_another_node_are_sent_on_as_the_model_says() {
    check("there", false).expect("the kernel and the host agree");
}

/// The same of a node on which nobody asked for it, and only what comes from outside for hosts is.
#[test]
fn packets_to_the_host_of_another_node_are_sent_on_unasked_as_the_model_says() {
    let node = node("host", false).expect("a node");
    let outcome = node.run(|| {
        for (place, seed) in PLACES.into_iter().zip([5, 6]) {
            let sent_on = run_to_hosts(place, seed);
            ensure!(sent_on * 8 > PACKETS, "{place:?}: {sent_on} of {PACKETS}");
            forget_all_neighbours(&node, place)?;
        }
        Ok(())
    });
    outcome.expect("the kernel and the host agree");
}

/// Tables of a node on which backends have addresses of hosts, and new flows to pods are routed.
fn to_hosts() -> Bench {
    let mut bench = Bench::new(&outside::world());
    bench.change(|host| {
        *host = crossing::tables(false, Answer::Known);
        crossing::know_hosts(host);
    });
    bench
}

fn run_to_hosts(place: Place, seed: u64) -> usize {
    let mut bench = to_hosts();
    let fib = crossing::tables(false, Answer::Known).fib;
    let mut script = Script::new(seed, place);
    let mut sent_on = 0;
    for _ in 0..PACKETS {
        let (device, frame) = script.next_packet();
        let crossed = cross(&fib, device, &frame, |device, hook, frame| {
            bench.stand_at(device);
            let (outcome, _) = bench.send_if_taken((role(device), hook), frame);
            outcome.ended
        });
        assert!(!crossed.is_sent_on || device == UPLINK);
        sent_on += usize::from(crossed.is_sent_on);
        if let Some((device, frame)) = crossed.left {
            script.learn(device, &frame);
        }
    }
    sent_on
}

/// A flow to a host begins so without a neighbour: the node's filters would keep the host from asking.
fn forget_all_neighbours(node: &Namespace, place: Place) -> Result<()> {
    let (backend, client) = (place.pod(3), outside::client(place).ip());
    let forget = format!(
        "neigh del {backend} dev d{UPLINK}\n\
         neigh del {client} dev d{UPLINK}\n"
    );
    ip(node.name(), &forget)?;
    let mut bench = to_hosts();
    bench.change(|host| {
        for way in &mut host.fib.ways {
            if way.device == UPLINK {
                way.answer = Answer::Unresolved;
            }
        }
    });
    let frame = given::first(
        Protocol::Tcp,
        outside::client(place),
        outside::dialled(place)[0],
    );
    bench.stand_at(UPLINK);
    let ended = bench
        .send_at((Role::Uplink, Hook::Ingress), &frame.build())
        .ended;
    ensure!(ended.sent_by == Some(UPLINK), "{place:?}: {ended:?}");
    Ok(())
}

/// A flow that began with a known neighbour is sent on when there is none any more: the kernel looks for
/// it, as it does for what it routes. A flow that begins without one is the host's to route.
#[test]
fn a_lost_neighbour_is_looked_for_and_a_flow_that_begins_without_one_is_routed() {
    let node = node("lost", true).expect("a node");
    let outcome = node.run(|| {
        for place in PLACES {
            lose_neighbour(&node, place)?;
        }
        Ok(())
    });
    outcome.expect("the kernel and the host agree");
}

fn lose_neighbour(node: &Namespace, place: Place) -> Result<()> {
    let mut bench = Bench::new(&outside::world());
    bench.change(|host| {
        *host = crossing::tables(true, Answer::Known);
        crossing::open(host, &[CLIENT, BACKEND, UPLINK]);
    });
    let service = outside::dialled(place)[0];
    let dial = |bench: &mut Bench, port| {
        let client = SocketAddr::new(outside::client(place).ip(), port);
        let frame = given::first(Protocol::Udp, client, service).build();
        bench.stand_at(UPLINK);
        bench.send_at((Role::Uplink, Hook::Ingress), &frame).ended
    };
    let begun = dial(&mut bench, 50_000);
    ensure!(begun.sent_by == Some(BACKEND), "{place:?}: {begun:?}");

    let backend = place.pod(3);
    ip(
        node.name(),
        &format!("neigh del {backend} dev d{BACKEND}\n"),
    )?;
    bench.change(|host| {
        for way in &mut host.fib.ways {
            if way.network == backend {
                way.answer = Answer::Unresolved;
            }
        }
    });
    let next = dial(&mut bench, 50_000);
    ensure!(next.sent_by == Some(BACKEND), "{place:?}: {next:?}");
    let other = dial(&mut bench, 50_001);
    ensure!(
        (other.code, other.sent_by) == (Code::Next, None),
        "{place:?}: {other:?}"
    );
    Ok(())
}
