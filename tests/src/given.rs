//! The world that the kernel tier and the decision's scenarios start from, in both families.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use lb_common::conntrack::State;
use lb_common::flow::{Direction, Hook, Protocol};

use crate::host;
use crate::packets::{self, PacketBuilder};
use crate::tables::{ServicePort, World};

/// Protocols that services have.
pub const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// One family's addresses.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    network: &'static str,
}

/// IPv4 and IPv6.
pub const PLACES: [Place; 2] = [Place { network: "10." }, Place { network: "fd00::" }];

impl Place {
    /// Whether this is IPv6.
    pub fn is_v6(self) -> bool {
        self.network.contains(':')
    }

    /// The address `part.0.number` of the network.
    #[expect(
        clippy::missing_panics_doc,
        reason = "what is put together here is always an address"
    )]
    pub fn address(self, part: u8, number: u8) -> IpAddr {
        let separator = if self.is_v6() { ':' } else { '.' };
        let text = format!("{}{part}{separator}0{separator}{number}", self.network);
        text.parse().expect("a well-formed address")
    }

    /// A pod.
    pub fn pod(self, number: u8) -> IpAddr {
        self.address(24, number)
    }

    /// An address of the service CIDR.
    pub fn service(self, number: u8) -> IpAddr {
        self.address(96, number)
    }

    /// The client, at the port that it dials from.
    pub fn client(self) -> SocketAddr {
        SocketAddr::new(self.pod(2), 40_000)
    }

    /// Services 10 and 11 lead to one backend, 20 refuses, 21 drops, and the client of 30 is its
    /// backend; all at port 80, with every protocol.
    pub fn dialled(self, number: u8) -> SocketAddr {
        SocketAddr::new(self.service(number), 80)
    }

    /// The backend of services 10 and 11. SCTP's port is not changed.
    pub fn backend(self, protocol: Protocol) -> SocketAddr {
        SocketAddr::new(self.pod(3), target_port(protocol))
    }

    /// The client as its own backend.
    pub fn own_backend(self, protocol: Protocol) -> SocketAddr {
        SocketAddr::new(self.pod(2), target_port(protocol))
    }
}

const fn target_port(protocol: Protocol) -> u16 {
    match protocol {
        Protocol::Sctp => 80,
        Protocol::Tcp | Protocol::Udp => 8080,
    }
}

/// Both families' services.
pub fn world() -> World {
    let mut world = World::default();
    for place in PLACES {
        world = world.cidr(place.service(0), if place.is_v6() { 112 } else { 24 });
        for protocol in PROTOCOLS {
            let port = |number| ServicePort::new(place.dialled(number), protocol);
            world = world
                .port(port(10).backend(place.backend(protocol), 1))
                .port(port(11).backend(place.backend(protocol), 1))
                .port(port(20))
                .port(port(21).drop_when_empty())
                .port(port(30).backend(place.own_backend(protocol), 1));
        }
    }
    world
}

/// A packet of a protocol; TCP's has ACK set.
pub fn packet(protocol: Protocol, source: SocketAddr, destination: SocketAddr) -> PacketBuilder {
    match protocol {
        Protocol::Tcp => packets::tcp(source, destination),
        Protocol::Udp => packets::udp(source, destination).payload(b"a question"),
        Protocol::Sctp => packets::sctp(source, destination),
    }
}

/// The first packet of a flow.
pub fn first(protocol: Protocol, source: SocketAddr, destination: SocketAddr) -> PacketBuilder {
    let packet = packet(protocol, source, destination);
    match protocol {
        Protocol::Tcp => packet.flags(packets::SYN),
        Protocol::Udp | Protocol::Sctp => packet,
    }
}

/// The first packet that comes back.
pub fn answer(protocol: Protocol, source: SocketAddr, destination: SocketAddr) -> PacketBuilder {
    let packet = packet(protocol, source, destination);
    match protocol {
        Protocol::Tcp => packet.flags(packets::SYN | packets::ACK),
        Protocol::Udp | Protocol::Sctp => packet,
    }
}

/// States of a flow: after the first packet, after the answer, after the client's next packet.
pub const fn states(protocol: Protocol) -> [State; 3] {
    match protocol {
        Protocol::Tcp => [State::SynSent, State::SynReceived, State::Established],
        Protocol::Udp => [State::UdpNew, State::UdpStream, State::UdpStream],
        Protocol::Sctp => [
            State::SctpNew,
            State::SctpEstablished,
            State::SctpEstablished,
        ],
    }
}

/// Who talks to whom in a translated flow.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// Transport protocol.
    pub protocol: Protocol,
    /// As it sends.
    pub client: SocketAddr,
    /// What it dials.
    pub service: SocketAddr,
    /// Who serves.
    pub backend: SocketAddr,
    /// The client's port as the backend sees it.
    pub port: u16,
}

impl Flow {
    /// A flow whose port is not changed.
    pub const fn new(
        protocol: Protocol,
        client: SocketAddr,
        service: SocketAddr,
        backend: SocketAddr,
    ) -> Self {
        Self {
            protocol,
            client,
            service,
            backend,
            port: client.port(),
        }
    }

    /// The same with another port towards the backend.
    #[must_use]
    pub const fn at_port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// The client as the backend sees it.
    pub const fn seen(&self) -> SocketAddr {
        SocketAddr::new(self.client.ip(), self.port)
    }

    /// The service as a pod sees it that serves itself.
    pub const fn peer(&self) -> SocketAddr {
        SocketAddr::new(self.service.ip(), self.port)
    }

    /// The two entries between client and service, as [`host::flows`] lists them.
    pub fn pair(&self, state: State) -> [String; 2] {
        let (client, service, backend, seen) =
            (self.client, self.service, self.backend, self.seen());
        let half = |hook, before, after, direction| {
            host::half(hook, self.protocol, before, after, direction, state)
        };
        [
            half(
                Hook::Ingress,
                (client, service),
                (seen, backend),
                Direction::Original,
            ),
            half(
                Hook::Egress,
                (backend, seen),
                (service, client),
                Direction::Reply,
            ),
        ]
    }

    /// The two entries between service and backend of a hairpin.
    pub fn second_pair(&self, state: State) -> [String; 2] {
        let (backend, seen, peer) = (self.backend, self.seen(), self.peer());
        let half = |hook, before, after, direction| {
            host::half(hook, self.protocol, before, after, direction, state)
        };
        [
            half(
                Hook::Egress,
                (seen, backend),
                (peer, backend),
                Direction::Original,
            ),
            half(
                Hook::Ingress,
                (backend, peer),
                (backend, seen),
                Direction::Reply,
            ),
        ]
    }
}

/// Runs for every family and protocol.
pub fn each(mut run: impl FnMut(Place, Protocol)) {
    for place in PLACES {
        for protocol in PROTOCOLS {
            run(place, protocol);
        }
    }
}

/// The flow of the client to service 10.
pub fn plain(place: Place, protocol: Protocol) -> Flow {
    let backend = place.backend(protocol);
    Flow::new(protocol, place.client(), place.dialled(10), backend)
}

/// Entries that came.
pub fn came(lines: impl IntoIterator<Item = String>) -> BTreeSet<String> {
    lines.into_iter().map(|line| format!("+{line}")).collect()
}

/// Entries that went.
pub fn gone(lines: impl IntoIterator<Item = String>) -> BTreeSet<String> {
    lines.into_iter().map(|line| format!("-{line}")).collect()
}

/// Entries that changed, which is nothing where they are the same.
pub fn changed<const N: usize>(before: [String; N], after: [String; N]) -> BTreeSet<String> {
    if before == after {
        return BTreeSet::new();
    }
    let mut lines = gone(before);
    lines.append(&mut came(after));
    lines
}
