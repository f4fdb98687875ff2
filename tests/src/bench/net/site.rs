//! A site: a client, a node and two backends, each a namespace, with nothing between them but what is
//! measured.
//!
//! ```text
//!   client ─ veth ─┐
//!                  node (routes, one /32 a pod, as Calico does)
//! backends ─ veth ─┘
//! ```
//!
//! Neighbours are written down, no firewall is there and no connection is tracked unless a
//! contender's rules ask for it.

use std::{net::Ipv4Addr, path::Path};

use anyhow::{Context as _, Result};

use super::{
    client::Ports,
    rules::{self, Rules},
    server::{ECHO, GREET, SINK, Servers},
};
use crate::{
    bench::{
        manifests::{Format, Manifests},
        node::Node,
    },
    command::{self, ip},
    ns::{self, Namespace},
};

/// The Service that is dialled.
pub(super) const DIALLED: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// Its endpoints.
pub(super) const BACKENDS: [Ipv4Addr; 2] =
    [Ipv4Addr::new(10, 244, 1, 11), Ipv4Addr::new(10, 244, 1, 12)];
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 10);
/// The gateway of every pod: an address that nobody has.
const GATEWAY: &str = "169.254.1.1";

/// Who carries the client's packets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Contender {
    /// Nobody: the client dials a backend.
    Direct,
    /// The same once more, for the noise.
    DirectAgain,
    /// kube-proxy's nftables rules.
    Nftables,
    /// kube-proxy's iptables rules.
    Iptables,
    /// Our programs, by tc.
    Tc,
}

impl Contender {
    /// All of them.
    pub(super) const ALL: [Self; 5] = [
        Self::Direct,
        Self::DirectAgain,
        Self::Nftables,
        Self::Iptables,
        Self::Tc,
    ];

    /// How reports call it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::DirectAgain => "direct again",
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
            Self::Tc => "steerage, tc",
        }
    }

    const fn is_direct(self) -> bool {
        matches!(self, Self::Direct | Self::DirectAgain)
    }
}

/// A contender's site.
pub(super) struct Site {
    /// Whose it is.
    pub(super) contender: Contender,
    /// What the client dials.
    pub(super) dialled: Ipv4Addr,
    /// And the ports.
    pub(super) ports: Ports,
    /// Where the client is.
    pub(super) client: Namespace,
    /// What the backends run.
    pub(super) servers: Vec<Servers>,
    // Dropped before the node's namespace: agent first, devices with their namespaces.
    agent: Option<Node>,
    _backends: Vec<Namespace>,
    _node: Option<Namespace>,
}

impl Site {
    /// Builds it, with rules for so many services; `directory` is for the agent's files.
    pub(super) fn build(contender: Contender, services: u32, directory: &Path) -> Result<Self> {
        let prefix = format!(
            "{}{}-{}-{services}",
            ns::PREFIX,
            std::process::id(),
            contender.name().replace([' ', ',', '-'], "")
        );
        let mut agent = None;
        let mut own = None;
        let manifests = directory.join(&prefix);
        if contender == Contender::Tc {
            std::fs::create_dir(&manifests)?;
            agent = Some(Node::new(&manifests, None)?);
        } else {
            own = Some(Namespace::create(format!("{prefix}-node"))?);
        }
        let node = agent.as_ref().map(Node::namespace).or(own.as_ref());
        let node = node.context("every site has a node")?;
        node.sysctl(&[("net/ipv4/ip_forward", "1")])?;
        let client = pod(node, &prefix, "client", CLIENT, 1)?;
        let mut backends = Vec::new();
        let mut servers = Vec::new();
        for (address, number) in BACKENDS.into_iter().zip(1_u8..) {
            let backend = pod(node, &prefix, &format!("b{number}"), address, number + 1)?;
            servers.push(Servers::start(&backend, number)?);
            backends.push(backend);
        }
        client.sysctl(&[("net/ipv4/ip_local_port_range", "1024 65535")])?;
        match contender {
            Contender::Direct | Contender::DirectAgain | Contender::Tc => {}
            Contender::Nftables => {
                let rules = Rules { services }.nftables();
                command::run(node.command("nft")?.args(["-f", "-"]), &rules)?;
            }
            Contender::Iptables => {
                let rules = Rules { services }.iptables();
                command::run(&mut node.command("iptables-legacy-restore")?, &rules)?;
            }
        }
        if let Some(agent) = &mut agent {
            let others = Manifests::write(&manifests, Format::Json, services.saturating_sub(1))?;
            rules::write_manifest(&others.directory)?;
            agent.start(&others.directory)?;
        }
        Ok(Self {
            contender,
            dialled: if contender.is_direct() {
                BACKENDS[0]
            } else {
                DIALLED
            },
            ports: if contender.is_direct() {
                Ports {
                    greet: GREET,
                    echo: ECHO,
                    sink: SINK,
                }
            } else {
                rules::PORTS
            },
            client,
            servers,
            agent,
            _backends: backends,
            _node: own,
        })
    }

    /// Ends it, and says if something of the agent's is left.
    pub(super) fn finish(mut self) -> Result<()> {
        self.agent.take().map_or(Ok(()), Node::finish)
    }
}

/// A namespace with one device, connected by routes.
fn pod(
    node: &Namespace,
    prefix: &str,
    name: &str,
    address: Ipv4Addr,
    number: u8,
) -> Result<Namespace> {
    let pod = Namespace::create(format!("{prefix}-{name}"))?;
    let (own, host) = (
        format!("02:00:00:00:01:{number:02x}"),
        format!("02:00:00:00:02:{number:02x}"),
    );
    let ns = pod.name();
    ip(
        node.name(),
        &format!(
            "link add v-{name} address {host} type veth peer name eth0 address {own} netns {ns}\n\
             link set v-{name} up\n\
             route add {address}/32 dev v-{name} scope link\n\
             neigh add {address} lladdr {own} dev v-{name} nud permanent\n"
        ),
    )?;
    ip(
        ns,
        &format!(
            "link set lo up\n\
             link set eth0 up\n\
             addr add {address}/32 dev eth0\n\
             route add {GATEWAY} dev eth0 scope link\n\
             neigh add {GATEWAY} lladdr {host} dev eth0 nud permanent\n\
             route add 0.0.0.0/0 via {GATEWAY} dev eth0\n"
        ),
    )?;
    command::await_device(node.name(), &format!("v-{name}"))?;
    Ok(pod)
}
