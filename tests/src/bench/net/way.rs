//! The ways that packets go at a site: from whom, to what, and who may answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{
    client::Ports,
    rules::{NODE_PORTS, PORTS},
    server::{ECHO, GREET, SINK},
    site::{Contender, NODE},
};

/// A pod of the site's own node.
pub(super) const CLIENT: Pair = Pair(
    Ipv4Addr::new(10, 244, 1, 10),
    Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 0x10),
);
/// Pods of the same node.
pub(super) const LOCAL: Backends = Backends {
    dialled: Pair(
        Ipv4Addr::new(10, 96, 0, 10),
        Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x10),
    ),
    name: "local",
    endpoints: [
        Pair(
            Ipv4Addr::new(10, 244, 1, 11),
            Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 0x11),
        ),
        Pair(
            Ipv4Addr::new(10, 244, 1, 12),
            Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 0x12),
        ),
    ],
    first_number: 1,
};
/// Pods of the other node.
pub(super) const REMOTE: Backends = Backends {
    dialled: Pair(
        Ipv4Addr::new(10, 96, 0, 11),
        Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x11),
    ),
    name: "remote",
    endpoints: [
        Pair(
            Ipv4Addr::new(10, 244, 2, 11),
            Ipv6Addr::new(0xfd00, 0x10, 0x244, 2, 0, 0, 0, 0x11),
        ),
        Pair(
            Ipv4Addr::new(10, 244, 2, 12),
            Ipv6Addr::new(0xfd00, 0x10, 0x244, 2, 0, 0, 0, 0x12),
        ),
    ],
    first_number: 3,
};

/// An address of each family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair(pub(super) Ipv4Addr, pub(super) Ipv6Addr);

impl Pair {
    /// That of one family.
    pub(super) fn of(self, is_v6: bool) -> IpAddr {
        if is_v6 { self.1.into() } else { self.0.into() }
    }
}

/// A Service and those behind it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backends {
    /// Its address.
    pub(super) dialled: Pair,
    /// Its name.
    pub(super) name: &'static str,
    /// Where its endpoints are.
    pub(super) endpoints: [Pair; 2],
    /// What the first of them says when asked who it is, the second one more.
    pub(super) first_number: u8,
}

/// A way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Way {
    /// From a pod to a pod beside it.
    Local,
    /// From a pod to a pod of the other node, by VXLAN.
    Remote,
    /// The first one over IPv6.
    LocalV6,
    /// From outside by a node port to a pod of the other node.
    NodePort,
    /// The same where wires carry whole frames, and a route leads to the other node.
    Framed,
}

impl Way {
    /// Those where wires carry packets, in the order of reports.
    pub(super) const ALL: [Self; 4] = [Self::Local, Self::Remote, Self::LocalV6, Self::NodePort];

    /// The case of reports.
    pub(super) fn case(self, services: u32) -> String {
        match self {
            Self::Local => format!("{services} services"),
            Self::Remote => format!("{services} services, remote backend"),
            Self::LocalV6 => format!("{services} services, IPv6"),
            Self::NodePort => format!("node port, remote backend, cluster of {services}"),
            Self::Framed => {
                format!("node port by frames, remote backend, cluster of {services}")
            }
        }
    }

    /// Whether the client is outside.
    pub(super) const fn is_from_outside(self) -> bool {
        matches!(self, Self::NodePort | Self::Framed)
    }

    /// Whether only datagrams go this way.
    pub(super) const fn is_of_datagrams(self) -> bool {
        matches!(self, Self::LocalV6 | Self::NodePort)
    }

    /// Whether it is measured with so many services: rules of a second family take as long to load as
    /// those of the first, and what the number of services costs is seen at the first.
    pub(super) const fn is_measured(self, services: u32) -> bool {
        !self.is_v6() || services <= 1_000
    }

    /// Whether a contender has such a way: iptables are laid out for IPv4 alone.
    pub(super) fn is_of(self, contender: Contender) -> bool {
        !self.is_v6() || contender != Contender::Iptables
    }

    const fn is_v6(self) -> bool {
        matches!(self, Self::LocalV6)
    }

    const fn backends(self) -> Backends {
        match self {
            Self::Local | Self::LocalV6 => LOCAL,
            Self::Remote | Self::NodePort | Self::Framed => REMOTE,
        }
    }

    /// What is dialled.
    pub(super) fn target(self, contender: Contender) -> Target {
        let backends = self.backends();
        let (address, ports) = if contender.is_direct() {
            let ports = Ports {
                greet: GREET,
                echo: ECHO,
                sink: SINK,
            };
            (backends.endpoints[0].of(self.is_v6()), ports)
        } else if self.is_from_outside() {
            (NODE.into(), NODE_PORTS)
        } else {
            (backends.dialled.of(self.is_v6()), PORTS)
        };
        let first = backends.first_number;
        Target {
            address,
            ports,
            numbers: [first, first + 1],
        }
    }
}

/// What is dialled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    address: IpAddr,
    ports: Ports,
    /// Who may answer.
    pub(super) numbers: [u8; 2],
}

impl Target {
    /// Where somebody says who it is.
    pub(super) const fn greet(self) -> SocketAddr {
        SocketAddr::new(self.address, self.ports.greet)
    }

    /// Where somebody echoes.
    pub(super) const fn echo(self) -> SocketAddr {
        SocketAddr::new(self.address, self.ports.echo)
    }

    /// Where somebody swallows.
    pub(super) const fn sink(self) -> SocketAddr {
        SocketAddr::new(self.address, self.ports.sink)
    }
}
