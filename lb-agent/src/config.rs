//! Where settings come from: files of our own kind, kube-proxy's file, flags and the environment.
//!
//! ```text
//!  defaults ◄ KubeProxyConfiguration ◄ SteerageConfiguration ◄ environment ◄ flags
//!      └──────────── each a `Document`, joined by `Layers` ────────────┘ ─► `Settings`
//! ```

mod configz;
pub mod document;
pub mod error;
pub mod kube_proxy;
pub mod layers;
pub mod reload;
pub mod text;
pub mod tree;
pub mod value;
mod without_effect;

use std::net::SocketAddr;

pub use self::configz::configz;
use crate::settings::conntrack::KernelConntrack;
use crate::settings::{AttachmentMode, Settings};
use document::{Attachment, Document};
use value::Bind;

/// Puts everything `document` says into `settings`.
pub fn apply(document: &Document, settings: &mut Settings) {
    if let Some(name) = &document.node_name {
        settings.node_name.clone_from(name);
    }
    document.sizes.apply(&mut settings.sizes);
    for (state, timeout) in &document.timeouts {
        let index = usize::try_from(state.0.number()).unwrap_or(usize::MAX);
        if settings.timeouts.len() <= index {
            settings.timeouts.resize(index + 1, None);
        }
        settings.timeouts[index] = Some(timeout.0);
    }
    let ranges = |cidrs: &Option<Vec<value::Cidr>>| {
        cidrs
            .iter()
            .flatten()
            .map(|cidr| (cidr.0, cidr.1))
            .collect::<Vec<_>>()
    };
    settings.service_cidrs = ranges(&document.service_cidrs);
    let names = |names: &Option<Vec<String>>| names.clone().unwrap_or_default();
    settings.interfaces.workloads = names(&document.interfaces.workloads);
    settings.interfaces.uplinks = names(&document.interfaces.uplinks);
    settings.interfaces.ignored = names(&document.interfaces.ignored);
    settings.attachment = match document.attachment {
        Some(Attachment::Clsact) => AttachmentMode::Clsact,
        Some(Attachment::Probe) | None => AttachmentMode::Probe,
    };
    settings.redirect = document.datapath.redirect.unwrap_or_default();
    settings.xdp = document.datapath.xdp.unwrap_or_default();
    let outside = &mut settings.outside;
    outside.health = address(document.health.bind_address);
    outside.metrics = address(document.metrics.bind_address);
    outside.hard_fail = document.bind_hard_fail.unwrap_or(false);
    outside.health_check_node_ports = true;
    if let Some(timeout) = document.health.timeout {
        outside.health_timeout = timeout.0;
    }
    settings.conntrack = conntrack(&document.conntrack);
    settings.oom_score_adj = document.oom_score_adj;
    let services = &mut settings.services;
    services.masquerade = document.services.masquerade.unwrap_or_default();
    if let Some(addresses) = &document.services.node_port_addresses {
        services.node_port_addresses.clone_from(addresses);
    }
    services.localhost_node_ports = document.services.localhost_node_ports.unwrap_or(true);
    services.node_address = document.services.node_address;
    services.local_mode = document.local_traffic.mode.unwrap_or_default();
    services.cluster_cidrs = ranges(&document.local_traffic.cluster_cidrs);
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    services.bridge_interface = text(&document.local_traffic.bridge_interface);
    services.interface_name_prefix = text(&document.local_traffic.interface_name_prefix);
    let interfaces = &mut settings.interfaces;
    interfaces.workloads.extend(services.workloads());
    interfaces.workload_bridges = services.workload_bridge().into_iter().collect();
    let client = &mut settings.client;
    client.kubeconfig.clone_from(&document.client.kubeconfig);
    client.qps = document.client.qps.unwrap_or(client.qps);
    client.burst = document.client.burst.unwrap_or(client.burst);
    let audit = &mut settings.audit;
    audit.interval = document
        .audit
        .interval
        .map_or(audit.interval, |interval| interval.0);
    audit.repair = document.audit.repair.unwrap_or(audit.repair);
}

const fn address(bind: Option<Bind>) -> Option<SocketAddr> {
    match bind {
        Some(Bind::At(address)) => Some(address),
        Some(Bind::Off) | None => None,
    }
}

fn conntrack(from: &document::Conntrack) -> KernelConntrack {
    KernelConntrack {
        max_per_core: from.max_per_core.unwrap_or(0),
        min: from.min.unwrap_or(0),
        tcp_established_seconds: from.tcp_established_seconds.unwrap_or(0),
        tcp_close_wait_seconds: from.tcp_close_wait_seconds.unwrap_or(0),
        tcp_be_liberal: from.tcp_be_liberal.unwrap_or(false),
        udp_seconds: from.udp_seconds.unwrap_or(0),
        udp_stream_seconds: from.udp_stream_seconds.unwrap_or(0),
    }
}
