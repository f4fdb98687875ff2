//! The Node this agent runs on.

use std::net::IpAddr;

/// What a proxy needs of its Node.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Node {
    /// `metadata.name`.
    pub name: String,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// `status.addresses` of type `InternalIP`, then those of type `ExternalIP`.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`: network and prefix length.
    pub pod_cidrs: Vec<(IpAddr, u8)>,
    /// Whether the object has a deletion timestamp.
    pub is_deleting: bool,
    /// Keys of `spec.taints`.
    pub taints: Vec<String>,
}
