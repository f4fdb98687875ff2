//! Processes of a node itself, outside the socket hooks, that dial services: their packets are translated
//! where they leave by an uplink. Strict reverse-path filters and a firewall that drops what is invalid
//! watch.
#![expect(
    clippy::tests_outside_test_module,
    reason = "an integration test is a test module"
)]

use std::{collections::BTreeSet, io::ErrorKind, net::IpAddr, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    checks, clock,
    cluster::{Endpoint, Exposure, Policy, Service, sockets},
    command, in_every_shape,
    lab::{CniShape, address},
    scenario::{Check, PORT, PROPAGATION, Stage, TARGET, on_stage},
    traffic::{self, Greeting, LongFlow, Pong, Transport, bulk_echo, ping, refusal},
};

/// How long silence is listened to.
const SILENCE: Duration = Duration::from_millis(400);
/// How soon a refusal is there.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a flow may wait for an answer.
const STALL: Duration = Duration::from_secs(1);
/// Connections within which each of three endpoints has had one, but for one run in 10^10.
const ATTEMPTS: usize = 60;
/// Bytes of a stream.
const BULK: usize = 4 << 20;

const CHECKS: &[Check] = checks![
    the_node_reaches_every_endpoint_at_every_address,
    streams_of_the_node_pass_whole,
    a_datagram_that_waits_for_its_neighbour_arrives,
    the_node_is_refused_where_nobody_serves,
    policies_know_the_node_as_a_client_of_the_cluster,
    an_echo_request_of_the_node_is_answered,
    flows_of_the_node_outlive_the_agent,
    flows_of_the_node_are_counted_and_listed,
    what_the_node_dials_goes_as_explained,
    what_stops_the_node_is_explained,
];

in_every_shape!(processes_of_a_node_dial_services, on_stage_with_outside);

#[track_caller]
fn on_stage_with_outside(shape: CniShape) {
    let stage = Stage::build_with_outside(shape, "", |_lab| Ok(()));
    on_stage(shape, stage, CHECKS);
}

/// One connection or datagram of node 1's.
fn ask(stage: &Stage, address: SocketAddr, transport: Transport) -> Result<Greeting> {
    let node = &stage.cluster.lab.node(1).ns;
    match transport {
        Transport::Tcp => traffic::connect_once(node, address),
        Transport::Udp => traffic::ask_udp(node, address, b"hello"),
    }
    .with_context(|| format!("{transport} from node 1 to {address}"))
}

/// The addresses of a Service that are no node's: cluster, external and load balancer address.
fn addresses(service: &Service) -> Result<Vec<SocketAddr>> {
    let exposure = &service.exposure;
    let mut all = service.sockets(PORT).to_vec();
    all.extend(sockets(exposure.external.context("an address")?, PORT));
    all.extend(sockets(exposure.balancer.context("an address")?, PORT));
    Ok(all)
}

/// The addresses by which endpoints may know node 1: those of its uplink, and of its tunnel elsewhere.
fn known_as(stage: &Stage, server: &str) -> Vec<IpAddr> {
    let lab = &stage.cluster.lab;
    if lab.shape() == CniShape::Vxlan && server != "web-1" {
        return vec![address::pod_v4(1, 0).into(), address::pod_v6(1, 0).into()];
    }
    lab.node(1).addresses().to_vec()
}

fn the_node_reaches_every_endpoint_at_every_address(stage: &mut Stage) -> Result<()> {
    for address in addresses(&stage.web)? {
        for transport in Transport::ALL {
            let mut servers = BTreeSet::new();
            for _ in 0..ATTEMPTS {
                let greeting = ask(stage, address, transport)?;
                let expected = known_as(stage, &greeting.server);
                ensure!(
                    expected.contains(&greeting.client.ip()),
                    "{transport} {address}: {greeting}"
                );
                servers.insert(greeting.server);
            }
            ensure!(
                servers.iter().eq(["web-1", "web-2", "web-3"]),
                "{transport} {address}: {servers:?}"
            );
        }
    }
    Ok(())
}

fn streams_of_the_node_pass_whole(stage: &mut Stage) -> Result<()> {
    for servers in [["web-1"], ["web-2"]] {
        stage.set_endpoints(&servers)?;
        stage.await_servers(&servers)?;
        let node = &stage.cluster.lab.node(1).ns;
        for address in addresses(&stage.web)? {
            let took = bulk_echo(node, address, BULK)
                .with_context(|| format!("a stream to {servers:?} at {address}"))?;
            ensure!(took < Duration::from_secs(10), "{address}: {took:?}");
        }
    }
    stage.set_endpoints(&["web-1", "web-2", "web-3"])?;
    stage.await_servers(&["web-1", "web-2", "web-3"])
}

/// Nobody sends a datagram again: that which asks for the next hop's MAC has to go there too, and not to
/// the next hop of the service address.
fn a_datagram_that_waits_for_its_neighbour_arrives(stage: &mut Stage) -> Result<()> {
    for servers in [["web-1"], ["web-2"]] {
        stage.set_endpoints(&servers)?;
        stage.await_servers(&servers)?;
        for address in stage.web.sockets(PORT) {
            let node = stage.cluster.lab.node(1).ns.name();
            // What is permanent stays.
            command::ip(node, "neigh flush all\n")?;
            let greeting = ask(stage, address, Transport::Udp)
                .with_context(|| format!("{servers:?}, whose neighbour is unknown"))?;
            ensure!(servers.contains(&&*greeting.server), "{greeting}");
        }
    }
    stage.set_endpoints(&["web-1", "web-2", "web-3"])?;
    stage.await_servers(&["web-1", "web-2", "web-3"])
}

/// Waits until node 1 meets this error.
fn await_error(stage: &Stage, address: SocketAddr, expected: ErrorKind) -> Result<()> {
    let node = &stage.cluster.lab.node(1).ns;
    for transport in Transport::ALL {
        let what = format!("{transport} {address}: {expected}");
        let patience = if expected == ErrorKind::ConnectionRefused {
            PATIENCE
        } else {
            SILENCE
        };
        clock::eventually(&what, PROPAGATION, || {
            let met = refusal(node, address, transport, patience);
            Ok(met.ok().filter(|(kind, _)| *kind == expected).map(drop))
        })?;
    }
    Ok(())
}

fn the_node_is_refused_where_nobody_serves(stage: &mut Stage) -> Result<()> {
    let nobody = Service::new("nobody", 51)
        .on(PORT, TARGET)
        .exposed(Exposure::everywhere(51));
    stage.cluster.manifests.write(&nobody)?;
    for address in addresses(&nobody)? {
        await_error(stage, address, ErrorKind::ConnectionRefused)?;
    }
    // What an endpoint on the node's own network answers crosses no device with programs.
    let own = Endpoint::of_host(stage.cluster.lab.node(1));
    let host = Service::new("own-network", 52).on(PORT, TARGET).to([own]);
    stage.cluster.manifests.write(&host)?;
    for address in host.sockets(PORT) {
        await_error(stage, address, ErrorKind::ConnectionRefused)?;
    }
    let status = stage.cluster.steerage(1, &["status", "-o", "wide"])?;
    ensure!(status.contains("no_way_to_backend"), "{status}");
    stage.cluster.manifests.remove(&nobody)?;
    stage.cluster.manifests.remove(&host)
}

fn policies_know_the_node_as_a_client_of_the_cluster(stage: &mut Stage) -> Result<()> {
    let mut local = Service::new("local", 53)
        .on(PORT, TARGET)
        .to([Endpoint::of(stage.cluster.lab.pod("web-2"))])
        .exposed(Exposure {
            external_policy: Policy::Local,
            internal_policy: Policy::Local,
            ..Exposure::everywhere(53)
        });
    stage.cluster.manifests.write(&local)?;
    let [cluster_v4, cluster_v6, others @ ..] = &addresses(&local)?[..] else {
        anyhow::bail!("a Service has addresses of both families");
    };
    for &address in others {
        for transport in Transport::ALL {
            let what = format!("{transport} {address} is served by web-2");
            let greeting = clock::eventually(&what, PROPAGATION, || {
                Ok(ask(stage, address, transport).ok())
            })?;
            ensure!(greeting.server == "web-2", "{greeting}");
        }
    }
    for &address in [cluster_v4, cluster_v6] {
        await_error(stage, address, ErrorKind::TimedOut)?;
    }
    local.endpoints = vec![Endpoint::of(stage.cluster.lab.pod("web-1"))];
    stage.cluster.manifests.write(&local)?;
    for &address in [cluster_v4, cluster_v6] {
        let what = format!("{address} is served by web-1");
        let greeting = clock::eventually(&what, PROPAGATION, || {
            Ok(ask(stage, address, Transport::Tcp).ok())
        })?;
        ensure!(greeting.server == "web-1", "{greeting}");
    }
    stage.cluster.manifests.remove(&local)
}

fn an_echo_request_of_the_node_is_answered(stage: &mut Stage) -> Result<()> {
    let node = &stage.cluster.lab.node(1).ns;
    for address in stage.web.sockets(PORT) {
        let pong = ping(node, address.ip(), PATIENCE)?;
        ensure!(pong == Pong::Reply, "{address}: {pong:?}");
    }
    Ok(())
}

fn flows_of_the_node_outlive_the_agent(stage: &mut Stage) -> Result<()> {
    let node = &stage.cluster.lab.node(1).ns;
    let mut flows = Vec::new();
    for address in stage.web.sockets(PORT) {
        for transport in Transport::ALL {
            for server in ["web-1", "web-2"] {
                let what = format!("a {transport} flow to {server}");
                flows.push(clock::eventually(&what, PROPAGATION, || {
                    let flow = LongFlow::start(node, address, transport)?;
                    Ok((flow.server == server).then_some(flow))
                })?);
            }
        }
    }
    stage.cluster.crash_agent(1)?;
    stage.cluster.await_agents()?;
    for flow in flows {
        let before = flow.exchanges();
        clock::eventually("a flow goes on", PROPAGATION, || {
            Ok((flow.exchanges() > before).then_some(()))
        })?;
        let (server, report) = (flow.server.clone(), flow.stop()?);
        ensure!(
            report.failure.is_none() && report.servers.len() == 1 && report.longest_stall < STALL,
            "the flow to {server}: {report:?}"
        );
    }
    Ok(())
}

fn flows_of_the_node_are_counted_and_listed(stage: &mut Stage) -> Result<()> {
    let [address, _] = stage.web.sockets(PORT);
    let client = ask(stage, address, Transport::Tcp)?;
    let list = stage.cluster.steerage(1, &["conntrack", "list"])?;
    let own = stage.cluster.lab.node(1).v4.to_string();
    let is_it = |line: &&str| line.contains(&own) && line.contains(&address.to_string());
    ensure!(list.lines().any(|line| is_it(&line)), "{client}\n{list}");
    Ok(())
}

/// What `steerage explain` says on node 1.
fn explain(stage: &Stage, client: SocketAddr, dialled: SocketAddr, flags: &str) -> Result<String> {
    let (client, dialled) = (client.to_string(), dialled.to_string());
    let arguments = ["explain", "--tcp-flags", flags, &client, &dialled];
    stage.cluster.steerage(1, &arguments)
}

/// The source and the destination that an explanation says a packet goes on with.
fn goes_on_as(text: &str) -> Result<(SocketAddr, SocketAddr)> {
    let line = text.lines().find(|line| line.starts_with("goes on as"));
    let line = line.with_context(|| format!("refused:\n{text}"))?;
    let sockets: Vec<_> = line.split_whitespace().collect();
    let [.., source, "->", destination] = sockets[..] else {
        anyhow::bail!("{line}");
    };
    Ok((source.parse()?, destination.parse()?))
}

fn what_the_node_dials_goes_as_explained(stage: &mut Stage) -> Result<()> {
    let lab = &stage.cluster.lab;
    let node = lab.node(1);
    for (address, own) in stage.web.sockets(PORT).into_iter().zip(node.addresses()) {
        let mut met = BTreeSet::new();
        for port in 42_000..42_000 + u16::try_from(ATTEMPTS)? {
            let client = SocketAddr::new(own, port);
            let text = explain(stage, client, address, "syn")?;
            ensure!(text.contains("translate (new_flow)"), "{text}");
            let (source, backend) = goes_on_as(&text)?;
            let greeting = traffic::connect_once_from(&node.ns, address, port)?;
            let is_its = lab
                .pod(&greeting.server)
                .addresses()
                .contains(&backend.ip());
            let is_own_port = |port| (1024..30_000).contains(&port);
            ensure!(
                is_its
                    && greeting.client.ip() == source.ip()
                    && is_own_port(source.port())
                    && is_own_port(greeting.client.port()),
                "{greeting}, explained as\n{text}"
            );
            // Of the flow that is there now its very port is known.
            let text = explain(stage, client, address, "ack")?;
            ensure!(
                text.contains("translate (established)")
                    && goes_on_as(&text)? == (greeting.client, backend),
                "{greeting}, explained as\n{text}"
            );
            met.insert(greeting.server);
            if met.len() == 3 {
                break;
            }
        }
        ensure!(met.len() == 3, "{address}: {met:?}");
    }
    Ok(())
}

fn what_stops_the_node_is_explained(stage: &mut Stage) -> Result<()> {
    let node = stage.cluster.lab.node(1);
    let endpoint = Endpoint::of_host(node);
    let host = Service::new("own-network", 54)
        .on(PORT, TARGET)
        .to([endpoint]);
    stage.cluster.manifests.write(&host)?;
    for (address, own) in host.sockets(PORT).into_iter().zip(node.addresses()) {
        await_error(stage, address, ErrorKind::ConnectionRefused)?;
        let client = SocketAddr::new(own, 42_100);
        let text = explain(stage, client, address, "syn")?;
        ensure!(
            text.contains("answer (no_way_to_backend)") && text.contains("is this node's own: its"),
            "{text}"
        );
        // Its own addresses are the host's.
        let text = explain(stage, client, SocketAddr::new(own, PORT), "syn")?;
        ensure!(text.contains("pass (not_seen)"), "{text}");
    }
    stage.cluster.manifests.remove(&host)
}
