//! Bytes read as choices.

use super::{PLACES, PROTOCOLS, PacketBuilder, Place, Protocol, ServicePort, SocketAddr, World};
use crate::packets;

/// Ports that services have at most.
const MOST_PORTS: u8 = 8;
/// Pods that may serve: some of them are clients too.
const PODS: u8 = 5;

/// What is left of a script.
pub(super) struct Script<'a> {
    bytes: std::slice::Iter<'a, u8>,
}

impl<'a> Script<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes: bytes.iter(),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.bytes.len() == 0
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.bytes.next().copied().unwrap_or(0)
    }

    /// A number below `end`.
    pub(super) fn below(&mut self, end: u8) -> u8 {
        self.byte() % end
    }

    pub(super) fn bit(&mut self) -> bool {
        self.below(2) == 1
    }

    pub(super) fn choose<'v, T>(&mut self, values: &'v [T]) -> Option<&'v T> {
        let position = usize::from(self.byte());
        values.get(position.checked_rem(values.len())?)
    }

    pub(super) fn place(&mut self) -> Place {
        PLACES[usize::from(self.below(2))]
    }

    pub(super) fn protocol(&mut self) -> Protocol {
        PROTOCOLS[usize::from(self.below(3))]
    }

    pub(super) fn client(&mut self, place: Place) -> SocketAddr {
        let port = 40_000 + u16::from(self.below(4));
        SocketAddr::new(place.pod(2 + self.below(2)), port)
    }

    /// An address of a service, at its port or another; or of nobody.
    pub(super) fn service(&mut self, place: Place) -> SocketAddr {
        let number = 10 + self.below(5);
        let port = if self.below(8) == 7 { 81 } else { 80 };
        SocketAddr::new(place.service(number), port)
    }

    pub(super) fn backend(&mut self, place: Place, protocol: Protocol) -> SocketAddr {
        let pod = place.pod(2 + self.below(PODS));
        SocketAddr::new(pod, place.backend(protocol).port())
    }

    /// A few services of either family.
    pub(super) fn world(&mut self) -> World {
        let mut world = World::default().buckets(1 << self.below(7));
        for place in PLACES {
            if self.bit() {
                world = world.cidr(place.service(0), if place.is_v6() { 112 } else { 24 });
            }
        }
        for _ in 0..self.below(MOST_PORTS + 1) {
            let (place, protocol) = (self.place(), self.protocol());
            let address = SocketAddr::new(place.service(10 + self.below(4)), 80);
            let mut port = ServicePort::new(address, protocol);
            if self.bit() {
                port = port.drop_when_empty();
            }
            let serving = self.byte();
            for pod in (0..PODS).filter(|pod| serving >> pod & 1 == 1) {
                let target = match protocol {
                    // Now and then one that would need another port, which SCTP cannot have.
                    Protocol::Sctp if serving >> 7 == 1 => 81,
                    Protocol::Sctp => 80,
                    Protocol::Tcp | Protocol::Udp => 8080,
                };
                let backend = SocketAddr::new(place.pod(2 + pod), target);
                port = port.backend(backend, 1 + u16::from(self.below(200)));
            }
            world = world.port(port);
        }
        world
    }

    pub(super) fn shape(&mut self) -> Shape {
        Shape {
            flags: self.byte() & 0x1f,
            payload: self.byte(),
            form: self.below(8),
        }
    }
}

/// What a packet is beside its addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// TCP's.
    flags: u8,
    /// Its length, and what it is filled with.
    payload: u8,
    form: u8,
}

impl Shape {
    /// The packet's frames: several if it is fragmented.
    pub(super) fn frames(
        self,
        protocol: Protocol,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Vec<Vec<u8>> {
        let packet = match protocol {
            Protocol::Tcp => packets::tcp(source, destination).flags(self.flags),
            Protocol::Udp => packets::udp(source, destination),
            Protocol::Sctp => packets::sctp(source, destination),
        };
        let packet = packet.payload(&vec![self.payload; self.payload.into()]);
        let packet = match protocol {
            Protocol::Udp if self.form == 5 && source.is_ipv4() => packet.without_checksum(),
            _ => self.decorated(packet, source.is_ipv6()),
        };
        if self.form == 7 {
            packet.fragments(48)
        } else {
            vec![packet.build()]
        }
    }

    fn decorated(self, packet: PacketBuilder, is_v6: bool) -> PacketBuilder {
        match (self.form, is_v6) {
            (1, _) => packet.tag(0x8100),
            (2, _) => packet.tag(0x88a8).tag(0x8100),
            (3, true) => packet.extension(0, &[0, 1, 4, 0, 0, 0, 0]),
            (3, false) => packet.options(2),
            (4, false) => packet.options(10),
            _ => packet,
        }
    }
}
