//! Packets that cross a node: in by one device, out by another, on the plain way and sent on at once.
//!
//! What the host does between its hooks is modelled here, independently of `lb_common::onward`: a packet
//! that is for it and that a route leads on loses one of its TTL and what is behind it, and gets other
//! MACs. Whatever way a packet takes, the same must come out by the same device.

use std::net::{IpAddr, SocketAddr};

use etherparse::Ipv4HeaderSlice;
use lb_common::family::{V4, V6};
use lb_common::flow::{FlowTuple, Hook, Protocol};
use lb_common::onward::Answer;
use lb_common::packet::Frame;
use lb_common::parse::{parse, parse_link};
use lb_common::table::config;
use lb_common::table::device::{DeviceRecord, Role, Takes};

use crate::dice::Dice;
use crate::given::{PROTOCOLS, Place, packet};
use crate::host::{Code, Ended};
use crate::outside;
use crate::packets::{self, DESTINATION_MAC};
use crate::tables::{Fib, MemoryTables, Way};

/// The client's device.
pub const CLIENT: u32 = 11;
/// The backend's, if it is on this node.
pub const BACKEND: u32 = 12;
/// The uplink.
pub const UPLINK: u32 = 13;

/// Bytes of the largest packet by the backend's device: some are too large.
const NARROW: u16 = 1300;
const WIDE: u16 = 1500;
/// Ends that are remembered to send something.
const REMEMBERED: usize = 48;

/// Tags that a frame may have: a priority alone, a VLAN, one of a provider's with a VLAN in it, and two
/// VLANs.
pub const TAGS: [&[u8]; 4] = [
    &[0x81, 0x00, 0xe0, 0x00],
    &[0x81, 0x00, 0x00, 0x05],
    &[0x88, 0xa8, 0x00, 0x07, 0x81, 0x00, 0x00, 0x05],
    &[0x81, 0x00, 0x00, 0x07, 0x81, 0x00, 0x00, 0x05],
];

/// What a device leads to.
pub const fn role(device: u32) -> Role {
    match device {
        UPLINK => Role::Uplink,
        _ => Role::Workload,
    }
}

/// The tables of [`outside::world`] on a node with the three devices. The backend is a pod of this
/// node, or on another one.
pub fn tables(is_local: bool, client: Answer) -> MemoryTables {
    let mut tables = MemoryTables::new(&outside::world());
    let uplink = tables.device;
    let mut ways = Vec::new();
    for place in crate::given::PLACES {
        let host = if place.is_v6() { 128 } else { 32 };
        let network = if place.is_v6() { 96 } else { 16 };
        let way = |network, length, device, answer, mtu| Way {
            network,
            length,
            device,
            answer,
            mtu,
        };
        let backend = if is_local { BACKEND } else { UPLINK };
        ways.push(way(place.pod(2), host, CLIENT, Answer::Known, WIDE));
        ways.push(way(place.pod(3), host, backend, Answer::Known, NARROW));
        ways.push(way(place.address(192, 0), network, 0, Answer::Other, WIDE));
        ways.push(way(place.address(203, 0), network, UPLINK, client, WIDE));
    }
    tables.fib = Fib {
        ways,
        mac: DESTINATION_MAC,
        macs: [CLIENT, BACKEND, UPLINK]
            .map(|device| (device, macs(device)))
            .into(),
    };
    let pod = |index| DeviceRecord::workload(index, 0);
    let uplink = DeviceRecord::uplink(UPLINK, uplink.source::<V4>(), uplink.source::<V6>());
    tables.others = [
        (CLIENT, pod(CLIENT)),
        (BACKEND, pod(BACKEND)),
        (UPLINK, uplink),
    ]
    .into();
    tables.stand_at(UPLINK);
    tables
}

/// Lets packets be sent on by these devices alone, or no new ones by any.
///
/// # Panics
///
/// Never on the machines that this runs on: a `usize` there has 32 bits at least.
pub fn open(tables: &mut MemoryTables, devices: &[u32]) {
    let word = usize::try_from(config::REDIRECT).expect("a usize has 32 bits");
    tables.config[word] = 1;
    for (&index, record) in &mut tables.others {
        *record = record.opened(index, devices.contains(&index));
    }
    tables.stand_at(UPLINK);
}

/// Makes every backend's address a host's, and has nobody else look at what the devices bring.
///
/// # Panics
///
/// Never on the machines that this runs on: a `usize` there has 32 bits at least.
pub fn know_hosts(tables: &mut MemoryTables) {
    let at = |word| usize::try_from(word).expect("a usize has 32 bits");
    tables.config[at(config::CLUSTER_CIDR_COUNTS)] = 0;
    // Of either family one CIDR, whose words are 0 as all are that nobody has written.
    tables.config[at(config::HOST_CIDR_COUNTS)] = 1 << 32 | 1;
    for (&index, record) in &mut tables.others {
        *record = record.cleared(index, true);
    }
    tables.stand_at(UPLINK);
}

/// What frames have in front that leave by a device.
fn macs(device: u32) -> [u8; 12] {
    let device = u8::try_from(device).unwrap_or(0);
    [2, 0, 0, 0, 1, device, 2, 0, 0, 0, 0, device]
}

/// Lets XDP have these devices send frames, and no others.
pub fn let_take(tables: &mut MemoryTables, devices: &[u32]) {
    for (&index, record) in &mut tables.others {
        let takes = if devices.contains(&index) {
            Takes::Frames
        } else {
            Takes::Nothing
        };
        *record = record.with_frames(index, tables.fib.mac, takes, false);
    }
    tables.stand_at(UPLINK);
}

/// What became of a packet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Crossed {
    /// The device that it left by, and as what.
    pub left: Option<(u32, Vec<u8>)>,
    /// How it ended at ingress, if it did not go on.
    pub ended: Option<(Code, Vec<u8>)>,
    /// Whether it was sent on.
    pub is_sent_on: bool,
}

/// Has `run` see the packet in `frame` at the ingress of `device` and at the egress of the one that it
/// leaves by.
pub fn cross(
    fib: &Fib,
    device: u32,
    frame: &[u8],
    mut run: impl FnMut(u32, Hook, &[u8]) -> Ended,
) -> Crossed {
    let arrived = run(device, Hook::Ingress, frame);
    let on_the_way = match (arrived.code, arrived.sent_by) {
        (Code::Redirect, Some(next)) => Some((next, arrived.frame)),
        (Code::Next, _) => route(fib, &arrived.frame),
        (code, _) => {
            return Crossed {
                left: None,
                ended: Some((code, arrived.frame)),
                is_sent_on: false,
            };
        }
    };
    let left = on_the_way.and_then(|(next, mut frame)| {
        frame[..12].copy_from_slice(&fib.macs[&next]);
        let left = run(next, Hook::Egress, &frame);
        (left.code == Code::Next).then_some((next, left.frame))
    });
    Crossed {
        left,
        ended: None,
        is_sent_on: arrived.sent_by.is_some(),
    }
}

/// What a host makes of a packet that is not its own: by which device it goes on, and as what.
fn route(fib: &Fib, frame: &[u8]) -> Option<(u32, Vec<u8>)> {
    if frame.get(..6) != Some(&fib.mac[..]) {
        return None;
    }
    let mut frame = frame.to_vec();
    let (destination, length): (IpAddr, usize) = match frame.get(12..14)? {
        [0x08, 0x00] => {
            let header = Ipv4HeaderSlice::from_slice(&frame[14..]).ok()?;
            if header.to_header().calc_header_checksum() != header.header_checksum() {
                return None;
            }
            (header.destination_addr().into(), header.total_len().into())
        }
        [0x86, 0xdd] => {
            let bytes: [u8; 16] = frame.get(38..54)?.try_into().ok()?;
            let length = u16::from_be_bytes([frame[18], frame[19]]);
            (bytes.into(), usize::from(length) + 40)
        }
        _ => return None,
    };
    let way = fib.way(destination)?;
    if way.answer == Answer::Other || length > usize::from(way.mtu) || 14 + length > frame.len() {
        return None;
    }
    frame.truncate(14 + length);
    let ttl = if destination.is_ipv4() { 22 } else { 21 };
    if frame[ttl] <= 1 {
        return None;
    }
    frame[ttl] -= 1;
    if destination.is_ipv4() {
        let header = Ipv4HeaderSlice::from_slice(&frame[14..]).ok()?.to_header();
        let checksum = header.calc_header_checksum();
        frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    }
    Some((way.device, frame))
}

/// Somebody who may send something to somebody.
#[derive(Clone, Debug)]
struct Ends {
    device: u32,
    protocol: Protocol,
    from: SocketAddr,
    to: SocketAddr,
    /// What it got from there.
    got: Vec<u8>,
}

/// Random packets at a node's devices: of new flows, and of whoever has got one before.
#[derive(Debug)]
pub struct Script {
    dice: Dice,
    place: Place,
    known: Vec<Ends>,
    /// Who got something last: it is most likely to answer, so that some flows get far.
    latest: Option<Ends>,
}

impl Script {
    /// The script of a seed.
    pub const fn new(seed: u64, place: Place) -> Self {
        Self {
            dice: Dice::new(seed),
            place,
            known: Vec::new(),
            latest: None,
        }
    }

    /// True once in `times`.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.dice.one_in(times)
    }

    /// The next packet, and the device that it comes by.
    pub fn next_packet(&mut self) -> (u32, Vec<u8>) {
        let latest = self.latest.take().filter(|_| !self.dice.one_in(12));
        let ends = if let Some(latest) = latest {
            latest
        } else if self.known.is_empty() || self.dice.one_in(4) {
            self.stranger()
        } else {
            self.dice.pick(&self.known).clone()
        };
        let frame = if !ends.got.is_empty() && self.dice.one_in(16) {
            self.error(&ends)
        } else {
            self.frame(&ends)
        };
        (ends.device, frame)
    }

    /// Who got the packet in `frame`, which left by `device`, may answer it.
    pub fn learn(&mut self, device: u32, frame: &[u8]) {
        let Some((from, to, protocol)) = ends_of(frame) else {
            return;
        };
        let ends = Ends {
            device,
            protocol,
            from: to,
            to: from,
            got: frame.to_vec(),
        };
        self.latest = Some(ends.clone());
        if self.known.len() < REMEMBERED {
            self.known.push(ends);
        } else {
            let at = self.dice.roll(REMEMBERED);
            self.known[at] = ends;
        }
    }

    /// A client that dials a service, or that a backend knows without one.
    fn stranger(&mut self) -> Ends {
        let place = self.place;
        let protocol = *self.dice.pick(&PROTOCOLS);
        let port = u16::try_from(1024 + self.dice.roll(64_000)).unwrap_or(u16::MAX);
        let backend = place.backend(protocol);
        let mut dialled = outside::dialled(place).to_vec();
        dialled.push(backend);
        let is_pod = self.dice.one_in(2);
        let (device, address) = if is_pod {
            (CLIENT, place.pod(2))
        } else {
            (UPLINK, outside::client(place).ip())
        };
        Ends {
            device,
            protocol,
            from: SocketAddr::new(address, port),
            to: *self.dice.pick(&dialled),
            got: Vec::new(),
        }
    }

    /// What the one who got a packet, or a router on its way, has to say about it.
    fn error(&mut self, ends: &Ends) -> Vec<u8> {
        let router = self.place.address(203, 77);
        let (from, to) = (ends.from.ip(), ends.to.ip());
        if self.dice.one_in(2) {
            packets::unreachable(from, to, &ends.got).build()
        } else {
            packets::too_big(router, to, 1300, &ends.got).build()
        }
    }

    fn frame(&mut self, ends: &Ends) -> Vec<u8> {
        const FLAGS: [u8; 6] = [
            packets::SYN,
            packets::SYN | packets::ACK,
            packets::ACK,
            packets::ACK,
            packets::ACK | packets::FIN,
            packets::RST,
        ];
        let (dice, is_v6) = (&mut self.dice, self.place.is_v6());
        let mut builder = packet(ends.protocol, ends.from, ends.to).ttl(64);
        if ends.protocol == Protocol::Tcp {
            let flags = if dice.one_in(24) {
                *dice.pick(&FLAGS)
            } else {
                answer_to(&ends.got, is_v6)
            };
            builder = builder.flags(flags);
        }
        if ends.protocol != Protocol::Sctp && dice.one_in(2) {
            builder = builder.payload(&vec![0xa5; dice.roll(1400)]);
        }
        if dice.one_in(8) {
            builder = builder.ttl(*dice.pick(&[0, 1, 2, 255]));
        }
        if dice.one_in(16) {
            builder = if is_v6 {
                builder.extension(60, &[0; 7])
            } else {
                builder.options(1)
            };
        }
        if dice.one_in(32) {
            builder = builder.tag(0x8100);
        }
        let identification = dice.roll(65_536);
        builder = builder.identification(u32::try_from(identification).unwrap_or(0));
        let mut frame = if dice.one_in(16) && ends.protocol != Protocol::Sctp {
            dice.pick(&builder.fragments(64)).clone()
        } else {
            builder.build()
        };
        if dice.one_in(8) {
            frame.resize(frame.len() + 1 + dice.roll(9), 0);
        }
        if dice.one_in(32) {
            frame[5] ^= 1;
        }
        // The header's checksum, or what lies there for IPv6: a byte of the source.
        if dice.one_in(32) {
            frame[25] ^= 1;
        }
        frame
    }
}

/// The flags of the segment that one answers a segment with, or begins with.
fn answer_to(got: &[u8], is_v6: bool) -> u8 {
    let flags = got.get(if is_v6 { 67 } else { 47 });
    match flags.map(|flags| flags & (packets::SYN | packets::ACK)) {
        None => packets::SYN,
        Some(packets::SYN) => packets::SYN | packets::ACK,
        Some(_) => packets::ACK,
    }
}

/// From whom to whom a whole packet goes.
fn ends_of(frame: &[u8]) -> Option<(SocketAddr, SocketAddr, Protocol)> {
    let mut frame = frame.to_vec();
    let frame = Frame(&mut frame);
    let link = parse_link(&frame).ok()?;
    if link.is_v6 {
        let tuple: FlowTuple<V6> = parse::<V6>(&frame, link.l3).ok()?.tuple()?;
        let from = SocketAddr::new(tuple.source.into(), tuple.source_port);
        let to = SocketAddr::new(tuple.destination.into(), tuple.destination_port);
        Some((from, to, tuple.protocol))
    } else {
        let tuple: FlowTuple<V4> = parse::<V4>(&frame, link.l3).ok()?.tuple()?;
        let from = SocketAddr::new(tuple.source.into(), tuple.source_port);
        let to = SocketAddr::new(tuple.destination.into(), tuple.destination_port);
        Some((from, to, tuple.protocol))
    }
}

#[cfg(test)]
mod tests;
