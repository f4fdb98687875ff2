//! How a Service is to be reached from elsewhere than its cluster addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::lab::address;

/// An address of each family.
pub type Pair = (Ipv4Addr, Ipv6Addr);

/// Whether clients may be sent to other nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Policy {
    /// To any endpoint.
    #[default]
    Cluster,
    /// Only to endpoints on the node that they came to.
    Local,
}

impl Policy {
    /// As manifests have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cluster => "Cluster",
            Self::Local => "Local",
        }
    }
}

/// What a Service says beside its ports; by default nothing.
#[derive(Clone, Debug, Default)]
pub struct Exposure {
    /// The node port of every port of the Service; its ports differ in their protocol.
    pub node_port: Option<u16>,
    /// Its external address of each family.
    pub external: Option<Pair>,
    /// Its load balancer's address of each family.
    pub balancer: Option<Pair>,
    /// Who may dial the load balancer's addresses.
    pub source_ranges: Vec<String>,
    /// `externalTrafficPolicy`.
    pub external_policy: Policy,
    /// `internalTrafficPolicy`.
    pub internal_policy: Policy,
}

impl Exposure {
    /// Everything there is, told apart by `number`: the node port 30000 + number, the external
    /// addresses 2 × number, the load balancer's after them.
    pub const fn everywhere(number: u8) -> Self {
        let (external, balancer) = (number * 2, number * 2 + 1);
        Self {
            node_port: Some(30_000 + number as u16),
            external: Some((
                address::external_v4(external),
                address::external_v6(external),
            )),
            balancer: Some((
                address::external_v4(balancer),
                address::external_v6(balancer),
            )),
            source_ranges: Vec::new(),
            external_policy: Policy::Cluster,
            internal_policy: Policy::Cluster,
        }
    }

    /// The lines of it that belong into a Service's `spec`, its type first.
    pub(super) fn spec(&self) -> String {
        let kind = match (self.balancer, self.node_port) {
            (Some(_), _) => "LoadBalancer",
            (None, Some(_)) => "NodePort",
            (None, None) => "ClusterIP",
        };
        let external = self.external.map_or_else(String::new, |(v4, v6)| {
            format!("  externalIPs: [\"{v4}\", \"{v6}\"]\n")
        });
        let ranges = self.source_ranges.join("\", \"");
        let ranges = if ranges.is_empty() {
            ranges
        } else {
            format!("  loadBalancerSourceRanges: [\"{ranges}\"]\n")
        };
        let is_external = kind != "ClusterIP" || self.external.is_some();
        let policy = |field: &str, policy: Policy, is_said: bool| {
            let line = is_said.then(|| format!("  {field}: {}\n", policy.name()));
            line.unwrap_or_default()
        };
        let of_external = policy("externalTrafficPolicy", self.external_policy, is_external);
        let is_local = self.internal_policy != Policy::Cluster;
        let of_internal = policy("internalTrafficPolicy", self.internal_policy, is_local);
        format!("  type: {kind}\n{external}{ranges}{of_external}{of_internal}")
    }

    /// The Service's `status`.
    pub(super) fn status(&self) -> String {
        self.balancer.map_or_else(String::new, |(v4, v6)| {
            format!("status: {{loadBalancer: {{ingress: [{{ip: \"{v4}\"}}, {{ip: \"{v6}\"}}]}}}}\n")
        })
    }
}

/// Both addresses with a port, IPv4 first.
pub fn sockets((v4, v6): Pair, port: u16) -> [SocketAddr; 2] {
    [IpAddr::from(v4), IpAddr::from(v6)].map(|address| SocketAddr::new(address, port))
}
