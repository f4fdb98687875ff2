//! Clients outside of the cluster, while what they depend on changes: long flows, source ranges,
//! addresses and uplinks that come and go, an agent that dies.
#![expect(
    clippy::tests_outside_test_module,
    reason = "an integration test is a test module"
)]

use std::{io::ErrorKind, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    checks, clock,
    cluster::{Endpoint, Exposure, Policy, Service, sockets},
    command::ip,
    in_every_shape,
    lab::{CniShape, TUNNEL, UPLINK, address},
    scenario::{Check, NODE_PORT, PORT, PROPAGATION, Stage, TARGET, on_stage},
    traffic::{LongFlow, Transport, UdpClient, bulk_echo, refusal},
};

/// How long a flow may wait for an answer, whatever changes around it.
const STALL: Duration = Duration::from_secs(1);
/// How long silence is listened to.
const SILENCE: Duration = Duration::from_millis(400);
/// How long flows of an address that is gone may last: a moment in which it may come back, and a walk
/// through the flow tables that begins afterwards; and as much again.
const LOST_ADDRESS: Duration = Duration::from_secs(40);
/// Exchanges that a flow makes while something is different.
const EXCHANGES: u64 = 100;
/// A second address of node 1, which takes node ports too.
const SECOND: [&str; 2] = ["10.200.0.101", "fd00:200::65"];

const CHECKS: &[Check] = checks![
    flows_through_a_node_port_outlive_every_change_that_is_not_theirs,
    bulk_streams_pass_through_a_node_port,
    source_ranges_hold_for_everybody_and_can_be_changed,
    an_address_takes_node_ports_as_long_as_the_node_has_it,
    an_uplink_that_disappears_takes_nothing_with_it,
    the_roles_of_devices_are_shown_with_their_reasons,
];

in_every_shape!(
    clients_from_outside_are_served_through_changes,
    on_stage_with_outside
);

#[test]
fn flows_that_left_with_an_address_that_is_gone_get_another() {
    let shape = CniShape::Vxlan;
    let stage = Stage::build_with_outside(shape, "", |_lab| Ok(()));
    on_stage(
        shape,
        stage,
        checks![a_client_is_served_though_its_flow_lost_its_address],
    );
}

#[track_caller]
fn on_stage_with_outside(shape: CniShape) {
    let stage = Stage::build_with_outside(shape, "", |_lab| Ok(()));
    on_stage(shape, stage, CHECKS);
}

/// Waits until whoever dials `address` from outside hears nothing, or a refusal.
fn await_unserved(stage: &Stage, address: SocketAddr, expected: ErrorKind) -> Result<()> {
    let outside = &stage.cluster.lab.outside().ns;
    let what = format!("{address} is no longer served: {expected}");
    clock::eventually(&what, PROPAGATION, || {
        let met = refusal(outside, address, Transport::Tcp, SILENCE);
        Ok(met.ok().filter(|(kind, _)| *kind == expected).map(drop))
    })
}

/// Long flows through node 1 by both protocols and families, to a local and a remote endpoint each.
fn open_flows(stage: &Stage) -> Result<Vec<LongFlow>> {
    let outside = &stage.cluster.lab.outside().ns;
    let mut flows = Vec::new();
    for address in stage.at_node(1) {
        for transport in Transport::ALL {
            for server in ["web-1", "web-2"] {
                let what = format!("a {transport} flow to {server} through {address}");
                flows.push(clock::eventually(&what, PROPAGATION, || {
                    let flow = LongFlow::start(outside, address, transport)?;
                    Ok((flow.server == server).then_some(flow))
                })?);
            }
        }
    }
    Ok(flows)
}

/// Waits until every flow has gone on for a while.
fn await_exchanges(flows: &[LongFlow]) -> Result<()> {
    let goals: Vec<_> = flows
        .iter()
        .map(|flow| flow.exchanges() + EXCHANGES)
        .collect();
    for (flow, goal) in flows.iter().zip(goals) {
        let what = format!("the flow to {} goes on", flow.server);
        clock::eventually(&what, PROPAGATION, || {
            Ok((flow.exchanges() >= goal).then_some(()))
        })?;
    }
    Ok(())
}

/// Ends the flows: none failed, moved or waited long.
fn check_flows(flows: Vec<LongFlow>) -> Result<()> {
    for flow in flows {
        let (server, report) = (flow.server.clone(), flow.stop()?);
        ensure!(
            report.failure.is_none() && report.servers.len() == 1 && report.longest_stall < STALL,
            "the flow to {server}: {report:?}"
        );
    }
    Ok(())
}

fn flows_through_a_node_port_outlive_every_change_that_is_not_theirs(
    stage: &mut Stage,
) -> Result<()> {
    let flows = open_flows(stage)?;
    let node = stage.cluster.lab.node(1).ns.name().to_owned();
    stage.set_endpoints(&["web-1", "web-2"])?;
    await_exchanges(&flows)?;
    // Another device, another uplink, another address: none of the flows'.
    ip(
        &node,
        "link add other0 type bridge\n\
         link set other0 up\n\
         addr add 192.0.2.77/32 dev other0\n\
         link add other1 type vxlan id 77 local 10.200.0.1 dev eth0 dstport 4790\n\
         link set other1 up\n",
    )?;
    await_exchanges(&flows)?;
    stage.set_endpoints(&["web-1", "web-2", "web-3"])?;
    ip(&node, "link del other0\nlink del other1\n")?;
    await_exchanges(&flows)?;
    stage.cluster.crash_agent(1)?;
    await_exchanges(&flows)?;
    stage.cluster.await_agents()?;
    await_exchanges(&flows)?;
    check_flows(flows)
}

fn bulk_streams_pass_through_a_node_port(stage: &mut Stage) -> Result<()> {
    let outside = &stage.cluster.lab.outside().ns;
    for address in stage.at_node(1) {
        // Several, so that local and remote endpoints are both among them.
        for _ in 0..6 {
            let took = bulk_echo(outside, address, 4 << 20)?;
            ensure!(
                took < Duration::from_secs(5),
                "{address}: 4 MiB took {took:?}"
            );
        }
    }
    Ok(())
}

fn source_ranges_hold_for_everybody_and_can_be_changed(stage: &mut Stage) -> Result<()> {
    let exposure = |ranges: &[&str]| Exposure {
        source_ranges: ranges.iter().map(ToString::to_string).collect(),
        external_policy: Policy::Local,
        ..Exposure::everywhere(7)
    };
    let everyone = exposure(&[address::OUTSIDE_V4, address::OUTSIDE_V6]);
    let balancer = everyone.balancer.context("a load balancer's address")?;
    let endpoint = Endpoint::of(stage.cluster.lab.pod("web-1"));
    let service = Service::new("ranged", 107).on(PORT, TARGET).to([endpoint]);
    let write = |stage: &Stage, ranges: &[&str]| {
        let service = service.clone().exposed(exposure(ranges));
        stage.cluster.manifests.write(&service)
    };
    write(stage, &[address::OUTSIDE_V4, address::OUTSIDE_V6])?;
    let own = stage.cluster.lab.outside().addresses();
    for (address, own) in sockets(balancer, PORT).into_iter().zip(own) {
        stage.await_served(address)?;
        for transport in Transport::ALL {
            let greeting = stage.ask_from_outside(address, transport)?;
            ensure!(
                greeting.server == "web-1" && greeting.client.ip() == own,
                "{greeting}, not web-1 {own}"
            );
        }
        // Pods are not exempt.
        let pod = &stage.cluster.lab.pod("client").ns;
        let (kind, took) = refusal(pod, address, Transport::Tcp, SILENCE)?;
        ensure!(kind == ErrorKind::TimedOut, "a pod: {kind} in {took:?}");
    }
    // Neither node ports nor external addresses ask for ranges.
    write(stage, &[address::CLUSTER_CIDR_V4, address::CLUSTER_CIDR_V6])?;
    for address in sockets(balancer, PORT) {
        await_unserved(stage, address, ErrorKind::TimedOut)?;
        let what = format!("{address} is served to a pod");
        clock::eventually(&what, PROPAGATION, || {
            Ok(stage.ask("client", address, Transport::Tcp).ok())
        })?;
    }
    let external = everyone.external.context("an external address")?;
    for address in sockets(external, PORT) {
        stage.ask_from_outside(address, Transport::Tcp)?;
    }
    // Ranges of one family close the other.
    write(stage, &[address::OUTSIDE_V4])?;
    let [v4, v6] = sockets(balancer, PORT);
    stage.await_served(v4)?;
    await_unserved(stage, v6, ErrorKind::TimedOut)?;
    stage.cluster.manifests.remove(&service)?;
    Ok(())
}

fn an_address_takes_node_ports_as_long_as_the_node_has_it(stage: &mut Stage) -> Result<()> {
    let node = stage.cluster.lab.node(1).ns.name().to_owned();
    let flows = open_flows(stage)?;
    let [v4, v6] = SECOND;
    let second = SECOND.map(|address| format!("{address}:{NODE_PORT}"));
    let second: [SocketAddr; 2] = [second[0].parse()?, SocketAddr::new(v6.parse()?, NODE_PORT)];
    ip(
        &node,
        &format!("addr add {v4}/24 dev {UPLINK}\naddr add {v6}/64 dev {UPLINK} nodad\n"),
    )?;
    for address in second {
        stage.await_served(address)?;
    }
    let outside = &stage.cluster.lab.outside().ns;
    let doomed = LongFlow::start(outside, second[0], Transport::Tcp)?;
    ip(
        &node,
        &format!("addr del {v4}/24 dev {UPLINK}\naddr del {v6}/64 dev {UPLINK}\n"),
    )?;
    for address in second {
        let what = format!("{address} is gone");
        clock::eventually(&what, PROPAGATION, || {
            Ok(refusal(outside, address, Transport::Tcp, SILENCE).ok())
        })?;
    }
    await_exchanges(&flows)?;
    // What becomes of a flow to an address that is gone is nobody's promise; nothing crashes.
    drop(doomed);
    check_flows(flows)
}

/// What goes to another node leaves by the tunnel with the tunnel's address.
fn a_client_is_served_though_its_flow_lost_its_address(stage: &mut Stage) -> Result<()> {
    let outside = &stage.cluster.lab.outside().ns;
    let [door, _] = stage.at_node(1);
    let client = clock::eventually("a flow to the other node", PROPAGATION, || {
        let client = UdpClient::open(outside, door)?;
        let greeting = client.ask(SILENCE)?;
        Ok((greeting.server == "web-2").then_some(client))
    })?;
    let [old, new] = [0, 2].map(|number| address::pod_v4(1, number));
    let seen_as = |address: std::net::Ipv4Addr| {
        let greeting = client.ask(SILENCE).ok();
        Ok(greeting.filter(|it| it.server == "web-2" && it.client.ip() == address))
    };
    clock::eventually("the tunnel's address", PROPAGATION, || seen_as(old))?;
    let others = open_flows(stage)?;
    let others: Vec<_> = others
        .into_iter()
        .filter(|flow| flow.server == "web-1")
        .collect();
    let node = stage.cluster.lab.node(1).ns.name().to_owned();
    ip(
        &node,
        &format!("addr add {new}/32 dev {TUNNEL}\naddr del {old}/32 dev {TUNNEL}\n"),
    )?;
    // The client never falls silent: its flow does not end by itself.
    clock::eventually("the tunnel's other address", LOST_ADDRESS, || seen_as(new))?;
    await_exchanges(&others)?;
    check_flows(others)
}

fn an_uplink_that_disappears_takes_nothing_with_it(stage: &mut Stage) -> Result<()> {
    let node = stage.cluster.lab.node(1).ns.name().to_owned();
    let flows = open_flows(stage)?;
    let listed = |stage: &Stage| stage.cluster.steerage(1, &["interface", "list"]);
    ip(
        &node,
        "link add gone0 type vxlan id 78 local 10.200.0.1 dev eth0 dstport 4791\n\
         link set gone0 up\n",
    )?;
    let is_attached = |line: &str| {
        line.contains("gone0") && line.contains("uplink") && line.ends_with("attached")
    };
    clock::eventually("gone0 has its programs", PROPAGATION, || {
        Ok(listed(stage)?.lines().any(is_attached).then_some(()))
    })?;
    ip(&node, "link del gone0\n")?;
    clock::eventually("gone0 is forgotten", PROPAGATION, || {
        let text = listed(stage)?;
        let is_known = text.contains("gone0") || text.contains(" gone");
        Ok((!is_known).then_some(()))
    })?;
    await_exchanges(&flows)?;
    check_flows(flows)
}

fn the_roles_of_devices_are_shown_with_their_reasons(stage: &mut Stage) -> Result<()> {
    let text = stage
        .cluster
        .steerage(1, &["interface", "list", "-o", "wide"])?;
    let line = |name: &str| {
        let mut lines = text.lines();
        let found = lines.find(|line| line.split_whitespace().nth(1) == Some(name));
        found.with_context(|| format!("no {name} in\n{text}"))
    };
    let uplink = line(UPLINK)?;
    ensure!(
        uplink.contains("uplink")
            && uplink.contains("has an address of the Node")
            && uplink.contains("10.200.0.1"),
        "{uplink}"
    );
    let pod = line(&stage.cluster.lab.pod("client").host_device)?;
    ensure!(
        pod.contains("workload") && pod.contains("its other end in another namespace"),
        "{pod}"
    );
    Ok(())
}
