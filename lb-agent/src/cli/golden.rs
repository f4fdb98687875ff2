//! The shapes of all outputs, held by files: `tests/golden/NAME.{txt,wide.txt,json,yaml}`.
//!
//! `UPDATE=1 cargo test -p lb-agent golden` rewrites them. A change of a `.json` file other than an
//! addition needs a new `apiVersion`.

mod explain;
mod status;
mod verify;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lb_common::flow::Protocol;
use lb_common::id::{BackendId, ServiceId};
use lb_common::table::backend::{BackendFlags, BackendRecord};
use lb_common::table::device::Role;
use lb_common::table::frontend::{FrontendKey, FrontendKind, FrontendValue};
use lb_common::table::region::{HEADER_WORDS, RegionHeader, WhenEmpty};
use lb_common::table::service::{SERVICE_WORDS, ServiceWord};
use serde::Serialize;

use super::inputs::{Connections, DeviceInput, FlowInput, MapInput};
use super::output::{json_into, yaml_into};
use super::render;
use super::render::style::Style;
use super::view::backends::backends;
use super::view::flows::{FlowTableView, flow_stats, flows};
use super::view::interfaces::interfaces;
use super::view::maglev::maglev;
use super::view::maps::maps;
use super::view::services::services;
use super::view::{API_VERSION, Document, Source, mapped};
use crate::dataplane::Actual;
use crate::plan::names::{
    EndpointName, FrontendName, Names, OutReason, ReportName, ServiceName, VERSION,
};

const WEB: ServiceId = ServiceId::new(1, 0);
const DNS: ServiceId = ServiceId::new(2, 3);
const EMPTY: ServiceId = ServiceId::new(3, 0);

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn region(backends: &[BackendId], slots: &[u64]) -> Vec<u64> {
    let header = RegionHeader {
        count: u16::try_from(backends.len()).unwrap(),
        table_size: u32::try_from(slots.len()).unwrap(),
        affinity_seconds: 0,
        when_empty: WhenEmpty::Refuse,
    };
    let mut words = vec![0; usize::try_from(header.words()).unwrap()];
    words[..2].copy_from_slice(&header.encode());
    for (position, id) in backends.iter().enumerate() {
        let word = usize::try_from(HEADER_WORDS).unwrap() + position / 2;
        words[word] |= u64::from(id.raw()) << (position % 2 * 32);
    }
    for (slot, &position) in (0..).zip(slots) {
        let (word, shift) = header.slot_word(slot);
        words[usize::try_from(word).unwrap()] |= position << shift;
    }
    words
}

/// Three service ports: one with two ready backends, one draining and one not ready; one over UDP
/// and IPv6 with one backend; one without any. And a fourth that has no name.
fn tables() -> Actual {
    let mut tables = Actual::default();
    let mut backend = |index: u32, address: &str, protocol, flags| {
        let address = socket(address);
        let id = BackendId::new(index, 0);
        let record = BackendRecord::new(
            id,
            mapped(address.ip()),
            address.port(),
            protocol,
            BackendFlags(flags),
        );
        tables.backends.insert(index, record);
        id
    };
    let serving = BackendFlags::SERVING;
    let local = backend(
        1,
        "10.0.1.10:8080",
        Protocol::Tcp,
        serving | BackendFlags::LOCAL,
    );
    let remote = backend(2, "10.0.2.10:8080", Protocol::Tcp, serving);
    backend(
        3,
        "10.0.2.11:8080",
        Protocol::Tcp,
        serving | BackendFlags::TERMINATING,
    );
    let dns = backend(4, "[fd00:0:0:1::20]:5353", Protocol::Udp, serving);
    for (offset, words) in [
        (8, region(&[local, remote], &[0, 1, 0, 1, 0, 1, 0])),
        (64, region(&[dns], &[])),
        (96, region(&[], &[])),
    ] {
        tables.regions.insert(offset, words);
    }
    for (id, offset) in [(WEB, 8), (DNS, 64), (EMPTY, 96), (ServiceId::new(9, 0), 8)] {
        let word = ServiceWord::new(offset, id.generation());
        tables.services.insert(id.index(), [word; SERVICE_WORDS]);
    }
    for (address, protocol, index) in [
        ("10.96.0.1:80", Protocol::Tcp, 1),
        ("[fd00:96::a]:53", Protocol::Udp, 2),
        ("10.96.0.3:443", Protocol::Tcp, 3),
        ("10.96.0.9:9090", Protocol::Tcp, 9),
    ] {
        let address = socket(address);
        let key = FrontendKey::new(mapped(address.ip()), address.port(), protocol);
        let value = FrontendValue::new(&key, FrontendKind::ClusterIp, index, false);
        tables.frontends.insert(key, value);
    }
    tables
}

fn names() -> Names {
    const READY: u8 = EndpointName::READY | EndpointName::SERVING | EndpointName::INTERNAL;
    let endpoint = |backend, address: &str, pod, node, bits, out| {
        let address = socket(address);
        EndpointName {
            backend,
            address: address.ip(),
            port: address.port(),
            pod,
            node,
            zone: 8,
            weight: 100,
            bits,
            out,
        }
    };
    let service = |id: ServiceId, name: &str, port: &str, protocol: Protocol, address: &str| {
        let address = socket(address);
        ServiceName {
            id: id.raw(),
            namespace: "default".to_owned(),
            name: name.to_owned(),
            port_name: port.to_owned(),
            protocol: protocol.number(),
            is_v6: address.is_ipv6(),
            frontends: vec![FrontendName {
                address: address.ip(),
                port: address.port(),
                kind: 1,
                is_shadowed: false,
                is_ranged: false,
            }],
            is_internal_local: false,
            is_external_local: false,
            affinity_seconds: 0,
            endpoints: Vec::new(),
        }
    };
    let mut web = service(WEB, "web", "http", Protocol::Tcp, "10.96.0.1:80");
    web.endpoints = vec![
        endpoint(1, "10.0.1.10:8080", 1, 5, READY | EndpointName::LOCAL, None),
        endpoint(2, "10.0.2.10:8080", 2, 6, READY, None),
        endpoint(
            3,
            "10.0.2.11:8080",
            3,
            6,
            EndpointName::SERVING | EndpointName::TERMINATING,
            Some(OutReason::Terminating),
        ),
        endpoint(0, "10.0.3.12:8080", 0, 7, 0, Some(OutReason::NotReady)),
    ];
    let mut dns = service(DNS, "dns", "", Protocol::Udp, "[fd00:96::a]:53");
    dns.is_internal_local = true;
    dns.affinity_seconds = 10_800;
    dns.endpoints = vec![endpoint(
        4,
        "[fd00:0:0:1::20]:5353",
        4,
        5,
        READY | EndpointName::LOCAL,
        None,
    )];
    let empty = service(EMPTY, "empty", "https", Protocol::Tcp, "10.96.0.3:443");
    Names {
        version: VERSION,
        node: "n1".to_owned(),
        services: vec![dns, empty, web],
        strings: [
            "", "web-a", "web-b", "web-c", "dns-0", "n1", "n2", "n3", "z1",
        ]
        .map(str::to_owned)
        .to_vec(),
        reports: vec![ReportName {
            namespace: "default".to_owned(),
            name: "empty".to_owned(),
            text: "no EndpointSlice names this Service".to_owned(),
        }],
    }
}

fn connections() -> Connections {
    Connections {
        services: BTreeMap::from([(1, 1200), (2, 7)]),
        backends: BTreeMap::from([(1, 640), (2, 560), (4, 7)]),
    }
}

fn flow_entries() -> Vec<FlowInput> {
    let web = FlowInput {
        protocol: Protocol::Tcp,
        is_original: true,
        is_ingress: true,
        is_from_outside: false,
        is_of_host: false,
        source: socket("10.0.1.7:41000"),
        destination: socket("10.96.0.1:80"),
        translated_source: socket("10.0.1.7:41000"),
        translated_destination: socket("10.0.2.10:8080"),
        state: "established",
        is_confirmed: true,
        idle: Duration::from_secs(3),
        expires_in: Duration::from_secs(86_397),
        service: WEB,
        backend: BackendId::new(2, 0),
    };
    vec![
        FlowInput {
            is_original: false,
            is_ingress: false,
            source: socket("10.0.2.10:8080"),
            destination: socket("10.0.1.7:41000"),
            translated_source: socket("10.96.0.1:80"),
            translated_destination: socket("10.0.1.7:41000"),
            ..web.clone()
        },
        FlowInput {
            expires_in: Duration::ZERO,
            source: socket("10.0.1.8:41000"),
            ..web.clone()
        },
        FlowInput {
            protocol: Protocol::Udp,
            source: socket("[fd00:0:0:1::7]:41000"),
            destination: socket("[fd00:96::a]:53"),
            translated_source: socket("[fd00:0:0:1::7]:2048"),
            translated_destination: socket("[fd00:0:0:1::20]:5353"),
            state: "udp_new",
            is_confirmed: false,
            idle: Duration::ZERO,
            expires_in: Duration::from_secs(30),
            service: DNS,
            ..web.clone()
        },
        // A client from outside, a backend elsewhere: two pairs, one half of which is lost.
        FlowInput {
            is_from_outside: true,
            source: socket("203.0.113.9:50000"),
            destination: socket("192.0.2.1:30080"),
            translated_source: socket("203.0.113.9:50000"),
            ..web.clone()
        },
        FlowInput {
            is_original: false,
            is_ingress: false,
            is_from_outside: true,
            source: socket("10.0.2.10:8080"),
            destination: socket("203.0.113.9:50000"),
            translated_source: socket("192.0.2.1:30080"),
            translated_destination: socket("203.0.113.9:50000"),
            ..web.clone()
        },
        FlowInput {
            is_ingress: false,
            is_from_outside: true,
            source: socket("203.0.113.9:50000"),
            destination: socket("10.0.2.10:8080"),
            translated_source: socket("192.0.2.1:1234"),
            ..web.clone()
        },
        web,
    ]
}

fn map_inputs() -> Vec<MapInput> {
    let map = |name: &str, kind: &str, used, capacity, memory_bytes| MapInput {
        name: name.to_owned(),
        kind: kind.to_owned(),
        used,
        capacity,
        memory_bytes,
        pin: Path::new("/sys/fs/bpf/steerage/v1/maps").join(name),
    };
    vec![
        map("SERVICES", "array", Some(4), 32_768, 524_288),
        map("FLOWS_V4", "array", Some(430_000), 524_288, 37_748_736),
        map("CONFIG", "array", None, 128, 4096),
    ]
}

fn document<T>(kind: &'static str, items: Vec<T>) -> Document<T> {
    Document {
        api_version: API_VERSION,
        kind,
        node: "n1".to_owned(),
        collected_at: "2026-01-02T03:04:05Z".to_owned(),
        source: Source::Maps,
        items,
    }
}

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(file)
}

#[track_caller]
fn check_text(file: &str, actual: &[u8]) {
    let actual = std::str::from_utf8(actual).unwrap();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path(file), actual).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(path(file)).unwrap_or_default();
    assert!(
        actual == expected,
        "{file} differs; UPDATE=1 rewrites it\n--- expected\n{expected}\n--- actual\n{actual}"
    );
}

/// Checks the table, the wide table, the JSON and that the YAML says the same.
#[track_caller]
fn check<T: Serialize>(
    name: &str,
    document: &Document<T>,
    table: impl Fn(&mut Vec<u8>, &[T], Style) -> io::Result<()>,
) {
    for (suffix, wide) in [("txt", false), ("wide.txt", true)] {
        let style = Style {
            wide,
            ..Style::default()
        };
        let mut out = Vec::new();
        table(&mut out, &document.items, style).unwrap();
        check_text(&format!("{name}.{suffix}"), &out);
    }
    let mut json = Vec::new();
    json_into(&mut json, document).unwrap();
    check_text(&format!("{name}.json"), &json);
    let mut yaml = Vec::new();
    yaml_into(&mut yaml, document).unwrap();
    let from_yaml: serde_json::Value =
        serde_saphyr::from_str(std::str::from_utf8(&yaml).unwrap()).unwrap();
    let from_json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(from_yaml, from_json, "{name}: YAML and JSON say the same");
}

#[test]
fn golden_service_list() {
    let views = services(&tables(), &names(), &connections());
    check(
        "service-list",
        &document("ServiceList", views.clone()),
        render::services::services_into,
    );
    check(
        "service-get",
        &document("ServiceList", views),
        render::services::service_details_into,
    );
}

#[test]
fn golden_service_list_without_names() {
    let views = services(&tables(), &Names::default(), &connections());
    check(
        "service-list-without-names",
        &document("ServiceList", views),
        render::services::services_into,
    );
}

#[test]
fn golden_backend_list() {
    let views = backends(&tables(), &names(), &connections());
    check(
        "backend-list",
        &document("BackendList", views),
        render::backends::backends_into,
    );
}

#[test]
fn golden_maglev_show() {
    let tables = tables();
    let views = services(&tables, &names(), &connections())
        .iter()
        .flat_map(|view| maglev(view, &tables))
        .collect();
    check(
        "maglev-show",
        &document("MaglevTableList", views),
        render::maglev::maglev_into,
    );
}

#[test]
fn golden_conntrack() {
    let entries = flow_entries();
    check(
        "conntrack-list",
        &document("FlowList", flows(&entries, &names())),
        render::flows::flows_into,
    );
    let tables = vec![FlowTableView {
        name: "FLOWS_V4".to_owned(),
        used: 3,
        capacity: 524_288,
    }];
    check(
        "conntrack-stats",
        &document("FlowStats", vec![flow_stats(&entries, tables)]),
        |out, items, style| {
            items
                .iter()
                .try_for_each(|stats| render::flows::flow_stats_into(out, stats, style))
        },
    );
}

fn device_inputs() -> [DeviceInput; 5] {
    let device =
        |index, name: Option<&str>, bridge: Option<&str>, has_ingress, has_egress| DeviceInput {
            index,
            name: name.map(str::to_owned),
            role: Some(Role::Workload),
            why: Some("has its other end in another namespace".to_owned()),
            obstacle: None,
            is_open: false,
            is_clear: false,
            plain: Some("the setting datapath.redirect is Off".to_owned()),
            xdp: None,
            no_xdp: None,
            sources: Vec::new(),
            bridge: bridge.map(str::to_owned),
            has_ingress,
            has_egress,
        };
    [
        device(12, Some("veth-b"), None, true, false),
        device(7, Some("veth-a"), Some("cni0"), true, true),
        DeviceInput {
            role: None,
            why: None,
            plain: None,
            ..device(9, None, None, true, true)
        },
        DeviceInput {
            role: Some(Role::Uplink),
            why: Some("has an address of the Node".to_owned()),
            is_open: true,
            is_clear: true,
            plain: None,
            sources: vec![socket("192.0.2.1:1").ip(), socket("[2001:db8::1]:1").ip()],
            ..device(2, Some("eth0"), None, true, true)
        },
        DeviceInput {
            role: None,
            why: Some("is a tunnel".to_owned()),
            obstacle: Some("its packets have no Ethernet header".to_owned()),
            plain: None,
            ..device(3, Some("wg0"), None, false, false)
        },
    ]
}

#[test]
fn golden_interface_list() {
    let devices = device_inputs();
    check(
        "interface-list",
        &document("InterfaceList", interfaces(&devices)),
        render::interfaces::interfaces_into,
    );
}

#[test]
fn golden_maps() {
    check(
        "maps",
        &document("MapList", maps(&map_inputs())),
        render::maps::maps_into,
    );
}
