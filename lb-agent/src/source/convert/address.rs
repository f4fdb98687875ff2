//! Addresses and networks, read as leniently as Kubernetes has always read them.
//!
//! A leading zero means nothing (`010.0.0.1` is `10.0.0.1`, mask `/08` is `/8`), although the
//! standard library, like current Go, refuses it: old objects in live clusters have them. An
//! IPv4-mapped IPv6 address is its IPv4 address.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Notes;
use crate::source::report::{Detail, FieldProblem};

/// The address a text stands for.
pub fn parse(text: &str) -> Option<IpAddr> {
    if !text.contains(':') {
        return parse_v4(text).map(IpAddr::V4);
    }
    // Only the quad at the end of an IPv6 address can have zeros that matter.
    let text = match text.rsplit_once(':') {
        Some((head, quad)) if quad.contains('.') => {
            Cow::Owned(format!("{head}:{}", parse_v4(quad)?))
        }
        _ => Cow::Borrowed(text),
    };
    text.parse::<Ipv6Addr>()
        .ok()
        .map(|address| address.to_canonical())
}

/// Whether the address is of IPv6.
pub const fn is_v6(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(_))
}

/// The network a text stands for: its first address and prefix length. Blanks around it are
/// ignored.
pub fn parse_network(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.trim().split_once('/')?;
    let address = parse(address)?;
    let length: u8 = decimal(length)?.try_into().ok()?;
    let network = match address {
        IpAddr::V4(address) => {
            let shift = 32_u32.checked_sub(length.into())?;
            let mask = u32::MAX.checked_shl(shift).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & mask).into()
        }
        IpAddr::V6(address) => {
            let shift = 128_u32.checked_sub(length.into())?;
            let mask = u128::MAX.checked_shl(shift).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    };
    Some((network, length))
}

pub(super) fn parse_noted(
    text: &str,
    field: impl FnOnce() -> String,
    notes: &mut Notes,
) -> Option<IpAddr> {
    let address = parse(text);
    if address.is_none() {
        let detail = Detail::InvalidAddress {
            value: text.to_owned(),
        };
        notes.push(FieldProblem::new(field(), detail));
    }
    address
}

pub(super) fn parse_networks(
    texts: &[String],
    field: &str,
    notes: &mut Notes,
) -> Vec<(IpAddr, u8)> {
    let mut networks = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        if let Some(network) = parse_network(text) {
            networks.push(network);
        } else {
            let detail = Detail::InvalidNetwork {
                value: text.clone(),
            };
            notes.push(FieldProblem::new(format!("{field}[{index}]"), detail));
        }
    }
    networks
}

fn parse_v4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0_u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        *octet = decimal(parts.next()?)?.try_into().ok()?;
    }
    parts.next().is_none().then(|| octets.into())
}

/// A decimal number without sign; leading zeros mean nothing.
fn decimal(text: &str) -> Option<u32> {
    let is_decimal = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_decimal.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_leniently() {
        for (text, expected) in [
            ("172.30.0.041", Some("172.30.0.41")),
            ("1.2.3.004", Some("1.2.3.4")),
            ("192.168.099.022", Some("192.168.99.22")),
            ("10.180.00.001", Some("10.180.0.1")),
            ("fd00::1", Some("fd00::1")),
            ("::ffff:10.0.0.010", Some("10.0.0.10")),
            ("64:ff9b::10.0.0.01", Some("64:ff9b::a00:1")),
            ("", None),
            ("None", None),
            ("10.0.0", None),
            ("10.0.0.256", None),
            ("10.0.0.1.2", None),
            ("+1.0.0.1", None),
            (" 10.0.0.1", None),
            ("fd00::1%eth0", None),
            ("example.com", None),
        ] {
            let expected = expected.map(|address| address.parse().unwrap());
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    #[test]
    fn networks_are_read_leniently_and_masked() {
        for (text, expected) in [
            ("203.0.113.000/025", Some(("203.0.113.0", 25))),
            (" 10.1.2.3/28 ", Some(("10.1.2.0", 28))),
            ("0.0.0.0/0", Some(("0.0.0.0", 0))),
            ("10.0.0.1/32", Some(("10.0.0.1", 32))),
            ("fd00:10:96::5/112", Some(("fd00:10:96::", 112))),
            ("::/0", Some(("::", 0))),
            ("10.0.0.0/33", None),
            ("fd00::/129", None),
            ("10.0.0.0", None),
            ("10.0.0.0/", None),
            ("10.0.0.0/-1", None),
        ] {
            let expected = expected.map(|(address, length)| (address.parse().unwrap(), length));
            assert_eq!(parse_network(text), expected, "{text}");
        }
    }
}
