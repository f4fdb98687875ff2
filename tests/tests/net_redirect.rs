//! Packets that are sent on at once, past the host's filters: who is served and by whom, that a firewall
//! which drops what is invalid to connection tracking drops none of them, that flows keep their path
//! whatever the settings say, and where nothing is sent on.
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
    ns::Namespace,
    probe::Probe,
    scenario::{Check, PORT, PROPAGATION, Stage, TARGET, on_stage},
    traffic::{LongFlow, Transport, bulk_echo},
};
use serde_json::Value;

/// Bytes of a long stream, there and back.
const SIZE: usize = 16 << 20;
/// How long a stall of a flow may last.
const STALL: Duration = Duration::from_secs(1);
/// How long devices may take to be looked at again without an event: twice the agent's interval.
const REREAD: Duration = Duration::from_secs(70);

const CHECKS: &[Check] = checks![
    status_says_which_devices_packets_are_sent_on_by,
    pods_and_clients_outside_are_served_by_packets_that_are_sent_on,
    long_streams_through_a_node_port_are_sent_on,
    what_arrives_has_the_same_macs_and_ttl_either_way,
    a_flow_keeps_its_path_when_the_setting_changes,
    a_device_that_somebody_else_looks_at_is_not_passed_by,
];

#[test]
fn packets_are_sent_on_with_routed_veths() {
    on_stage(CniShape::Routed, build(CniShape::Routed), CHECKS);
}

#[test]
fn packets_are_sent_on_over_vxlan() {
    on_stage(CniShape::Vxlan, build(CniShape::Vxlan), &CHECKS[1..3]);
}

fn build(shape: CniShape) -> Result<Stage> {
    Stage::build_with_outside(shape, &settings("On"), |_lab| Ok(()))
}

/// The settings with that of redirects. Pods' addresses must be known, or their packets would not be
/// sent on to other nodes.
fn settings(redirect: &str) -> String {
    format!(
        "datapath: {{redirect: \"{redirect}\"}}\n\
         localTraffic: {{clusterCIDRs: [\"{}\", \"{}\"]}}\n",
        address::CLUSTER_CIDR_V4,
        address::CLUSTER_CIDR_V6
    )
}

/// How often `reason` was counted on a node.
fn counted(stage: &Stage, node: u8, reason: &str) -> Result<u64> {
    let text = stage.cluster.steerage(node, &["status", "-o", "json"])?;
    let status: Value = serde_json::from_str(&text)?;
    let counters = status["items"][0]["counters"].as_array();
    let counters = counters.with_context(|| format!("no counters in {text}"))?;
    let found = counters.iter().find(|one| one["reason"] == reason);
    Ok(found.map_or(0, |one| one["packets"].as_u64().unwrap_or(0)))
}

/// What the firewall of a node has dropped, by the counters of its two last lines of defence.
fn dropped(stage: &Stage, node: u8) -> Result<Vec<String>> {
    let node = stage.cluster.lab.node(node);
    let mut list = node.ns.command("nft")?;
    let text = run(list.args(["list", "chain", "inet", "lab", "forward"]), "")?;
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| line.contains("counter") && !line.contains("packets 0 "));
    Ok(lines.map(str::to_owned).collect())
}

/// Fails if a firewall has dropped anything.
fn check_firewalls(stage: &Stage) -> Result<()> {
    for node in 1..=3 {
        let dropped = dropped(stage, node)?;
        ensure!(dropped.is_empty(), "node {node} dropped: {dropped:?}");
    }
    Ok(())
}

/// A Service with one endpoint, open in every way and served at node 1's node port.
fn expose(stage: &Stage, pod: &str, number: u8) -> Result<(Service, [SocketAddr; 2])> {
    let endpoint = Endpoint::of(stage.cluster.lab.pod(pod));
    let exposure = Exposure::everywhere(number);
    let port = exposure.node_port.context("a node port")?;
    let service = Service::new(&format!("sent-on-{number}"), number).on(PORT, TARGET);
    let service = service.to([endpoint]).exposed(exposure);
    stage.cluster.manifests.write(&service)?;
    let addresses = stage.cluster.lab.node(1).addresses();
    let sockets = addresses.map(|address| SocketAddr::new(address, port));
    for address in sockets {
        clock::eventually("the node port is served", PROPAGATION, || {
            Ok(stage.ask_from_outside(address, Transport::Tcp).ok())
        })?;
    }
    Ok((service, sockets))
}

/// Does `action`, and fails unless node 1 sent on at least so many packets meanwhile.
fn sends_on<T>(stage: &Stage, least: u64, action: impl FnOnce() -> Result<T>) -> Result<T> {
    let before = counted(stage, 1, "sent_on")?;
    let result = action()?;
    let sent = counted(stage, 1, "sent_on")? - before;
    ensure!(sent >= least, "{sent} packets were sent on, not {least}");
    Ok(result)
}

/// The line about a device in `steerage interface list`.
fn line_of(stage: &Stage, device: &str) -> Result<String> {
    let list = ["interface", "list", "-o", "wide"];
    let text = stage.cluster.steerage(1, &list)?;
    let is_it = |line: &&str| line.split_whitespace().nth(1) == Some(device);
    let line = text.lines().find(is_it).map(str::to_owned);
    line.with_context(|| format!("no {device} in\n{text}"))
}

/// Waits until packets of new flows may be sent on by `device`.
fn await_open(stage: &Stage, device: &str, patience: Duration) -> Result<()> {
    let what = format!("packets are sent on by {device}");
    clock::eventually(&what, patience, || {
        let line = line_of(stage, device)?;
        let is_open = line.split_whitespace().any(|word| word == "redirect");
        Ok(is_open.then_some(()))
    })?;
    Ok(())
}

fn await_line(stage: &Stage, device: &str, patience: Duration, words: &str) -> Result<()> {
    let what = format!("{device} is said to be: {words}");
    clock::eventually(&what, patience, || {
        Ok(line_of(stage, device)?.contains(words).then_some(()))
    })?;
    Ok(())
}

fn status_says_which_devices_packets_are_sent_on_by(stage: &mut Stage) -> Result<()> {
    let pod = stage.cluster.lab.pod("client").host_device.clone();
    for device in [UPLINK, &pod] {
        await_open(stage, device, PROPAGATION)?;
    }
    Ok(())
}

fn pods_and_clients_outside_are_served_by_packets_that_are_sent_on(
    stage: &mut Stage,
) -> Result<()> {
    let has_bridge = stage.cluster.lab.shape().has_bridge();
    for (pod, number) in [("web-1", 50), ("web-2", 51)] {
        let (service, sockets) = expose(stage, pod, number)?;
        for transport in Transport::ALL {
            for address in service.sockets(PORT) {
                let what = format!("{transport} from a pod to {address}, served by {pod}");
                let ask = || {
                    let greeting = stage.ask("client", address, transport)?;
                    ensure!(greeting.server == pod, "{greeting}");
                    Ok(())
                };
                // Neighbours that nobody has sent anything to are not known yet.
                ask()?;
                // A bridge learns who is behind its ports: packets are not sent on past it.
                let least = if has_bridge { 0 } else { 2 };
                sends_on(stage, least, ask).context(what)?;
            }
            for address in sockets {
                let what = format!("{transport} from outside to {address}, served by {pod}");
                let ask = || {
                    let greeting = stage.ask_from_outside(address, transport)?;
                    ensure!(greeting.server == pod, "{greeting}");
                    let outside = stage.cluster.lab.outside().addresses();
                    let is_seen = outside.contains(&greeting.client.ip());
                    ensure!(is_seen == (pod == "web-1"), "{greeting}");
                    Ok(())
                };
                let least = if has_bridge && pod == "web-1" { 0 } else { 2 };
                sends_on(stage, least, ask).context(what)?;
            }
        }
        stage.cluster.manifests.remove(&service)?;
    }
    check_firewalls(stage)
}

fn long_streams_through_a_node_port_are_sent_on(stage: &mut Stage) -> Result<()> {
    for (pod, number) in [("web-1", 52), ("web-2", 53)] {
        let (service, sockets) = expose(stage, pod, number)?;
        let outside = &stage.cluster.lab.outside().ns;
        for address in sockets {
            // A buffer holds 64 KiB of a stream at most.
            let has_bridge = stage.cluster.lab.shape().has_bridge();
            let is_past_bridge = has_bridge && pod == "web-1";
            let least = u64::try_from(2 * SIZE / (64 << 10))?;
            let least = if is_past_bridge { 0 } else { least };
            let plain = counted(stage, 1, "not_sent_on")?;
            let took = sends_on(stage, least, || bulk_echo(outside, address, SIZE))
                .with_context(|| format!("{address} to {pod}"))?;
            eprintln!("  {address} to {pod}: {} MiB in {took:.1?}", SIZE >> 20);
            let plain = counted(stage, 1, "not_sent_on")? - plain;
            ensure!(
                plain == 0,
                "{plain} packets of {address} to {pod} went the plain way"
            );
        }
        stage.cluster.manifests.remove(&service)?;
    }
    check_firewalls(stage)
}

/// A long flow of each protocol to a node port, from outside.
fn flows(stage: &Stage, sockets: [SocketAddr; 2]) -> Result<Vec<LongFlow>> {
    let outside = &stage.cluster.lab.outside().ns;
    let mut flows = Vec::new();
    for address in sockets {
        for transport in Transport::ALL {
            flows.push(LongFlow::start(outside, address, transport)?);
        }
    }
    Ok(flows)
}

/// Waits until every flow has gone on for a while.
fn go_on(flows: &[LongFlow]) -> Result<()> {
    for flow in flows {
        let before = flow.exchanges();
        clock::eventually("a flow goes on", PROPAGATION, || {
            Ok((flow.exchanges() > before + 100).then_some(()))
        })?;
    }
    Ok(())
}

fn a_flow_keeps_its_path_when_the_setting_changes(stage: &mut Stage) -> Result<()> {
    let (service, sockets) = expose(stage, "web-1", 54)?;
    let (far, far_sockets) = expose(stage, "web-2", 55)?;
    let begin = |stage: &Stage| -> Result<Vec<LongFlow>> {
        let mut all = flows(stage, sockets)?;
        all.append(&mut flows(stage, far_sockets)?);
        Ok(all)
    };
    let first = begin(stage)?;
    sends_on(stage, 200, || go_on(&first))?;

    set_redirect(stage, "Off")?;
    await_line(
        stage,
        UPLINK,
        PROPAGATION,
        "the setting datapath.redirect is Off",
    )?;
    sends_on(stage, 200, || go_on(&first)).context("flows begun before it was off")?;
    let second = begin(stage)?;
    go_on(&second)?;

    set_redirect(stage, "On")?;
    await_open(stage, UPLINK, PROPAGATION)?;
    go_on(&first)?;
    go_on(&second)?;
    for flow in first.into_iter().chain(second) {
        let report = flow.stop()?;
        ensure!(
            report.failure.is_none() && report.longest_stall < STALL && report.servers.len() == 1,
            "{report:?}"
        );
    }
    stage.cluster.manifests.remove(&service)?;
    stage.cluster.manifests.remove(&far)?;
    check_firewalls(stage)
}

fn set_redirect(stage: &mut Stage, redirect: &str) -> Result<()> {
    let path = stage.cluster.directory().join("config.yaml");
    let text = std::fs::read_to_string(&path)?;
    let (other, wanted) = match redirect {
        "On" => ("\"Off\"", "\"On\""),
        _ => ("\"On\"", "\"Off\""),
    };
    ensure!(text.contains(other), "not {other} in {text}");
    std::fs::write(&path, text.replace(other, wanted))?;
    Ok(())
}

/// Remembers MACs and TTL of what arrives, once each.
const WATCH: &str = "table inet watch {
    set v4 { typeof ether saddr . ether daddr . ip ttl; flags dynamic; size 64; }
    set v6 { typeof ether saddr . ether daddr . ip6 hoplimit; flags dynamic; size 64; }
    chain input {
        type filter hook input priority raw; policy accept;
        meta nfproto ipv4 meta l4proto { tcp, udp } update @v4 { ether saddr . ether daddr . ip ttl }
        meta nfproto ipv6 meta l4proto { tcp, udp } update @v6 { ether saddr . ether daddr . ip6 hoplimit }
    }
}
";

/// What has arrived in `ns` since the watch began, or was last looked at.
fn arrived(ns: &Namespace) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for set in ["v4", "v6"] {
        let text = run(
            ns.command("nft")?
                .args(["list", "set", "inet", "watch", set]),
            "",
        )?;
        let elements = text.split_once("elements = {").map_or("", |(_, rest)| rest);
        let elements = elements
            .split_once('}')
            .map_or("", |(elements, _)| elements);
        let elements = elements.split(',').map(str::trim);
        all.extend(elements.filter(|one| !one.is_empty()).map(str::to_owned));
        run(
            ns.command("nft")?
                .args(["flush", "set", "inet", "watch", set]),
            "",
        )?;
    }
    all.sort_unstable();
    Ok(all)
}

fn what_arrives_has_the_same_macs_and_ttl_either_way(stage: &mut Stage) -> Result<()> {
    let (near, near_sockets) = expose(stage, "web-1", 57)?;
    let (far, far_sockets) = expose(stage, "web-2", 58)?;
    let lab = &stage.cluster.lab;
    let pods = ["client", "web-1", "web-2"].map(|name| &lab.pod(name).ns);
    let all: Vec<_> = pods.into_iter().chain([&lab.outside().ns]).collect();
    for ns in &all {
        run(ns.command("nft")?.args(["-f", "-"]), WATCH)?;
    }
    let ask_all = |stage: &Stage| -> Result<()> {
        for transport in Transport::ALL {
            for address in near.sockets(PORT).into_iter().chain(far.sockets(PORT)) {
                stage.ask("client", address, transport)?;
            }
            for address in near_sockets.into_iter().chain(far_sockets) {
                stage.ask_from_outside(address, transport)?;
            }
        }
        Ok(())
    };
    let seen = |stage: &Stage| -> Result<Vec<Vec<String>>> {
        let namespaces = ["client", "web-1", "web-2"];
        let lab = &stage.cluster.lab;
        let pods = namespaces.map(|name| &lab.pod(name).ns);
        let namespaces = pods.into_iter().chain([&lab.outside().ns]);
        namespaces.map(arrived).collect()
    };
    seen(stage)?;
    sends_on(stage, 20, || ask_all(stage))?;
    let sent_on = seen(stage)?;
    set_redirect(stage, "Off")?;
    await_line(
        stage,
        UPLINK,
        PROPAGATION,
        "the setting datapath.redirect is Off",
    )?;
    let before = counted(stage, 1, "sent_on")?;
    ask_all(stage)?;
    let routed = seen(stage)?;
    ensure!(
        counted(stage, 1, "sent_on")? == before,
        "new flows were sent on"
    );
    ensure!(
        sent_on == routed && sent_on.iter().all(|one| !one.is_empty()),
        "sent on: {sent_on:#?}\nrouted: {routed:#?}"
    );
    set_redirect(stage, "On")?;
    await_open(stage, UPLINK, PROPAGATION)?;
    stage.cluster.manifests.remove(&near)?;
    stage.cluster.manifests.remove(&far)
}

fn a_device_that_somebody_else_looks_at_is_not_passed_by(stage: &mut Stage) -> Result<()> {
    let device = stage.cluster.lab.pod("client").host_device.clone();
    let node = stage.cluster.lab.node(1);
    let probe = Probe::attach(node, &device, TcAttachType::Ingress)?;
    await_line(stage, &device, REREAD, "another program or filter")?;
    let (service, _) = expose(stage, "web-1", 56)?;
    for address in service.sockets(PORT) {
        let before = probe.runs()?;
        stage.ask("client", address, Transport::Tcp)?;
        probe.has_run_since(before)?;
    }
    drop(probe);
    await_open(stage, &device, REREAD)?;
    stage.cluster.manifests.remove(&service)
}
