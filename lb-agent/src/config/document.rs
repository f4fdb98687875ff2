//! `SteerageConfiguration`: the settings as a document, every one of them optional.
//!
//! Files of our own kind are read into it strictly; kube-proxy's files, flags and defaults are
//! turned into it, so that there is one place where settings are named.

use std::collections::BTreeMap;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::value::{Bind, Cidr, NodePortAddress, StateName, Timeout};
use crate::settings;

/// The version of our own kind.
pub const API_VERSION: &str = "steerage.dev/v1alpha1";
/// The name of our own kind.
pub const KIND: &str = "SteerageConfiguration";

/// Settings of one layer: a file, the flags, or the defaults.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Document {
    /// [`API_VERSION`]; not a setting.
    #[serde(skip_serializing)]
    pub api_version: String,
    /// [`KIND`]; not a setting.
    #[serde(skip_serializing)]
    pub kind: String,
    /// `metadata.name` of this Node.
    pub node_name: Option<String>,
    /// What is logged, and how.
    pub log: Log,
    /// Sizes of the tables.
    pub sizes: Sizes,
    /// How long connections may be idle, by the names of their states.
    pub timeouts: BTreeMap<StateName, Timeout>,
    /// Ranges that services get their addresses from.
    #[serde(rename = "serviceCIDRs")]
    pub service_cidrs: Option<Vec<Cidr>>,
    /// Devices whose role is given.
    pub interfaces: Interfaces,
    /// How programs are attached.
    pub attachment: Option<Attachment>,
    /// How packets go.
    pub datapath: Datapath,
    /// The health server.
    pub health: Health,
    /// The metrics server.
    pub metrics: Metrics,
    /// Whether an address that cannot be listened on ends the agent.
    pub bind_hard_fail: Option<bool>,
    /// The kernel's own connection tracking; 0 leaves a value as it is.
    pub conntrack: Conntrack,
    /// `oom_score_adj` of the agent's process, -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// How services are served.
    pub services: Services,
    /// Which clients count as pods of this node.
    pub local_traffic: LocalTraffic,
    /// The client of the API server.
    pub client: Client,
    /// How the tables are compared with the plan.
    pub audit: Audit,
}

/// What is logged.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Log {
    /// A level, or directives.
    pub level: Option<String>,
    /// The form of the log.
    pub format: Option<LogFormat>,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Sizes of the tables in entries.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of `settings::Sizes`")]
pub struct Sizes {
    pub frontends: Option<u32>,
    pub services: Option<u32>,
    pub arena_words: Option<u32>,
    pub backends: Option<u32>,
    pub flow_buckets_v4: Option<u32>,
    pub flow_buckets_v6: Option<u32>,
    pub fragments: Option<u32>,
    pub affinity: Option<u32>,
    pub devices: Option<u32>,
    pub node_addresses: Option<u32>,
    pub source_ranges: Option<u32>,
    pub stats_shards: Option<u32>,
}

impl Sizes {
    /// Puts what is said here into `to`.
    pub fn apply(&self, to: &mut settings::Sizes) {
        for (value, target) in [
            (self.frontends, &mut to.frontends),
            (self.services, &mut to.services),
            (self.arena_words, &mut to.arena_words),
            (self.backends, &mut to.backends),
            (self.flow_buckets_v4, &mut to.flow_buckets_v4),
            (self.flow_buckets_v6, &mut to.flow_buckets_v6),
            (self.fragments, &mut to.fragments),
            (self.affinity, &mut to.affinity),
            (self.devices, &mut to.devices),
            (self.node_addresses, &mut to.node_addresses),
            (self.source_ranges, &mut to.source_ranges),
            (self.stats_shards, &mut to.stats_shards),
        ] {
            if let Some(value) = value {
                *target = value;
            }
        }
    }
}

impl From<settings::Sizes> for Sizes {
    fn from(sizes: settings::Sizes) -> Self {
        Self {
            frontends: Some(sizes.frontends),
            services: Some(sizes.services),
            arena_words: Some(sizes.arena_words),
            backends: Some(sizes.backends),
            flow_buckets_v4: Some(sizes.flow_buckets_v4),
            flow_buckets_v6: Some(sizes.flow_buckets_v6),
            fragments: Some(sizes.fragments),
            affinity: Some(sizes.affinity),
            devices: Some(sizes.devices),
            node_addresses: Some(sizes.node_addresses),
            source_ranges: Some(sizes.source_ranges),
            stats_shards: Some(sizes.stats_shards),
        }
    }
}

/// Devices by name; `*` stands for any characters.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Interfaces {
    /// These are workloads.
    pub workloads: Option<Vec<String>>,
    /// These are uplinks.
    pub uplinks: Option<Vec<String>>,
    /// These are left alone.
    pub ignored: Option<Vec<String>>,
}

/// How programs are attached.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Attachment {
    /// tcx where the kernel has it.
    Probe,
    /// Always a clsact filter.
    Clsact,
}

/// How packets go.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Datapath {
    /// Whether packets of flows may be sent on at once, past the host's filters.
    pub redirect: Option<settings::Redirect>,
    /// Whether XDP programs on uplinks take those packets.
    pub xdp: Option<settings::Xdp>,
}

/// The server of `/healthz`, `/livez` and the health-check node ports.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Health {
    /// Where `/healthz` and `/livez` are.
    pub bind_address: Option<Bind>,
    /// How long a change may wait for the tables before the node counts as unhealthy.
    pub timeout: Option<Timeout>,
}

/// The server of `/metrics`, `/proxyMode` and `/configz`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Metrics {
    /// Where it is.
    pub bind_address: Option<Bind>,
}

/// The kernel's own connection tracking.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Conntrack {
    /// Entries for each processor.
    pub max_per_core: Option<u32>,
    /// The least entries in all.
    pub min: Option<u32>,
    /// Seconds an established TCP connection may be idle.
    pub tcp_established_seconds: Option<u32>,
    /// Seconds a TCP connection may stay half closed.
    pub tcp_close_wait_seconds: Option<u32>,
    /// Whether TCP packets outside the window are let through.
    pub tcp_be_liberal: Option<bool>,
    /// Seconds a UDP flow without a reply may be idle.
    pub udp_seconds: Option<u32>,
    /// Seconds a UDP flow with replies may be idle.
    pub udp_stream_seconds: Option<u32>,
}

/// How services are served.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Services {
    /// When the client's address is replaced.
    pub masquerade: Option<settings::services::Masquerade>,
    /// Addresses at which node ports are served.
    pub node_port_addresses: Option<Vec<NodePortAddress>>,
    /// Whether node ports are served to this host's own processes at 127.0.0.1.
    pub localhost_node_ports: Option<bool>,
    /// Replaces the Node's primary address.
    pub node_address: Option<std::net::IpAddr>,
}

/// Which clients count as pods.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LocalTraffic {
    /// How they are told.
    pub mode: Option<settings::services::LocalMode>,
    /// The cluster's pods, at most one range of each family.
    #[serde(rename = "clusterCIDRs")]
    pub cluster_cidrs: Option<Vec<Cidr>>,
    /// The bridge their packets come from.
    pub bridge_interface: Option<String>,
    /// How the names of their devices begin.
    pub interface_name_prefix: Option<String>,
}

/// The continuous audit of the tables.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Audit {
    /// Time between two passes.
    pub interval: Option<Timeout>,
    /// Whether what differs from the plan is written again.
    pub repair: Option<bool>,
}

/// The client of the API server.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Client {
    /// Path of a kubeconfig file.
    pub kubeconfig: Option<std::path::PathBuf>,
    /// Requests a second.
    pub qps: Option<f32>,
    /// Requests at once.
    pub burst: Option<u32>,
}
