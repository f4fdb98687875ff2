//! SCTP from INIT to the end of an association, through cluster addresses, node ports and external
//! addresses, with ports that the way changes; who receives a packet computes its checksum anew.
#![expect(
    clippy::tests_outside_test_module,
    reason = "an integration test is a test module"
)]

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context as _, Result, bail, ensure};
use lb_tests::{
    checks, clock,
    cluster::{Endpoint, Exposure, Service, sockets},
    lab::{CniShape, address},
    ns::Namespace,
    scenario::{Check, PORT, PROPAGATION, Stage, on_stage},
    traffic::sctp::{Association, SctpServer},
};

/// The port that endpoints serve, which nobody dials.
const TARGET: u16 = 3868;
/// Associations within which every one of three endpoints has had one, but for one run in 10^10.
const ASSOCIATIONS: u16 = 60;

const CHECKS: &[Check] =
    checks![associations_from_pods_and_from_outside_reach_every_endpoint_and_come_back,];

#[test]
fn sctp_passes_with_routed_veths() {
    let stage = Stage::build_with_outside(CniShape::Routed, "", |_lab| Ok(()));
    on_stage(CniShape::Routed, stage, CHECKS);
}

#[test]
fn sctp_passes_over_vxlan() {
    let stage = Stage::build_with_outside(CniShape::Vxlan, "", |_lab| Ok(()));
    on_stage(CniShape::Vxlan, stage, CHECKS);
}

/// The Service `sctp` over the three pods.
fn service(stage: &Stage) -> Service {
    let lab = &stage.cluster.lab;
    let endpoints = ["web-1", "web-2", "web-3"].map(|name| Endpoint::of(lab.pod(name)));
    let service = Service::new("sctp", 40).on(PORT, TARGET).to(endpoints);
    service.exposed(Exposure::everywhere(40))
}

fn associations_from_pods_and_from_outside_reach_every_endpoint_and_come_back(
    stage: &mut Stage,
) -> Result<()> {
    let service = service(stage);
    stage.cluster.manifests.write_sctp(&service)?;
    let lab = &stage.cluster.lab;
    let names = ["web-1", "web-2", "web-3"];
    let servers = names.map(|name| SctpServer::start(&lab.pod(name).ns, name, TARGET));
    let servers = servers.into_iter().collect::<Result<Vec<_>>>()?;

    let node_port = service.exposure.node_port.context("a node port")?;
    let node = lab.node(1).addresses();
    let external = service.exposure.external.context("an external address")?;
    let balancer = service.exposure.balancer.context("a load balancer")?;
    for dialled in [
        service.sockets(PORT),
        node.map(|address| SocketAddr::new(address, node_port)),
        sockets(external, PORT),
        sockets(balancer, PORT),
    ] {
        let pod = lab.pod("client");
        let outside = lab.outside();
        for (position, dialled) in dialled.into_iter().enumerate() {
            for (ns, own) in [
                (&pod.ns, pod.addresses()[position]),
                (&outside.ns, outside.addresses()[position]),
            ] {
                associate(ns, dialled, own, node[position])?;
            }
        }
    }
    for server in &servers {
        ensure!(server.complaints().is_empty(), "{:?}", server.complaints());
    }
    stage.cluster.manifests.remove(&service)
}

/// Associations with `address` until every endpoint has had one, each whole.
fn associate(ns: &Namespace, dialled: SocketAddr, own: IpAddr, node: IpAddr) -> Result<()> {
    let what = format!("an association with {dialled}");
    let first = clock::eventually(&what, PROPAGATION, || {
        Ok(Association::open(ns, dialled, 20_000).ok())
    })?;
    first.finish()?;
    let mut met = BTreeSet::new();
    for port in 40_000..40_000 + ASSOCIATIONS {
        let mut association = Association::open(ns, dialled, port)?;
        let greeting = association.converse()?;
        ensure!(
            [own, node].contains(&greeting.client.ip()) || is_tunnel(greeting.client.ip()),
            "{greeting}, where {own} dialled"
        );
        association.finish()?;
        met.insert(greeting.server);
        if met.len() == 3 {
            return Ok(());
        }
    }
    bail!("only {met:?} answered")
}

/// Whether this is the address of node 1 on the tunnel.
fn is_tunnel(address: IpAddr) -> bool {
    [
        IpAddr::from(address::pod_v4(1, 0)),
        address::pod_v6(1, 0).into(),
    ]
    .contains(&address)
}
