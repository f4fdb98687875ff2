//! What drivers can do with XDP's frames: the `netdev` family of generic netlink, which kernels have
//! since 6.3.
//!
//! Two requests over a socket of their own: the family's number, then a dump of all devices. The kernel
//! answers within the call, so nothing waits; where it does not answer, nothing is known.

use std::collections::BTreeMap;
use std::io;

use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use rtnetlink::sys::protocols::NETLINK_GENERIC;
use rtnetlink::sys::{Socket, SocketAddr};

use super::Devices;

/// `GENL_ID_CTRL`: the family that knows the others.
const CONTROL: u16 = 16;
/// `CTRL_CMD_GETFAMILY`.
const GET_FAMILY: u8 = 3;
/// `CTRL_ATTR_FAMILY_ID`, 16 bits.
const FAMILY_ID: u16 = 1;
/// `CTRL_ATTR_FAMILY_NAME`, text that ends with a zero.
const FAMILY_NAME: u16 = 2;
/// `NETDEV_CMD_DEV_GET`.
const GET_DEVICE: u8 = 1;
/// `NETDEV_A_DEV_IFINDEX`, 32 bits.
const INDEX: u16 = 1;
/// `NETDEV_A_DEV_XDP_FEATURES`, 64 bits.
const XDP_FEATURES: u16 = 3;
/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of a dump.
const DONE: u16 = 3;
/// Bytes of a message's header.
const HEADER: usize = 16;
/// Bytes of the family's header behind it.
const FAMILY_HEADER: usize = 4;
/// Bytes of an attribute's header.
const ATTRIBUTE_HEADER: usize = 4;

/// Notes of each of `devices` what its driver can do; of none where the kernel does not say.
pub fn read_features(devices: &mut Devices) {
    let features = dump().unwrap_or_else(|error| {
        tracing::debug!("reading the features of devices: {error}");
        BTreeMap::new()
    });
    for (index, device) in devices {
        device.xdp_features = features.get(index).copied();
    }
}

/// The features of every device of this network namespace, by interface index.
fn dump() -> io::Result<BTreeMap<u32, u64>> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.set_non_blocking(true)?;
    let family = ask(
        &socket,
        CONTROL,
        0,
        GET_FAMILY,
        &[(FAMILY_NAME, b"netdev\0")],
    )?;
    let family = family
        .iter()
        .find_map(|attributes| number(attributes, FAMILY_ID))
        .and_then(|id| u16::try_from(id).ok())
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    let devices = ask(&socket, family, NLM_F_DUMP, GET_DEVICE, &[])?;
    let features = devices.iter().filter_map(|attributes| {
        let index = u32::try_from(number(attributes, INDEX)?).ok()?;
        Some((index, number(attributes, XDP_FEATURES)?))
    });
    Ok(features.collect())
}

/// Sends one request; gives the attributes of each answer.
fn ask(
    socket: &Socket,
    family: u16,
    flags: u16,
    command: u8,
    attributes: &[(u16, &[u8])],
) -> io::Result<Vec<Vec<u8>>> {
    socket.send(
        &request(family, NLM_F_REQUEST | flags, command, attributes),
        0,
    )?;
    let mut answers = Vec::new();
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut is_done = flags & NLM_F_DUMP == 0;
        for message in messages(&bytes) {
            match message.kind {
                ERROR => return Err(error(message.body)),
                DONE => is_done = true,
                _ => answers.extend(message.body.get(FAMILY_HEADER..).map(<[u8]>::to_vec)),
            }
        }
        if is_done {
            return Ok(answers);
        }
    }
}

fn request(family: u16, flags: u16, command: u8, attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = vec![command, 1, 0, 0];
    for (kind, value) in attributes {
        let length = u16::try_from(ATTRIBUTE_HEADER + value.len()).unwrap_or(u16::MAX);
        body.extend(length.to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(*value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(family.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence and sender: nobody else asks on this socket.
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// One message of an answer.
struct Message<'a> {
    kind: u16,
    body: &'a [u8],
}

fn messages(bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    parts(bytes, 4, |part| {
        let length = u32::from_ne_bytes(*part.first_chunk()?);
        usize::try_from(length).ok()
    })
    .filter_map(|part| {
        let kind = u16::from_ne_bytes(part.get(4..6)?.try_into().ok()?);
        let body = part.get(HEADER..)?;
        Some(Message { kind, body })
    })
}

/// The value of the attribute of this `kind`, if it is a number of two, four or eight bytes.
fn number(attributes: &[u8], kind: u16) -> Option<u64> {
    let length = |part: &[u8]| Some(usize::from(u16::from_ne_bytes(*part.first_chunk()?)));
    parts(attributes, ATTRIBUTE_HEADER, length).find_map(|part| {
        let found = u16::from_ne_bytes(part.get(2..4)?.try_into().ok()?);
        if found != kind {
            return None;
        }
        match *part.get(ATTRIBUTE_HEADER..)? {
            [a, b] => Some(u16::from_ne_bytes([a, b]).into()),
            [a, b, c, d] => Some(u32::from_ne_bytes([a, b, c, d]).into()),
            [a, b, c, d, e, f, g, h] => Some(u64::from_ne_bytes([a, b, c, d, e, f, g, h])),
            _ => None,
        }
    })
}

/// What lies one after the other, each a multiple of four bytes apart and as long as it says itself.
fn parts(
    bytes: &[u8],
    least: usize,
    length: impl Fn(&[u8]) -> Option<usize>,
) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = length(rest).filter(|length| *length >= least)?;
        let part = rest.get(..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(part)
    })
}

/// The kernel's answer: a negative `errno`, or 0.
fn error(body: &[u8]) -> io::Error {
    let code = body
        .first_chunk()
        .map_or(0, |code| i32::from_ne_bytes(*code));
    io::Error::from_raw_os_error(code.saturating_neg())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let message = request(0, 0, 0, &[(kind, value)]);
        message[HEADER + FAMILY_HEADER..].to_vec()
    }

    #[test]
    fn numbers_are_found_among_attributes_of_any_size() {
        let mut attributes = attribute(9, b"name\0");
        attributes.extend(attribute(INDEX, &7_u32.to_ne_bytes()));
        attributes.extend(attribute(XDP_FEATURES, &0x47_u64.to_ne_bytes()));
        assert_eq!(number(&attributes, INDEX), Some(7));
        assert_eq!(number(&attributes, XDP_FEATURES), Some(0x47));
        assert_eq!(number(&attributes, 9), None);
        assert_eq!(number(&attributes, 8), None);
        for length in 0..attributes.len() {
            assert_eq!(number(&attributes[..length], 8), None);
        }
    }

    #[test]
    fn messages_end_where_they_say_and_nonsense_is_none() {
        let one = request(CONTROL, 0, GET_FAMILY, &[(FAMILY_NAME, b"netdev\0")]);
        let two = [one.clone(), one.clone()].concat();
        assert_eq!(messages(&two).count(), 2);
        assert!(messages(&two).all(|message| message.kind == CONTROL));
        assert_eq!(messages(&one[..one.len() - 1]).count(), 0);
        assert_eq!(messages(&[0; 64]).count(), 0);
    }

    #[test]
    fn a_refusal_is_the_kernels_own() {
        let body = (-libc::ENOENT).to_ne_bytes();
        assert_eq!(error(&body).kind(), io::ErrorKind::NotFound);
    }
}
