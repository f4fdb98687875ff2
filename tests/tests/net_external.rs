//! External and load balancer addresses, dialled by pods: what the programs on the pods' devices do
//! with them.
#![expect(
    clippy::tests_outside_test_module,
    reason = "an integration test is a test module"
)]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use lb_tests::{
    checks, clock,
    cluster::{Endpoint, Service},
    in_every_shape,
    scenario::{Check, PORT, PROPAGATION, Stage, TARGET, on_one_stage},
    traffic::{Pong, Transport, ping},
};

/// How long silence is listened to.
const SILENCE: Duration = Duration::from_millis(400);
/// Addresses of documentation, which nobody on the stage has.
const EXTERNAL: [&str; 2] = ["198.51.100.10", "2001:db8:51::10"];
const BALANCER: [&str; 2] = ["198.51.100.11", "2001:db8:51::11"];
const OF_LOCAL: [&str; 2] = ["198.51.100.12", "2001:db8:51::12"];

const CHECKS: &[Check] = checks![
    a_pod_reaches_a_service_at_its_external_and_load_balancer_addresses,
    a_pod_reaches_endpoints_elsewhere_whatever_the_external_policy,
];

in_every_shape!(pods_dial_external_addresses, |shape| on_one_stage(
    shape, CHECKS
));

/// The Service with further lines in its `spec` and a `status`.
fn yaml(service: &Service, spec: &str, balancer: &[&str]) -> String {
    let ingress: Vec<_> = balancer
        .iter()
        .map(|address| format!("{{ip: \"{address}\"}}"))
        .collect();
    let status = format!(
        "status: {{loadBalancer: {{ingress: [{}]}}}}\n---\n",
        ingress.join(", ")
    );
    let text = service.yaml().replacen("spec:\n", spec, 1);
    text.replacen("---\n", &status, 1)
}

fn external_ips(addresses: &[&str]) -> String {
    format!("spec:\n  externalIPs: [\"{}\"]\n", addresses.join("\", \""))
}

fn a_pod_reaches_a_service_at_its_external_and_load_balancer_addresses(
    stage: &mut Stage,
) -> Result<()> {
    let endpoints = ["web-1", "web-2"].map(|name| Endpoint::of(stage.cluster.lab.pod(name)));
    let service = Service::new("outward", 41).on(PORT, TARGET).to(endpoints);
    let text = yaml(&service, &external_ips(&EXTERNAL), &BALANCER);
    stage.cluster.manifests.replace("outward.yaml", &text)?;
    let own = stage.cluster.lab.pod("client").addresses();
    for address in EXTERNAL.iter().chain(&BALANCER) {
        let address = SocketAddr::new(address.parse()?, PORT);
        for transport in Transport::ALL {
            let what = format!("{transport} {address} is served");
            let greeting = clock::eventually(&what, PROPAGATION, || {
                Ok(stage.ask("client", address, transport).ok())
            })?;
            ensure!(
                ["web-1", "web-2"].contains(&greeting.server.as_str()),
                "{greeting}"
            );
            // kube-proxy changes the client's address here; the reply comes back without.
            ensure!(own.contains(&greeting.client.ip()), "{greeting}");
        }
    }
    // A pod that serves reaches itself too.
    let address = SocketAddr::new(EXTERNAL[0].parse()?, PORT);
    for transport in Transport::ALL {
        let mut servers = (0..40).map(|_| Ok(stage.ask("web-1", address, transport)?.server));
        let met = servers.try_fold(false, |met, server: Result<String>| {
            Ok::<_, anyhow::Error>(met | (server? == "web-1"))
        })?;
        ensure!(
            met,
            "{transport}: web-1 did not reach itself in 40 attempts"
        );
    }
    // Other ports of these addresses are not the Service's.
    let client = &stage.cluster.lab.pod("client").ns;
    let other: IpAddr = EXTERNAL[0].parse()?;
    let pong = ping(client, other, SILENCE)?;
    ensure!(pong != Pong::Reply, "{other} answered a ping: {pong:?}");
    Ok(())
}

/// The policy is for clients from outside.
fn a_pod_reaches_endpoints_elsewhere_whatever_the_external_policy(stage: &mut Stage) -> Result<()> {
    let endpoints = [Endpoint::of(stage.cluster.lab.pod("web-2"))];
    let service = Service::new("local", 42).on(PORT, TARGET).to(endpoints);
    let spec = external_ips(&OF_LOCAL) + "  externalTrafficPolicy: Local\n";
    let text = yaml(&service, &spec, &[]);
    stage.cluster.manifests.replace("local.yaml", &text)?;
    for address in OF_LOCAL {
        let address = SocketAddr::new(address.parse()?, PORT);
        for transport in Transport::ALL {
            let what = format!("{transport} {address} is served");
            let greeting = clock::eventually(&what, PROPAGATION, || {
                Ok(stage.ask("client", address, transport).ok())
            })?;
            ensure!(greeting.server == "web-2", "{greeting}");
        }
    }
    Ok(())
}
