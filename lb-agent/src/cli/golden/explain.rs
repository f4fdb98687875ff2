//! `explain` on tables in memory.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use lb_common::conntrack::State;
use lb_common::family::{Family, MappedAddress, V4};
use lb_common::flow::{FlowTuple, Protocol};
use lb_common::flows::layout::bucket_words;
use lb_common::flows::memory::AtomicBuckets;
use lb_common::flows::{FlowTable, Insertion};
use lb_common::id::{BackendId, Seconds, ServiceId};
use lb_common::onward::Hop;
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
use crate::cli::explain::{Trace, trace};
use crate::cli::render;
use crate::cli::view::explain::explanation;
use crate::cli::view::mapped;
use crate::cli::view::services::services;
use crate::dataplane::Actual;

const BUCKETS: u32 = 8;
const NOW: Seconds = Seconds(1_000);
const SYN: u8 = 2;

struct Fake {
    actual: Actual,
    flows: Vec<AtomicU64>,
    affinity: BTreeMap<AffinityKey, AffinityValue>,
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

    fn leads_on<F: Family>(&self, _: &FlowTuple<F>, _: bool) -> bool {
        false
    }

    fn source_address<F: Family>(&self) -> F::Address {
        let address = mapped(std::net::IpAddr::from([192, 0, 2, 1]));
        F::from_mapped(address).unwrap_or_else(|| F::from_halves([0; 2]))
    }

    fn is_of_host(&self) -> bool {
        false
    }

    fn device(&self) -> u32 {
        0
    }

    fn hop_of_host<F: Family>(&self, _tuple: &FlowTuple<F>) -> Hop {
        Hop::NONE
    }

    fn source_of<F: Family>(&self, _device: u32) -> F::Address {
        F::from_halves([0; 2])
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
    let services = services(&tables(), &names(), &connections());
    let client = Some("default/client-0".to_owned());
    let notes = ["source port 41000 assumed".to_owned()];
    let view = explanation(&notes, client.as_deref(), trace, &services);
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
    let trace = trace(Role::Workload, &to([10, 96, 0, 1], 80), SYN, &&fake(), NOW);
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
    let first = trace(Role::Workload, &to([10, 96, 0, 1], 80), SYN, &&fake, NOW);
    let entry = first.entry.unwrap();
    let table = FlowTable::<V4, _, _>::new((&fake).flows::<V4>(), 100, |_: State| Seconds(100));
    let found = table.lookup(&entry.key, NOW).unwrap();
    assert!(table.remove(found.location, found.control));
    let inserted = table.insert(&entry, State::Established, Seconds(NOW.0 - 10));
    assert!(matches!(inserted, Insertion::Inserted(_)));
    let trace = trace(Role::Workload, &entry.key.tuple, 16, &&fake, NOW);
    assert_eq!(trace.reason, Reason::Established);
    explained("explain-established", &trace);
}

#[test]
fn golden_explain_a_flow_from_outside_that_leaves_again() {
    let fake = fake();
    let mut trace = trace(Role::Uplink, &to([10, 96, 0, 1], 80), SYN, &&fake, NOW);
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
    let empty = trace(Role::Workload, &to([10, 96, 0, 3], 443), SYN, &&fake(), NOW);
    assert_eq!(empty.reason, Reason::NoEndpoints);
    explained("explain-no-endpoints", &empty);
    let foreign = trace(Role::Workload, &to([192, 0, 2, 1], 443), SYN, &&fake(), NOW);
    assert_eq!(foreign.reason, Reason::NotService);
    assert_eq!(foreign.entry, None);
}
