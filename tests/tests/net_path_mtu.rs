//! Narrow places on the path of flows through a node port, where only an ICMP error that is translated
//! tells the sender: a stream whose error is lost stalls for good.
#![expect(
    clippy::tests_outside_test_module,
    reason = "an integration test is a test module"
)]

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    checks,
    cluster::{Endpoint, Exposure, Service},
    lab::CniShape,
    scenario::{Check, PORT, PROPAGATION, Stage, TARGET, on_stage},
    traffic::{Transport, bulk_echo},
};

/// The narrow places' MTU in bytes; IPv6 asks for 1280 at least.
const NARROW: u16 = 1300;
/// How long a stream of a megabyte may take, which as it is takes 20 ms. A lost error is no delay but
/// an end: its sender repeats itself for minutes.
const PATIENCE: Duration = Duration::from_secs(3);
/// Bytes of a stream.
const SIZE: usize = 1 << 20;

const CHECKS: &[Check] = checks![
    a_router_before_the_client_is_heard_by_endpoints_here_and_elsewhere,
    this_nodes_own_narrow_route_is_heard_by_the_client,
    a_router_between_the_nodes_is_heard_by_the_client_and_by_the_endpoint,
];

#[test]
fn streams_recover_with_routed_veths() {
    let stage = Stage::build_with_outside(CniShape::Routed, "", |_lab| Ok(()));
    on_stage(CniShape::Routed, stage, CHECKS);
}

/// What is too large to be sent on at once goes the plain way, where the host answers.
#[test]
fn streams_recover_where_packets_are_sent_on() {
    let redirect = "datapath: {redirect: \"On\"}\n";
    let stage = Stage::build_with_outside(CniShape::Routed, redirect, |_lab| Ok(()));
    on_stage(CniShape::Routed, stage, CHECKS);
}

/// The tunnel itself has no router that could say anything but the node.
#[test]
fn streams_recover_over_vxlan() {
    let stage = Stage::build_with_outside(CniShape::Vxlan, "", |_lab| Ok(()));
    on_stage(CniShape::Vxlan, stage, &CHECKS[..2]);
}

/// A Service with one endpoint, and its node port at node 1; no host remembers what it has learnt of
/// paths before.
fn expose(stage: &Stage, pod: &str, number: u8) -> Result<(Service, [SocketAddr; 2])> {
    let endpoint = Endpoint::of(stage.cluster.lab.pod(pod));
    let service = Service::new(&format!("narrow-{number}"), number).on(PORT, TARGET);
    let exposure = Exposure::everywhere(number);
    let port = exposure.node_port.context("a node port")?;
    let service = service.to([endpoint]).exposed(exposure);
    stage.cluster.manifests.write(&service)?;
    stage.cluster.lab.forget_paths()?;
    let addresses = stage.cluster.lab.node(1).addresses();
    let sockets = addresses.map(|address| SocketAddr::new(address, port));
    for address in sockets {
        lb_tests::clock::eventually("the node port is served", PROPAGATION, || {
            Ok(stage.ask_from_outside(address, Transport::Tcp).ok())
        })?;
    }
    Ok((service, sockets))
}

/// A stream there and back.
fn stream(stage: &Stage, address: SocketAddr) -> Result<()> {
    let took = bulk_echo(&stage.cluster.lab.outside().ns, address, SIZE)?;
    ensure!(took < PATIENCE, "{address}: {SIZE} bytes took {took:?}");
    Ok(())
}

/// Answers are too long for the router: it says so to the service address, and the endpoint must hear
/// of it, here and on another node.
fn a_router_before_the_client_is_heard_by_endpoints_here_and_elsewhere(
    stage: &mut Stage,
) -> Result<()> {
    for (pod, number) in [("web-1", 50), ("web-2", 51)] {
        let (service, sockets) = expose(stage, pod, number)?;
        let outside = stage.cluster.lab.outside();
        outside.narrow_to_client(Some(NARROW))?;
        for address in sockets {
            let before = outside.too_big_sent()?;
            stream(stage, address).with_context(|| format!("to {pod}"))?;
            ensure!(
                outside.too_big_sent()? > before,
                "{address}: the router said nothing, so nothing was tested"
            );
        }
        outside.narrow_to_client(None)?;
        stage.cluster.manifests.remove(&service)?;
    }
    Ok(())
}

/// The node that translates has the narrow route itself: it quotes what it has made of the packet.
fn this_nodes_own_narrow_route_is_heard_by_the_client(stage: &mut Stage) -> Result<()> {
    let (service, sockets) = expose(stage, "web-3", 52)?;
    let lab = &stage.cluster.lab;
    lab.node(1).narrow_routes_to(lab.shape(), 3, NARROW)?;
    for address in sockets {
        stream(stage, address)?;
    }
    stage.cluster.manifests.remove(&service)
}

/// A router between the nodes says it to this node's address about requests, and to the endpoint
/// about answers.
fn a_router_between_the_nodes_is_heard_by_the_client_and_by_the_endpoint(
    stage: &mut Stage,
) -> Result<()> {
    let (service, sockets) = expose(stage, "web-2", 53)?;
    let lab = &stage.cluster.lab;
    let outside = lab.outside();
    outside.stand_between(lab.node(1), lab.node(2), NARROW)?;
    for address in sockets {
        let before = outside.too_big_sent()?;
        stream(stage, address)?;
        ensure!(
            outside.too_big_sent()? > before,
            "{address}: the router said nothing, so nothing was tested"
        );
    }
    stage.cluster.manifests.remove(&service)
}
