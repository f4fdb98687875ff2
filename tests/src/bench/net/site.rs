//! A site: a client, a node and two backends, another node with two, and a client outside, each a
//! namespace, with nothing between them but what is measured.
//!
//! ```text
//!   client ─ veth ─┐                  ┌─ veth ─ remote backends
//!                  node ══ VXLAN ══ peer
//! backends ─ veth ─┤    over a veth
//!  outside ─ veth ─┘
//! ```
//!
//! Where wires carry whole frames, as XDP needs them, a route over that veth takes the tunnel's place, which
//! no frame can be sent by; every sender finishes its checksums, and every receiver polls.
//!
//! Pods have a /32 route each, as Calico makes them, and an MTU that fits the tunnel. The peer reaches
//! the client outside through the node, so that direct is symmetric as all others are. Neighbours are
//! written down, no firewall is there and no connection is tracked unless a contender's rules ask for
//! it.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
};

use anyhow::{Context as _, Result};
use lb_agent::dataplane::counters;
use lb_common::verdict::Reason;

use super::{
    manifest,
    ours::{FRAMED_PATHS, OurPath, PATHS},
    rules::Rules,
    server::Servers,
    way::{CLIENT, LOCAL, Pair, REMOTE, Way},
};
use crate::{
    bench::{
        manifests::{Format, Manifests},
        node::Node,
        sizes,
    },
    command::{self, await_device, ip},
    ns::{self, Namespace},
};

/// The node's address towards the client outside, at which it has node ports.
pub(super) const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The client outside.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The gateways of every pod: addresses that nobody has.
const GATEWAYS: Pair = Pair(
    Ipv4Addr::new(169, 254, 1, 1),
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0x101),
);
/// Both ends of the tunnel below it, and above.
const UNDERLAY: [&str; 2] = ["192.168.7.1", "192.168.7.2"];
const TUNNEL: [&str; 2] = ["10.244.1.0", "10.244.2.0"];
const TUNNEL_MACS: [&str; 2] = ["02:00:00:00:f1:01", "02:00:00:00:f1:02"];

/// Of every namespace before it has a device: it forwards, filters no sources, and waits for nothing.
const SYSCTLS: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/default/disable_ipv6", "0"),
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/conf/default/forwarding", "1"),
];

/// What wires carry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Wires {
    /// Packets of the machine, with checksums that somebody else finishes.
    Packets,
    /// Whole frames, as between machines.
    Frames,
}

impl Wires {
    /// The ways that are measured on them with so many services.
    pub(super) fn ways(self, services: u32) -> Vec<Way> {
        let all = match self {
            Self::Packets => Way::ALL.to_vec(),
            Self::Frames => vec![Way::Framed],
        };
        let ways = all.into_iter();
        ways.filter(|way| way.is_measured(services)).collect()
    }
}

/// Who carries the client's packets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Contender {
    /// Nobody: the client dials a backend.
    Direct,
    /// The same once more, for the noise.
    DirectAgain,
    /// kube-proxy's nftables rules.
    Nftables,
    /// kube-proxy's iptables rules.
    Iptables,
    /// Our programs, by one of their paths.
    Ours(&'static OurPath),
}

impl Contender {
    /// Those that take part with so many services: iptables, searched from the top, up to 10 000, and not
    /// where XDP is measured.
    pub(super) fn all(services: u32, wires: Wires) -> Vec<Self> {
        let theirs = [
            Self::Direct,
            Self::DirectAgain,
            Self::Nftables,
            Self::Iptables,
        ];
        let (has_iptables, ours) = match wires {
            Wires::Packets => (services <= 10_000, PATHS),
            Wires::Frames => (false, FRAMED_PATHS),
        };
        let theirs = theirs
            .into_iter()
            .filter(|it| *it != Self::Iptables || has_iptables);
        theirs.chain(ours.map(Self::Ours)).collect()
    }

    /// How reports call it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::DirectAgain => "direct again",
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
            Self::Ours(path) => path.name,
        }
    }

    /// Whether a backend itself is dialled.
    pub(super) const fn is_direct(self) -> bool {
        matches!(self, Self::Direct | Self::DirectAgain)
    }
}

/// A contender's site.
pub(super) struct Site {
    /// Whose it is.
    pub(super) contender: Contender,
    /// What the backends run.
    pub(super) servers: Vec<Servers>,
    client: Namespace,
    outside: Namespace,
    // Dropped before the node's namespace: agent first, devices with their namespaces.
    agent: Option<Node>,
    _others: Vec<Namespace>,
    _node: Option<Namespace>,
}

impl Site {
    /// Builds it, with rules for so many services; `directory` is for the agent's files.
    pub(super) fn build(
        contender: Contender,
        (services, wires): (u32, Wires),
        directory: &Path,
    ) -> Result<Self> {
        let prefix = format!(
            "{}{}-{}-{services}",
            ns::PREFIX,
            std::process::id(),
            contender.name().replace([' ', ',', '-'], "")
        );
        let manifests = directory.join(&prefix);
        let (mut agent, mut own) = (None, None);
        if let Contender::Ours(path) = contender {
            std::fs::create_dir(&manifests)?;
            let settings = sizes::write(&manifests, &sizes::for_services(services), path.settings)?;
            agent = Some(Node::new(&manifests, Some(settings))?);
        } else {
            own = Some(Namespace::create(format!("{prefix}-node"))?);
        }
        let node = agent.as_ref().map(Node::namespace).or(own.as_ref());
        let node = node.context("every site has a node")?;
        let peer = make(&prefix, "peer")?;
        let outside = make(&prefix, "outside")?;
        node.sysctl(SYSCTLS)?;
        connect(node, &peer, &outside, wires)?;
        let client = pod(node, &prefix, "client", CLIENT)?;
        let (mut others, mut servers) = (Vec::new(), Vec::new());
        for (host, backends) in [(node, LOCAL), (&peer, REMOTE)] {
            for (address, number) in backends.endpoints.into_iter().zip(backends.first_number..) {
                let backend = pod(host, &prefix, &format!("b{number}"), address)?;
                servers.push(Servers::start(&backend, number, address.1)?);
                others.push(backend);
            }
        }
        others.push(peer);
        for namespace in [&client, &outside] {
            namespace.sysctl(&[("net/ipv4/ip_local_port_range", "1024 65535")])?;
        }
        rules(contender, services, node)?;
        if let Some(agent) = &mut agent {
            let others = Manifests::write(&manifests, Format::Json, services.saturating_sub(1))?;
            manifest::write(&others.directory)?;
            agent.start(&others.directory)?;
        }
        Ok(Self {
            contender,
            servers,
            client,
            outside,
            agent,
            _others: others,
            _node: own,
        })
    }

    /// Frames that XDP has taken so far; `None` where the contender has no XDP.
    pub(super) fn by_xdp(&self) -> Result<Option<u64>> {
        let (Contender::Ours(path), Some(agent)) = (self.contender, &self.agent) else {
            return Ok(None);
        };
        if !path.is_xdp() {
            return Ok(None);
        }
        let counters = counters::read(&agent.paths())?;
        let counter = counters.iter().find(|(known, _)| *known == Reason::ByXdp);
        Ok(Some(counter.map_or(0, |(_, counter)| counter.packets)))
    }

    /// Where the client of a way is.
    pub(super) const fn client(&self, way: Way) -> &Namespace {
        if way.is_from_outside() {
            &self.outside
        } else {
            &self.client
        }
    }

    /// Ends it, and says if something of the agent's is left.
    pub(super) fn finish(mut self) -> Result<()> {
        self.agent.take().map_or(Ok(()), Node::finish)
    }
}

/// Loads the kernel's own rules, where a contender has such.
fn rules(contender: Contender, services: u32, node: &Namespace) -> Result<()> {
    let v4 = Rules {
        services,
        is_v6: false,
    };
    match contender {
        Contender::Direct | Contender::DirectAgain | Contender::Ours(_) => {}
        Contender::Nftables => {
            command::run(node.command("nft")?.args(["-f", "-"]), &v4.nftables())?;
            if Way::LocalV6.is_measured(services) {
                let v6 = Rules { is_v6: true, ..v4 };
                command::run(node.command("nft")?.args(["-f", "-"]), &v6.nftables())?;
            }
        }
        Contender::Iptables => {
            command::run(
                &mut node.command("iptables-legacy-restore")?,
                &v4.iptables(),
            )?;
        }
    }
    Ok(())
}

fn make(prefix: &str, name: &str) -> Result<Namespace> {
    let namespace = Namespace::create(format!("{prefix}-{name}"))?;
    namespace.sysctl(SYSCTLS)?;
    Ok(namespace)
}

/// Connects the node with its peer by a tunnel, and with the client outside.
fn connect(node: &Namespace, peer: &Namespace, outside: &Namespace, wires: Wires) -> Result<()> {
    let (wire, beyond) = ("02:00:00:00:00:01", "02:00:00:00:00:02");
    ip(
        node.name(),
        &format!(
            "link set lo up\n\
             link add under type veth peer name under netns {peer}\n\
             link set under up\n\
             addr add {own}/24 dev under\n\
             route add 0.0.0.0/0 via {other}\n\
             link add out address {wire} type veth peer name eth0 address {beyond} netns {outside}\n\
             link set out up\n\
             addr add {NODE}/24 dev out\n\
             neigh add {OUTSIDE} lladdr {beyond} dev out nud permanent\n",
            peer = peer.name(),
            outside = outside.name(),
            own = UNDERLAY[0],
            other = UNDERLAY[1],
        ),
    )?;
    ip(
        outside.name(),
        &format!(
            "link set lo up\n\
             link set eth0 mtu 1450 up\n\
             addr add {OUTSIDE}/24 dev eth0\n\
             neigh add {NODE} lladdr {wire} dev eth0 nud permanent\n\
             route add 0.0.0.0/0 via {NODE} dev eth0\n"
        ),
    )?;
    ip(
        peer.name(),
        &format!(
            "link set lo up\n\
             link set under up\n\
             addr add {}/24 dev under\n",
            UNDERLAY[1]
        ),
    )?;
    match wires {
        Wires::Packets => {
            tunnel(node, [0, 1], "")?;
            let back = format!("route add 192.0.2.0/24 via {} dev vx onlink\n", TUNNEL[0]);
            tunnel(peer, [1, 0], &back)?;
        }
        Wires::Frames => {
            lead(node, [0, 1], &["10.244.2.0/24"])?;
            lead(peer, [1, 0], &["10.244.1.0/24", "192.0.2.0/24"])?;
            for (namespace, device) in [
                (node, "under"),
                (node, "out"),
                (peer, "under"),
                (outside, "eth0"),
            ] {
                let mut set = namespace.command("ethtool")?;
                set.args(["-K", device, "tx", "off", "gro", "on"]);
                command::run(&mut set, "")?;
            }
        }
    }
    for (namespace, device) in [(node, "under"), (node, "out"), (outside, "eth0")] {
        await_device(namespace.name(), device)?;
    }
    await_device(peer.name(), "under")
}

/// One end of the wire to the other node, `own`, with routes over it.
fn lead(namespace: &Namespace, [own, other]: [usize; 2], routes: &[&str]) -> Result<()> {
    let (mac, other_mac, gateway) = (TUNNEL_MACS[own], TUNNEL_MACS[other], UNDERLAY[other]);
    let routes = routes.iter();
    let routes = routes.map(|route| format!("route add {route} via {gateway} dev under\n"));
    let routes: String = routes.collect();
    ip(
        namespace.name(),
        &format!(
            "link set under address {mac}\n\
             neigh add {gateway} lladdr {other_mac} dev under nud permanent\n{routes}"
        ),
    )
    .map(drop)
}

/// One end of the tunnel, `own`, and the route to the pods at the other one.
fn tunnel(namespace: &Namespace, [own, other]: [usize; 2], routes: &str) -> Result<()> {
    let (mac, other_mac) = (TUNNEL_MACS[own], TUNNEL_MACS[other]);
    let (local, remote) = (UNDERLAY[own], UNDERLAY[other]);
    let (address, gateway) = (TUNNEL[own], TUNNEL[other]);
    ip(
        namespace.name(),
        &format!(
            "link add vx address {mac} mtu 1450 type vxlan id 1 local {local} remote {remote} \
             dev under dstport 8472 nolearning\n\
             link set vx up\n\
             addr add {address}/32 dev vx\n\
             neigh add {gateway} lladdr {other_mac} dev vx nud permanent\n\
             route add {gateway}/24 via {gateway} dev vx onlink\n{routes}"
        ),
    )
    .map(drop)
}

/// A namespace with one device, connected by routes.
fn pod(node: &Namespace, prefix: &str, name: &str, address: Pair) -> Result<Namespace> {
    let pod = make(prefix, name)?;
    let [.., number] = address.0.octets();
    let (own, host) = (
        format!("02:00:00:00:01:{number:02x}"),
        format!("02:00:00:00:02:{number:02x}"),
    );
    let ns = pod.name();
    let (Pair(v4, v6), Pair(gateway_v4, gateway_v6)) = (address, GATEWAYS);
    ip(
        node.name(),
        &format!(
            "link add v-{name} address {host} mtu 1450 type veth peer name eth0 address {own} mtu 1450 netns {ns}\n\
             link set v-{name} up\n\
             route add {v4}/32 dev v-{name} scope link\n\
             neigh add {v4} lladdr {own} dev v-{name} nud permanent\n\
             route add {v6}/128 dev v-{name}\n\
             neigh add {v6} lladdr {own} dev v-{name} nud permanent\n"
        ),
    )?;
    ip(
        ns,
        &format!(
            "link set lo up\n\
             link set eth0 up\n\
             addr add {v4}/32 dev eth0\n\
             route add {gateway_v4} dev eth0 scope link\n\
             neigh add {gateway_v4} lladdr {host} dev eth0 nud permanent\n\
             route add 0.0.0.0/0 via {gateway_v4} dev eth0\n\
             addr add {v6}/128 dev eth0 nodad\n\
             neigh add {gateway_v6} lladdr {host} dev eth0 nud permanent\n\
             route add ::/0 via {gateway_v6} dev eth0\n"
        ),
    )?;
    await_device(node.name(), &format!("v-{name}"))?;
    Ok(pod)
}
