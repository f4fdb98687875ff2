//! `v1` Service.
//!
//! A family without a cluster address does not exist for a Service: its external addresses of that
//! family are left out. `targetPort`, `selector` and `trafficDistribution` are never read; the
//! slices have resolved them.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service as ApiService, ServicePort as ApiPort, ServiceSpec};

use super::{Notes, address, label, object_name, port, protocol};
use crate::model::service::{Service, ServicePort, TrafficPolicy};
use crate::model::uid::Uid;
use crate::source::intern::Interner;
use crate::source::report::{Detail, FieldProblem};

/// Label that gives a Service to another proxy, whatever its value.
pub const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Default of `sessionAffinityConfig.clientIP.timeoutSeconds`.
pub const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;
/// Its largest value: a day.
pub const MAX_AFFINITY_SECONDS: u32 = 86_400;

/// The Service, unless it is headless, an `ExternalName` or another proxy's.
pub fn convert(
    service: &ApiService,
    interner: &mut Interner,
    notes: &mut Notes,
) -> Result<Option<Service>, FieldProblem> {
    let name = object_name(&service.metadata, interner)?;
    if label(&service.metadata, PROXY_NAME).is_some() {
        return Ok(None);
    }
    let Some(spec) = &service.spec else {
        notes.push(FieldProblem::new(
            "spec.clusterIP",
            Detail::MissingClusterIp,
        ));
        return Ok(None);
    };
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    if kind == "ExternalName" {
        return Ok(None);
    }
    let cluster_ips = cluster_ips(spec, notes);
    if cluster_ips.is_empty() {
        return Ok(None);
    }
    let has_family = |ip: &IpAddr| {
        cluster_ips
            .iter()
            .any(|own| address::is_v6(*own) == address::is_v6(*ip))
    };
    let externals = spec.external_ips.as_deref().unwrap_or_default();
    let external_policy = external_policy(spec, kind, notes);
    Ok(Some(Service {
        name,
        uid: service
            .metadata
            .uid
            .as_deref()
            .map_or_else(Uid::default, Uid::parse),
        created_seconds: service
            .metadata
            .creation_timestamp
            .as_ref()
            .map(|at| at.0.as_second()),
        external_ips: addresses(externals, "spec.externalIPs", notes)
            .into_iter()
            .filter(has_family)
            .collect(),
        load_balancer_ips: ingress(service, notes)
            .into_iter()
            .filter(has_family)
            .collect(),
        source_ranges: address::parse_networks(
            spec.load_balancer_source_ranges
                .as_deref()
                .unwrap_or_default(),
            "spec.loadBalancerSourceRanges",
            notes,
        ),
        ports: ports(spec.ports.as_deref().unwrap_or_default(), notes),
        affinity_seconds: affinity(spec, notes),
        internal_policy: policy(
            spec.internal_traffic_policy.as_deref(),
            "spec.internalTrafficPolicy",
            notes,
        ),
        external_policy,
        health_check_node_port: match spec.health_check_node_port {
            Some(value)
                if value != 0
                    && kind == "LoadBalancer"
                    && external_policy == TrafficPolicy::Local =>
            {
                port(value, || "spec.healthCheckNodePort".to_owned(), notes).unwrap_or(0)
            }
            _ => 0,
        },
        cluster_ips,
    }))
}

/// At most one address of each family, by `ipFamilies`. Objects written by hand may have only
/// `clusterIP`, or no `ipFamilies`: then each address speaks for itself.
fn cluster_ips(spec: &ServiceSpec, notes: &mut Notes) -> Vec<IpAddr> {
    let listed = spec.cluster_ips.as_deref().unwrap_or_default();
    let (texts, is_list) = match (&spec.cluster_ip, listed) {
        (_, [_, ..]) => (listed, true),
        (Some(only), []) => (std::slice::from_ref(only), false),
        (None, []) => (&[][..], false),
    };
    let is_headless = |text: &String| text == "None";
    if spec.cluster_ip.as_ref().is_some_and(is_headless) || texts.iter().any(is_headless) {
        return Vec::new();
    }
    let field = |index| {
        if is_list {
            format!("spec.clusterIPs[{index}]")
        } else {
            "spec.clusterIP".to_owned()
        }
    };
    if texts.iter().all(String::is_empty) {
        notes.push(FieldProblem::new(
            "spec.clusterIP",
            Detail::MissingClusterIp,
        ));
        return Vec::new();
    }
    let families = spec.ip_families.as_deref().unwrap_or_default();
    let mut found: Vec<IpAddr> = Vec::new();
    for (index, text) in texts
        .iter()
        .enumerate()
        .filter(|(_, text)| !text.is_empty())
    {
        let Some(ip) = address::parse_noted(text, || field(index), notes) else {
            continue;
        };
        let is_other_family = match families.get(index).map(String::as_str) {
            Some(family) => family != if address::is_v6(ip) { "IPv6" } else { "IPv4" },
            // More addresses than families: only the named families exist.
            None => !families.is_empty(),
        };
        let is_second = found
            .iter()
            .any(|held| address::is_v6(*held) == address::is_v6(ip));
        if is_other_family || is_second {
            let family = families.get(index).cloned().unwrap_or_else(|| {
                if address::is_v6(ip) {
                    "IPv4".to_owned()
                } else {
                    "IPv6".to_owned()
                }
            });
            let detail = Detail::WrongFamily {
                value: text.clone(),
                family,
            };
            notes.push(FieldProblem::new(field(index), detail));
        } else {
            found.push(ip);
        }
    }
    found
}

fn addresses(texts: &[String], field: &str, notes: &mut Notes) -> Vec<IpAddr> {
    let texts = texts
        .iter()
        .enumerate()
        .filter(|(_, text)| !text.is_empty());
    texts
        .filter_map(|(index, text)| {
            address::parse_noted(text, || format!("{field}[{index}]"), notes)
        })
        .collect()
}

/// The addresses a load balancer keeps as destinations. With `ipMode: Proxy` it does not, and
/// packets to the address from inside must go out to it.
fn ingress(service: &ApiService, notes: &mut Notes) -> Vec<IpAddr> {
    let status = service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref());
    let ingress = status
        .and_then(|status| status.ingress.as_deref())
        .unwrap_or_default();
    let mut found = Vec::new();
    for (index, entry) in ingress.iter().enumerate() {
        let is_destination = entry.ip_mode.as_deref().is_none_or(|mode| mode == "VIP");
        let Some(ip) = entry
            .ip
            .as_deref()
            .filter(|ip| is_destination && !ip.is_empty())
        else {
            continue;
        };
        let field = || format!("status.loadBalancer.ingress[{index}].ip");
        found.extend(address::parse_noted(ip, field, notes));
    }
    found
}

fn ports(ports: &[ApiPort], notes: &mut Notes) -> Vec<ServicePort> {
    let mut found: Vec<ServicePort> = Vec::with_capacity(ports.len());
    for (index, entry) in ports.iter().enumerate() {
        let field = |name: &str| format!("spec.ports[{index}].{name}");
        let protocol = protocol(entry.protocol.as_deref(), || field("protocol"), notes);
        let number = port(entry.port, || field("port"), notes);
        let (Some(protocol), Some(number)) = (protocol, number) else {
            continue;
        };
        let name = entry.name.clone().unwrap_or_default();
        if found
            .iter()
            .any(|held| held.name == name && held.protocol == protocol)
        {
            notes.push(FieldProblem::new(field("name"), Detail::DuplicatePort));
            continue;
        }
        let node_port = entry.node_port.filter(|node_port| *node_port != 0);
        let node_port = node_port.and_then(|value| port(value, || field("nodePort"), notes));
        found.push(ServicePort {
            name,
            protocol,
            port: number,
            node_port: node_port.unwrap_or(0),
        });
    }
    found
}

fn affinity(spec: &ServiceSpec, notes: &mut Notes) -> Option<u32> {
    match spec.session_affinity.as_deref() {
        Some("ClientIP") => {}
        None | Some("" | "None") => return None,
        Some(other) => {
            let detail = Detail::UnknownValue {
                value: other.to_owned(),
                known: "None, ClientIP",
                consequence: "None is used",
            };
            notes.push(FieldProblem::new("spec.sessionAffinity", detail));
            return None;
        }
    }
    let config = spec
        .session_affinity_config
        .as_ref()
        .and_then(|config| config.client_ip.as_ref());
    let Some(value) = config.and_then(|config| config.timeout_seconds) else {
        return Some(DEFAULT_AFFINITY_SECONDS);
    };
    let seconds = u32::try_from(value).ok();
    Some(
        seconds
            .filter(|it| (1..=MAX_AFFINITY_SECONDS).contains(it))
            .unwrap_or_else(|| {
                notes.push(FieldProblem::new(
                    "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
                    Detail::InvalidTimeout {
                        value,
                        default: DEFAULT_AFFINITY_SECONDS,
                    },
                ));
                DEFAULT_AFFINITY_SECONDS
            }),
    )
}

/// `Local` means something only to a Service that can be reached from outside.
fn external_policy(spec: &ServiceSpec, kind: &str, notes: &mut Notes) -> TrafficPolicy {
    let asked = policy(
        spec.external_traffic_policy.as_deref(),
        "spec.externalTrafficPolicy",
        notes,
    );
    let has_externals = spec
        .external_ips
        .as_deref()
        .is_some_and(|ips| !ips.is_empty());
    if matches!(kind, "NodePort" | "LoadBalancer") || has_externals {
        asked
    } else {
        TrafficPolicy::Cluster
    }
}

fn policy(value: Option<&str>, field: &str, notes: &mut Notes) -> TrafficPolicy {
    match value {
        None | Some("" | "Cluster") => TrafficPolicy::Cluster,
        Some("Local") => TrafficPolicy::Local,
        Some(other) => {
            let detail = Detail::UnknownValue {
                value: other.to_owned(),
                known: "Cluster, Local",
                consequence: "Cluster is used",
            };
            notes.push(FieldProblem::new(field, detail));
            TrafficPolicy::Cluster
        }
    }
}

#[cfg(test)]
mod tests;
