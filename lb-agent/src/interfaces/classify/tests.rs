//! Devices of real hosts, and the roles that they get.

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
    judged(index, devices, &[], overrides).role
}

fn judged(
    index: u32,
    devices: impl IntoIterator<Item = Device>,
    node_ports: &[&str],
    overrides: &InterfaceOverrides,
) -> Classified {
    let devices = devices.into_iter().map(|device| (device.index, device));
    let node_ports = node_ports.iter().map(|it| it.parse().unwrap()).collect();
    let criteria = Criteria {
        node_addresses: &[NODE.parse().unwrap()],
        node_ports: &node_ports,
        overrides,
    };
    classify(index, &devices.collect(), &criteria)
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

const SELECTED: &str = "198.51.100.7";

/// With an address that takes node ports.
fn bearing(device: Device) -> Device {
    Device {
        addresses: vec![SELECTED.parse().unwrap()],
        is_up: true,
        ..device
    }
}

/// A pod's.
fn pod(index: u32) -> Device {
    Device {
        is_peer_elsewhere: true,
        ..device(index, "veth1", Kind::Veth)
    }
}

/// Checks device 5 of these, which is no uplink where its address takes no node ports.
#[track_caller]
fn check_selected(what: &str, devices: &[Device], role: Role, obstacle: Option<Obstacle>) {
    let overrides = InterfaceOverrides::default();
    let of = |ports: &[&str]| judged(5, devices.to_vec(), ports, &overrides);
    let judged = of(&[SELECTED]);
    assert_eq!((judged.role, judged.obstacle), (role, obstacle), "{what}");
    let other = of(&[]);
    assert_eq!(other.obstacle, None, "{what}, where nothing is selected");
    assert_ne!(
        other.role,
        Role::Uplink,
        "{what}, where nothing is selected"
    );
}

#[test]
fn a_device_with_an_address_that_takes_node_ports_is_an_uplink_if_it_leads_anywhere() {
    let with_network = Device {
        on_link: vec![(SELECTED.parse().unwrap(), 24)],
        ..bearing(pod(5))
    };
    let tun = bearing(Device {
        lacks_ethernet: true,
        ..device(5, "tun0", Kind::Other)
    });
    let down = Device {
        is_up: false,
        ..tun.clone()
    };
    let named = |name, kind| bearing(device(5, name, kind));
    let workload = Role::Workload { bridge: 0 };
    for (what, device, role, obstacle) in [
        ("a NIC", named("eth1", Kind::Other), Role::Uplink, None),
        ("a veth that is a NIC", with_network, Role::Uplink, None),
        (
            "a pod's with the gateway's",
            bearing(pod(5)),
            workload,
            None,
        ),
        ("a veth within", named("v0", Kind::Veth), Role::None, None),
        ("loopback", named("lo", Kind::Local), Role::None, None),
        ("no Ethernet", tun, Role::None, Some(Obstacle::NoEthernet)),
        ("the same while it is down", down, Role::None, None),
    ] {
        check_selected(what, &[device], role, obstacle);
    }
}

#[test]
fn a_bridge_with_an_address_that_takes_node_ports_is_an_uplink_if_no_pod_is_behind_it() {
    let bridge = || bearing(device(5, "br0", Kind::Bridge));
    let nic = || device(6, "eth1", Kind::Other);
    let port = |device: Device| Device {
        master: Some(5),
        ..device
    };
    let mixed = Some(Obstacle::MixedBridge);
    let none = Role::None;
    check_selected("a NIC", &[bridge(), port(nic())], Role::Uplink, None);
    check_selected("pods", &[bridge(), port(pod(6))], none, None);
    check_selected("nothing", &[bridge(), nic()], none, None);
    check_selected("both", &[bridge(), port(nic()), port(pod(7))], none, mixed);
}

#[test]
fn a_tunnel_without_ethernet_has_no_role_and_is_named_unless_it_is_down_or_ignored() {
    let wireguard = |is_up| Device {
        lacks_ethernet: true,
        is_up,
        ..device(5, "wg0", Kind::Tunnel)
    };
    let overrides = InterfaceOverrides::default();
    let judge = |is_up, overrides| {
        let judged = judged(5, [wireguard(is_up)], &[], overrides);
        assert_eq!(judged.role, Role::None);
        judged.obstacle
    };
    assert_eq!(judge(true, &overrides), Some(Obstacle::NoEthernet));
    assert_eq!(judge(false, &overrides), None);
    let ignored = InterfaceOverrides {
        ignored: vec!["wg*".into()],
        ..InterfaceOverrides::default()
    };
    assert_eq!(judge(true, &ignored), None);
    let told = InterfaceOverrides {
        uplinks: vec!["wg0".into()],
        ..InterfaceOverrides::default()
    };
    assert_eq!(judge(true, &told), Some(Obstacle::NoEthernet));
}

#[test]
fn names_given_by_the_operator_come_first() {
    let overrides = InterfaceOverrides {
        workloads: vec!["tap*".into()],
        uplinks: vec!["eth*".into(), "tap9".into()],
        ignored: vec!["eth1".into()],
        ..InterfaceOverrides::default()
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
fn ports_of_the_bridge_that_the_operator_names_are_workloads_unless_it_leads_elsewhere() {
    let overrides = InterfaceOverrides {
        workload_bridges: vec!["vms0".into()],
        ..InterfaceOverrides::default()
    };
    let tap = Device {
        master: Some(10),
        ..device(5, "tap1", Kind::Other)
    };
    let bridge = |name: &str| device(10, name, Kind::Bridge);
    let role = |port: &Device, bridge: Device| {
        judged(port.index, [port.clone(), bridge], &[], &overrides).role
    };
    assert_eq!(role(&tap, bridge("vms0")), Role::Workload { bridge: 10 });
    assert_eq!(role(&tap, bridge("vms00")), Role::None, "another bridge");
    let outward = Device {
        addresses: vec![NODE.parse().unwrap()],
        ..bridge("vms0")
    };
    assert_eq!(role(&tap, outward), Role::None, "the Node's own bridge");
    let uplink = Device {
        has_default_route: true,
        ..tap.clone()
    };
    assert_eq!(role(&uplink, bridge("vms0")), Role::Uplink);
    let alone = Device {
        master: None,
        ..tap
    };
    assert_eq!(role(&alone, bridge("vms0")), Role::None);
}

#[test]
fn a_device_that_is_gone_has_no_role() {
    let gone = judged(7, [], &[], &InterfaceOverrides::default());
    assert_eq!(gone.role, Role::None);
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
