//! Session affinity between real sockets: kept, run out, switched on and off, lost with its endpoint.
#![expect(
    clippy::tests_outside_test_module,
    reason = "an integration test is a test module"
)]

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    checks, clock,
    cluster::{Endpoint, Service},
    in_every_shape,
    scenario::{Check, PORT, PROPAGATION, Stage, TARGET, on_one_stage},
    traffic::{self, Transport},
};

/// Kubernetes' default.
const HOURS: u32 = 10_800;
/// As many answers as Kubernetes' own tests compare.
const CONNECTIONS: usize = 15;
/// More than the timeout of one second, by the seconds that entries are stamped with.
const IDLE: Duration = Duration::from_millis(1200);
/// In which a client that pauses so between its connections meets another of three endpoints: it
/// misses them once in 10^8 runs.
const EXPIRY: Duration = Duration::from_mins(1);

/// Every check of this file, in an order in which none disturbs another.
const CHECKS: &[Check] = checks![
    fifteen_connections_of_a_client_are_answered_by_one_endpoint,
    a_timeout_that_passed_lets_another_endpoint_answer,
    affinity_is_switched_on_and_off_live,
    an_endpoint_that_leaves_loses_its_clients_for_good,
    the_command_line_says_that_affinity_chose,
    affinity_outlives_the_agent,
];

in_every_shape!(clients_keep_their_endpoints, |shape| on_one_stage(
    shape, CHECKS
));

/// A Service with three endpoints.
fn service(stage: &Stage, name: &str, host: u8) -> Service {
    let all = ["web-1", "web-2", "web-3"].map(|name| Endpoint::of(stage.cluster.lab.pod(name)));
    Service::new(name, host).on(PORT, TARGET).to(all)
}

/// Every address of a Service by every protocol: each is a service port of its own.
fn ports(service: &Service) -> Vec<(SocketAddr, Transport)> {
    let addresses = service.sockets(PORT);
    let of = |address| Transport::ALL.map(|transport| (address, transport));
    addresses.into_iter().flat_map(of).collect()
}

/// Who answers so many connections in a row; an error if they are several.
fn only_server(stage: &Stage, (address, transport): (SocketAddr, Transport)) -> Result<String> {
    let first = stage.ask("client", address, transport)?.server;
    for _ in 1..CONNECTIONS {
        let server = stage.ask("client", address, transport)?.server;
        ensure!(
            server == first,
            "{transport} {address}: {first}, then {server}"
        );
    }
    Ok(first)
}

fn await_one_server(stage: &Stage, port: (SocketAddr, Transport)) -> Result<String> {
    clock::eventually("one endpoint answers", PROPAGATION, || {
        Ok(only_server(stage, port).ok())
    })
}

/// Of three equal endpoints all are met by sixty connections, but for once in 10^10 runs.
fn await_all_servers(stage: &Stage, (address, transport): (SocketAddr, Transport)) -> Result<()> {
    let client = &stage.cluster.lab.pod("client").ns;
    clock::eventually("three endpoints answer", PROPAGATION, || {
        let spread = traffic::spread(client, address, transport, 60)?;
        Ok((spread.len() == 3).then_some(()))
    })
}

fn fifteen_connections_of_a_client_are_answered_by_one_endpoint(stage: &mut Stage) -> Result<()> {
    let sticky = service(stage, "sticky", 41).sticking_for(HOURS);
    stage.publish(&sticky)?;
    for port in ports(&sticky) {
        only_server(stage, port)?;
    }
    stage.cluster.manifests.remove(&sticky)
}

fn a_timeout_that_passed_lets_another_endpoint_answer(stage: &mut Stage) -> Result<()> {
    let brief = service(stage, "brief", 42).sticking_for(1);
    stage.publish(&brief)?;
    for (address, transport) in ports(&brief) {
        let first = stage.ask("client", address, transport)?.server;
        clock::eventually_every(IDLE, "another endpoint answers", EXPIRY, || {
            let server = stage.ask("client", address, transport)?.server;
            Ok((server != first).then_some(()))
        })
        .with_context(|| format!("{transport} {address}"))?;
    }
    stage.cluster.manifests.remove(&brief)
}

fn affinity_is_switched_on_and_off_live(stage: &mut Stage) -> Result<()> {
    let plain = service(stage, "switched", 43);
    let sticky = plain.clone().sticking_for(HOURS);
    stage.publish(&plain)?;
    for _ in 0..2 {
        for port in ports(&plain) {
            await_all_servers(stage, port)?;
        }
        stage.cluster.manifests.write(&sticky)?;
        for port in ports(&sticky) {
            await_one_server(stage, port)?;
        }
        stage.cluster.manifests.write(&plain)?;
    }
    for port in ports(&plain) {
        await_all_servers(stage, port)?;
    }
    stage.cluster.manifests.remove(&plain)
}

/// The hash that chose the endpoint would choose it again: that it does not is what is remembered.
fn an_endpoint_that_leaves_loses_its_clients_for_good(stage: &mut Stage) -> Result<()> {
    let all = service(stage, "leaving", 44).sticking_for(HOURS);
    stage.publish(&all)?;
    for port in ports(&all) {
        let first = only_server(stage, port).context("of all endpoints")?;
        let mut fewer = all.clone();
        fewer.endpoints.retain(|endpoint| endpoint.pod != first);
        stage.cluster.manifests.write(&fewer)?;
        clock::eventually("another endpoint answers", PROPAGATION, || {
            let server = stage.ask("client", port.0, port.1)?.server;
            Ok((server != first).then_some(()))
        })?;
        // A datagram from the port of an earlier one is of that one's flow, until those are cut.
        let second = await_one_server(stage, port)?;
        ensure!(second != first, "{first} has left");
        stage.cluster.manifests.write(&all)?;
        // A Service without affinity, published later, says when this one has changed.
        let marker = service(stage, "marker", 45);
        stage.publish(&marker)?;
        let third = only_server(stage, port).with_context(|| format!("with {first} back"))?;
        ensure!(third == second, "{third} serves, with {first} back");
        stage.cluster.manifests.remove(&marker)?;
    }
    stage.cluster.manifests.remove(&all)
}

fn the_command_line_says_that_affinity_chose(stage: &mut Stage) -> Result<()> {
    let sticky = service(stage, "shown", 46).sticking_for(HOURS);
    stage.publish(&sticky)?;
    let [address, _] = sticky.sockets(PORT);
    let server = only_server(stage, (address, Transport::Tcp))?;
    let lab = &stage.cluster.lab;
    let client = lab.pod("client").v4.to_string();
    let explained = stage
        .cluster
        .steerage(1, &["explain", &client, &address.to_string()])?;
    ensure!(
        explained.contains("the client keeps the backend of its last connection"),
        "{explained}"
    );
    let target = lab.pod(&server).sockets(TARGET);
    ensure!(explained.contains(&target[0].to_string()), "{explained}");
    let maps = stage.cluster.steerage(1, &["maps"])?;
    let line = maps.lines().find(|line| line.contains("AFFINITY"));
    let used = line.and_then(|line| line.split_whitespace().nth(2));
    ensure!(
        used.is_some_and(|used| used.parse::<u32>().is_ok_and(|used| used > 0)),
        "{maps}"
    );
    stage.cluster.manifests.remove(&sticky)
}

/// The client is held by memory alone: its hash names the endpoint that was away for a while.
fn affinity_outlives_the_agent(stage: &mut Stage) -> Result<()> {
    let all = service(stage, "lasting", 47).sticking_for(HOURS);
    stage.publish(&all)?;
    let port = (all.sockets(PORT)[0], Transport::Tcp);
    let first = only_server(stage, port)?;
    let mut fewer = all.clone();
    fewer.endpoints.retain(|endpoint| endpoint.pod != first);
    stage.cluster.manifests.write(&fewer)?;
    let second = clock::eventually("another endpoint answers", PROPAGATION, || {
        let server = stage.ask("client", port.0, port.1)?.server;
        Ok((server != first).then_some(server))
    })?;
    stage.cluster.manifests.write(&all)?;
    stage.cluster.crash_agent(1)?;
    stage.cluster.await_agents()?;
    ensure!(only_server(stage, port)? == second, "not {second}");
    stage.cluster.manifests.remove(&all)
}
