//! What should happen in a cell: kube-proxy's table of verdicts, and where we differ on purpose.

use std::fmt;

use super::{
    Cell,
    dimension::{Address, Backend, Source},
};
use crate::{cluster::Policy, lab::CniShape};

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Server {
    /// The pod of node 1.
    Here,
    /// The pod of node 2.
    Elsewhere,
    /// A node itself, by number.
    Host(u8),
}

impl Server {
    /// The name by which it greets.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Here => "web-1",
            Self::Elsewhere => "web-2",
            Self::Host(1) => "node1",
            Self::Host(_) => "node2",
        }
    }

    /// The number of its node.
    pub const fn node(self) -> u8 {
        match self {
            Self::Here => 1,
            Self::Elsewhere => 2,
            Self::Host(node) => node,
        }
    }
}

/// Whom the server sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The client's own address.
    Client,
    /// The address that was dialled.
    Dialled,
    /// A node's underlay address.
    Node(u8),
    /// The address of a node's tunnel.
    Tunnel(u8),
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// It is answered.
    Served {
        /// By whom.
        server: Server,
        /// Whom that sees.
        seen: Seen,
        /// What kube-proxy does otherwise, if anything.
        difference: Option<&'static str>,
    },
    /// It is refused at once.
    Refused {
        /// What kube-proxy does otherwise, if anything.
        difference: Option<&'static str>,
    },
    /// Nothing comes back.
    Silent,
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Served { server, seen, .. } => {
                write!(f, "{} answers and sees {seen:?}", server.name())
            }
            Self::Refused { .. } => f.write_str("it is refused"),
            Self::Silent => f.write_str("nothing comes back"),
        }
    }
}

/// Which endpoints the policy leaves to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// All of them.
    Anywhere,
    /// Those of the node that translates.
    OnTranslator,
}

/// What should happen in `cell`, of those that run.
pub fn expectation(cell: Cell) -> Expectation {
    let Some(server) = server_of(cell.backend) else {
        return Expectation::Refused { difference: None };
    };
    let translator = translator(cell.source, cell.address);
    let policy = cell.policy;
    let scope = scope(cell.source, cell.address, [policy, policy]);
    if scope == Scope::OnTranslator && server.node() != translator {
        return Expectation::Silent;
    }
    if is_process_of(translator, cell.source) && server == Server::Host(translator) {
        return Expectation::Refused {
            difference: Some("serves its own network, by the loopback device"),
        };
    }
    served(cell.source, cell.address, policy, server, cell.shape)
}

const fn server_of(backend: Backend) -> Option<Server> {
    match backend {
        Backend::Local | Backend::Terminating => Some(Server::Here),
        Backend::Remote => Some(Server::Elsewhere),
        Backend::HostLocal => Some(Server::Host(1)),
        Backend::HostRemote => Some(Server::Host(2)),
        Backend::Nobody => None,
    }
}

/// The node whose programs translate: that of the device by which the packet first comes to one
/// that the address concerns.
pub(super) const fn translator(source: Source, address: Address) -> u8 {
    match (address, source) {
        (Address::NodePortElsewhere, _) => 2,
        (Address::NodePortHere, _) | (_, Source::External) => 1,
        _ => node_of(source),
    }
}

/// The node that a source runs on; 0 for none.
const fn node_of(source: Source) -> u8 {
    match source {
        Source::PodHere | Source::Hairpin | Source::ThisNode => 1,
        Source::PodElsewhere | Source::OtherNode => 3,
        Source::External => 0,
    }
}

/// Whether a source is a process of the node that translates for it, at its uplink.
const fn is_process_of(translator: u8, source: Source) -> bool {
    matches!(source, Source::ThisNode | Source::OtherNode) && node_of(source) == translator
}

/// Which endpoints a client of a Service with these policies (internal, external) may reach. Whoever
/// dials another address than the cluster's from within the translating node is spared the policy.
pub(super) fn scope(source: Source, address: Address, policies: [Policy; 2]) -> Scope {
    let [internal, external] = policies;
    let policy = if address == Address::ClusterIp {
        internal
    } else if node_of(source) == translator(source, address) {
        Policy::Cluster
    } else {
        external
    };
    match policy {
        Policy::Cluster => Scope::Anywhere,
        Policy::Local => Scope::OnTranslator,
    }
}

/// `server` answers: whom does it see?
pub(super) fn served(
    source: Source,
    address: Address,
    external: Policy,
    server: Server,
    shape: CniShape,
) -> Expectation {
    let translator = translator(source, address);
    let is_inside = node_of(source) == translator;
    let is_process = is_process_of(translator, source);
    let is_here = server.node() == translator;
    let by_tunnel = shape == CniShape::Vxlan && !is_here && !matches!(server, Server::Host(_));
    let seen = if source == Source::Hairpin && is_inside {
        Seen::Dialled
    } else if is_process && by_tunnel {
        // The other node would take the uplink's address for forged.
        Seen::Tunnel(translator)
    } else if is_inside || is_here {
        Seen::Client
    } else if by_tunnel {
        Seen::Tunnel(translator)
    } else {
        Seen::Node(translator)
    };
    let is_external = address != Address::ClusterIp;
    let difference = match seen {
        // Whatever a node's process dials is masqueraded by the device that leads to the endpoint: an
        // uplink has the address that the process has, a pod's device none.
        Seen::Client if is_process => (is_here && shape.has_bridge())
            .then_some("shows the bridge's address to an endpoint that its own node dials"),
        Seen::Client if is_external && external == Policy::Cluster => {
            Some("masquerades whatever dials an external address with policy Cluster")
        }
        Seen::Client if !is_external && source == Source::External => {
            Some("masquerades clients from outside that dial a cluster address")
        }
        Seen::Dialled => Some("shows the node's address to an endpoint that reaches itself"),
        _ => None,
    };
    Expectation::Served {
        server,
        seen,
        difference,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        matrix::dimension::{Family, Path},
        traffic::Transport,
    };

    fn cell(source: Source, address: Address, policy: Policy, backend: Backend) -> Cell {
        Cell {
            source,
            address,
            policy,
            backend,
            transport: Transport::Tcp,
            family: Family::V4,
            path: Path::Tc,
            shape: CniShape::Routed,
        }
    }

    #[track_caller]
    fn check(cell: Cell, expected: &str) {
        assert_eq!(expectation(cell).to_string(), expected, "{cell}");
    }

    #[test]
    fn expectations_are_those_of_the_table_of_verdicts() {
        use Address::{ClusterIp, LoadBalancer, NodePortElsewhere, NodePortHere};
        use Backend::{HostLocal, Nobody, Remote, Terminating};
        use Policy::{Cluster, Local};
        use Source::{External, Hairpin, PodElsewhere, PodHere};
        for (source, address, policy, backend, expected) in [
            (External, NodePortHere, Cluster, Nobody, "it is refused"),
            (External, NodePortHere, Local, Nobody, "it is refused"),
            (External, NodePortHere, Local, Remote, "nothing comes back"),
            (
                External,
                NodePortHere,
                Cluster,
                Remote,
                "web-2 answers and sees Node(1)",
            ),
            (
                External,
                LoadBalancer,
                Local,
                Terminating,
                "web-1 answers and sees Client",
            ),
            (
                External,
                NodePortElsewhere,
                Local,
                Remote,
                "web-2 answers and sees Client",
            ),
            (
                PodHere,
                NodePortHere,
                Local,
                Remote,
                "web-2 answers and sees Client",
            ),
            (PodHere, ClusterIp, Local, Remote, "nothing comes back"),
            (
                PodHere,
                ClusterIp,
                Local,
                HostLocal,
                "node1 answers and sees Client",
            ),
            (
                PodElsewhere,
                NodePortHere,
                Local,
                Remote,
                "nothing comes back",
            ),
            (
                Hairpin,
                LoadBalancer,
                Local,
                Backend::Local,
                "web-1 answers and sees Dialled",
            ),
        ] {
            check(cell(source, address, policy, backend), expected);
        }
    }

    #[test]
    fn a_process_is_a_client_of_its_node_and_its_own_network_is_refused_to_it() {
        use Address::{ClusterIp, ExternalIp, LoadBalancer, NodePortElsewhere};
        use Backend::{HostLocal, HostRemote, Nobody, Remote, Terminating};
        use Policy::{Cluster, Local};
        use Source::{OtherNode, ThisNode};
        for (source, address, policy, backend, routed, vxlan) in [
            (ThisNode, ClusterIp, Cluster, Nobody, "it is refused", None),
            (ThisNode, ClusterIp, Local, HostLocal, "it is refused", None),
            (
                ThisNode,
                LoadBalancer,
                Cluster,
                HostLocal,
                "it is refused",
                None,
            ),
            (
                ThisNode,
                ClusterIp,
                Local,
                Remote,
                "nothing comes back",
                None,
            ),
            (
                OtherNode,
                ClusterIp,
                Local,
                HostLocal,
                "nothing comes back",
                None,
            ),
            (
                ThisNode,
                ClusterIp,
                Local,
                Terminating,
                "web-1 answers and sees Client",
                None,
            ),
            (
                ThisNode,
                ExternalIp,
                Local,
                Remote,
                "web-2 answers and sees Client",
                Some("web-2 answers and sees Tunnel(1)"),
            ),
            (
                ThisNode,
                ClusterIp,
                Cluster,
                HostRemote,
                "node2 answers and sees Client",
                None,
            ),
            (
                ThisNode,
                NodePortElsewhere,
                Cluster,
                HostLocal,
                "node1 answers and sees Node(2)",
                None,
            ),
            (
                OtherNode,
                LoadBalancer,
                Cluster,
                HostLocal,
                "node1 answers and sees Client",
                None,
            ),
            (
                OtherNode,
                LoadBalancer,
                Local,
                Backend::Local,
                "web-1 answers and sees Client",
                Some("web-1 answers and sees Tunnel(3)"),
            ),
        ] {
            let cell = cell(source, address, policy, backend);
            check(cell, routed);
            let shape = CniShape::Vxlan;
            check(Cell { shape, ..cell }, vxlan.unwrap_or(routed));
        }
    }
}
