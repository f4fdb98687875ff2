//! A node with two uplinks, where requests come by one and answers go by the other, and with frames of
//! 9000 bytes; by tcx, and by the filters of kernels without it.
#![expect(
    clippy::tests_outside_test_module,
    reason = "an integration test is a test module"
)]

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use lb_tests::{
    checks, clock,
    cluster::sockets,
    lab::{CniShape, Lab, SECOND_UPLINK, UPLINK, Way, address},
    scenario::{Check, NODE_PORT, PORT, PROPAGATION, Stage, on_stage},
    traffic::{LongFlow, TcpLine, Transport, ask_udp_whole, bulk_echo},
};

/// Bytes of a packet on every wire of the lab.
const JUMBO: u16 = 9000;
/// Payload of a datagram that fills such a packet but for the greeting that comes back with it.
const PAYLOAD: usize = 8800;
/// The least that a segment carries where every wire is that wide: 40 bytes of IPv6, 20 of TCP, options.
const SEGMENT: u32 = 8900;
/// Connections within which each of three endpoints has had one, but for one run in 10^10.
const ATTEMPTS: usize = 60;

const CHECKS: &[Check] = checks![
    both_devices_are_uplinks,
    requests_by_one_uplink_are_answered_by_the_other,
    packets_of_nine_thousand_bytes_pass_whole,
];

#[test]
fn two_uplinks_and_jumbo_frames_with_routed_veths() {
    let stage = Stage::build_with_outside(CniShape::Routed, "", prepare);
    on_stage(CniShape::Routed, stage, CHECKS);
}

#[test]
fn two_uplinks_and_jumbo_frames_by_filters_on_a_bridge() {
    let shape = CniShape::Bridge { br_netfilter: true };
    let stage = Stage::build_with_outside(shape, "attachment: Clsact\n", prepare);
    on_stage(shape, stage, &[FILTERS, CHECKS].concat());
}

/// What only the second stage can show.
const FILTERS: &[Check] = checks![
    programs_are_in_filters_and_on_no_tcx_hook,
    flows_by_filters_outlive_the_agent,
];

fn prepare(lab: &mut Lab) -> Result<()> {
    lab.add_second_wire(1)?;
    lab.set_mtu(JUMBO)
}

fn programs_are_in_filters_and_on_no_tcx_hook(stage: &mut Stage) -> Result<()> {
    let lab = &stage.cluster.lab;
    let links = lb_tests::leak::attached_programs(lab)?;
    ensure!(links.is_empty(), "programs on tcx hooks: {links:?}");
    let filters = lb_tests::leak::filter_programs(lab)?;
    // Two programs of each role for each of the three agents.
    ensure!(filters.len() == 12, "{} programs in filters", filters.len());
    Ok(())
}

fn flows_by_filters_outlive_the_agent(stage: &mut Stage) -> Result<()> {
    let outside = &stage.cluster.lab.outside().ns;
    let mut flows = Vec::new();
    for address in stage.at_node(1) {
        for transport in Transport::ALL {
            flows.push(LongFlow::start(outside, address, transport)?);
        }
    }
    stage.cluster.crash_agent(1)?;
    stage.cluster.await_agents()?;
    for flow in flows {
        let before = flow.exchanges();
        clock::eventually("a flow goes on", PROPAGATION, || {
            Ok((flow.exchanges() > before).then_some(()))
        })?;
        let report = flow.stop()?;
        ensure!(
            report.failure.is_none() && report.longest_stall < Duration::from_secs(1),
            "{report:?}"
        );
    }
    Ok(())
}

fn both_devices_are_uplinks(stage: &mut Stage) -> Result<()> {
    let list = ["interface", "list", "-o", "wide"];
    let text = stage.cluster.steerage(1, &list)?;
    for device in [UPLINK, SECOND_UPLINK] {
        let is_it = |line: &&str| line.split_whitespace().nth(1) == Some(device);
        let line = text.lines().find(is_it);
        let line = line.with_context(|| format!("no {device} in\n{text}"))?;
        ensure!(
            line.contains("uplink") && line.contains("attached"),
            "{line}"
        );
    }
    Ok(())
}

/// Everything that is dialled by a way, of both families: node port, external, load balancer and
/// cluster address.
fn dialled(stage: &Stage, way: Way) -> Result<Vec<SocketAddr>> {
    let at_node = match way {
        Way::First => stage.at_node(1),
        Way::Second => {
            let pair = (address::second_wire_v4(1), address::second_wire_v6(1));
            sockets(pair, NODE_PORT)
        }
    };
    let exposure = &stage.web.exposure;
    let mut all = at_node.to_vec();
    all.extend(sockets(exposure.external.context("an address")?, PORT));
    all.extend(sockets(exposure.balancer.context("an address")?, PORT));
    all.extend(stage.web.sockets(PORT));
    Ok(all)
}

/// Lets requests come by one way, and answers go by the other or the same.
fn set_ways(stage: &Stage, request: Way, answer: Way) -> Result<()> {
    let lab = &stage.cluster.lab;
    let networks = [
        [address::EXTERNAL_V4, address::EXTERNAL_V6],
        [address::SERVICE_CIDR_V4, address::SERVICE_CIDR_V6],
    ];
    lab.outside().route_by(request, &networks, lab.node(1))?;
    lab.node(1).answer_by(answer)
}

fn requests_by_one_uplink_are_answered_by_the_other(stage: &mut Stage) -> Result<()> {
    for request in Way::ALL {
        for answer in Way::ALL {
            set_ways(stage, request, answer)?;
            let before = passed(stage)?;
            for address in dialled(stage, request)? {
                reach_everybody(stage, address)
                    .with_context(|| format!("by {request:?}, answered by {answer:?}"))?;
            }
            expect_ways([before, passed(stage)?], request, answer)?;
        }
    }
    set_ways(stage, Way::First, Way::First)
}

/// Packets that the router has sent and received by each way.
fn passed(stage: &Stage) -> Result<[[u64; 2]; 2]> {
    let outside = stage.cluster.lab.outside();
    Ok([outside.passed(Way::First)?, outside.passed(Way::Second)?])
}

/// Fails unless requests and answers took their ways, and no other.
fn expect_ways([before, after]: [[[u64; 2]; 2]; 2], request: Way, answer: Way) -> Result<()> {
    for (index, way) in Way::ALL.into_iter().enumerate() {
        for (column, used) in [request, answer].into_iter().enumerate() {
            let packets = after[index][column] - before[index][column];
            // Neighbours are asked for by either.
            ensure!(
                if way == used {
                    packets > 1000
                } else {
                    packets < 100
                },
                "requests by {request:?}, answers by {answer:?}: {packets} packets by {way:?}, \
                 column {column}"
            );
        }
    }
    Ok(())
}

/// Asks until each of the three endpoints has answered.
fn meet_all(mut ask: impl FnMut() -> Result<String>) -> Result<()> {
    let mut met = BTreeSet::new();
    for _ in 0..ATTEMPTS {
        met.insert(ask()?);
        if met.len() == 3 {
            return Ok(());
        }
    }
    bail!("only {met:?} answered")
}

/// By TCP and UDP every endpoint answers, and streams of both directions pass to each.
fn reach_everybody(stage: &Stage, address: SocketAddr) -> Result<()> {
    let outside = &stage.cluster.lab.outside().ns;
    for transport in Transport::ALL {
        meet_all(|| Ok(stage.ask_from_outside(address, transport)?.server))
            .with_context(|| format!("{transport} {address}"))?;
    }
    for _ in 0..4 {
        let took = bulk_echo(outside, address, 1 << 20)?;
        ensure!(
            took < Duration::from_secs(3),
            "{address}: 1 MiB took {took:?}"
        );
    }
    Ok(())
}

fn packets_of_nine_thousand_bytes_pass_whole(stage: &mut Stage) -> Result<()> {
    let outside = &stage.cluster.lab.outside().ns;
    for (request, answer) in [(Way::First, Way::Second), (Way::Second, Way::First)] {
        set_ways(stage, request, answer)?;
        for address in dialled(stage, request)? {
            meet_all(|| Ok(ask_udp_whole(outside, address, PAYLOAD)?.server))
                .with_context(|| format!("whole datagrams to {address}"))?;
            let line = TcpLine::open(outside, address, None)?;
            let size = line.segment_size()?;
            ensure!(size >= SEGMENT, "{address}: segments of {size} bytes");
            line.reset()?;
        }
    }
    set_ways(stage, Way::First, Way::First)
}
