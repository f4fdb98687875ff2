//! Clients outside whose endpoint is on the host's network of another node, behind firewalls that accept what
//! is forwarded to pods and from them and nothing else, with `datapath.redirect` off.
#![expect(
    clippy::tests_outside_test_module,
    reason = "an integration test is a test module"
)]

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya::programs::tc::TcAttachType;
use lb_tests::{
    checks, clock,
    cluster::{Endpoint, Exposure, Service},
    command::run,
    lab::{CniShape, UPLINK, address},
    probe::Probe,
    scenario::{Check, PORT, PROPAGATION, Stage, TARGET, on_stage},
    traffic::{self, LongFlow, TcpServer, Transport, UdpServer, bulk_echo},
};
use serde_json::Value;

/// Bytes of a long stream, there and back.
const SIZE: usize = 8 << 20;
/// How long a stall of a flow may last.
const STALL: Duration = Duration::from_secs(1);
/// How long devices may take to be looked at again without an event: twice the agent's interval.
const REREAD: Duration = Duration::from_secs(70);
/// How long silence is listened to.
const SILENCE: Duration = Duration::from_millis(400);

const CHECKS: &[Check] = checks![
    every_address_is_served_by_the_host_of_another_node,
    a_neighbour_that_is_not_known_yet_is_asked_for,
    long_flows_are_served_and_outlive_the_agent,
    packets_to_pods_go_the_plain_way,
    a_device_that_somebody_else_looks_at_is_not_passed_by,
];

#[test]
fn other_hosts_serve_with_routed_veths() {
    on_stage(CniShape::Routed, build(CniShape::Routed, ""), CHECKS);
}

#[test]
fn other_hosts_serve_over_vxlan() {
    on_stage(CniShape::Vxlan, build(CniShape::Vxlan, ""), &CHECKS[..3]);
}

#[test]
fn other_hosts_serve_where_the_clusters_ranges_are_known() {
    let settings = format!(
        "localTraffic: {{clusterCIDRs: [\"{}\", \"{}\"]}}\n",
        address::CLUSTER_CIDR_V4,
        address::CLUSTER_CIDR_V6
    );
    let shape = CniShape::Routed;
    on_stage(shape, build(shape, &settings), &CHECKS[..4]);
}

fn build(shape: CniShape, settings: &str) -> Result<Stage> {
    Stage::build_with_outside(shape, settings, |_lab| Ok(()))
}

/// A Service whose one endpoint is node 2 itself, and who serves there.
struct Hosted {
    service: Service,
    /// What clients outside can dial.
    sockets: Vec<SocketAddr>,
    _tcp: TcpServer,
    _udp: Vec<UdpServer>,
}

/// Serves on node 2's own network, open in every way.
fn host(stage: &Stage, number: u8) -> Result<Hosted> {
    let node = stage.cluster.lab.node(2);
    let udp = node.addresses().map(|address| {
        let address = SocketAddr::new(address, TARGET);
        UdpServer::start_at(&node.ns, "node2", address)
    });
    let udp: Result<Vec<_>> = udp.into_iter().collect();
    let tcp = TcpServer::start(&node.ns, "node2", TARGET)?;
    let exposure = Exposure::everywhere(number);
    let service = Service::new(&format!("hosted-{number}"), number).on(PORT, TARGET);
    let service = service
        .to([Endpoint::of_host(node)])
        .exposed(exposure.clone());
    stage.cluster.manifests.write(&service)?;
    let port = exposure.node_port.context("a node port")?;
    let nodes = stage.cluster.lab.node(1).addresses();
    let mut sockets = nodes.map(|address| SocketAddr::new(address, port)).to_vec();
    sockets.extend(service.sockets(PORT));
    for pair in [exposure.external, exposure.balancer].into_iter().flatten() {
        sockets.extend(lb_tests::cluster::sockets(pair, PORT));
    }
    for &address in &sockets[..2] {
        stage.await_served(address)?;
    }
    Ok(Hosted {
        service,
        sockets,
        _tcp: tcp,
        _udp: udp?,
    })
}

/// How often `reason` was counted on node 1.
fn counted(stage: &Stage, reason: &str) -> Result<u64> {
    let text = stage.cluster.steerage(1, &["status", "-o", "json"])?;
    let status: Value = serde_json::from_str(&text)?;
    let counters = status["items"][0]["counters"].as_array();
    let counters = counters.with_context(|| format!("no counters in {text}"))?;
    let found = counters.iter().find(|one| one["reason"] == reason);
    Ok(found.map_or(0, |one| one["packets"].as_u64().unwrap_or(0)))
}

/// Packets that node 1's firewall has dropped, invalid ones and those that nothing accepts.
fn dropped(stage: &Stage) -> Result<u64> {
    let node = stage.cluster.lab.node(1);
    let mut list = node.ns.command("nft")?;
    let text = run(list.args(["list", "chain", "inet", "lab", "forward"]), "")?;
    let mut total = 0;
    for line in text.lines().filter(|line| line.contains("counter packets")) {
        let mut words = line.split_whitespace();
        words.find(|word| *word == "packets");
        total += words.next().context("a count")?.parse::<u64>()?;
    }
    Ok(total)
}

/// Does `action`, in which no packet may be dropped and all of the client's be sent on.
fn sends_on<T>(stage: &Stage, least: u64, action: impl FnOnce() -> Result<T>) -> Result<T> {
    let counts = || -> Result<_> {
        let [sent, plain] = ["sent_on", "not_sent_on"].map(|reason| counted(stage, reason));
        Ok((sent?, plain?, dropped(stage)?))
    };
    let before = counts()?;
    let result = action()?;
    let after = counts()?;
    let sent = after.0 - before.0;
    ensure!(sent >= least, "{sent} packets were sent on, not {least}");
    ensure!(after.1 == before.1, "some went the plain way");
    ensure!(after.2 == before.2, "the firewall dropped some");
    Ok(result)
}

/// Asks from outside, and fails unless node 2 answers and sees node 1.
fn ask(stage: &Stage, address: SocketAddr, transport: Transport) -> Result<()> {
    let what = || format!("{transport} from outside to {address}");
    let greeting = stage
        .ask_from_outside(address, transport)
        .with_context(what)?;
    let node = stage.cluster.lab.node(1).addresses();
    let is_right = greeting.server == "node2" && node.contains(&greeting.client.ip());
    ensure!(is_right, "{}: {greeting}", what());
    Ok(())
}

fn every_address_is_served_by_the_host_of_another_node(stage: &mut Stage) -> Result<()> {
    let hosted = host(stage, 60)?;
    for transport in Transport::ALL {
        for &address in &hosted.sockets {
            sends_on(stage, 2, || ask(stage, address, transport))
                .with_context(|| format!("{transport} {address}"))?;
        }
    }
    let list = stage
        .cluster
        .steerage(1, &["interface", "list", "-o", "wide"])?;
    ensure!(
        list.contains("what goes to hosts of other nodes is sent on all the same"),
        "{list}"
    );
    let client = stage.cluster.lab.outside().addresses()[0].to_string();
    let address = hosted.sockets[0].to_string();
    let told = stage.cluster.steerage(1, &["explain", &client, &address])?;
    ensure!(told.contains("the backend has a host's address"), "{told}");
    stage.cluster.steerage(1, &["verify"])?;
    stage.cluster.manifests.remove(&hosted.service)
}

fn a_neighbour_that_is_not_known_yet_is_asked_for(stage: &mut Stage) -> Result<()> {
    let hosted = host(stage, 61)?;
    for transport in Transport::ALL {
        for &address in &hosted.sockets {
            let node = &stage.cluster.lab.node(1).ns;
            let mut forget = std::process::Command::new("ip");
            forget.args(["-n", node.name(), "neigh", "flush", "dev", UPLINK]);
            run(&mut forget, "")?;
            sends_on(stage, 2, || ask(stage, address, transport))?;
        }
    }
    stage.cluster.manifests.remove(&hosted.service)
}

fn long_flows_are_served_and_outlive_the_agent(stage: &mut Stage) -> Result<()> {
    let hosted = host(stage, 62)?;
    let mut flows = Vec::new();
    for &address in &hosted.sockets[..2] {
        let outside = &stage.cluster.lab.outside().ns;
        for transport in Transport::ALL {
            flows.push(LongFlow::start(outside, address, transport)?);
        }
        let least = u64::try_from(2 * SIZE / (64 << 10))?;
        sends_on(stage, least, || bulk_echo(outside, address, SIZE))
            .with_context(|| address.to_string())?;
    }
    let before = dropped(stage)?;
    stage.cluster.crash_agent(1)?;
    for flow in &flows {
        let before = flow.exchanges();
        clock::eventually("a flow goes on", PROPAGATION, || {
            Ok((flow.exchanges() > before + 100).then_some(()))
        })?;
    }
    for flow in flows {
        let report = flow.stop()?;
        ensure!(
            report.failure.is_none() && report.longest_stall < STALL && report.servers.len() == 1,
            "{report:?}"
        );
    }
    ensure!(dropped(stage)? == before, "the firewall dropped some");
    stage.cluster.await_agents()?;
    stage.cluster.manifests.remove(&hosted.service)
}

fn packets_to_pods_go_the_plain_way(stage: &mut Stage) -> Result<()> {
    let hosted = host(stage, 63)?;
    let before = counted(stage, "sent_on")?;
    for transport in Transport::ALL {
        for address in stage.at_node(1) {
            for _ in 0..8 {
                stage.ask_from_outside(address, transport)?;
            }
        }
        for address in hosted.service.sockets(PORT) {
            stage.ask("client", address, transport)?;
        }
    }
    let sent = counted(stage, "sent_on")? - before;
    ensure!(sent == 0, "{sent} packets were sent on");
    stage.cluster.manifests.remove(&hosted.service)
}

fn a_device_that_somebody_else_looks_at_is_not_passed_by(stage: &mut Stage) -> Result<()> {
    let hosted = host(stage, 64)?;
    let says = |words: &'static str| {
        clock::eventually(words, REREAD, || {
            let list = ["interface", "list", "-o", "wide"];
            let text = stage.cluster.steerage(1, &list)?;
            Ok(text.contains(words).then_some(()))
        })
    };
    let probe = Probe::attach(stage.cluster.lab.node(1), UPLINK, TcAttachType::Ingress)?;
    says("not sent on either: another program or filter")?;
    let sent = counted(stage, "sent_on")?;
    let outside = &stage.cluster.lab.outside().ns;
    for &address in &hosted.sockets {
        let (kind, _) = traffic::refusal(outside, address, Transport::Udp, SILENCE)?;
        ensure!(kind == std::io::ErrorKind::TimedOut, "{kind}");
    }
    ensure!(counted(stage, "sent_on")? == sent, "packets were sent on");
    drop(probe);
    says("is sent on all the same")?;
    for &address in &hosted.sockets {
        sends_on(stage, 2, || ask(stage, address, Transport::Udp))?;
    }
    stage.cluster.manifests.remove(&hosted.service)
}
