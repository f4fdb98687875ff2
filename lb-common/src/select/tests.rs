//! Session affinity over tables in memory: who is kept, until when, and who is a member.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::integer_division_remainder_used,
    clippy::panic,
    reason = "numbers of tests are small, and a panic is a failed test"
)]

use core::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU64;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::family::{MappedAddress, V4};
use crate::flow::Protocol;
use crate::flows::memory::AtomicBuckets;
use crate::maglev::{self, Cursor, Member};
use crate::onward::{Hop, Reach};
use crate::table::backend::BackendFlags;
use crate::table::fragment::{FragmentKey, FragmentPorts};
use crate::table::frontend::FrontendKey;
use crate::table::service::ServiceWord;
use crate::table::source_range::SourceRangeKey;
use crate::verdict::Reason;

const OFFSET: u32 = 8;
const SERVICE: ServiceId = ServiceId::new(1, 3);
const TIMEOUT: Seconds = Seconds(100);
const NO_WORDS: &[AtomicU64] = &[];

/// One service and its region; no flows.
struct Fake {
    arena: Vec<u64>,
    affinity: RefCell<BTreeMap<AffinityKey, AffinityValue>>,
}

impl Fake {
    /// A service with the backends at these indices.
    fn new(indices: impl IntoIterator<Item = u32>, affinity_seconds: u32) -> Self {
        let mut fake = Self {
            arena: Vec::new(),
            affinity: RefCell::default(),
        };
        fake.set(indices, affinity_seconds);
        fake
    }

    fn set(&mut self, indices: impl IntoIterator<Item = u32>, affinity_seconds: u32) {
        let mut ids: Vec<_> = indices.into_iter().map(backend).collect();
        ids.sort_unstable();
        let count = u16::try_from(ids.len()).unwrap();
        let header = RegionHeader {
            count,
            table_size: maglev::table_size(count.into()),
            affinity_seconds,
            when_empty: WhenEmpty::Refuse,
        };
        let index = |word: u32| usize::try_from(OFFSET + word).unwrap();
        self.arena = std::vec![0; index(header.words())];
        for (word, value) in (0..).zip(header.encode()) {
            self.put(index(word), value);
        }
        for (position, id) in (0..=u16::MAX).zip(&ids) {
            let (word, is_upper) = RegionHeader::id_word(position);
            let shift = if is_upper { 32 } else { 0 };
            self.put(index(word), u64::from(id.raw()) << shift);
        }
        let members: Vec<_> = ids
            .iter()
            .map(|id| Member {
                identity: u64::from(id.raw()),
                weight: 1,
            })
            .collect();
        let mut slots = std::vec![0; usize::try_from(header.table_size).unwrap()];
        let mut cursors = std::vec![Cursor::default(); ids.len()];
        // Larger ones are only searched for members.
        if (2..=100).contains(&count) {
            maglev::fill(&members, &mut slots, &mut cursors).unwrap();
        }
        for (slot, &position) in (0..).zip(&slots) {
            let (word, shift) = header.slot_word(slot);
            self.put(index(word), u64::from(position) << shift);
        }
    }

    fn put(&mut self, index: usize, bits: u64) {
        *self.arena.get_mut(index).unwrap() |= bits;
    }

    /// The backend that a new connection of `client` gets, which is remembered as `decide` does it.
    fn connect(&self, client: u8, port: u16, now: u32) -> BackendId {
        let now = Seconds(now);
        let tuple = tuple(client, port);
        let Choice::Backend {
            service,
            backend,
            is_sticky,
            ..
        } = select(&self, 1, Audience::Internal, &tuple, now)
        else {
            panic!("there is a backend");
        };
        if is_sticky {
            stick::<V4>(&self, tuple.source, service, backend, now);
        }
        backend
    }

    fn remember(&self, client: u8, backend: BackendId, last: u32) {
        let source = tuple(client, 0).source;
        stick::<V4>(&self, source, SERVICE, backend, Seconds(last));
    }
}

const fn backend(index: u32) -> BackendId {
    BackendId::new(index, index % 1024)
}

const fn tuple(client: u8, port: u16) -> FlowTuple<V4> {
    FlowTuple {
        source: [10, 0, 0, client],
        destination: [10, 96, 0, 1],
        source_port: port,
        destination_port: 80,
        protocol: Protocol::Tcp,
    }
}

impl<'a> Tables for &'a Fake {
    type Flows<F: Family> = AtomicBuckets<'a>;

    fn config(&self, _word: u32) -> u64 {
        0
    }

    fn frontend(&self, _key: &FrontendKey) -> Option<u64> {
        None
    }

    fn service(&self, _index: u32, _audience: Audience) -> Option<ServiceWord> {
        Some(ServiceWord::new(OFFSET, SERVICE.generation()))
    }

    fn arena(&self, word: u32) -> Option<u64> {
        self.arena.get(usize::try_from(word).unwrap()).copied()
    }

    fn backend(&self, index: u32) -> Option<BackendRecord> {
        let [_, _, high, low] = index.to_be_bytes();
        let address = V4::mapped([10, 1, high, low]);
        let (id, flags) = (backend(index), BackendFlags(BackendFlags::SERVING));
        Some(BackendRecord::new(id, address, 8080, Protocol::Tcp, flags))
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
        AtomicBuckets::new::<F>(NO_WORDS, 0).unwrap()
    }

    fn fragment(&self, _key: &FragmentKey) -> Option<FragmentPorts> {
        None
    }

    fn remember_fragment(&self, _key: &FragmentKey, _ports: FragmentPorts) {}

    fn affinity(&self, key: &AffinityKey) -> Option<AffinityValue> {
        self.affinity.borrow().get(key).copied()
    }

    fn remember_affinity(&self, key: &AffinityKey, value: AffinityValue) {
        self.affinity.borrow_mut().insert(*key, value);
    }

    fn share_bridge<F: Family>(&self, _client: F::Address, _backend: F::Address) -> bool {
        false
    }

    fn leads_on<F: Family>(&self, _: &FlowTuple<F>, _: Reach) -> bool {
        false
    }

    fn source_address<F: Family>(&self) -> F::Address {
        F::from_halves([0; 2])
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

#[test]
fn a_client_keeps_its_backend_while_it_connects_within_the_timeout() {
    let fake = Fake::new(1..=50, TIMEOUT.0);
    for client in 0..=255 {
        let first = fake.connect(client, 1, 1000);
        // Each connection begins the timeout anew: ten times over, the epoch changes.
        for (port, turn) in (2..).zip(1..=10) {
            let again = fake.connect(client, port, 1000 + turn * (TIMEOUT.0 - 1));
            assert_eq!(again, first, "client {client}, turn {turn}");
        }
    }
}

#[test]
fn after_the_timeout_most_clients_get_another_backend_of_fifty() {
    let fake = Fake::new(1..=50, TIMEOUT.0);
    let moved = (0..=255).filter(|&client| {
        let first = fake.connect(client, 1, 1000);
        fake.connect(client, 1, 1000 + TIMEOUT.0) != first
    });
    // One in fifty meets the same by chance: five of 256, give or take two.
    assert!(moved.count() > 230);
}

#[test]
fn connections_that_nobody_remembers_yet_agree_within_a_timeout() {
    let fake = Fake::new(1..=50, TIMEOUT.0);
    for client in 0..=255 {
        let chosen: BTreeSet<_> = (1..20)
            .map(|port| {
                fake.affinity.borrow_mut().clear();
                fake.connect(client, port, 1000 + u32::from(port))
            })
            .collect();
        assert_eq!(chosen.len(), 1, "client {client}");
    }
    let clients: BTreeSet<_> = (0..=255).map(|it| fake.connect(it, 1, 1000)).collect();
    assert!(clients.len() > 30, "clients spread: {clients:?}");
}

#[test]
fn a_backend_that_left_loses_its_clients_and_finds_them_gone_when_it_returns() {
    let mut fake = Fake::new(1..=3, TIMEOUT.0);
    for client in 0..=255 {
        fake.set(1..=3, TIMEOUT.0);
        let first = fake.connect(client, 1, 1000);
        fake.set((1..=3).filter(|it| backend(*it) != first), TIMEOUT.0);
        let second = fake.connect(client, 2, 1001);
        assert_ne!(second, first);
        fake.set(1..=3, TIMEOUT.0);
        assert_eq!(fake.connect(client, 3, 1002), second);
    }
}

#[test]
fn without_affinity_nothing_is_remembered_and_nothing_is_asked() {
    let fake = Fake::new(1..=3, 0);
    fake.remember(7, backend(2), 1000);
    let before = fake.affinity.borrow().clone();
    let chosen: BTreeSet<_> = (1..100).map(|port| fake.connect(7, port, 1000)).collect();
    assert_eq!(chosen.len(), 3);
    assert_eq!(*fake.affinity.borrow(), before);
}

#[test]
fn one_backend_is_remembered_for_when_there_are_more() {
    let mut fake = Fake::new([9], TIMEOUT.0);
    for client in 0..=255 {
        fake.set([9], TIMEOUT.0);
        assert_eq!(fake.connect(client, 1, 1000), backend(9));
        fake.set(1..=9, TIMEOUT.0);
        assert_eq!(fake.connect(client, 2, 1001), backend(9));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn members_are_found_and_others_are_not(
        members in prop::collection::btree_set(1_u32..20_000, 0..6_000),
        asked in prop::collection::vec(0_u32..20_001, 200),
    ) {
        let fake = Fake::new(members.iter().copied(), TIMEOUT.0);
        let count = u16::try_from(members.len()).unwrap();
        for index in asked.into_iter().chain(members.iter().copied().take(100)) {
            let found = has_member(&&fake, OFFSET, count, backend(index));
            prop_assert_eq!(found, members.contains(&index), "{}", index);
        }
    }

    #[test]
    fn whatever_is_remembered_only_members_serve(
        members in prop::collection::btree_set(1_u32..40, 1..20),
        remembered in 0_u32..41,
        age in 0_u32..200,
    ) {
        let fake = Fake::new(members.iter().copied(), TIMEOUT.0);
        fake.remember(7, backend(remembered), 1000 - age);
        let chosen = fake.connect(7, 1, 1000);
        prop_assert!(members.contains(&chosen.index()));
        if members.contains(&remembered) && age < TIMEOUT.0 {
            prop_assert_eq!(chosen, backend(remembered));
        }
    }
}

#[test]
fn the_largest_set_is_searched_to_its_ends() {
    let fake = Fake::new(1..=65_535, TIMEOUT.0);
    for index in [1, 2, 32_767, 32_768, 65_534, 65_535] {
        assert!(
            has_member(&&fake, OFFSET, 65_535, backend(index)),
            "{index}"
        );
    }
    for index in [0, 65_536, 70_000] {
        assert!(
            !has_member(&&fake, OFFSET, 65_535, backend(index)),
            "{index}"
        );
    }
}
