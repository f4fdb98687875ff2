//! The lab itself, without any Steerage: pods reach each other under the strict firewall.
//!
//! What a load balancer's test proves is worth no more than its lab. So the lab is shown to carry
//! what a CNI carries, and to stop what it must stop.
#![expect(
    clippy::tests_outside_test_module,
    reason = "an integration test is a test module"
)]

use std::{collections::BTreeSet, io::ErrorKind, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya::programs::tc::TcAttachType;
use lb_tests::{
    clock,
    lab::{CniShape, Lab, address},
    leak, ns,
    probe::Probe,
    traffic::{
        self, Load, LoadReport, LongFlow, Pong, TcpServer, Transport, UdpServer, ask_udp,
        bulk_echo, connect_once, connect_once_from, ping, refusal,
    },
};

const PORT: u16 = 8080;

/// A client and a server on node 1, another server on node 2.
fn small_lab(shape: CniShape) -> Result<Lab> {
    let mut lab = Lab::build(shape, 2)?;
    lab.add_pods(&[("client", 1), ("near", 1), ("far", 2)])?;
    Ok(lab)
}

/// Runs `check` in a small lab of every shape.
#[track_caller]
fn in_every_shape(check: impl Fn(&Lab) -> Result<()>) {
    for shape in CniShape::ALL {
        let outcome = small_lab(shape).and_then(|lab| {
            check(&lab).with_context(|| format!("in the lab\n{}", lab.how_to_enter()))
        });
        outcome.unwrap_or_else(|error| panic!("{shape}: {error:#}"));
    }
}

#[test]
fn pods_reach_each_other_over_both_families_and_protocols() {
    in_every_shape(|lab| {
        let client = lab.pod("client");
        for name in ["near", "far"] {
            let server = lab.pod(name);
            let _tcp = TcpServer::start(&server.ns, name, PORT)?;
            let _udp = UdpServer::start(&server.ns, name, PORT)?;
            for (address, own) in server.sockets(PORT).into_iter().zip(client.addresses()) {
                for transport in Transport::ALL {
                    let greeting = match transport {
                        Transport::Tcp => connect_once(&client.ns, address),
                        Transport::Udp => ask_udp(&client.ns, address, b"hello"),
                    };
                    let greeting = greeting.with_context(|| format!("{transport} {address}"))?;
                    ensure!(greeting.server == name, "{address}: {greeting} answered");
                    ensure!(
                        greeting.client.ip() == own,
                        "{address}: client seen as {greeting}"
                    );
                }
                ensure!(
                    ping(&client.ns, address.ip(), Duration::from_secs(2))? == Pong::Reply,
                    "no echo reply from {address}",
                );
            }
        }
        Ok(())
    });
}

#[test]
fn large_datagrams_and_bulk_streams_pass() {
    in_every_shape(|lab| {
        let (client, far) = (lab.pod("client"), lab.pod("far"));
        let _tcp = TcpServer::start(&far.ns, "far", PORT)?;
        let _udp = UdpServer::start(&far.ns, "far", PORT)?;
        for address in far.sockets(PORT) {
            ask_udp(&client.ns, address, &[7; 4000]).with_context(|| format!("UDP {address}"))?;
            let took = bulk_echo(&client.ns, address, 4 << 20)?;
            ensure!(
                took < Duration::from_secs(5),
                "{address}: 4 MiB took {took:?}"
            );
        }
        Ok(())
    });
}

#[test]
fn ten_thousand_short_connections_take_seconds() {
    in_every_shape(|lab| {
        let (client, far) = (lab.pod("client"), lab.pod("far"));
        let tcp = TcpServer::start(&far.ns, "far", PORT)?;
        let started = clock::now();
        let spread = traffic::spread(&client.ns, far.sockets(PORT)[0], Transport::Tcp, 10_000)?;
        ensure!(spread.get("far") == Some(&10_000), "{spread:?}");
        ensure!(tcp.accepted() == 10_000, "{} were accepted", tcp.accepted());
        let took = started.elapsed();
        ensure!(
            took < Duration::from_secs(30),
            "10 000 connections took {took:?}"
        );
        Ok(())
    });
}

#[test]
fn the_same_source_port_can_be_used_again_at_once() {
    in_every_shape(|lab| {
        let (client, far) = (lab.pod("client"), lab.pod("far"));
        let _tcp = TcpServer::start(&far.ns, "far", PORT)?;
        for address in far.sockets(PORT) {
            for _ in 0..20 {
                let greeting = connect_once_from(&client.ns, address, 40_000)?;
                ensure!(greeting.client.port() == 40_000, "{greeting}");
            }
        }
        Ok(())
    });
}

#[test]
fn nobody_listening_is_refused_and_nobody_there_is_silence() {
    in_every_shape(|lab| {
        let (client, far) = (lab.pod("client"), lab.pod("far"));
        for address in far.sockets(PORT) {
            for transport in Transport::ALL {
                let (kind, took) = refusal(&client.ns, address, transport, Duration::from_secs(2))?;
                ensure!(
                    kind == ErrorKind::ConnectionRefused,
                    "{transport} {address}: {kind}"
                );
                ensure!(
                    took < Duration::from_secs(1),
                    "{transport} {address} took {took:?}"
                );
            }
        }
        // No proxy runs: a service address leads to the gateway, where the firewall, which accepts
        // packets *from* pods, lets it go, and nobody answers.
        let service = SocketAddr::new(address::service_v4(10).into(), PORT);
        let (kind, _) = refusal(
            &client.ns,
            service,
            Transport::Udp,
            Duration::from_millis(300),
        )?;
        ensure!(kind == ErrorKind::TimedOut, "{service}: {kind}");
        Ok(())
    });
}

#[test]
fn the_firewall_stops_what_no_cni_accepts() {
    in_every_shape(|lab| {
        let (node, far) = (lab.node(1), lab.node(2));
        // From one node's underlay address through the other node to a service address: neither
        // end is a pod. The route makes sure that the firewall is what stops it.
        let _tcp = TcpServer::start(lab.fabric(), "fabric", PORT)?;
        let gateway = SocketAddr::new(address::GATEWAY_V4.into(), PORT);
        connect_once(&node.ns, gateway).context("the fabric answers a node directly")?;
        let detour = format!(
            "route add {} via {} dev eth0\n",
            address::GATEWAY_V4,
            far.v4
        );
        lb_tests::command::ip(node.ns.name(), &detour)?;
        let (kind, _) = refusal(
            &node.ns,
            gateway,
            Transport::Tcp,
            Duration::from_millis(500),
        )?;
        ensure!(
            kind == ErrorKind::TimedOut,
            "{gateway} through {}: {kind}",
            far.name
        );
        Ok(())
    });
}

#[test]
fn flows_and_load_report_what_happened_to_them() {
    in_every_shape(|lab| {
        let (client, far) = (lab.pod("client"), lab.pod("far"));
        let tcp = TcpServer::start(&far.ns, "far", PORT)?;
        let _udp = UdpServer::start(&far.ns, "far", PORT)?;
        let [v4, v6] = far.sockets(PORT);
        let flow = LongFlow::start(&client.ns, v4, Transport::Tcp)?;
        let load = Load::start(&client.ns, &[(v6, Transport::Tcp), (v4, Transport::Udp)])?;
        load.wait_for(200)?;
        drop(tcp);
        // A connection under way while its listener goes may hear nothing at all until its client
        // loses patience; the one after it is refused.
        let refused =
            |report: &LoadReport| report.messages.iter().any(|text| text.contains("refused"));
        clock::eventually("a refused connection", Duration::from_secs(30), || {
            Ok(refused(&load.snapshot()).then_some(()))
        })?;
        clock::eventually("the flow's end", Duration::from_secs(30), || {
            Ok(flow.is_over().then_some(()))
        })?;
        let (flow, load) = (flow.stop()?, load.stop()?);
        ensure!(
            flow.exchanges > 0 && flow.failure.is_some(),
            "its server went away: {flow:?}"
        );
        ensure!(load.connections() >= 200 && load.failures > 0, "{load:?}");
        Ok(())
    });
}

#[test]
fn a_removed_pod_is_silent_and_a_dropped_lab_leaves_nothing() {
    for shape in CniShape::ALL {
        let outcome = small_lab(shape).and_then(|mut lab| {
            let far = lab.pod("far").sockets(PORT)[0];
            lab.remove_pod("far")?;
            let client = &lab.pod("client").ns;
            let (kind, _) = refusal(client, far, Transport::Udp, Duration::from_secs(1))?;
            ensure!(kind != ErrorKind::ConnectionRefused, "{far} still refuses");
            Ok(lab.prefix().to_owned())
        });
        let prefix = outcome.unwrap_or_else(|error| panic!("{shape}: {error:#}"));
        assert_eq!(ns::existing(&prefix), Vec::<String>::new(), "{shape}");
    }
}

#[test]
fn a_neighbours_program_counts_what_passes_its_hook() {
    in_every_shape(|lab| {
        let (client, far) = (lab.pod("client"), lab.pod("far"));
        let _tcp = TcpServer::start(&far.ns, "far", PORT)?;
        let node = lab.node(1);
        let probe = Probe::attach(node, &client.host_device, TcAttachType::Ingress)?;
        let programs = leak::programs_on(node, &client.host_device, TcAttachType::Ingress)?;
        ensure!(programs == [probe.id()], "{programs:?}");
        let before = probe.runs()?;
        connect_once(&client.ns, far.sockets(PORT)[0])?;
        probe.has_run_since(before)?;
        let left = leak::check_hooks(lab, &leak::Foreign::default());
        ensure!(left.is_err(), "a program on a hook was overlooked");
        let program = BTreeSet::from([probe.id()]);
        drop(probe);
        leak::check_hooks(lab, &leak::Foreign::default())?;
        leak::check_unloaded(&program, &leak::Foreign::default())
    });
}
