//! Objects of the API as kube-proxy reads them: defaults, leniency, and which Services count at all.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use serde_json::Value;

use super::{Cluster, Network, Protocol};

/// A Service that is served.
pub(super) struct Service {
    pub(super) namespace: String,
    pub(super) name: String,
    /// Of the youngest there can be, if it does not say.
    pub(super) created_seconds: i64,
    /// At most one of each family.
    pub(super) cluster_ips: Vec<IpAddr>,
    pub(super) external_ips: Vec<IpAddr>,
    pub(super) balanced_ips: Vec<IpAddr>,
    pub(super) ports: Vec<Port>,
    pub(super) affinity_seconds: u32,
    pub(super) is_internal_local: bool,
    pub(super) is_external_local: bool,
    source_ranges: Vec<Network>,
}

/// A port of a Service.
#[expect(clippy::struct_field_names, reason = "the names that the API has")]
pub(super) struct Port {
    pub(super) name: String,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    /// 0 for none.
    pub(super) node_port: u16,
}

/// This node.
pub(super) struct Node {
    pub(super) name: String,
    /// Empty for none.
    pub(super) zone: String,
    addresses: Vec<IpAddr>,
    service_networks: Vec<Network>,
}

/// A text inside an object; empty if it is not there.
pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The elements of a list inside an object; none if it is null or not there.
pub(super) fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// A label of an object.
pub(super) fn label<'a>(value: &'a Value, label: &str) -> Option<&'a str> {
    value.pointer("/metadata/labels")?.get(label)?.as_str()
}

/// A port number inside an object; 0 if it is not there.
pub(super) fn number(value: &Value, field: &str) -> u16 {
    let number = value.get(field).and_then(Value::as_u64);
    number.and_then(|it| u16::try_from(it).ok()).unwrap_or(0)
}

/// TCP, if nothing is said.
pub(super) fn protocol(value: &Value) -> Protocol {
    match text(value, "/protocol") {
        "" => "TCP".to_owned(),
        other => other.to_owned(),
    }
}

/// An address; leading zeros mean nothing.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse().ok();
    }
    let numbers: Option<Vec<u8>> = text
        .split('.')
        .map(|part| match part.trim_start_matches('0') {
            "" if part.is_empty() => None,
            "" => Some(0),
            digits => digits.parse().ok(),
        })
        .collect();
    let numbers: [u8; 4] = numbers?.try_into().ok()?;
    Some(Ipv4Addr::from(numbers).into())
}

fn addresses(values: &[Value]) -> Vec<IpAddr> {
    values
        .iter()
        .filter_map(|value| address(value.as_str()?))
        .collect()
}

fn network(text: &str) -> Option<Network> {
    let (first, length) = text.trim().split_once('/')?;
    let (first, length) = (address(first)?, length.parse().ok()?);
    // Bit by bit, to be plainly right.
    let first = match first {
        IpAddr::V4(first) => IpAddr::from(cleared(first.octets(), length)),
        IpAddr::V6(first) => IpAddr::from(cleared(first.octets(), length)),
    };
    Some((first, length))
}

/// The first `length` bits of an address, the others 0.
fn cleared<const N: usize>(mut octets: [u8; N], length: u8) -> [u8; N] {
    for (index, octet) in octets.iter_mut().enumerate() {
        for bit in 0..8 {
            if index * 8 + bit >= usize::from(length) {
                *octet &= !(0x80 >> bit);
            }
        }
    }
    octets
}

fn is_in((first, length): Network, address: IpAddr) -> bool {
    let start = match address {
        IpAddr::V4(address) => IpAddr::from(cleared(address.octets(), length)),
        IpAddr::V6(address) => IpAddr::from(cleared(address.octets(), length)),
    };
    start == first
}

/// Addresses that belong to no host or service that others could reach.
pub(super) const fn is_nobodys(address: IpAddr) -> bool {
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => {
            address.is_unicast_link_local() || address.to_ipv4_mapped().is_some()
        }
    };
    is_link_local || address.is_loopback() || address.is_unspecified() || address.is_multicast()
}

impl Service {
    /// Reads a Service; `None` if it is none of a proxy's business.
    pub(super) fn read(object: &Value) -> Option<Self> {
        if label(object, "service.kubernetes.io/service-proxy-name").is_some() {
            return None;
        }
        let kind = text(object, "/spec/type");
        let main_ip = text(object, "/spec/clusterIP");
        if kind == "ExternalName" || main_ip == "None" || main_ip.is_empty() {
            return None;
        }
        let external_ips = addresses(list(object, "/spec/externalIPs"));
        let can_be_external =
            ["NodePort", "LoadBalancer"].contains(&kind) || !external_ips.is_empty();
        let affinity = object.pointer("/spec/sessionAffinityConfig/clientIP/timeoutSeconds");
        let affinity = affinity.and_then(Value::as_u64).unwrap_or(10_800);
        Some(Self {
            namespace: text(object, "/metadata/namespace").to_owned(),
            name: text(object, "/metadata/name").to_owned(),
            created_seconds: seconds(text(object, "/metadata/creationTimestamp")),
            cluster_ips: cluster_ips(object),
            external_ips,
            balanced_ips: list(object, "/status/loadBalancer/ingress")
                .iter()
                .filter(|ingress| ["", "VIP"].contains(&text(ingress, "/ipMode")))
                .filter_map(|ingress| address(text(ingress, "/ip")))
                .collect(),
            ports: list(object, "/spec/ports")
                .iter()
                .map(|port| Port {
                    name: text(port, "/name").to_owned(),
                    protocol: protocol(port),
                    port: number(port, "port"),
                    node_port: number(port, "nodePort"),
                })
                .collect(),
            affinity_seconds: match text(object, "/spec/sessionAffinity") {
                "ClientIP" => u32::try_from(affinity).unwrap_or(10_800),
                _ => 0,
            },
            is_internal_local: text(object, "/spec/internalTrafficPolicy") == "Local",
            is_external_local: can_be_external
                && text(object, "/spec/externalTrafficPolicy") == "Local",
            source_ranges: list(object, "/spec/loadBalancerSourceRanges")
                .iter()
                .filter_map(|range| network(range.as_str()?))
                .collect(),
        })
    }

    /// Who may dial load balancer addresses of a family; `None` for everybody.
    /// ours: ranges of the other family alone leave nobody, upstream everybody.
    pub(super) fn sources(&self, is_v6: bool) -> Option<BTreeSet<Network>> {
        let ranges = self.source_ranges.iter().copied();
        let own: BTreeSet<Network> = ranges
            .filter(|(first, _)| first.is_ipv6() == is_v6)
            .collect();
        let is_open = own.iter().any(|(_, length)| *length == 0);
        // ours: who says "everybody" of one family, and nothing of the other, means everybody.
        let is_meant = own.is_empty() && self.source_ranges.iter().any(|range| range.1 == 0);
        if self.source_ranges.is_empty() || is_open || is_meant {
            return None;
        }
        // A network inside another says nothing more.
        let is_inside = |inner: &Network| {
            let others = own.iter().filter(|other| *other != inner);
            others
                .copied()
                .any(|outer| outer.1 <= inner.1 && is_in(outer, inner.0))
        };
        Some(own.iter().filter(|it| !is_inside(it)).copied().collect())
    }
}

/// Seconds since the epoch of `2026-01-01T00:00:00Z`.
fn seconds(timestamp: &str) -> i64 {
    let parts: Vec<i64> = timestamp
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect();
    let [year, month, day, hour, minute, second] = parts[..] else {
        return i64::MAX;
    };
    // Days of the months before, in a year that begins in March: leap days come last.
    let (year, month) = if month < 3 {
        (year - 1, month + 9)
    } else {
        (year, month - 3)
    };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    // The epoch is so many days after that year's beginning.
    ((days - 719_468) * 24 + hour) * 3600 + minute * 60 + second
}

fn cluster_ips(object: &Value) -> Vec<IpAddr> {
    let families = list(object, "/spec/ipFamilies");
    let listed = list(object, "/spec/clusterIPs");
    if families.is_empty() || listed.is_empty() {
        return address(text(object, "/spec/clusterIP"))
            .into_iter()
            .collect();
    }
    let pairs = families.iter().zip(listed);
    pairs
        .filter_map(|(family, ip)| {
            let ip = address(ip.as_str()?)?;
            let is_v6 = family.as_str()? == "IPv6";
            (ip.is_ipv6() == is_v6).then_some(ip)
        })
        .collect()
}

impl Node {
    /// The node in question of a cluster, as far as it is known.
    pub(super) fn read(cluster: &Cluster) -> Self {
        let of_type = |wanted: &'static str| {
            let listed = list(&cluster.node, "/status/addresses").iter();
            listed
                .filter(move |entry| text(entry, "/type") == wanted)
                .filter_map(|entry| address(text(entry, "/address")))
        };
        let zone = label(&cluster.node, "topology.kubernetes.io/zone");
        let cidrs = cluster.service_cidrs.iter();
        Self {
            name: cluster.node_name.clone(),
            zone: zone.unwrap_or_default().to_owned(),
            addresses: of_type("InternalIP").chain(of_type("ExternalIP")).collect(),
            service_networks: cidrs
                .flat_map(|object| list(object, "/spec/cidrs"))
                .filter_map(|cidr| network(cidr.as_str()?))
                .collect(),
        }
    }

    /// ours: an external address that would take packets which are another's.
    pub(super) fn refuses_external(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address) || self.refuses_endpoint(address)
    }

    /// ours: an endpoint address that no endpoint can have.
    pub(super) fn refuses_endpoint(&self, address: IpAddr) -> bool {
        let mut networks = self.service_networks.iter().copied();
        is_nobodys(address)
            || networks
                .any(|network| network.0.is_ipv6() == address.is_ipv6() && is_in(network, address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_since_the_epoch() {
        assert_eq!(seconds("1970-01-01T00:00:00Z"), 0);
        assert_eq!(seconds("2026-11-21T23:54:00Z"), 1_795_305_240);
        assert_eq!(seconds("2024-02-29T12:00:01Z"), 1_709_208_001);
        assert_eq!(seconds(""), i64::MAX);
    }

    #[test]
    fn networks_begin_at_their_first_address() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(network(" 10.1.2.3/28"), Some((ip("10.1.2.0"), 28)));
        assert_eq!(network("fd00::ffff/113"), Some((ip("fd00::8000"), 113)));
        assert!(is_in((ip("10.1.2.0"), 28), ip("10.1.2.15")));
        assert!(!is_in((ip("10.1.2.0"), 28), ip("10.1.2.16")));
        assert_eq!(address("172.30.0.041"), Some(ip("172.30.0.41")));
        assert_eq!(address("172.30.0"), None);
        assert_eq!(address("172.30..1"), None);
    }
}
