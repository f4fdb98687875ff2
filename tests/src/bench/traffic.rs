//! Packets: of which family and protocol, of whom, to whom.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result};
use lb_common::course::{Course, FIRST_PORT, HEADER};

use super::{
    course::{Client, course},
    ground,
    services::{HAIRPIN, Service},
};
use crate::packets;

/// A family and a protocol.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Traffic {
    /// IPv6.
    pub(super) is_v6: bool,
    /// UDP, not TCP.
    pub(super) is_udp: bool,
}

/// What most bars are about.
pub(super) const TCP_V4: Traffic = Traffic {
    is_v6: false,
    is_udp: false,
};
const UDP_V4: Traffic = Traffic {
    is_udp: true,
    ..TCP_V4
};
/// The same over IPv6.
pub(super) const TCP_V6: Traffic = Traffic {
    is_v6: true,
    ..TCP_V4
};
const UDP_V6: Traffic = Traffic {
    is_udp: true,
    ..TCP_V6
};

impl Traffic {
    /// All four.
    pub(super) const ALL: [Self; 4] = [TCP_V4, UDP_V4, TCP_V6, UDP_V6];

    /// For reports: `IPv4 TCP`.
    pub(super) fn name(self) -> String {
        let family = if self.is_v6 { "IPv6" } else { "IPv4" };
        let protocol = if self.is_udp { "UDP" } else { "TCP" };
        format!("{family} {protocol}")
    }

    /// The same protocol over IPv4.
    pub(super) const fn over_v4(self) -> Self {
        Self {
            is_v6: false,
            ..self
        }
    }

    /// Flow 0's client.
    pub(super) fn client(self) -> SocketAddr {
        let address = if self.is_v6 {
            IpAddr::from(Ipv6Addr::new(0xfd00, 0x100, 0, 0, 0, 0, 0, 0))
        } else {
            Ipv4Addr::new(172, 20, 0, 0).into()
        };
        SocketAddr::new(address, FIRST_PORT)
    }

    /// A server that is of no service.
    pub(super) fn stranger(self) -> SocketAddr {
        let address = if self.is_v6 {
            IpAddr::from(Ipv6Addr::new(0xfd00, 0x300, 0, 0, 0, 0, 0, 1))
        } else {
            Ipv4Addr::new(10, 210, 0, 1).into()
        };
        SocketAddr::new(address, 8080)
    }

    /// What the client is to a backend elsewhere, to which it comes from outside.
    pub(super) fn own(self) -> SocketAddr {
        let (v4, v6) = ground::OWN;
        let address = if self.is_v6 { v6.into() } else { v4.into() };
        SocketAddr::new(address, FIRST_PORT)
    }

    /// Packets with these ends, of which one is flow 0's client.
    pub(super) fn between(
        self,
        [source, destination]: [SocketAddr; 2],
        client: Client,
        flags: u8,
    ) -> Result<Course> {
        let headers = match (self.is_v6, self.is_udp) {
            (false, false) => 40,
            (false, true) => 28,
            (true, false) => 60,
            (true, true) => 48,
        };
        let packet = if self.is_udp {
            packets::udp(source, destination)
        } else {
            packets::tcp(source, destination).flags(flags)
        };
        course(&packet.payload(&vec![0; HEADER - headers]).build(), client)
    }

    /// Packets of a service's clients.
    pub(super) fn request(self, service: &Service, flags: u8) -> Result<Course> {
        let ends = [self.client_of(service)?, service.dialled(self.is_v6)];
        self.between(ends, Client::Source, flags)
    }

    /// Packets of its first endpoint to them.
    pub(super) fn reply(self, service: &Service, flags: u8) -> Result<Course> {
        let ends = [self.backend_of(service)?, self.client_of(service)?];
        self.between(ends, Client::Destination, flags)
    }

    /// A service's first endpoint.
    pub(super) fn backend_of(self, service: &Service) -> Result<SocketAddr> {
        let endpoints = service.endpoints(self.is_v6);
        let first = endpoints.first().copied();
        first.context("a service has an endpoint")
    }

    /// A hairpin's client is the endpoint.
    fn client_of(self, service: &Service) -> Result<SocketAddr> {
        if service.dialled(false) == HAIRPIN.dialled(false) {
            Ok(SocketAddr::new(self.backend_of(service)?.ip(), FIRST_PORT))
        } else {
            Ok(self.client())
        }
    }
}
