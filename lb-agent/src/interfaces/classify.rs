//! Which device is what.

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

/// A device's role, and why it has it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Classified {
    /// The role.
    pub role: Role,
    /// Why, in words that follow the device's name.
    pub why: &'static str,
}

/// The role of the device `index` among `devices`, on a Node with `node_addresses`.
///
/// An uplink carries an address of the Node or a default route, even if it is a veth, or is a
/// tunnel. Any other veth whose peer is in another namespace leads to a workload. Names given by
/// the operator come first.
pub fn classify(
    index: u32,
    devices: &Devices,
    node_addresses: &[IpAddr],
    overrides: &InterfaceOverrides,
) -> Classified {
    let Some(device) = devices.get(&index) else {
        return Classified {
            role: Role::None,
            why: "is gone",
        };
    };
    let is_named = |patterns: &[String]| {
        patterns
            .iter()
            .any(|pattern| matches_glob(pattern, &device.name))
    };
    let (role, why) = if is_named(&overrides.ignored) {
        (Role::None, "is ignored by the settings")
    } else if is_named(&overrides.workloads) {
        (workload(device, devices), "is a workload by the settings")
    } else if is_named(&overrides.uplinks) {
        (Role::Uplink, "is an uplink by the settings")
    } else if let Some(why) = why_uplink(device, node_addresses) {
        (Role::Uplink, why)
    } else if device.kind == Kind::Veth && device.is_peer_elsewhere {
        let why = "has its other end in another namespace";
        (workload(device, devices), why)
    } else {
        (Role::None, "is neither")
    };
    Classified { role, why }
}

fn why_uplink(device: &Device, node_addresses: &[IpAddr]) -> Option<&'static str> {
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
mod tests {
    use super::*;

    const NODE: &str = "192.168.0.1";

    fn device(index: u32, name: &str, kind: Kind) -> Device {
        Device {
            index,
            name: name.into(),
            kind,
            ..Device::default()
        }
    }

    fn role_of(changed: Device, overrides: &InterfaceOverrides) -> Role {
        let index = changed.index;
        let devices = [
            device(10, "cni0", Kind::Bridge),
            device(11, "bond0", Kind::Other),
            changed,
        ];
        classify(
            index,
            &devices
                .into_iter()
                .map(|device| (device.index, device))
                .collect(),
            &[NODE.parse().unwrap()],
            overrides,
        )
        .role
    }

    #[test]
    fn roles_follow_from_what_a_device_is() {
        let pod = Device {
            is_peer_elsewhere: true,
            ..device(5, "veth1", Kind::Veth)
        };
        let rows = [
            ("a pod's veth", pod.clone(), Role::Workload { bridge: 0 }),
            (
                "a pod's veth on a bridge",
                Device {
                    master: Some(10),
                    ..pod.clone()
                },
                Role::Workload { bridge: 10 },
            ),
            (
                "a pod's veth under something that is no bridge",
                Device {
                    master: Some(11),
                    ..pod.clone()
                },
                Role::Workload { bridge: 0 },
            ),
            (
                "a veth within this namespace",
                device(5, "veth1", Kind::Veth),
                Role::None,
            ),
            (
                "a veth that carries the Node's address",
                Device {
                    addresses: vec![NODE.parse().unwrap()],
                    ..pod.clone()
                },
                Role::Uplink,
            ),
            (
                "a veth with a gateway address of pods",
                Device {
                    addresses: vec!["10.244.0.1".parse().unwrap()],
                    ..pod.clone()
                },
                Role::Workload { bridge: 0 },
            ),
            (
                "a veth with the default route",
                Device {
                    has_default_route: true,
                    ..pod
                },
                Role::Uplink,
            ),
            (
                "a NIC with the Node's address",
                Device {
                    addresses: vec![NODE.parse().unwrap()],
                    ..device(5, "eth0", Kind::Other)
                },
                Role::Uplink,
            ),
            ("a NIC without", device(5, "eth1", Kind::Other), Role::None),
            ("a tunnel", device(5, "vx0", Kind::Tunnel), Role::Uplink),
            ("a bridge", device(5, "br0", Kind::Bridge), Role::None),
        ];
        for (what, device, expected) in rows {
            assert_eq!(
                role_of(device, &InterfaceOverrides::default()),
                expected,
                "{what}"
            );
        }
    }

    #[test]
    fn names_given_by_the_operator_come_first() {
        let overrides = InterfaceOverrides {
            workloads: vec!["tap*".into()],
            uplinks: vec!["eth*".into(), "tap9".into()],
            ignored: vec!["eth1".into()],
        };
        let check = |name: &str, expected| {
            assert_eq!(
                role_of(device(5, name, Kind::Other), &overrides),
                expected,
                "{name}"
            );
        };
        check("tap3", Role::Workload { bridge: 0 });
        check("tap9", Role::Workload { bridge: 0 });
        check("eth0", Role::Uplink);
        check("eth1", Role::None);
        check("dummy0", Role::None);
    }

    #[test]
    fn a_device_that_is_gone_has_no_role() {
        assert_eq!(
            classify(7, &Devices::new(), &[], &InterfaceOverrides::default()).role,
            Role::None
        );
    }

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, name, expected) in [
            ("cali*", "cali12ab", true),
            ("cali*", "cal", false),
            ("*", "", true),
            ("*0", "eth0", true),
            ("*0", "eth1", false),
            ("v*h*", "veth12", true),
            ("eth0", "eth01", false),
        ] {
            assert_eq!(matches_glob(pattern, name), expected, "{pattern} {name}");
        }
    }
}
