//! A Service as far as a proxy cares.

use std::net::IpAddr;

use lb_common::flow::Protocol;

use super::name::ObjectName;
use super::uid::Uid;

/// A Service that has at least one cluster address; headless and `ExternalName` ones never get here.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Service {
    /// Its name.
    pub name: ObjectName,
    /// `metadata.uid`, for Kubernetes Events about it.
    pub uid: Uid,
    /// `metadata.creationTimestamp` in seconds since the epoch, for ties between Services.
    pub created_seconds: Option<i64>,
    /// `spec.clusterIPs`, at most one of each family.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` whose `ipMode` is absent or `VIP`.
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges`: network and prefix length.
    pub source_ranges: Vec<(IpAddr, u8)>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// Session affinity by client address: its timeout in seconds.
    pub affinity_seconds: Option<u32>,
    /// `spec.internalTrafficPolicy`.
    pub internal_policy: TrafficPolicy,
    /// `spec.externalTrafficPolicy`.
    pub external_policy: TrafficPolicy,
    /// `spec.healthCheckNodePort`, 0 for none.
    pub health_check_node_port: u16,
}

/// One of `spec.ports`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServicePort {
    /// Its name, which may be empty.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port clients dial at the Service's addresses.
    pub port: u16,
    /// The port clients dial at the nodes' addresses, 0 for none.
    pub node_port: u16,
}

/// Which endpoints may serve.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum TrafficPolicy {
    /// Any endpoint of the cluster.
    #[default]
    Cluster,
    /// Those on this node only.
    Local,
}
