//! What pictures are made of, in words.

use std::net::IpAddr;

use lb_common::family::{MappedAddress, V4, V6};
use lb_common::flow::Protocol;
use lb_common::table::backend::BackendFlags;
use lb_common::table::config;
use lb_common::table::device::{DeviceRecord, Role, Takes};
use lb_common::table::frontend::{FrontendKey, FrontendKind};
use lb_common::table::node_address::NodeAddress;
use lb_common::table::region::WhenEmpty;
use lb_common::table::service::{Audience, SERVICE_WORDS};
use lb_common::table::source_range::SourceRangeKey;

use super::picture::{Frontend, Set, address_of, by_audience};
use crate::plan::planner::BackendKey;

/// How many endpoints are listed where many differ.
const LISTED: usize = 4;

/// Address, port and protocol of a frontend, or the service address alone.
pub(crate) fn frontend_name(key: &FrontendKey) -> String {
    let address = address_of(key.address());
    let Some(protocol) = key.protocol() else {
        return address.to_string();
    };
    let protocol = protocol_text(protocol);
    if key.is_node_port() {
        let family = if address.is_ipv6() { "IPv6" } else { "IPv4" };
        return format!("node port {}/{protocol} ({family})", key.port());
    }
    let socket = std::net::SocketAddr::new(address, key.port());
    format!("{socket}/{protocol}")
}

/// Address, port and protocol of a backend.
pub(crate) fn backend_name(key: &BackendKey) -> String {
    let socket = std::net::SocketAddr::new(address_of(key.address), key.port);
    format!("{socket}/{}", protocol_text(key.protocol))
}

/// A network of source ranges.
pub(crate) fn network_name(key: &SourceRangeKey) -> String {
    let (address, bits) = key.mapped_network();
    let address = address_of(address);
    let skipped = if address.is_ipv4() { 96 } else { 0 };
    format!("{address}/{}", bits.saturating_sub(skipped))
}

/// An address of the node, as `NODE_ADDRESSES` has it.
pub(crate) fn node_address_text(address: MappedAddress, value: NodeAddress) -> String {
    let text = if value.takes_node_ports() {
        "an address of this node, takes node ports"
    } else {
        "an address of this node"
    };
    if value.belongs_to(address) {
        text.to_owned()
    } else {
        format!("{text}, the value of another address")
    }
}

/// What `DEVICES` says of the device with interface `index`.
pub(crate) fn device_text(index: u32, record: &DeviceRecord) -> String {
    let mut text = match (record.role(), record.bridge()) {
        (Role::Workload, 0) => "a workload's device".to_owned(),
        (Role::Workload, bridge) => format!("a workload's device, port of bridge {bridge}"),
        (Role::Uplink, _) => {
            let v4 = IpAddr::from(record.source::<V4>());
            let v6 = IpAddr::from(record.source::<V6>());
            let sources: Vec<_> = [v4, v6]
                .into_iter()
                .filter(|address| !address.is_unspecified())
                .map(|address| address.to_string())
                .collect();
            format!("an uplink, source addresses: {}", sources.join(", "))
        }
    };
    if record.is_open() {
        text.push_str(", packets may be sent on");
    } else if record.is_clear() {
        text.push_str(", packets of hosts may be sent on");
    }
    if record.takes() != Takes::Nothing {
        text.push_str(", takes frames");
    }
    if !record.belongs_to(index) {
        text.push_str(", the record of another device");
    }
    text
}

const fn protocol_text(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    }
}

pub(super) fn frontend_text(frontend: &Frontend) -> String {
    let mut text = match frontend.kind {
        Some(FrontendKind::ServiceAddress) => "service address".to_owned(),
        Some(FrontendKind::ClusterIp) => "cluster address".to_owned(),
        Some(FrontendKind::NodePort) => "node port".to_owned(),
        Some(FrontendKind::ExternalIp) => "external address".to_owned(),
        Some(FrontendKind::LoadBalancer) => "load balancer address".to_owned(),
        None => "unknown kind".to_owned(),
    };
    if let Some(port) = &frontend.port {
        text = format!("{text} of {port}");
    } else {
        let ready = if frontend.has_ready {
            "ready"
        } else {
            "no ready"
        };
        text = format!("{text} with {ready} endpoints");
    }
    if frontend.is_ranged {
        text.push_str(", source ranges");
    }
    if frontend.is_foreign {
        text.push_str(", the value of another frontend");
    }
    text
}

pub(super) fn sets_text(sets: &[Set; SERVICE_WORDS]) -> String {
    let texts: Vec<_> = by_audience(sets)
        .map(|(audience, set)| format!("{}: {}", audience_text(audience), set_text(set)))
        .collect();
    if by_audience(sets).all(|(_, set)| set.agrees(&sets[0])) {
        return set_text(&sets[0]);
    }
    texts.join("; ")
}

pub(super) fn set_text(set: &Set) -> String {
    if let Some(flaw) = &set.flaw {
        return flaw.clone();
    }
    match set.shares.len() {
        0 => "no endpoints".to_owned(),
        1 => "1 endpoint".to_owned(),
        count => format!("{count} endpoints"),
    }
}

pub(super) fn shares_text(set: &Set) -> String {
    let shares = set.shares.iter().take(LISTED);
    let mut texts: Vec<_> = shares
        .map(|(key, slots)| format!("{} {slots}", backend_name(key)))
        .collect();
    if set.shares.len() > LISTED {
        texts.push(format!("{} more", set.shares.len() - LISTED));
    }
    format!(
        "{} (table {:08x})",
        texts.join(", "),
        set.slots & 0xffff_ffff
    )
}

pub(super) fn affinity_text(seconds: u32) -> String {
    if seconds == 0 {
        "none".to_owned()
    } else {
        format!("{seconds}s")
    }
}

pub(super) const fn when_empty_text(when_empty: WhenEmpty) -> &'static str {
    match when_empty {
        WhenEmpty::Refuse => "refused",
        WhenEmpty::Drop => "dropped",
    }
}

pub(super) fn flags_text(flags: BackendFlags) -> String {
    let mut words = Vec::new();
    for (bit, word) in [
        (BackendFlags::SERVING, "serving"),
        (BackendFlags::LOCAL, "local"),
        (BackendFlags::TERMINATING, "terminating"),
    ] {
        if flags.has(bit) {
            words.push(word);
        }
    }
    words.join(", ")
}

pub(super) const fn audience_text(audience: Audience) -> &'static str {
    match audience {
        Audience::Internal => "clients of the cluster address",
        Audience::External => "clients from outside",
        Audience::Inside => "clients of the cluster at other addresses",
    }
}

/// What a word of `CONFIG` says.
pub(crate) fn word_name(word: u32) -> String {
    let states = config::TIMEOUTS..config::CLUSTER_CIDRS_V4;
    match word {
        config::SERVICE_CIDR_COUNTS => "number of service CIDRs".to_owned(),
        config::FLOW_BUCKETS => "sizes of the flow tables".to_owned(),
        config::REDIRECT => "whether packets may be sent on at once".to_owned(),
        word if states.contains(&word) => {
            format!("timeout of connection state {}", word - config::TIMEOUTS)
        }
        config::CLUSTER_CIDR_COUNTS => "number of cluster CIDRs".to_owned(),
        config::HOST_CIDR_COUNTS => "number of host CIDRs".to_owned(),
        word if word >= config::HOST_CIDRS_V4 => format!("host CIDRs (word {word})"),
        word if word >= config::CLUSTER_CIDRS_V4 => format!("cluster CIDRs (word {word})"),
        word => format!("service CIDRs (word {word})"),
    }
}
