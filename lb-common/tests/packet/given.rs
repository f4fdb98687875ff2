//! Tuples and packets that tests start from, over both families.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use lb_common::family::Family;
use lb_common::flow::{FlowTuple, Protocol};
use lb_common::packet::Frame;
use lb_common::parse::{Packet, ParseError, parse, parse_link};
use proptest::prelude::*;

use crate::packets::{self, PacketBuilder};

pub(crate) fn ip<F: Family>(address: F::Address) -> IpAddr {
    Ipv6Addr::from(F::mapped(address)).to_canonical()
}

pub(crate) fn address<F: Family>(number: u64) -> F::Address {
    if F::IS_V6 {
        F::from_halves([0xfd00_0010_0096_0000, number])
    } else {
        F::from_halves([0x0a60_0000 + number, 0])
    }
}

/// From `1:40000` to `2:80`.
pub(crate) fn tuple<F: Family>(protocol: Protocol) -> FlowTuple<F> {
    FlowTuple {
        source: address::<F>(1),
        destination: address::<F>(2),
        source_port: 40000,
        destination_port: 80,
        protocol,
    }
}

pub(crate) fn build<F: Family>(tuple: &FlowTuple<F>) -> PacketBuilder {
    let source = SocketAddr::new(ip::<F>(tuple.source), tuple.source_port);
    let destination = SocketAddr::new(ip::<F>(tuple.destination), tuple.destination_port);
    match tuple.protocol {
        Protocol::Tcp => packets::tcp(source, destination),
        Protocol::Udp => packets::udp(source, destination),
        Protocol::Sctp => packets::sctp(source, destination),
    }
}

pub(crate) fn parsed<F: Family>(frame: &[u8]) -> Result<Packet<F>, ParseError> {
    let mut frame = frame.to_vec();
    let frame = Frame(&mut frame);
    let link = parse_link(&frame)?;
    assert_eq!(link.is_v6, F::IS_V6);
    parse(&frame, link.l3)
}

pub(crate) fn any_protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![
        Just(Protocol::Tcp),
        Just(Protocol::Udp),
        Just(Protocol::Sctp)
    ]
}

pub(crate) fn any_tuple<F: Family>(protocol: Protocol) -> impl Strategy<Value = FlowTuple<F>> {
    let halves = any::<[u64; 2]>();
    (halves, halves, any::<u16>(), any::<u16>()).prop_map(
        move |(source, destination, source_port, destination_port)| FlowTuple {
            source: F::from_halves(source),
            destination: F::from_halves(destination),
            source_port,
            destination_port,
            protocol,
        },
    )
}
