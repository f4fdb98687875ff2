//! An echo request through a raw socket, so that no `ping` program is needed.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use crate::{clock, ns::Namespace};

const ECHO_REQUEST_V4: u8 = 8;
const ECHO_REPLY_V4: u8 = 0;
const UNREACHABLE_V4: u8 = 3;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;
const UNREACHABLE_V6: u8 = 1;

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pong {
    /// The echo, from the address that was asked, with the same payload.
    Reply,
    /// An ICMP "unreachable" with this code.
    Unreachable(u8),
    /// Nothing in time.
    Silence,
}

/// Sends one echo request from inside `ns`.
pub fn ping(ns: &Namespace, target: IpAddr, patience: Duration) -> Result<Pong> {
    ns.run(|| {
        let (family, protocol) = match target {
            IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
            IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
        };
        let fd = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)
            .context("open a raw ICMP socket")?;
        // Only its send, receive and time-out are used, which are the same for any datagram socket.
        let socket = UdpSocket::from(fd);
        let identifier = std::process::id().to_le_bytes();
        let request = request(target, [identifier[0], identifier[1]]);
        socket
            .send_to(&request, SocketAddr::new(target, 0))
            .context("send an echo request")?;
        receive(&socket, target, &request, patience)
    })
}

/// Type, code, checksum, identifier, sequence, payload. The kernel sums `ICMPv6` itself.
fn request(target: IpAddr, identifier: [u8; 2]) -> Vec<u8> {
    let kind = if target.is_ipv4() {
        ECHO_REQUEST_V4
    } else {
        ECHO_REQUEST_V6
    };
    let mut message = vec![kind, 0, 0, 0, identifier[0], identifier[1], 0, 1];
    message.extend_from_slice(b"a payload of even length");
    if target.is_ipv4() {
        let sum = checksum(&message).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
    }
    message
}

/// RFC 1071 §1, for messages of even length.
fn checksum(message: &[u8]) -> u16 {
    let words = message
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !u16::try_from(folded).unwrap_or(u16::MAX)
}

fn receive(socket: &UdpSocket, target: IpAddr, request: &[u8], patience: Duration) -> Result<Pong> {
    let started = clock::now();
    let mut buffer = [0; 2048];
    loop {
        let left = patience.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Ok(Pong::Silence);
        }
        socket.set_read_timeout(Some(left))?;
        let Ok((length, from)) = socket.recv_from(&mut buffer) else {
            return Ok(Pong::Silence);
        };
        if let Some(pong) = judge(&buffer[..length], from.ip(), target, request)? {
            return Ok(pong);
        }
    }
}

/// A raw socket hears everything; `None` is what does not concern `request`.
fn judge(packet: &[u8], from: IpAddr, target: IpAddr, request: &[u8]) -> Result<Option<Pong>> {
    let (message, reply, unreachable, quoted_header) = match target {
        IpAddr::V4(_) => {
            let header = usize::from(packet.first().map_or(0, |byte| byte & 0x0f)) * 4;
            (
                packet.get(header..).unwrap_or_default(),
                ECHO_REPLY_V4,
                UNREACHABLE_V4,
                20,
            )
        }
        IpAddr::V6(_) => (packet, ECHO_REPLY_V6, UNREACHABLE_V6, 40),
    };
    let Some([kind, code]) = message.first_chunk() else {
        return Ok(None);
    };
    // What follows the type, code and checksum must come back unchanged.
    if *kind == reply && message.get(4..8) == request.get(4..8) {
        if from != target {
            bail!("{target} was asked, {from} replied");
        }
        if message.get(8..) != request.get(8..) {
            bail!("{target} echoed other bytes");
        }
        return Ok(Some(Pong::Reply));
    }
    let quoted = message.get(8 + quoted_header..).unwrap_or_default();
    if *kind == unreachable && quoted.get(4..8) == request.get(4..8) {
        return Ok(Some(Pong::Unreachable(*code)));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn the_checksum_of_a_request_makes_its_sum_zero() {
        let message = request(IpAddr::V4(Ipv4Addr::LOCALHOST), [1, 2]);
        assert_eq!(checksum(&message), 0);
    }
}
