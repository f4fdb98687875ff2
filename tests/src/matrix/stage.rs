//! The cluster in which the cells are tried: every Service of the matrix at once, and every client.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{
    Cell, Expectation, Seen,
    dimension::{Address, Backend, Family, Path, Source},
    expectation,
};
use crate::{
    clock,
    cluster::{Cluster, Condition, Endpoint, Exposure, Policy, Service, sockets},
    lab::{CniShape, Lab, address},
    leak::{self, Foreign},
    ns::Namespace,
    scenario::{PORT, PROPAGATION, TARGET},
    traffic::{self, Greeting, TcpServer, Transport, UdpServer},
};

/// How long silence is listened to.
const SILENCE: Duration = Duration::from_millis(400);
/// A refusal is an answer, and takes as long as one; answers by ICMP have a rate, so that one may be
/// missing.
const REFUSAL: Duration = Duration::from_millis(700);
/// How long a packet that nobody answers is waited for.
const STRAYING: Duration = Duration::from_millis(20);
/// How often a refusal is asked for.
const ATTEMPTS: u32 = 4;
/// Number of the first Service for the table of who is masqueraded; those before are the cells'.
const FIRST_MASQUERADED: u8 = 20;

/// The cluster with its servers.
#[derive(Debug)]
pub struct MatrixStage {
    servers: Vec<(TcpServer, Vec<UdpServer>)>,
    cluster: Cluster,
    /// Packets to services that strayed before there was an agent.
    strays: u64,
}

impl MatrixStage {
    /// Builds the cluster, in which packets take `path` where they can; when it returns, every agent
    /// serves, also clients from outside.
    pub fn build(shape: CniShape, path: Path) -> Result<Self> {
        let mut cluster = Cluster::build(shape, 3)?;
        let xdp = match path {
            Path::Tc | Path::Redirect => "Off",
            Path::Xdp => "Native",
        };
        if path != Path::Tc {
            // Without cluster CIDRs, which would make clients of the cluster of pods on other nodes.
            let settings = format!("datapath: {{redirect: \"On\", xdp: \"{xdp}\"}}\n");
            cluster.set_config(&settings)?;
        }
        let lab = &mut cluster.lab;
        lab.add_outside()?;
        lab.add_pods(&[("client", 1), ("web-1", 1), ("web-2", 2), ("far", 3)])?;
        if path == Path::Xdp {
            lab.carry_frames()?;
        }
        let networks = [
            [address::EXTERNAL_V4, address::EXTERNAL_V6],
            [address::SERVICE_CIDR_V4, address::SERVICE_CIDR_V6],
        ];
        lab.outside().route(&networks, lab.node(1))?;
        let pods = ["web-1", "web-2"].map(|name| {
            let pod = lab.pod(name);
            (name, &pod.ns, pod.addresses())
        });
        let nodes = [("node1", 1), ("node2", 2)].map(|(name, number)| {
            let node = lab.node(number);
            (name, &node.ns, node.addresses())
        });
        let servers = pods.into_iter().chain(nodes);
        let servers = servers
            .map(|(name, ns, addresses)| {
                let udp = addresses.map(|address| SocketAddr::new(address, TARGET));
                let udp = udp.into_iter();
                let udp = udp.map(|address| UdpServer::start_at(ns, name, address));
                let tcp = TcpServer::start(ns, name, TARGET)?;
                Ok((tcp, udp.collect::<Result<_>>()?))
            })
            .collect::<Result<_>>()?;
        for service in services(&cluster.lab) {
            cluster.manifests.write(&service)?;
        }
        let mut stage = Self {
            servers,
            cluster,
            strays: 0,
        };
        stage.start().inspect_err(|_| stage.print_diagnosis())?;
        Ok(stage)
    }

    fn start(&mut self) -> Result<()> {
        self.let_stray()?;
        self.cluster.start_agents()?;
        for node in [1, 2] {
            for family in Family::ALL {
                let node = self.cluster.lab.node(node).addresses()[index(family)];
                let port = 30_000 + u16::from(number(Policy::Cluster, Backend::Local));
                let address = SocketAddr::new(node, port);
                clock::eventually(&format!("{address} is served"), PROPAGATION, || {
                    Ok(self.ask(Source::External, address, Transport::Tcp).ok())
                })?;
            }
        }
        Ok(())
    }

    /// Sends packets to services that nobody translates yet, and waits until they are counted.
    fn let_stray(&mut self) -> Result<()> {
        let lab = &self.cluster.lab;
        lab.count_strays()?;
        for family in Family::ALL {
            let number = number(Policy::Cluster, Backend::Local);
            let address = self.socket(Address::ClusterIp, number, family);
            let node = self.namespace(Source::ThisNode);
            traffic::refusal(node, address, Transport::Udp, STRAYING)?;
            let what = format!("a packet to {address} strays");
            self.strays = clock::eventually(&what, PROPAGATION, || {
                let strays = lab.strays()?;
                Ok((strays > self.strays).then_some(strays))
            })?;
        }
        Ok(())
    }

    /// Fails if a packet to a service left a node as it was, since there are agents.
    pub fn check_strays(&self) -> Result<()> {
        let strays = self.cluster.lab.strays()? - self.strays;
        ensure!(strays == 0, "{strays} packets to services strayed");
        Ok(())
    }

    /// Whether what happens in `cell` is what should.
    pub fn attempt(&self, cell: Cell) -> Result<()> {
        let number = number(cell.policy, cell.backend);
        let dialled = self.socket(cell.address, number, cell.family);
        let ns = self.namespace(cell.source);
        match expectation(cell) {
            Expectation::Served { server, seen, .. } => {
                let greeting = self.ask(cell.source, dialled, cell.transport)?;
                let client = self.seen(cell.source, seen, dialled);
                ensure!(
                    greeting.server == server.name() && greeting.client.ip() == client,
                    "{greeting}, not {} {client}",
                    server.name(),
                );
            }
            Expectation::Refused { .. } => expect_refusal(ns, dialled, cell.transport)?,
            Expectation::Silent => {
                let (kind, took) = traffic::refusal(ns, dialled, cell.transport, SILENCE)?;
                ensure!(
                    kind == std::io::ErrorKind::TimedOut,
                    "{kind} in {took:?}, where nothing should come back"
                );
            }
        }
        Ok(())
    }

    /// What `address` is for the Service with this number; its node port is the one at either node.
    pub(super) fn socket(&self, address: Address, number: u8, family: Family) -> SocketAddr {
        let exposure = Exposure::everywhere(number);
        let node_port = 30_000 + u16::from(number);
        let at_node = |node: u8| {
            let addresses = self.cluster.lab.node(node).addresses();
            addresses.map(|address| SocketAddr::new(address, node_port))
        };
        let pair = match address {
            Address::ClusterIp => Some(cluster_ip(number)),
            Address::ExternalIp => exposure.external,
            Address::LoadBalancer => exposure.balancer,
            Address::NodePortHere | Address::NodePortElsewhere | Address::Localhost => None,
        };
        let both = match (pair, address) {
            (Some(pair), _) => sockets(pair, PORT),
            (None, Address::NodePortElsewhere) => at_node(2),
            (None, _) => at_node(1),
        };
        both[index(family)]
    }

    /// One connection or datagram.
    pub(super) fn ask(
        &self,
        source: Source,
        address: SocketAddr,
        transport: Transport,
    ) -> Result<Greeting> {
        let ns = self.namespace(source);
        match transport {
            Transport::Tcp => traffic::connect_once(ns, address),
            Transport::Udp => traffic::ask_udp(ns, address, b"hello"),
        }
    }

    /// The address by which a server sees a client.
    pub(super) fn seen(&self, source: Source, seen: Seen, dialled: SocketAddr) -> IpAddr {
        let lab = &self.cluster.lab;
        let pair = match (seen, source) {
            (Seen::Dialled, _) => return dialled.ip(),
            (Seen::Node(node), _) => lab.node(node).addresses(),
            (Seen::Tunnel(node), _) => [
                address::pod_v4(node, 0).into(),
                address::pod_v6(node, 0).into(),
            ],
            (Seen::Client, Source::PodHere) => lab.pod("client").addresses(),
            (Seen::Client, Source::PodElsewhere) => lab.pod("far").addresses(),
            (Seen::Client, Source::Hairpin) => lab.pod("web-1").addresses(),
            (Seen::Client, Source::ThisNode) => lab.node(1).addresses(),
            (Seen::Client, Source::OtherNode) => lab.node(3).addresses(),
            (Seen::Client, Source::External) => lab.outside().addresses(),
        };
        pair[usize::from(dialled.is_ipv6())]
    }

    fn namespace(&self, source: Source) -> &Namespace {
        let lab = &self.cluster.lab;
        match source {
            Source::PodHere => &lab.pod("client").ns,
            Source::PodElsewhere => &lab.pod("far").ns,
            Source::Hairpin => &lab.pod("web-1").ns,
            Source::ThisNode => &lab.node(1).ns,
            Source::OtherNode => &lab.node(3).ns,
            Source::External => &lab.outside().ns,
        }
    }

    /// Prints what a person needs after a failure.
    pub fn print_diagnosis(&self) {
        self.cluster.print_diagnosis();
    }

    /// Stops the agents, cleans up and inspects what is left.
    pub fn finish(self) -> Result<()> {
        let prefix = self.cluster.lab.prefix().to_owned();
        drop(self.servers);
        self.cluster
            .finish(&Foreign::default())
            .context("after the matrix")?;
        leak::check_namespaces(&prefix)
    }
}

fn expect_refusal(ns: &Namespace, dialled: SocketAddr, transport: Transport) -> Result<()> {
    let mut kinds = Vec::new();
    for _ in 0..ATTEMPTS {
        let (kind, took) = traffic::refusal(ns, dialled, transport, REFUSAL)?;
        if kind == std::io::ErrorKind::ConnectionRefused {
            return Ok(());
        }
        kinds.push(format!("{kind} in {took:?}"));
    }
    anyhow::bail!("not refused: {}", kinds.join(", "))
}

const fn index(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}

/// The number of the Service with these policies and this endpoint, from 1.
fn number(policy: Policy, backend: Backend) -> u8 {
    let at = Backend::ALL.iter().position(|one| *one == backend);
    let at = at.and_then(|at| u8::try_from(at).ok()).unwrap_or_default();
    match policy {
        Policy::Cluster => 1 + at,
        Policy::Local => 11 + at,
    }
}

/// The number of the Service that is `position` in the table of who is masqueraded.
pub(super) const fn masqueraded(position: u8) -> u8 {
    FIRST_MASQUERADED + position
}

const fn cluster_ip(number: u8) -> crate::cluster::Pair {
    let host = 100 + number;
    (address::service_v4(host), address::service_v6(host))
}

fn service(number: u8, [internal, external]: [Policy; 2]) -> Service {
    let exposure = Exposure {
        internal_policy: internal,
        external_policy: external,
        ..Exposure::everywhere(number)
    };
    let service = Service::new(&format!("matrix-{number}"), 100 + number);
    service.on(PORT, TARGET).exposed(exposure)
}

/// Every Service of the matrix.
fn services(lab: &Lab) -> Vec<Service> {
    let mut services = Vec::new();
    for policy in [Policy::Cluster, Policy::Local] {
        for backend in Backend::ALL {
            let endpoint = match backend {
                Backend::Local => Some(Endpoint::of(lab.pod("web-1"))),
                Backend::Remote => Some(Endpoint::of(lab.pod("web-2"))),
                Backend::HostLocal => Some(Endpoint::of_host(lab.node(1))),
                Backend::HostRemote => Some(Endpoint::of_host(lab.node(2))),
                Backend::Terminating => {
                    Some(Endpoint::of(lab.pod("web-1")).being(Condition::Terminating))
                }
                Backend::Nobody => None,
            };
            services.push(service(number(policy, backend), [policy, policy]).to(endpoint));
        }
    }
    for (position, policies) in (0..).zip(super::masquerade::POLICIES) {
        let endpoints = ["web-1", "web-2"].map(|name| Endpoint::of(lab.pod(name)));
        services.push(service(masqueraded(position), policies).to(endpoints));
    }
    services
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_has_a_number_of_its_own() {
        let mut numbers: Vec<_> = [Policy::Cluster, Policy::Local]
            .into_iter()
            .flat_map(|policy| Backend::ALL.map(|backend| number(policy, backend)))
            .chain((0..3).map(masqueraded))
            .collect();
        let count = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), count);
    }
}
