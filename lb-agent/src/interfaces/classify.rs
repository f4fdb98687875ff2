//! Which device is what.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Device, Devices, Kind};
use crate::settings::InterfaceOverrides;

/// What a device is to the datapath.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// Leads to other nodes.
    Uplink,
    /// Leads to a pod.
    Workload {
        /// Interface index of the bridge that it is a port of, 0 for none.
        bridge: u32,
    },
    /// Left alone.
    None,
}

/// Who says what a device is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ground {
    /// The settings, by its name.
    Settings,
    /// What it is and carries, which may be another thing a moment later.
    Nature,
}

/// Why a device cannot have the role that it should have.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Obstacle {
    /// The operator cannot help it but by another kind of device.
    #[error(
        "its packets have no Ethernet header, which this version cannot read: clients from outside \
         are not served by it, nor sent to backends behind it (if there are none, name it in \
         interfaces.ignored)"
    )]
    NoEthernet,
    /// The operator must choose addresses elsewhere, or name the bridge in `interfaces.uplinks`.
    #[error(
        "it is a bridge of workloads and of other devices: clients behind the latter are not served \
         at its addresses (leave them out of nodePortAddresses, or name it in interfaces.uplinks)"
    )]
    MixedBridge,
}

/// A device's role, and why it has it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Classified {
    /// The role.
    pub role: Role,
    /// Why, in words that follow the device's name.
    pub why: &'static str,
    /// Who says so.
    pub ground: Ground,
    /// Why it has no role though it should have one.
    pub obstacle: Option<Obstacle>,
}

/// By what devices are judged.
#[derive(Clone, Copy, Debug)]
pub struct Criteria<'a> {
    /// The addresses of the Node.
    pub node_addresses: &'a [IpAddr],
    /// Addresses of this node that take node ports, but those of pods' networks.
    pub node_ports: &'a BTreeSet<IpAddr>,
    /// What the operator says.
    pub overrides: &'a InterfaceOverrides,
}

/// The role of the device `index` among `devices`.
///
/// An uplink carries an address of the Node or a default route, even if it is a veth, or is a
/// tunnel. Any other veth whose peer is in another namespace leads to a workload, unless it has a
/// network of its own with an address that takes node ports: that is an uplink too, as is every other
/// device that leads somewhere and has such an address. Names given by the operator come first.
pub fn classify(index: u32, devices: &Devices, criteria: &Criteria<'_>) -> Classified {
    let overrides = criteria.overrides;
    let Some(device) = devices.get(&index) else {
        return told(Role::None, "is gone");
    };
    let is_named = |patterns: &[String]| {
        patterns
            .iter()
            .any(|pattern| matches_glob(pattern, &device.name))
    };
    if is_named(&overrides.ignored) {
        told(Role::None, "is ignored by the settings")
    } else if is_named(&overrides.workloads) {
        let role = workload(device, devices);
        able(device, told(role, "is a workload by the settings"))
    } else if is_named(&overrides.uplinks) {
        able(device, told(Role::Uplink, "is an uplink by the settings"))
    } else if let Some(why) = why_uplink(device, criteria.node_addresses) {
        able(device, found(Role::Uplink, why))
    } else if is_port_of_workloads(device, devices, criteria) {
        let role = workload(device, devices);
        let why = "is a port of the settings' bridge";
        able(device, found(role, why))
    } else {
        by_node_ports(device, devices, criteria.node_ports)
    }
}

const fn told(role: Role, why: &'static str) -> Classified {
    let ground = Ground::Settings;
    Classified {
        ground,
        ..found(role, why)
    }
}

const fn found(role: Role, why: &'static str) -> Classified {
    Classified {
        role,
        why,
        ground: Ground::Nature,
        obstacle: None,
    }
}

/// `wanted`, if the programs can read what the device carries. Of one that is down nothing is said: the
/// kernel makes some tunnels by itself.
fn able(device: &Device, wanted: Classified) -> Classified {
    if !device.lacks_ethernet {
        return wanted;
    }
    Classified {
        role: Role::None,
        obstacle: device.is_up.then_some(Obstacle::NoEthernet),
        ..wanted
    }
}

/// Why a device is an uplink that has no other role, whatever else it is.
pub(crate) fn why_uplink(device: &Device, node_addresses: &[IpAddr]) -> Option<&'static str> {
    let mut addresses = device.addresses.iter();
    if addresses.any(|address| node_addresses.contains(address)) {
        Some("has an address of the Node")
    } else if device.has_default_route {
        Some("has a default route")
    } else if device.kind == Kind::Tunnel {
        Some("is a tunnel")
    } else {
        None
    }
}

/// The role of a device that is no uplink for any other reason.
fn by_node_ports(device: &Device, devices: &Devices, node_ports: &BTreeSet<IpAddr>) -> Classified {
    const WHY: &str = "has an address that takes node ports";
    let takes = |address: &IpAddr| node_ports.contains(address);
    if leads_to_pod(device) {
        // Some CNIs give each pod's device the address of the pods' gateway, by itself.
        return if device.master.is_none() && device.on_link.iter().any(|(it, _)| takes(it)) {
            found(Role::Uplink, WHY)
        } else {
            let why = "has its other end in another namespace";
            found(workload(device, devices), why)
        };
    }
    if !device.addresses.iter().any(takes) {
        return found(Role::None, "is neither");
    }
    match device.kind {
        // Of a veth only those are left whose other end is in this namespace.
        Kind::Local | Kind::Veth => found(Role::None, "leads nowhere"),
        Kind::Bridge => {
            let is_port = |other: &&Device| other.master == Some(device.index);
            let (pods, others): (Vec<_>, Vec<_>) = devices
                .values()
                .filter(is_port)
                .partition(|port| leads_to_pod(port));
            match (pods.is_empty(), others.is_empty()) {
                (true, true) => found(Role::None, "is a bridge without ports"),
                (true, false) => found(Role::Uplink, WHY),
                (false, true) => found(Role::None, "is a bridge of workloads"),
                (false, false) => Classified {
                    obstacle: Some(Obstacle::MixedBridge),
                    ..found(Role::None, WHY)
                },
            }
        }
        Kind::Tunnel | Kind::Other => able(device, found(Role::Uplink, WHY)),
    }
}

/// Whether the operator has said that everything on the device's bridge is a pod. A bridge that leads to
/// other nodes has ports that are none.
fn is_port_of_workloads(device: &Device, devices: &Devices, criteria: &Criteria<'_>) -> bool {
    let bridge = device.master.and_then(|master| devices.get(&master));
    bridge.is_some_and(|bridge| {
        criteria.overrides.workload_bridges.contains(&bridge.name)
            && why_uplink(bridge, criteria.node_addresses).is_none()
    })
}

fn leads_to_pod(device: &Device) -> bool {
    device.kind == Kind::Veth && device.is_peer_elsewhere
}

fn workload(device: &Device, devices: &Devices) -> Role {
    let bridge = device
        .master
        .filter(|master| {
            devices
                .get(master)
                .is_some_and(|master| master.kind == Kind::Bridge)
        })
        .unwrap_or(0);
    Role::Workload { bridge }
}

/// Whether `name` matches `pattern`, in which `*` stands for any characters.
fn matches_glob(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((literal, rest)) => name.strip_prefix(literal).is_some_and(|tail| {
            rest.is_empty()
                || tail
                    .char_indices()
                    .map(|(position, _)| position)
                    .chain([tail.len()])
                    .any(|position| matches_glob(rest, &tail[position..]))
        }),
    }
}

#[cfg(test)]
mod tests;
