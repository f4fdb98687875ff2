//! What the tables should hold, as a scenario file says it: also what has no table yet.
//!
//! ```text
//! TCP 10.96.0.1:80 = ClusterIP of default/web:http
//! TCP node port 30080 of IPv4 = NodePort of default/web:http
//! default/web:http of IPv4, at its cluster address: 10.0.0.1:8080
//! default/web:http of IPv4, elsewhere, from inside: 10.0.0.1:8080
//! default/web:http of IPv4, elsewhere, from outside: nobody, dropped
//! default/web:http of IPv4, source ranges: 203.0.113.0/25
//! default/web:http of IPv4, affinity: 60 s
//! node ports at 192.168.0.2
//! dropped: addresses of 10.96.0.0/16 that no Service has
//! health check of default/web: port 32000, 1 of IPv4
//! problem: default/web: what cannot be done
//! ```

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use lb_agent::plan::NodeView;
use lb_agent::plan::clients::Clients;
use lb_agent::plan::desired::{Desired, Owner, address_of};
use lb_agent::plan::expand::{DesiredPort, PortKey};
use lb_common::table::frontend::{FrontendKey, FrontendKind};
use lb_common::table::region::WhenEmpty;

use super::dump::{end, line, protocol_name};

/// Everything that is desired, in the order above, with the addresses that take node ports.
pub(super) fn dump(
    desired: &Desired<'_>,
    node: &NodeView<'_>,
    node_ports: &BTreeSet<IpAddr>,
) -> String {
    let mut text = String::new();
    for (key, owner) in &desired.frontends {
        line(&mut text, &frontend(key, owner));
    }
    for port in desired.ports.values() {
        service_port(&mut text, desired, port);
    }
    for address in node_ports {
        line(&mut text, &format!("node ports at {address}"));
    }
    for (network, length) in node.service_cidrs {
        let line = format!("dropped: addresses of {network}/{length} that no Service has");
        self::line(&mut text, &line);
    }
    for (service, check) in &desired.health {
        let mut counts = format!("health check of {service}: port {}", check.port);
        for (is_v6, family) in [(false, "IPv4"), (true, "IPv6")] {
            if let Some(count) = check.local(is_v6) {
                write!(counts, ", {count} of {family}").expect("writing to a string cannot fail");
            }
        }
        line(&mut text, &counts);
    }
    for (service, report) in &desired.reports {
        line(&mut text, &format!("problem: {service}: {report}"));
    }
    text
}

fn frontend(key: &FrontendKey, owner: &Owner) -> String {
    let at = match key.protocol() {
        Some(protocol) if key.is_node_port() => {
            let protocol = protocol_name(protocol);
            format!(
                "{protocol} node port {} of {}",
                key.port(),
                family(&owner.port)
            )
        }
        Some(protocol) => end(protocol, key.address(), key.port()),
        None => address_of(key).to_string(),
    };
    let kind = match owner.kind {
        FrontendKind::ServiceAddress => "address",
        FrontendKind::ClusterIp => "ClusterIP",
        FrontendKind::NodePort => "NodePort",
        FrontendKind::ExternalIp => "ExternalIP",
        FrontendKind::LoadBalancer => "LoadBalancer",
    };
    format!("{at} = {kind} of {}", owner.port.name)
}

const fn family(port: &PortKey) -> &'static str {
    if port.is_v6 { "IPv6" } else { "IPv4" }
}

fn service_port(text: &mut String, desired: &Desired<'_>, port: &DesiredPort<'_>) {
    let title = format!("{} of {}", port.key.name, family(&port.key));
    let is_elsewhere = port.frontends.len() > 1;
    for (clients, what) in [
        (Clients::OfClusterAddress, "at its cluster address"),
        (Clients::Inside, "elsewhere, from inside"),
        (Clients::Outside, "elsewhere, from outside"),
    ] {
        if clients == Clients::OfClusterAddress || is_elsewhere {
            let backends = desired.backends(&port.key, clients);
            let backends: Vec<_> = backends
                .into_iter()
                .map(|(address, port)| SocketAddr::new(address, port).to_string())
                .collect();
            let who = match (backends.is_empty(), port.when_empty(clients)) {
                (true, WhenEmpty::Refuse) => "nobody, refused".to_owned(),
                (true, WhenEmpty::Drop) => "nobody, dropped".to_owned(),
                (false, _) => backends.join(", "),
            };
            line(text, &format!("{title}, {what}: {who}"));
        }
    }
    if let Some(ranges) = &port.source_ranges {
        let networks: Vec<_> = ranges
            .networks
            .iter()
            .map(|(network, length)| format!("{network}/{length}"))
            .chain(
                ranges
                    .of_this_node
                    .iter()
                    .map(|own| format!("{own} from this node")),
            )
            .collect();
        let networks = if networks.is_empty() {
            "nobody".to_owned()
        } else {
            networks.join(", ")
        };
        line(text, &format!("{title}, source ranges: {networks}"));
    }
    if port.affinity_seconds > 0 {
        line(
            text,
            &format!("{title}, affinity: {} s", port.affinity_seconds),
        );
    }
}
