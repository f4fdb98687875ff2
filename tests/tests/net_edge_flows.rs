//! Connections at the edges of what is usual: their ports taken again after FIN and after RST, two of one
//! client's port to one endpoint, data in the SYN, packets lost and overtaken.
#![expect(
    clippy::tests_outside_test_module,
    reason = "an integration test is a test module"
)]

use std::{collections::BTreeSet, fs, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    checks, clock,
    cluster::{Endpoint, Exposure, Service, sockets},
    lab::CniShape,
    ns::Namespace,
    scenario::{Check, PORT, PROPAGATION, Stage, TARGET, on_stage},
    traffic::{FlowReport, LongFlow, TcpLine, TcpServer, Transport, bulk_echo, open_with_data},
};

/// The port of a server whose SYNs may carry data.
const FAST_TARGET: u16 = 8081;
/// Everything of TCP fast open, on both sides, without cookies (`ip-sysctl.rst`: 1, 2, 4, 0x200, 0x400).
const FAST_OPEN: &str = "1543";
/// Ports that clients dial from; so many meet local and remote endpoints.
const CLIENT_PORTS: std::ops::Range<u16> = 41_000..41_008;

const CHECKS: &[Check] = checks![
    a_port_is_used_again_after_fin_and_after_rst,
    one_client_port_to_two_services_of_one_endpoint_makes_two_connections,
    data_in_the_syn_arrives,
    a_hundredth_lost_and_some_overtaken_delays_and_breaks_nothing,
];

#[test]
fn unusual_flows_pass_with_routed_veths() {
    let stage = Stage::build_with_outside(CniShape::Routed, "", |_lab| Ok(()));
    on_stage(CniShape::Routed, stage, CHECKS);
}

#[test]
fn unusual_flows_pass_on_a_bridge_without_br_netfilter() {
    let shape = CniShape::Bridge {
        br_netfilter: false,
    };
    let stage = Stage::build_with_outside(shape, "", |_lab| Ok(()));
    on_stage(shape, stage, CHECKS);
}

/// Who dials, and what: pods a cluster address, the client outside a node port.
fn pairs(stage: &Stage) -> [(&Namespace, [SocketAddr; 2]); 2] {
    let lab = &stage.cluster.lab;
    [
        (&lab.pod("client").ns, stage.web.sockets(PORT)),
        (&lab.outside().ns, stage.at_node(1)),
    ]
}

fn a_port_is_used_again_after_fin_and_after_rst(stage: &mut Stage) -> Result<()> {
    for (ns, addresses) in pairs(stage) {
        // A client that closes first would else keep its port for a minute.
        ns.sysctl(&[("net/ipv4/tcp_max_tw_buckets", "0")])?;
        for address in addresses {
            for port in CLIENT_PORTS {
                for round in 0..3 {
                    let open = || {
                        let line = TcpLine::open(ns, address, Some(port));
                        line.with_context(|| format!("port {port}, round {round}"))
                    };
                    let mut line = open()?;
                    line.echo(b"once")?;
                    line.finish()?;
                    let mut line = open().context("after FIN")?;
                    line.echo(b"again")?;
                    line.reset()?;
                    // And at once: the reset may not even have arrived.
                    let mut line = open().context("after RST")?;
                    line.echo(b"and again")?;
                    line.reset()?;
                }
            }
        }
    }
    Ok(())
}

/// Two Services with these numbers, which have this pod as their endpoint, with everything that is
/// dialled of each.
fn twins(stage: &Stage, pod: &str, numbers: [u8; 2]) -> Result<[(Service, Vec<SocketAddr>); 2]> {
    let twin = |number: u8| -> Result<(Service, Vec<SocketAddr>)> {
        let endpoint = Endpoint::of(stage.cluster.lab.pod(pod));
        let service = Service::new(&format!("twin-{number}"), number).on(PORT, TARGET);
        let exposure = Exposure::everywhere(number);
        let port = exposure.node_port.context("a node port")?;
        let external = exposure.external.context("an external address")?;
        let service = service.to([endpoint]).exposed(exposure);
        stage.publish(&service)?;
        let node = stage.cluster.lab.node(1).addresses();
        let mut dialled = service.sockets(PORT).to_vec();
        dialled.extend(node.map(|address| SocketAddr::new(address, port)));
        dialled.extend(sockets(external, PORT));
        for address in &dialled {
            stage.await_served(*address)?;
        }
        Ok((service, dialled))
    };
    let [first, second] = numbers;
    Ok([twin(first)?, twin(second)?])
}

fn one_client_port_to_two_services_of_one_endpoint_makes_two_connections(
    stage: &mut Stage,
) -> Result<()> {
    for (pod, numbers) in [("web-1", [60, 61]), ("web-2", [64, 65])] {
        let [(first, ours), (second, theirs)] = twins(stage, pod, numbers)?;
        let lab = &stage.cluster.lab;
        for ns in [&lab.pod("client").ns, &lab.outside().ns] {
            for (address, other) in ours.iter().zip(&theirs) {
                for port in CLIENT_PORTS {
                    let mut one = TcpLine::open(ns, *address, Some(port))?;
                    let mut two = TcpLine::open(ns, *other, Some(port))?;
                    // And one Service at two of its addresses.
                    let third = ours
                        .iter()
                        .find(|third| third.is_ipv4() == address.is_ipv4() && *third != address);
                    let third = *third.context("another address of the Service")?;
                    let mut three = TcpLine::open(ns, third, Some(port))?;
                    for round in 0..3_u8 {
                        one.echo(&[b'1', round])?;
                        two.echo(&[b'2', round, round])?;
                        three.echo(&[b'3', round])?;
                    }
                    let greetings = [&one, &two, &three].map(|line| line.greeting.clone());
                    let seen: BTreeSet<_> = greetings.iter().map(|it| it.client).collect();
                    ensure!(
                        seen.len() == 3 && greetings.iter().all(|it| it.server == pod),
                        "{address}, {other} and {third}: {greetings:?}"
                    );
                    [one, two, three].into_iter().try_for_each(TcpLine::reset)?;
                }
            }
        }
        stage.cluster.manifests.remove(&first)?;
        stage.cluster.manifests.remove(&second)?;
    }
    Ok(())
}

fn data_in_the_syn_arrives(stage: &mut Stage) -> Result<()> {
    let lab = &stage.cluster.lab;
    let clients = [&lab.pod("client").ns, &lab.outside().ns];
    for ns in clients {
        ns.sysctl(&[("net/ipv4/tcp_fastopen", FAST_OPEN)])?;
    }
    for (pod, number) in [("web-1", 62), ("web-2", 63)] {
        let server = lab.pod(pod);
        server.ns.sysctl(&[("net/ipv4/tcp_fastopen", FAST_OPEN)])?;
        let _server = TcpServer::start(&server.ns, pod, FAST_TARGET)?;
        let service = Service::new(&format!("fast-{number}"), number).on(PORT, FAST_TARGET);
        let exposure = Exposure::everywhere(number);
        let port = exposure.node_port.context("a node port")?;
        let service = service.to([Endpoint::of(server)]).exposed(exposure);
        stage.cluster.manifests.write(&service)?;
        let node = lab.node(1).addresses();
        let node_port = node.map(|address| SocketAddr::new(address, port));
        for (ns, addresses) in clients.into_iter().zip([service.sockets(PORT), node_port]) {
            for address in addresses {
                clock::eventually(&format!("{address} is served"), PROPAGATION, || {
                    Ok(TcpLine::open(ns, address, None).ok())
                })?
                .reset()?;
                let before = accepted_with_data(&server.ns)?;
                let words = b"in the very first packet";
                let greeting = open_with_data(ns, address, words)?;
                ensure!(greeting.server == pod, "{greeting}, not {pod}");
                let accepted = accepted_with_data(&server.ns)? - before;
                ensure!(accepted == 1, "{address}: {accepted} SYNs carried data");
            }
        }
        stage.cluster.manifests.remove(&service)?;
    }
    Ok(())
}

/// Connections whose SYN had data that was accepted, in a namespace.
fn accepted_with_data(ns: &Namespace) -> Result<u64> {
    ns.run(|| {
        // Of the namespace of this thread, not of the process.
        let text = fs::read_to_string("/proc/thread-self/net/netstat")?;
        let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
        let (names, counts) = lines.next().zip(lines.next()).context("no counters")?;
        let mut columns = names.split(' ').zip(counts.split(' '));
        let found = columns.find(|(name, _)| *name == "TCPFastOpenPassive");
        Ok(found.context("no such counter")?.1.parse()?)
    })
}

fn a_hundredth_lost_and_some_overtaken_delays_and_breaks_nothing(stage: &mut Stage) -> Result<()> {
    let lab = &stage.cluster.lab;
    let outside = lab.outside();
    for ns in [&outside.ns, &lab.pod("web-1").ns, &lab.pod("web-2").ns] {
        lab.send_one_by_one(ns)?;
    }
    outside.worsen()?;
    let mut flows = Vec::new();
    for address in stage.at_node(1) {
        flows.push(LongFlow::start(&outside.ns, address, Transport::Tcp)?);
        for _ in 0..8 {
            let took = bulk_echo(&outside.ns, address, 1 << 19)?;
            ensure!(took < Duration::from_secs(15), "{address}: {took:?}");
        }
        for _ in 0..100 {
            // A lost SYN is sent again after one second, three and seven, which some client meets.
            let line = clock::eventually("a connection", PROPAGATION, || {
                Ok(TcpLine::open(&outside.ns, address, None).ok())
            })?;
            line.reset()?;
        }
    }
    let damage = outside.damage()?;
    outside.clear()?;
    ensure!(
        damage.lost > 50 && damage.delayed > 200,
        "too fair a weather: {damage:?}"
    );
    for flow in flows {
        let report = flow.stop()?;
        let FlowReport {
            failure, servers, ..
        } = &report;
        ensure!(failure.is_none() && servers.len() == 1, "{report:?}");
    }
    Ok(())
}
