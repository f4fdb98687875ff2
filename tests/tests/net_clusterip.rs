//! `ClusterIP` between real sockets: reached, spread, refused, and nothing lost on the way.
#![expect(
    clippy::tests_outside_test_module,
    reason = "an integration test is a test module"
)]

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    checks,
    cluster::{Condition, Endpoint, Service},
    in_every_shape,
    lab::address,
    scenario::{Check, PORT, PROPAGATION, Stage, TARGET, check_share, on_one_stage},
    traffic::{
        self, Load, LongFlow, Pong, Transport, UdpClient, ask_udp, bulk_echo, ping, refusal,
    },
};

/// A refusal is an answer; it takes as long as one.
const QUICKLY: Duration = Duration::from_millis(500);
/// How long silence is listened to.
const SILENCE: Duration = Duration::from_millis(400);
/// After which a question counts as lost that met its flow being moved.
const LOST: Duration = Duration::from_millis(200);
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Every check of this file, in an order in which none disturbs another. Direct connections come
/// first: one from the port of a recent flow to the same backend is not told apart from it yet.
const CHECKS: &[Check] = checks![
    packets_that_concern_no_service_are_left_alone,
    the_first_connections_of_all_are_served,
    endpoints_change_under_load_and_nobody_notices,
    local_and_remote_endpoints_are_reached_with_the_clients_address,
    connections_spread_over_endpoints_by_weight,
    udp_flows_leave_an_endpoint_that_only_another_service_still_has,
    a_pod_reaches_itself_through_its_service,
    a_service_without_endpoints_and_an_unknown_port_are_refused_at_once,
    an_unallocated_service_address_is_silent,
    a_ping_is_answered_while_an_endpoint_is_ready,
    a_pod_that_comes_later_is_attached_and_served,
    fragmented_datagrams_and_bulk_streams_pass,
    a_smaller_mtu_on_the_path_does_not_stall_a_stream,
];

in_every_shape!(services_work, |shape| on_one_stage(shape, CHECKS));

/// Nobody has sent anything on this stage: the node's neighbour entries are yet to be made, and the
/// paths of these flows are chosen without them.
fn the_first_connections_of_all_are_served(stage: &mut Stage) -> Result<()> {
    let client = &stage.cluster.lab.pod("client").ns;
    for address in stage.web.sockets(PORT) {
        for transport in Transport::ALL {
            traffic::spread(client, address, transport, 40)?;
        }
    }
    Ok(())
}

fn local_and_remote_endpoints_are_reached_with_the_clients_address(
    stage: &mut Stage,
) -> Result<()> {
    for (name, host) in [("web-1", 21), ("web-2", 22)] {
        let endpoint = Endpoint::of(stage.cluster.lab.pod(name));
        let service = Service::new(&format!("only-{name}"), host).on(PORT, TARGET);
        let service = service.to([endpoint]);
        stage.publish(&service)?;
        let own = stage.cluster.lab.pod("client").addresses();
        for (address, own) in service.sockets(PORT).into_iter().zip(own) {
            for transport in Transport::ALL {
                let greeting = stage.ask("client", address, transport)?;
                ensure!(greeting.server == name, "{transport} {address}: {greeting}");
                ensure!(
                    greeting.client.ip() == own,
                    "{transport} {address}: {greeting}"
                );
            }
        }
    }
    Ok(())
}

fn connections_spread_over_endpoints_by_weight(stage: &mut Stage) -> Result<()> {
    let client = &stage.cluster.lab.pod("client").ns;
    let third = 1.0 / 3.0;
    for address in stage.web.sockets(PORT) {
        for transport in Transport::ALL {
            let spread = traffic::spread(client, address, transport, 3000)?;
            check_share(
                &spread,
                &[("web-1", third), ("web-2", third), ("web-3", third)],
            )
            .with_context(|| format!("{transport} {address}"))?;
        }
    }
    let lab = &stage.cluster.lab;
    let weighed = Service::new("weighed", 23).on(PORT, TARGET).to([
        Endpoint::of(lab.pod("web-1")).weighing(300),
        Endpoint::of(lab.pod("web-2")),
        Endpoint::of(lab.pod("web-3")).weighing(0),
    ]);
    stage.publish(&weighed)?;
    for address in weighed.sockets(PORT) {
        let spread = traffic::spread(client, address, Transport::Tcp, 3000)?;
        check_share(&spread, &[("web-1", 0.75), ("web-2", 0.25)])?;
    }
    Ok(())
}

fn a_pod_reaches_itself_through_its_service(stage: &mut Stage) -> Result<()> {
    let pod = stage.cluster.lab.pod("web-1");
    let own = Service::new("own", 24)
        .on(PORT, TARGET)
        .to([Endpoint::of(pod)]);
    stage.publish(&own)?;
    for (address, vip) in own
        .sockets(PORT)
        .into_iter()
        .zip([IpAddr::from(own.v4), IpAddr::from(own.v6)])
    {
        for transport in Transport::ALL {
            let greeting = stage.ask("web-1", address, transport)?;
            ensure!(
                greeting.server == "web-1",
                "{transport} {address}: {greeting}"
            );
            let client = greeting.client.ip();
            ensure!(
                client == vip,
                "{transport} {address}: seen as {client}, not {vip}"
            );
        }
        bulk_echo(&pod.ns, address, 1 << 20)?;
    }
    Ok(())
}

fn a_service_without_endpoints_and_an_unknown_port_are_refused_at_once(
    stage: &mut Stage,
) -> Result<()> {
    let unready = Endpoint::of(stage.cluster.lab.pod("web-2")).being(Condition::NotReady);
    let empty = Service::new("empty", 25).on(PORT, TARGET).to([unready]);
    stage.cluster.manifests.write(&empty)?;
    for address in empty.sockets(PORT) {
        await_refusal(stage, address)?;
    }
    let unknown = stage.web.sockets(PORT + 1);
    for address in empty.sockets(PORT).into_iter().chain(unknown) {
        for transport in Transport::ALL {
            expect_refusal(stage, address, transport)?;
        }
    }
    Ok(())
}

fn an_unallocated_service_address_is_silent(stage: &mut Stage) -> Result<()> {
    let client = &stage.cluster.lab.pod("client").ns;
    for address in Service::new("nobody", 250).sockets(PORT) {
        for transport in Transport::ALL {
            let (kind, took) = refusal(client, address, transport, SILENCE)?;
            ensure!(
                kind == ErrorKind::TimedOut,
                "{transport} {address}: {kind} in {took:?}"
            );
        }
        ensure!(
            ping(client, address.ip(), SILENCE)? == Pong::Silence,
            "{address} answered"
        );
    }
    Ok(())
}

fn a_ping_is_answered_while_an_endpoint_is_ready(stage: &mut Stage) -> Result<()> {
    let client = &stage.cluster.lab.pod("client").ns;
    let empty = Service::new("empty", 25).on(PORT, TARGET);
    stage.cluster.manifests.write(&empty)?;
    for address in empty.sockets(PORT) {
        await_refusal(stage, address)?;
        let pong = ping(client, address.ip(), PATIENCE)?;
        ensure!(
            matches!(pong, Pong::Unreachable(_)),
            "{address} has no endpoint: {pong:?}"
        );
    }
    for address in stage.web.sockets(PORT) {
        let pong = ping(client, address.ip(), PATIENCE)?;
        ensure!(pong == Pong::Reply, "{address}: {pong:?}");
    }
    Ok(())
}

fn fragmented_datagrams_and_bulk_streams_pass(stage: &mut Stage) -> Result<()> {
    let client = &stage.cluster.lab.pod("client").ns;
    for address in stage.web.sockets(PORT) {
        // Several flows, so that local and remote endpoints are both among them.
        for _ in 0..10 {
            ask_udp(client, address, &[7; 4000])
                .with_context(|| format!("4000 bytes to {address}"))?;
            let took = bulk_echo(client, address, 1 << 20)?;
            ensure!(
                took < Duration::from_secs(3),
                "{address}: 1 MiB took {took:?}"
            );
        }
    }
    Ok(())
}

fn a_smaller_mtu_on_the_path_does_not_stall_a_stream(stage: &mut Stage) -> Result<()> {
    let lab = &stage.cluster.lab;
    let far = Endpoint::of(lab.pod("web-2"));
    let service = Service::new("far", 26).on(PORT, TARGET).to([far]);
    stage.publish(&service)?;
    // The client's node must say "too big", quoting a packet that it knows as translated.
    lab.node(1).narrow_routes_to(lab.shape(), 2, 1300)?;
    for address in service.sockets(PORT) {
        let took = bulk_echo(&lab.pod("client").ns, address, 1 << 20)?;
        ensure!(
            took < Duration::from_secs(3),
            "{address}: 1 MiB took {took:?}"
        );
    }
    Ok(())
}

fn endpoints_change_under_load_and_nobody_notices(stage: &mut Stage) -> Result<()> {
    let client = &stage.cluster.lab.pod("client").ns;
    let [v4, v6] = stage.web.sockets(PORT);
    let flows = open_flows_to_all(stage, v4)?;
    let load = Load::start(
        client,
        &[
            (v4, Transport::Tcp),
            (v6, Transport::Tcp),
            (v4, Transport::Udp),
        ],
    )?;
    load.wait_for_each(100)?;
    stage.set_endpoints(&["web-1", "web-3"])?;
    stage.await_servers(&["web-1", "web-3"])?;
    // A connection that began before may be answered after, if its first packet was lost.
    load.settle()?;
    let moved = load.snapshot();
    load.wait_for_each(100)?;
    let after = load.snapshot();
    ensure!(
        moved.by_server["web-2"] == after.by_server["web-2"],
        "web-2 was removed, but got more: {moved:?} then {after:?}",
    );
    for flow in &flows {
        let before = flow.exchanges();
        lb_tests::clock::eventually("a flow goes on", PROPAGATION, || {
            Ok((flow.exchanges() > before).then_some(()))
        })?;
    }
    stage.set_endpoints(&["web-1", "web-2", "web-3"])?;
    stage.await_servers(&["web-1", "web-2", "web-3"])?;
    let report = load.stop()?;
    ensure!(report.failures == 0, "{report:?}");
    for flow in flows {
        let (server, report) = (flow.server.clone(), flow.stop()?);
        ensure!(
            report.failure.is_none() && report.servers.len() == 1,
            "{server}: {report:?}"
        );
    }
    Ok(())
}

/// The endpoint serves on, so nothing but the agent could tell these flows that it has left. The
/// flows of the other Service are none of theirs.
fn udp_flows_leave_an_endpoint_that_only_another_service_still_has(
    stage: &mut Stage,
) -> Result<()> {
    let twin = Service::new("twin", 27).on(PORT, TARGET);
    let twin = twin.to(stage.web.endpoints.clone());
    stage.publish(&twin)?;
    let (mut leaving, mut staying) = (Vec::new(), Vec::new());
    for address in stage.web.sockets(PORT) {
        leaving.push(open_udp_flow_to(stage, "web-2", address)?);
        staying.push((open_udp_flow_to(stage, "web-3", address)?, "web-3"));
    }
    for address in twin.sockets(PORT) {
        staying.push((open_udp_flow_to(stage, "web-2", address)?, "web-2"));
    }
    stage.set_endpoints(&["web-1", "web-3"])?;
    for flow in &leaving {
        lb_tests::clock::eventually("a flow has left web-2", PROPAGATION, || {
            let answer = flow.ask(LOST).ok();
            Ok(answer.filter(|greeting| greeting.server != "web-2"))
        })?;
    }
    for (flow, server) in &staying {
        let greeting = flow.ask(PATIENCE)?;
        ensure!(greeting.server == *server, "{greeting}, not {server}");
    }
    stage.cluster.manifests.remove(&twin)?;
    stage.set_endpoints(&["web-1", "web-2", "web-3"])?;
    stage.await_servers(&["web-1", "web-2", "web-3"])
}

/// A UDP flow to `address` that this server answers.
fn open_udp_flow_to(stage: &Stage, server: &str, address: SocketAddr) -> Result<UdpClient> {
    let client = &stage.cluster.lab.pod("client").ns;
    lb_tests::clock::eventually(&format!("a flow to {server}"), PROPAGATION, || {
        let flow = UdpClient::open(client, address)?;
        let greeting = flow.ask(PATIENCE)?;
        Ok((greeting.server == server).then_some(flow))
    })
}

/// Long flows by TCP, at least one to each of the three servers.
fn open_flows_to_all(stage: &Stage, address: SocketAddr) -> Result<Vec<LongFlow>> {
    let client = &stage.cluster.lab.pod("client").ns;
    let mut flows: Vec<LongFlow> = Vec::new();
    lb_tests::clock::eventually("a flow to each server", PROPAGATION, || {
        flows.push(LongFlow::start(client, address, Transport::Tcp)?);
        let servers: std::collections::BTreeSet<_> =
            flows.iter().map(|flow| &flow.server).collect();
        Ok((servers.len() == 3).then_some(()))
    })?;
    Ok(flows)
}

/// Waits until the agents have seen a Service that has nobody to serve it.
fn await_refusal(stage: &Stage, address: SocketAddr) -> Result<()> {
    let client = &stage.cluster.lab.pod("client").ns;
    lb_tests::clock::eventually(&format!("{address} is refused"), PROPAGATION, || {
        let (kind, _) = refusal(client, address, Transport::Tcp, QUICKLY)?;
        Ok((kind == ErrorKind::ConnectionRefused).then_some(()))
    })
}

fn expect_refusal(stage: &Stage, address: SocketAddr, transport: Transport) -> Result<()> {
    let client = &stage.cluster.lab.pod("client").ns;
    let (kind, took) = refusal(client, address, transport, Duration::from_secs(5))?;
    ensure!(
        kind == ErrorKind::ConnectionRefused,
        "{transport} {address}: {kind}"
    );
    ensure!(
        took < QUICKLY,
        "{transport} {address}: refused only after {took:?}"
    );
    Ok(())
}

fn packets_that_concern_no_service_are_left_alone(stage: &mut Stage) -> Result<()> {
    let lab = &stage.cluster.lab;
    let client = lab.pod("client");
    for name in ["web-1", "web-2"] {
        for address in lab.pod(name).sockets(TARGET) {
            for transport in Transport::ALL {
                let greeting = stage.ask("client", address, transport)?;
                ensure!(greeting.server == name, "{transport} {address}: {greeting}");
                ensure!(
                    client.addresses().contains(&greeting.client.ip()),
                    "{greeting}"
                );
            }
            ask_udp(&client.ns, address, &[7; 4000])?;
        }
    }
    let pong = ping(&client.ns, address::node_v4(1).into(), PATIENCE)?;
    ensure!(pong == Pong::Reply, "its own node's address: {pong:?}");
    Ok(())
}

fn a_pod_that_comes_later_is_attached_and_served(stage: &mut Stage) -> Result<()> {
    stage.cluster.lab.add_pod("late", 2)?;
    let address = stage.web.sockets(PORT);
    for address in address {
        lb_tests::clock::eventually("the late pod is served", PROPAGATION, || {
            Ok(stage.ask("late", address, Transport::Tcp).ok())
        })?;
    }
    stage.cluster.lab.remove_pod("late")?;
    stage.await_servers(&["web-1", "web-2", "web-3"])?;
    Ok(())
}
