//! `explain` on tables in memory.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::AtomicU64;

use lb_common::conntrack::State;
use lb_common::family::{Family, MappedAddress, V4};
use lb_common::flow::{FlowTuple, Protocol};
use lb_common::flows::layout::bucket_words;
use lb_common::flows::memory::AtomicBuckets;
use lb_common::flows::{FlowTable, Insertion};
use lb_common::id::{BackendId, Seconds, ServiceId};
use lb_common::onward::{Hop, Reach};
use lb_common::table::affinity::{AffinityKey, AffinityValue};
use lb_common::table::backend::BackendRecord;
use lb_common::table::config::SERVICE_CIDR_COUNTS;
use lb_common::table::device::Role;
use lb_common::table::fragment::{FragmentKey, FragmentPorts};
use lb_common::table::frontend::FrontendKey;
use lb_common::table::service::{Audience, ServiceWord};
use lb_common::table::source_range::SourceRangeKey;
use lb_common::tables::Tables;
use lb_common::verdict::Reason;

use super::{check, connections, document, names, tables};
use crate::cli::error::CliError;
use crate::cli::explain::{Origin, OwnWays, Routes, Trace, trace};
use crate::cli::inputs::{DeviceInput, address_of};
use crate::cli::render;
use crate::cli::view::explain::explanation;
use crate::cli::view::mapped;
use crate::cli::view::services::services;
use crate::dataplane::Actual;
use crate::interfaces::route::Way;

const BUCKETS: u32 = 8;
const NOW: Seconds = Seconds(1_000);
const SYN: u8 = 2;

struct Fake {
    actual: Actual,
    flows: Vec<AtomicU64>,
    affinity: BTreeMap<AffinityKey, AffinityValue>,
    /// The ways of the packet, where it is this node's own.
    ways: Option<OwnWays>,
}

impl<'a> Tables for &'a Fake {
    type Flows<F: Family> = AtomicBuckets<'a>;

    fn config(&self, word: u32) -> u64 {
        if word == SERVICE_CIDR_COUNTS { 0 } else { 100 }
    }

    fn frontend(&self, key: &FrontendKey) -> Option<u64> {
        self.actual.frontends.get(key).map(|value| value.0)
    }

    fn service(&self, index: u32, _audience: Audience) -> Option<ServiceWord> {
        self.actual.services.get(&index).map(|words| words[0])
    }

    fn arena(&self, word: u32) -> Option<u64> {
        let (offset, words) = self.actual.regions.range(..=word).next_back()?;
        words.get(usize::try_from(word - offset).ok()?).copied()
    }

    fn backend(&self, index: u32) -> Option<BackendRecord> {
        self.actual.backends.get(&index).copied()
    }

    fn service_filter(&self, _word: u32) -> u64 {
        u64::MAX
    }

    fn backend_filter(&self, _word: u32) -> u64 {
        u64::MAX
    }

    fn node_ports(&self, _word: u32) -> u64 {
        0
    }

    fn node_address(&self, _address: &MappedAddress) -> Option<u64> {
        None
    }

    fn has_source_range(&self, _client: &SourceRangeKey) -> bool {
        false
    }

    fn flows<F: Family>(&self) -> AtomicBuckets<'a> {
        AtomicBuckets::new::<F>(&self.flows, BUCKETS).unwrap()
    }

    fn fragment(&self, _key: &FragmentKey) -> Option<FragmentPorts> {
        None
    }

    fn remember_fragment(&self, _key: &FragmentKey, _ports: FragmentPorts) {}

    fn affinity(&self, key: &AffinityKey) -> Option<AffinityValue> {
        self.affinity.get(key).copied()
    }

    fn remember_affinity(&self, _key: &AffinityKey, _value: AffinityValue) {}

    fn share_bridge<F: Family>(&self, _client: F::Address, _backend: F::Address) -> bool {
        false
    }

    fn leads_on<F: Family>(&self, _: &FlowTuple<F>, _: Reach) -> bool {
        false
    }

    fn source_address<F: Family>(&self) -> F::Address {
        let address = mapped(IpAddr::from([192, 0, 2, 1]));
        F::from_mapped(address).unwrap_or_else(|| F::from_halves([0; 2]))
    }

    fn is_of_host(&self) -> bool {
        self.ways.is_some()
    }

    fn device(&self) -> u32 {
        self.ways.as_ref().map_or(0, OwnWays::device)
    }

    fn hop_of_host<F: Family>(&self, tuple: &FlowTuple<F>) -> Hop {
        let [source, destination] =
            [tuple.source, tuple.destination].map(|address| address_of(F::mapped(address)));
        let ways = self.ways.as_ref();
        ways.map_or(Hop::NONE, |ways| ways.hop(source, destination))
    }

    fn source_of<F: Family>(&self, device: u32) -> F::Address {
        let sources = self
            .ways
            .as_ref()
            .map_or(&[][..], |ways| ways.sources(device));
        let first = sources
            .first()
            .and_then(|address| F::from_mapped(mapped(*address)));
        first.unwrap_or_else(|| F::from_halves([0; 2]))
    }

    fn has_socket<F: Family>(&self, _tuple: &FlowTuple<F>) -> bool {
        false
    }

    fn note(&self, _reason: Reason) {}

    fn opened(&self, _service: ServiceId, _backend: BackendId) {}

    fn random(&self) -> u32 {
        0
    }
}

fn fake() -> Fake {
    let words = bucket_words::<V4>() * usize::try_from(BUCKETS).unwrap();
    Fake {
        actual: tables(),
        flows: (0..words).map(|_| AtomicU64::new(0)).collect(),
        affinity: BTreeMap::new(),
        ways: None,
    }
}

fn to(destination: [u8; 4], port: u16) -> FlowTuple<V4> {
    FlowTuple {
        source: [10, 0, 1, 7],
        destination,
        source_port: 41_000,
        destination_port: port,
        protocol: Protocol::Tcp,
    }
}

#[track_caller]
fn explained(name: &str, trace: &Trace<V4>) {
    explained_of(name, Some("default/client-0"), trace);
}

#[track_caller]
fn explained_of(name: &str, client: Option<&str>, trace: &Trace<V4>) {
    let services = services(&tables(), &names(), &connections());
    let notes = ["source port 41000 assumed".to_owned()];
    let view = explanation(&notes, client, trace, &services);
    check(
        name,
        &document("Explanation", vec![view]),
        |out, items, style| {
            items
                .iter()
                .try_for_each(|view| render::explain::explain_into(out, view, style))
        },
    );
}

#[test]
fn golden_explain_a_new_flow() {
    let trace = trace(Origin::Pod, &to([10, 96, 0, 1], 80), SYN, &&fake(), NOW);
    assert_eq!(trace.reason, Reason::NewFlow);
    assert_eq!(
        trace.entry.map(|entry| entry.backend),
        trace.new_flow_to,
        "a new flow goes where selection says"
    );
    explained("explain-new", &trace);
}

#[test]
fn golden_explain_an_established_flow() {
    let fake = fake();
    let first = trace(Origin::Pod, &to([10, 96, 0, 1], 80), SYN, &&fake, NOW);
    let entry = first.entry.unwrap();
    let table = FlowTable::<V4, _, _>::new((&fake).flows::<V4>(), 100, |_: State| Seconds(100));
    let found = table.lookup(&entry.key, NOW).unwrap();
    assert!(table.remove(found.location, found.control));
    let inserted = table.insert(&entry, State::Established, Seconds(NOW.0 - 10));
    assert!(matches!(inserted, Insertion::Inserted(_)));
    let trace = trace(Origin::Pod, &entry.key.tuple, 16, &&fake, NOW);
    assert_eq!(trace.reason, Reason::Established);
    explained("explain-established", &trace);
}

#[test]
fn golden_explain_a_flow_from_outside_that_leaves_again() {
    let fake = fake();
    let mut trace = trace(Origin::Elsewhere, &to([10, 96, 0, 1], 80), SYN, &&fake, NOW);
    assert_eq!(trace.reason, Reason::NewFlow);
    trace.leave("eth0", SYN, &&fake, NOW);
    let left = trace.leaves.expect("a source of this node");
    assert_eq!(left.source, [192, 0, 2, 1]);
    assert_eq!(
        left.source_port, 1024,
        "the first of the range, where lots are 0"
    );
    explained("explain-outside", &trace);
}

#[test]
fn golden_explain_refusals() {
    let empty = trace(Origin::Pod, &to([10, 96, 0, 3], 443), SYN, &&fake(), NOW);
    assert_eq!(empty.reason, Reason::NoEndpoints);
    explained("explain-no-endpoints", &empty);
    let foreign = trace(Origin::Pod, &to([192, 0, 2, 1], 443), SYN, &&fake(), NOW);
    assert_eq!(foreign.reason, Reason::NotService);
    assert_eq!(foreign.entry, None);
}

/// Interface indices of the uplink that leads to service addresses, and of a tunnel.
const UPLINK: u32 = 2;
const TUNNEL: u32 = 4;

fn devices(tunnel_sources: &[IpAddr]) -> Vec<DeviceInput> {
    let device = |index, name: &str, sources: &[IpAddr]| DeviceInput {
        index,
        name: Some(name.to_owned()),
        role: Some(Role::Uplink),
        why: None,
        obstacle: None,
        is_open: false,
        is_clear: false,
        plain: None,
        xdp: None,
        no_xdp: None,
        sources: sources.to_vec(),
        bridge: None,
        has_ingress: true,
        has_egress: true,
    };
    vec![
        device(UPLINK, "eth0", &[IpAddr::from(NODE)]),
        device(TUNNEL, "flannel.1", tunnel_sources),
    ]
}

const NODE: [u8; 4] = [192, 0, 2, 1];
const ON_TUNNEL: [u8; 4] = [10, 0, 1, 0];

/// Pods of this node by a device without programs, those of the others by the tunnel.
#[expect(clippy::unnecessary_wraps, reason = "a host may fail to answer")]
fn way(_: IpAddr, to: IpAddr) -> Result<Option<Way>, CliError> {
    let IpAddr::V4(to) = to else { return Ok(None) };
    Ok(match to.octets() {
        NODE => Some(Way::Local),
        [10, 0, 1, _] => Some(Way::Device(u32::MAX)),
        [10, 0, 2, _] => Some(Way::Device(TUNNEL)),
        [10, 96, ..] => Some(Way::Device(UPLINK)),
        _ => None,
    })
}

/// The same while nothing leads to pods.
fn no_way(from: IpAddr, to: IpAddr) -> Result<Option<Way>, CliError> {
    let way = way(from, to)?;
    Ok(way.filter(|way| *way == Way::Device(UPLINK)))
}

fn from_node(port: u16) -> FlowTuple<V4> {
    FlowTuple {
        source: NODE,
        source_port: port,
        ..to([10, 96, 0, 1], 80)
    }
}

/// What is said of a packet of this node.
fn own(fake: &mut Fake, port: u16, devices: &[DeviceInput], routes: Routes) -> Trace<V4> {
    let tuple = from_node(port);
    let [source, dialled] = [tuple.source, tuple.destination].map(IpAddr::from);
    fake.ways = Some(
        OwnWays::find(source, dialled, devices, routes)
            .unwrap()
            .unwrap(),
    );
    let fake = &*fake;
    let mut trace = trace(Origin::Node, &tuple, SYN, &fake, NOW);
    let ways = fake.ways.as_ref().unwrap();
    ways.explain(&mut trace, &fake).unwrap();
    trace
}

const ROUTES: Routes = Routes {
    ask: way,
    forwards: true,
};

/// A port from which the node gets the backend elsewhere.
const TO_REMOTE: u16 = 41_000;

#[test]
fn golden_explain_what_this_node_dials() {
    let devices = devices(&[IpAddr::from(ON_TUNNEL)]);
    let here = (TO_REMOTE + 1..).find_map(|port| {
        let here = own(&mut fake(), port, &devices, ROUTES);
        let translated = here.entry?.translated;
        (translated.destination == [10, 0, 1, 10]).then_some((here.reason, translated.source))
    });
    assert_eq!(here, Some((Reason::NewFlow, NODE)));
    let mut fake = fake();
    let there = own(&mut fake, TO_REMOTE, &devices, ROUTES);
    let translated = there.entry.unwrap().translated;
    assert_eq!(
        (there.reason, translated.source),
        (Reason::NewFlow, ON_TUNNEL)
    );
    assert_eq!(
        translated.source_port, 1024,
        "the first of the range, where lots are 0"
    );
    explained_of("explain-own", None, &there);
    // Its next packet is of a flow that is known, and goes nowhere once no route leads there.
    let known = own(&mut fake, TO_REMOTE, &devices, ROUTES);
    assert_eq!(known.reason, Reason::Established);
    assert_eq!(known.entry.unwrap().translated, translated);
    let gone = Routes {
        ask: no_way,
        ..ROUTES
    };
    let lost = own(&mut fake, TO_REMOTE, &devices, gone);
    assert_eq!(lost.reason, Reason::NotCarried);
}

#[test]
fn golden_explain_what_this_node_is_refused() {
    let gone = Routes {
        ask: no_way,
        ..ROUTES
    };
    let deaf = Routes {
        forwards: false,
        ..ROUTES
    };
    for (sources, routes, reason, words) in [
        (
            &[][..],
            ROUTES,
            Reason::NoSourceAddress,
            "no address for answers",
        ),
        (
            &[IpAddr::from(ON_TUNNEL)],
            gone,
            Reason::NoWayToBackend,
            "no route",
        ),
        (
            &[IpAddr::from(ON_TUNNEL)],
            deaf,
            Reason::NoWayToBackend,
            "does not forward",
        ),
    ] {
        let refused = own(&mut fake(), TO_REMOTE, &devices(sources), routes);
        assert_eq!((refused.reason, refused.entry), (reason, None));
        let last = &refused.steps.last().unwrap().finding;
        assert!(last.contains(words), "{last}");
        if reason == Reason::NoSourceAddress {
            explained_of("explain-own-refused", None, &refused);
        }
    }
}

#[test]
fn golden_explain_what_no_program_sees() {
    for (dialled, words) in [
        (NODE, "this node's own"),
        ([203, 0, 113, 1], "no route"),
        ([10, 0, 1, 10], "without programs"),
    ] {
        let [source, to] = [NODE, dialled].map(IpAddr::from);
        let unseen = OwnWays::find(source, to, &devices(&[]), ROUTES)
            .unwrap()
            .unwrap_err();
        assert!(unseen.contains(words), "{unseen}");
        if dialled == NODE {
            let tuple = FlowTuple {
                destination: NODE,
                ..from_node(TO_REMOTE)
            };
            explained_of(
                "explain-own-unseen",
                None,
                &Trace::unseen(Origin::Node, &tuple, unseen),
            );
        }
    }
}
