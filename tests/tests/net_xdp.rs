//! Frames that XDP takes on uplinks: who is served and by whom, what arrives, flows over the agent's
//! crash, large frames, devices that XDP refuses and that refuse XDP, and that `status` says all of it.
#![expect(
    clippy::tests_outside_test_module,
    reason = "an integration test is a test module"
)]

use std::{fs, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    checks, clock,
    cluster::{Endpoint, Exposure, Service},
    command::run,
    lab::{CniShape, TUNNEL, UPLINK, address},
    leak,
    probe::FrameProbe,
    scenario::{Check, PORT, PROPAGATION, Stage, TARGET, on_stage},
    traffic::{
        LongFlow, Transport, bulk_echo,
        sctp::{Association, SctpServer},
    },
};
use serde_json::Value;

/// Bytes of a long stream, there and back.
const SIZE: usize = 16 << 20;
/// How long a stall of a flow may last.
const STALL: Duration = Duration::from_secs(1);
/// How long devices may take to be looked at again without an event: twice the agent's interval.
const REREAD: Duration = Duration::from_secs(70);
/// Bytes of the largest packets on wide wires.
const JUMBO: u16 = 9000;
/// What a client sends of an SCTP association: INIT, COOKIE ECHO, DATA and SACK of six messages, SHUTDOWN
/// and SHUTDOWN COMPLETE.
const FROM_CLIENT: u64 = 16;
/// What its server sends: INIT ACK, COOKIE ACK, SACK and DATA in one packet for each message, SHUTDOWN ACK.
const FROM_SERVER: u64 = 9;

#[test]
fn frames_are_taken_with_routed_veths() {
    const CHECKS: &[Check] = checks![
        status_says_where_xdp_runs_and_by_what_it_sends,
        streams_through_a_node_port_are_taken_by_xdp,
        connections_begin_by_xdp,
        associations_pass_by_native_and_by_generic_xdp,
        what_arrives_is_the_same_by_xdp_and_by_tc,
        flows_go_on_over_a_crash_and_the_next_agent_takes_the_link_over,
        packets_of_nine_thousand_bytes_are_taken_whole,
        another_program_is_left_alone_and_named,
        xdp_without_redirect_is_named_and_does_nothing,
    ];
    let shape = CniShape::Routed;
    on_stage(shape, build(shape, "Native"), CHECKS);
}

#[test]
fn a_device_without_native_xdp_is_named_and_served() {
    const CHECKS: &[Check] = checks![
        a_tunnel_refuses_native_xdp_and_is_served,
        generic_xdp_runs_on_any_uplink,
        associations_pass_over_a_tunnel_by_generic_xdp,
    ];
    let shape = CniShape::Vxlan;
    on_stage(shape, build(shape, "Native"), CHECKS);
}

fn build(shape: CniShape, xdp: &str) -> Result<Stage> {
    let settings = format!(
        "datapath: {{redirect: \"On\", xdp: \"{xdp}\"}}\n\
         localTraffic: {{clusterCIDRs: [\"{}\", \"{}\"]}}\n",
        address::CLUSTER_CIDR_V4,
        address::CLUSTER_CIDR_V6
    );
    Stage::build_with_outside(shape, &settings, |lab| lab.carry_frames())
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

/// Does `action`, and fails unless XDP took at least so many frames on node 1 meanwhile.
fn takes<T>(stage: &Stage, least: u64, action: impl FnOnce() -> Result<T>) -> Result<T> {
    let before = counted(stage, "by_xdp")?;
    let result = action()?;
    let taken = counted(stage, "by_xdp")? - before;
    ensure!(taken >= least, "XDP took {taken} frames, not {least}");
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

fn await_line(stage: &Stage, device: &str, words: &str) -> Result<()> {
    let what = format!("{device} is said to be: {words}");
    let waited = clock::eventually(&what, REREAD, || {
        Ok(line_of(stage, device)?.contains(words).then_some(()))
    });
    waited.with_context(|| line_of(stage, device).unwrap_or_default())
}

/// A Service with one endpoint, open in every way and served at node 1's node port.
fn expose(stage: &Stage, pod: &str, number: u8) -> Result<(Service, [SocketAddr; 2])> {
    let endpoint = Endpoint::of(stage.cluster.lab.pod(pod));
    let exposure = Exposure::everywhere(number);
    let port = exposure.node_port.context("a node port")?;
    let service = Service::new(&format!("framed-{number}"), number).on(PORT, TARGET);
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

/// Replaces words of the agents' settings.
fn change_settings(stage: &Stage, from: &str, to: &str) -> Result<()> {
    let path = stage.cluster.directory().join("config.yaml");
    let text = fs::read_to_string(&path)?;
    ensure!(text.contains(from), "not {from} in {text}");
    fs::write(&path, text.replace(from, to))?;
    Ok(())
}

fn status_says_where_xdp_runs_and_by_what_it_sends(stage: &mut Stage) -> Result<()> {
    await_line(stage, UPLINK, "xdp native")?;
    // Pods' devices poll since the stage was built, which is noticed with the next look.
    let pod = stage.cluster.lab.pod("web-1").host_device.clone();
    clock::eventually("frames are sent to pods", REREAD, || {
        let line = line_of(stage, &pod)?;
        Ok((line.contains("redirect") && !line.contains("no frames")).then_some(()))
    })
}

fn streams_through_a_node_port_are_taken_by_xdp(stage: &mut Stage) -> Result<()> {
    for (pod, number) in [("web-1", 50), ("web-2", 51)] {
        let (service, sockets) = expose(stage, pod, number)?;
        let outside = &stage.cluster.lab.outside().ns;
        for address in sockets {
            // Frames of 1500 bytes, of which some take the other way each second.
            let least = u64::try_from(SIZE / 1500 / 2)?;
            let took = takes(stage, least, || bulk_echo(outside, address, SIZE))
                .with_context(|| format!("{address} to {pod}"))?;
            eprintln!("  {address} to {pod}: {} MiB in {took:.1?}", SIZE >> 20);
            let greeting = stage.ask_from_outside(address, Transport::Udp)?;
            ensure!(greeting.server == pod, "{greeting}");
        }
        stage.cluster.manifests.remove(&service)?;
    }
    Ok(())
}

/// Each exchange has a socket of its own, so of a datagram's the first packet is the only one from outside.
fn connections_begin_by_xdp(stage: &mut Stage) -> Result<()> {
    /// Exchanges with one address.
    const EXCHANGES: u64 = 32;
    for (pod, number) in [("web-1", 58), ("web-2", 59)] {
        let (service, sockets) = expose(stage, pod, number)?;
        for address in sockets {
            for transport in Transport::ALL {
                let begun = counted(stage, "new_flow")?;
                // Some begin by tc, by lot; of a connection SYN, data and FIN come from outside.
                let least = match transport {
                    Transport::Udp => EXCHANGES * 2 / 3,
                    Transport::Tcp => EXCHANGES * 2,
                };
                let exchanges = || {
                    for _ in 0..EXCHANGES {
                        let greeting = stage.ask_from_outside(address, transport)?;
                        ensure!(greeting.server == pod, "{greeting}");
                    }
                    Ok(())
                };
                takes(stage, least, exchanges)
                    .with_context(|| format!("{transport:?} to {address} and {pod}"))?;
                let begun = counted(stage, "new_flow")? - begun;
                ensure!(begun >= EXCHANGES, "{begun} of {EXCHANGES} flows");
            }
        }
        stage.cluster.manifests.remove(&service)?;
    }
    Ok(())
}

fn associations_pass_by_native_and_by_generic_xdp(stage: &mut Stage) -> Result<()> {
    for (from, to, words, number) in [
        ("Native", "Generic", "xdp generic", 60),
        ("Generic", "Native", "xdp native", 62),
    ] {
        associations_pass_by_xdp(stage, "web-1", number, FROM_CLIENT)?;
        associations_pass_by_xdp(stage, "web-2", number + 1, FROM_CLIENT + FROM_SERVER)?;
        change_settings(stage, &format!("\"{from}\""), &format!("\"{to}\""))?;
        await_line(stage, UPLINK, words)?;
    }
    Ok(())
}

fn associations_pass_over_a_tunnel_by_generic_xdp(stage: &mut Stage) -> Result<()> {
    for device in [UPLINK, TUNNEL] {
        await_line(stage, device, "xdp generic")?;
    }
    // INIT, which begins a flow that leaves by another uplink than it came by, is for tc to decide about.
    associations_pass_by_xdp(stage, "web-2", 60, FROM_CLIENT + FROM_SERVER - 1)
}

/// From INIT to the last packet, through a node port; both ends compute the checksum of all they get. XDP
/// takes `frames` of each association, but for those that begin by tc, by lot.
fn associations_pass_by_xdp(stage: &Stage, pod: &str, number: u8, frames: u64) -> Result<()> {
    /// Associations with one address.
    const ASSOCIATIONS: u16 = 32;
    let (lab, count) = (&stage.cluster.lab, u64::from(ASSOCIATIONS));
    // Ports that no other flow to this backend has, or it would be for tc to give them others.
    let ports = 40_000 + u16::from(number) * 100;
    let server = SctpServer::start(&lab.pod(pod).ns, pod, TARGET)?;
    let (service, sockets) = expose(stage, pod, number)?;
    stage.cluster.manifests.write_sctp(&service)?;
    clock::eventually("the node port is served by SCTP", PROPAGATION, || {
        let list = stage.cluster.steerage(1, &["service", "list"])?;
        let is_it = |line: &str| line.contains(&service.name) && line.contains(" SCTP ");
        Ok(list.lines().any(is_it).then_some(()))
    })?;
    for address in sockets {
        let begun = counted(stage, "new_flow")?;
        let associate = || {
            for port in ports..ports + ASSOCIATIONS {
                let mut association = Association::open(&lab.outside().ns, address, port)?;
                let greeting = association.converse()?;
                ensure!(greeting.server == pod, "{greeting}");
                association.finish()?;
            }
            Ok(())
        };
        // One frame of two associations may go by tc, so no packet of an association always does.
        takes(stage, count * frames - count / 2, associate)
            .with_context(|| format!("{address} to {pod}"))?;
        let begun = counted(stage, "new_flow")? - begun;
        ensure!(begun >= count, "{begun} of {count} flows");
    }
    ensure!(server.complaints().is_empty(), "{:?}", server.complaints());
    stage.cluster.manifests.remove(&service)
}

/// Remembers MACs and TTL of what arrives, once each.
const WATCH: &str = "table inet watch {
    set v4 { typeof ether saddr . ether daddr . ip ttl; flags dynamic; size 64; }
    set v6 { typeof ether saddr . ether daddr . ip6 hoplimit; flags dynamic; size 64; }
    chain input {
        type filter hook input priority raw; policy accept;
        meta nfproto ipv4 meta l4proto udp update @v4 { ether saddr . ether daddr . ip ttl }
        meta nfproto ipv6 meta l4proto udp update @v6 { ether saddr . ether daddr . ip6 hoplimit }
    }
}
";

/// What has arrived at the client outside and at two pods since this was asked last.
fn arrived(stage: &Stage) -> Result<Vec<String>> {
    let lab = &stage.cluster.lab;
    let mut all = Vec::new();
    for ns in [
        &lab.outside().ns,
        &lab.pod("web-1").ns,
        &lab.pod("web-2").ns,
    ] {
        for set in ["v4", "v6"] {
            let list = ["list", "set", "inet", "watch", set];
            let text = run(ns.command("nft")?.args(list), "")?;
            let elements = text.split_once("elements = {").map_or("", |(_, rest)| rest);
            let elements = elements.split_once('}').map_or("", |(all, _)| all);
            let elements = elements.split(',').map(str::trim);
            let elements = elements.filter(|one| !one.is_empty());
            all.extend(elements.map(|one| format!("{}: {one}", ns.name())));
            let flush = ["flush", "set", "inet", "watch", set];
            run(ns.command("nft")?.args(flush), "")?;
        }
    }
    all.sort_unstable();
    Ok(all)
}

fn what_arrives_is_the_same_by_xdp_and_by_tc(stage: &mut Stage) -> Result<()> {
    let (near, near_sockets) = expose(stage, "web-1", 52)?;
    let (far, far_sockets) = expose(stage, "web-2", 53)?;
    let lab = &stage.cluster.lab;
    for ns in [
        &lab.outside().ns,
        &lab.pod("web-1").ns,
        &lab.pod("web-2").ns,
    ] {
        run(ns.command("nft")?.args(["-f", "-"]), WATCH)?;
    }
    let flows = flows(
        stage,
        near_sockets.into_iter().chain(far_sockets),
        &[Transport::Udp],
    )?;
    let look = |stage: &Stage| -> Result<Vec<String>> {
        arrived(stage)?;
        go_on(&flows)?;
        arrived(stage)
    };
    go_on(&flows)?;
    let by_xdp = takes(stage, 200, || look(stage))?;
    change_settings(stage, "\"Native\"", "\"Off\"")?;
    clock::eventually("XDP is detached", PROPAGATION, || {
        Ok((!line_of(stage, UPLINK)?.contains("xdp")).then_some(()))
    })?;
    let before = counted(stage, "by_xdp")?;
    let by_tc = look(stage)?;
    ensure!(counted(stage, "by_xdp")? == before, "XDP is gone");
    ensure!(
        by_xdp == by_tc && by_tc.len() >= 6,
        "by XDP: {by_xdp:#?}\nby tc: {by_tc:#?}"
    );
    change_settings(stage, "xdp: \"Off\"", "xdp: \"Native\"")?;
    await_line(stage, UPLINK, "xdp native")?;
    takes(stage, 200, || go_on(&flows))?;
    finish(flows)?;
    stage.cluster.manifests.remove(&near)?;
    stage.cluster.manifests.remove(&far)
}

/// A long flow of each of `transports` to each address, from outside.
fn flows(
    stage: &Stage,
    sockets: impl IntoIterator<Item = SocketAddr>,
    transports: &[Transport],
) -> Result<Vec<LongFlow>> {
    let outside = &stage.cluster.lab.outside().ns;
    let mut flows = Vec::new();
    for address in sockets {
        for &transport in transports {
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
            Ok((flow.exchanges() > before + 200).then_some(()))
        })?;
    }
    Ok(())
}

/// Ends flows, which must never have stalled.
fn finish(flows: Vec<LongFlow>) -> Result<()> {
    for flow in flows {
        let report = flow.stop()?;
        let is_whole = report.failure.is_none() && report.longest_stall < STALL;
        ensure!(is_whole && report.servers.len() == 1, "{report:?}");
    }
    Ok(())
}

fn flows_go_on_over_a_crash_and_the_next_agent_takes_the_link_over(
    stage: &mut Stage,
) -> Result<()> {
    let (near, near_sockets) = expose(stage, "web-1", 54)?;
    let (far, far_sockets) = expose(stage, "web-2", 55)?;
    let sockets = near_sockets.into_iter().chain(far_sockets);
    let flows = flows(stage, sockets, &Transport::ALL)?;
    takes(stage, 400, || go_on(&flows))?;
    stage.cluster.agent(1).kill()?;
    takes(stage, 400, || go_on(&flows)).context("while no agent lives")?;
    let before = leak::frame_programs(&stage.cluster.lab)?;
    stage.cluster.start_agents()?;
    takes(stage, 400, || go_on(&flows)).context("of the next agent")?;
    // The link was not made anew: it has another program now, and never had none.
    clock::eventually("the next agent's program", PROPAGATION, || {
        let after = leak::frame_programs(&stage.cluster.lab)?;
        Ok((after.len() == before.len() && after != before).then_some(()))
    })?;
    await_line(stage, UPLINK, "xdp native")?;
    finish(flows)?;
    stage.cluster.manifests.remove(&near)?;
    stage.cluster.manifests.remove(&far)
}

fn packets_of_nine_thousand_bytes_are_taken_whole(stage: &mut Stage) -> Result<()> {
    stage.cluster.lab.set_mtu(JUMBO)?;
    for (pod, number) in [("web-1", 56), ("web-2", 57)] {
        let (service, sockets) = expose(stage, pod, number)?;
        let outside = &stage.cluster.lab.outside().ns;
        for address in sockets {
            let least = u64::try_from(SIZE / usize::from(JUMBO) / 2)?;
            takes(stage, least, || bulk_echo(outside, address, SIZE))
                .with_context(|| format!("{address} to {pod}"))?;
        }
        stage.cluster.manifests.remove(&service)?;
    }
    stage.cluster.lab.set_mtu(1500)
}

/// Waits until no device of any node has a program: each agent hears of settings by itself.
fn await_detached(stage: &Stage) -> Result<()> {
    clock::eventually("XDP is detached everywhere", REREAD, || {
        let left = leak::frame_programs(&stage.cluster.lab)?;
        Ok(left.is_empty().then_some(()))
    })
}

fn another_program_is_left_alone_and_named(stage: &mut Stage) -> Result<()> {
    change_settings(stage, "\"Native\"", "\"Off\"")?;
    await_detached(stage)?;
    let neighbour = FrameProbe::attach(stage.cluster.lab.node(1), UPLINK)?;
    change_settings(stage, "xdp: \"Off\"", "xdp: \"Native\"")?;
    await_line(stage, UPLINK, "another XDP program is on the device")?;
    let programs = leak::frame_programs(&stage.cluster.lab)?;
    ensure!(programs.contains(&neighbour.id()), "{programs:?}");
    for address in stage.at_node(1) {
        stage.ask_from_outside(address, Transport::Tcp)?;
    }
    drop(neighbour);
    await_line(stage, UPLINK, "xdp native")
}

fn xdp_without_redirect_is_named_and_does_nothing(stage: &mut Stage) -> Result<()> {
    change_settings(stage, "redirect: \"On\"", "redirect: \"Off\"")?;
    clock::eventually("status says why XDP does nothing", PROPAGATION, || {
        let status = stage.cluster.steerage(1, &["status"])?;
        Ok(status
            .contains("datapath.xdp takes what datapath.redirect")
            .then_some(()))
    })?;
    await_detached(stage)?;
    change_settings(stage, "redirect: \"Off\"", "redirect: \"On\"")?;
    await_line(stage, UPLINK, "xdp native")
}

fn a_tunnel_refuses_native_xdp_and_is_served(stage: &mut Stage) -> Result<()> {
    await_line(stage, UPLINK, "xdp native")?;
    await_line(stage, TUNNEL, "has no native XDP")?;
    let (service, sockets) = expose(stage, "web-2", 50)?;
    let outside = &stage.cluster.lab.outside().ns;
    for address in sockets {
        bulk_echo(outside, address, SIZE)?;
    }
    stage.cluster.manifests.remove(&service)
}

fn generic_xdp_runs_on_any_uplink(stage: &mut Stage) -> Result<()> {
    change_settings(stage, "\"Native\"", "\"Generic\"")?;
    for device in [UPLINK, TUNNEL] {
        await_line(stage, device, "xdp generic")?;
    }
    let (service, sockets) = expose(stage, "web-2", 51)?;
    let outside = &stage.cluster.lab.outside().ns;
    for address in sockets {
        takes(stage, 100, || bulk_echo(outside, address, SIZE))
            .with_context(|| address.to_string())?;
    }
    stage.cluster.manifests.remove(&service)
}
