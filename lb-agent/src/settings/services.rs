//! How services are served: what kube-proxy calls masquerading, node port addresses and local
//! traffic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::config::value::{Cidr, NodePortAddress};
use crate::plan::node_ports::NodePortAddresses;

/// When the client's address is replaced by this node's.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum Masquerade {
    /// Where the reply would otherwise miss this node.
    #[default]
    Needed,
    /// As kube-proxy does: all traffic of external clients, unless the policy is `Local`.
    KubeProxy,
    /// Also of pods that dial cluster addresses: kube-proxy's `masqueradeAll`.
    All,
}

/// How the pods of this node are told from other clients.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum LocalMode {
    /// By the device they come from, and by the cluster's ranges where they are given.
    #[default]
    ClusterCIDR,
    /// By the device they come from, and by the Node's `podCIDRs`.
    NodeCIDR,
    /// By their devices, to which the ports of a bridge belong.
    BridgeInterface,
    /// By their devices, to which those with a name that begins so belong.
    InterfaceNamePrefix,
}

/// How services are served.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServiceRules {
    /// When the client's address is replaced.
    pub masquerade: Masquerade,
    /// Addresses at which node ports are served. A family of which none is left has none.
    pub node_port_addresses: Vec<NodePortAddress>,
    /// Whether node ports are served to this host's own processes at 127.0.0.1 and `::1`.
    pub localhost_node_ports: bool,
    /// Replaces the Node's primary address of its family.
    pub node_address: Option<IpAddr>,
    /// How pods are told from other clients.
    pub local_mode: LocalMode,
    /// The cluster's pods, at most one range of each family: network and prefix length.
    pub cluster_cidrs: Vec<(IpAddr, u8)>,
    /// The bridge of [`LocalMode::BridgeInterface`].
    pub bridge_interface: String,
    /// The prefix of [`LocalMode::InterfaceNamePrefix`].
    pub interface_name_prefix: String,
}

impl ServiceRules {
    /// The addresses of a Node with these: [`Self::node_address`] comes first, so that it is the primary
    /// one of its family.
    pub fn node_addresses(&self, of_node: &[IpAddr]) -> Vec<IpAddr> {
        let others = of_node.iter().copied();
        self.node_address.into_iter().chain(others).collect()
    }

    /// The ranges whose addresses are clients of the cluster wherever their packets come from, of a
    /// Node with these `podCIDRs`.
    pub fn pods<'a>(&'a self, of_node: &'a [(IpAddr, u8)]) -> &'a [(IpAddr, u8)] {
        match self.local_mode {
            LocalMode::ClusterCIDR => &self.cluster_cidrs,
            LocalMode::NodeCIDR => of_node,
            // Pods are told by their devices alone, whose roles these modes decide.
            LocalMode::BridgeInterface | LocalMode::InterfaceNamePrefix => &[],
        }
    }

    /// The ranges outside of which no pod of the cluster has an address, where the operator gives them.
    pub fn cluster_wide(&self) -> &[(IpAddr, u8)] {
        match self.local_mode {
            LocalMode::ClusterCIDR => &self.cluster_cidrs,
            _ => &[],
        }
    }

    /// The pattern of devices that are workloads by [`LocalMode::InterfaceNamePrefix`].
    pub fn workloads(&self) -> Option<String> {
        (self.local_mode == LocalMode::InterfaceNamePrefix)
            .then(|| format!("{}*", self.interface_name_prefix))
    }

    /// The bridge whose ports are workloads by [`LocalMode::BridgeInterface`].
    pub fn workload_bridge(&self) -> Option<String> {
        (self.local_mode == LocalMode::BridgeInterface).then(|| self.bridge_interface.clone())
    }

    /// The name of the setting that [`Self::local_mode`] goes by, where it is empty.
    pub fn missing(&self) -> Option<&'static str> {
        let (name, value) = match self.local_mode {
            LocalMode::ClusterCIDR | LocalMode::NodeCIDR => return None,
            LocalMode::BridgeInterface => ("localTraffic.bridgeInterface", &self.bridge_interface),
            LocalMode::InterfaceNamePrefix => (
                "localTraffic.interfaceNamePrefix",
                &self.interface_name_prefix,
            ),
        };
        value.is_empty().then_some(name)
    }

    /// At which of the node's addresses node ports are served. Localhost is nobody's but the node's
    /// own, and no device has it.
    pub fn node_ports(&self) -> NodePortAddresses {
        let mut chosen = NodePortAddresses::in_networks(Vec::new());
        for one in &self.node_port_addresses {
            match *one {
                NodePortAddress::Primary => chosen.has_primary = true,
                NodePortAddress::All => {
                    let any = [
                        IpAddr::from(Ipv4Addr::UNSPECIFIED),
                        IpAddr::from(Ipv6Addr::UNSPECIFIED),
                    ];
                    chosen.networks.extend(any.map(|address| (address, 0)));
                }
                NodePortAddress::Range(Cidr(network, length)) => {
                    chosen.networks.push((network, length));
                }
                NodePortAddress::Localhost => {}
            }
        }
        chosen
    }
}

impl Default for ServiceRules {
    fn default() -> Self {
        Self {
            masquerade: Masquerade::default(),
            node_port_addresses: vec![NodePortAddress::Primary],
            localhost_node_ports: true,
            node_address: None,
            local_mode: LocalMode::default(),
            cluster_cidrs: Vec::new(),
            bridge_interface: String::new(),
            interface_name_prefix: String::new(),
        }
    }
}
