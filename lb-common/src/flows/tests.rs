//! One thread: what is found, what makes room for what, and for how long. The threads are in
//! `tests/flows_threads.rs` and `tests/loom_flows.rs`.

use core::sync::atomic::AtomicU64;
use std::vec::Vec;

use super::layout::{bucket_words, entry_words};
use super::memory::AtomicBuckets;
use super::*;
use crate::family::{V4, V6};
use crate::flow::{Direction, FlowTuple, Hook, Path, Protocol};
use crate::id::{BackendId, ServiceId};

const SLOTS_OF_TWO: u16 = 16;

struct Memory(Vec<AtomicU64>);

impl Memory {
    /// Two buckets: every key may lie in all 16 slots.
    fn new<F: Family>() -> Self {
        Self(
            (0..2 * bucket_words::<F>())
                .map(|_| AtomicU64::new(0))
                .collect(),
        )
    }

    fn table<F: Family>(&self) -> FlowTable<F, AtomicBuckets<'_>, fn(State) -> Seconds> {
        let buckets = AtomicBuckets::new::<F>(&self.0, 2).unwrap();
        FlowTable::new(buckets, 1, State::default_timeout)
    }

    /// Fills the table with flows 0 to 15, all in `state`.
    fn fill<F: Family>(&self, state: State, now: Seconds) {
        for number in 0..SLOTS_OF_TWO {
            assert!(!place(&self.table(), &entry::<F>(number), state, now));
        }
    }
}

fn entry<F: Family>(number: u16) -> FlowEntry<F> {
    let address = |low: u64| F::from_halves([low, low.wrapping_mul(0x1_0001)]);
    FlowEntry {
        key: FlowKey {
            tuple: FlowTuple {
                source: address(0x0a00_0001),
                destination: address(0x0a60_0001),
                source_port: number,
                destination_port: 80,
                protocol: Protocol::Tcp,
            },
            hook: Hook::Ingress,
        },
        translated: FlowTuple {
            source: address(0x0a00_0001),
            destination: address(0x0a00_0207),
            source_port: number ^ 0xffff,
            destination_port: 8080,
            protocol: Protocol::Tcp,
        },
        direction: Direction::Original,
        path: Path::Bridged,
        is_from_outside: true,
        service: ServiceId::new(77, 1),
        backend: BackendId::new(u32::from(number).wrapping_add(1), 1023),
    }
}

/// Inserts, and says whether an unconfirmed flow made room.
#[track_caller]
fn place<F: Family, T: Timeouts>(
    table: &FlowTable<F, AtomicBuckets<'_>, T>,
    entry: &FlowEntry<F>,
    state: State,
    now: Seconds,
) -> bool {
    match table.insert(entry, state, now) {
        Insertion::Inserted(placed) => placed.replaced_unconfirmed,
        other => panic!("not inserted: {other:?}"),
    }
}

fn present<F: Family>(memory: &Memory, now: Seconds) -> Vec<u16> {
    (0..100)
        .filter(|number| {
            let entry = entry::<F>(*number);
            let found = memory.table::<F>().lookup(&entry.key, now);
            found
                .inspect(|found| assert_eq!(found.entry, entry))
                .is_some()
        })
        .collect()
}

fn entries_come_back_whole<F: Family>() {
    let memory = Memory::new::<F>();
    let table = memory.table::<F>();
    let original = entry::<F>(9);
    assert_eq!(table.lookup(&original.key, Seconds(5)), None);
    place(&table, &original, State::SynSent, Seconds(5));
    place(&table, &original.partner(), State::SynSent, Seconds(5));
    for entry in [original, original.partner()] {
        let found = table.lookup(&entry.key, Seconds(5)).unwrap();
        assert_eq!((found.entry, found.state), (entry, State::SynSent));
        assert_eq!(table.slot(found.location), Some(Slot::Published(found)));
    }
    let mut other_hook = original.key;
    other_hook.hook = Hook::Egress;
    assert_eq!(table.lookup(&other_hook, Seconds(5)), None);
}

#[test]
fn entries_of_both_families_come_back_whole_at_their_hook_only() {
    entries_come_back_whole::<V4>();
    entries_come_back_whole::<V6>();
}

#[test]
fn a_key_that_is_there_is_not_inserted_again_but_shown() {
    let memory = Memory::new::<V4>();
    let table = memory.table::<V4>();
    let first = entry::<V4>(1);
    let mut second = first;
    second.backend = BackendId::new(500, 0);
    place(&table, &first, State::SynSent, Seconds(0));
    let Insertion::Exists(found) = table.insert(&second, State::SynSent, Seconds(1)) else {
        panic!("the key is there");
    };
    assert_eq!(found.entry, first);
    assert!(table.remove(found.location, found.control));
    assert!(!table.remove(found.location, found.control));
    place(&table, &second, State::SynSent, Seconds(1));
    assert_eq!(table.lookup(&first.key, Seconds(1)).unwrap().entry, second);
}

fn confirmed_flows_stay<F: Family>() {
    let memory = Memory::new::<F>();
    memory.fill::<F>(State::Established, Seconds(0));
    let newcomer = entry::<F>(50);
    let table = memory.table::<F>();
    // To the last second of their timeout, and not longer.
    for now in [0, 1, 86_399] {
        let outcome = table.insert(&newcomer, State::SynSent, Seconds(now));
        assert_eq!(outcome, Insertion::Full, "at {now}");
        assert_eq!(present::<F>(&memory, Seconds(now)).len(), 16);
    }
    assert_eq!(present::<F>(&memory, Seconds(86_400)), []);
    assert!(!place(&table, &newcomer, State::SynSent, Seconds(86_400)));
    assert_eq!(present::<F>(&memory, Seconds(86_400)), [50]);
}

#[test]
fn confirmed_live_flows_make_room_for_nobody_and_expired_ones_for_all() {
    confirmed_flows_stay::<V4>();
    confirmed_flows_stay::<V6>();
}

#[test]
fn unconfirmed_flows_make_room_the_longest_idle_first() {
    let memory = Memory::new::<V4>();
    let table = memory.table::<V4>();
    for number in 0..SLOTS_OF_TWO {
        place(
            &table,
            &entry(number),
            State::SynSent,
            Seconds(number.into()),
        );
    }
    let confirmed = table.lookup(&entry::<V4>(0).key, Seconds(16)).unwrap();
    let advanced = table.advance(confirmed.location, confirmed.control, Seconds(16), |_| {
        State::Established
    });
    assert!(matches!(advanced, Advanced::Changed(State::Established, _)));
    assert!(place(&table, &entry(50), State::SynSent, Seconds(16)));
    assert!(place(&table, &entry(51), State::SynSent, Seconds(16)));
    let mut expected: Vec<u16> = [0].into_iter().chain(3..16).collect();
    expected.extend([50, 51]);
    assert_eq!(present::<V4>(&memory, Seconds(16)), expected);
}

#[test]
fn ended_flows_make_room_before_unconfirmed_ones_and_serve_stragglers_until_then() {
    let memory = Memory::new::<V4>();
    let table = memory.table::<V4>();
    memory.fill::<V4>(State::SynSent, Seconds(0));
    let ended = table.lookup(&entry::<V4>(7).key, Seconds(1)).unwrap();
    table.advance(ended.location, ended.control, Seconds(1), |_| {
        State::TimeWait
    });
    assert_eq!(present::<V4>(&memory, Seconds(1)).len(), 16);
    assert!(!place(&table, &entry(50), State::SynSent, Seconds(1)));
    assert!(!present::<V4>(&memory, Seconds(1)).contains(&7));
    assert!(place(&table, &entry(51), State::SynSent, Seconds(1)));
}

#[test]
fn timeouts_hold_across_the_wrap_of_the_clock() {
    let memory = Memory::new::<V4>();
    let table = memory.table::<V4>();
    let start = (1 << 20) - 10;
    place(&table, &entry(1), State::UdpNew, Seconds(start));
    assert_eq!(present::<V4>(&memory, Seconds(start + 29)), [1]);
    assert_eq!(present::<V4>(&memory, Seconds(start + 30)), []);
}

#[test]
fn an_entry_is_stamped_once_a_second_and_never_backwards() {
    let memory = Memory::new::<V4>();
    let table = memory.table::<V4>();
    place(&table, &entry(1), State::UdpNew, Seconds(100));
    let found = table.lookup(&entry::<V4>(1).key, Seconds(100)).unwrap();
    let advance =
        |control, now| table.advance(found.location, control, Seconds(now), |state| state);
    assert_eq!(
        advance(found.control, 100),
        Advanced::Unchanged(State::UdpNew)
    );
    assert_eq!(
        advance(found.control, 99),
        Advanced::Unchanged(State::UdpNew)
    );
    let Advanced::Changed(_, control) = advance(found.control, 120) else {
        panic!("another second");
    };
    // Who still holds the old word finds the new one.
    assert_eq!(
        advance(found.control, 120),
        Advanced::Unchanged(State::UdpNew)
    );
    assert_eq!(present::<V4>(&memory, Seconds(149)), [1]);
    assert!(!table.remove(found.location, found.control));
    assert!(table.remove(found.location, control));
    assert_eq!(advance(control, 121), Advanced::Lost);
}

#[test]
fn a_change_of_state_is_made_of_the_state_that_is_there() {
    let memory = Memory::new::<V4>();
    let table = memory.table::<V4>();
    place(&table, &entry(1), State::SynSent, Seconds(0));
    let found = table.lookup(&entry::<V4>(1).key, Seconds(0)).unwrap();
    for expected in [State::SynReceived, State::Established] {
        let advanced = table.advance(found.location, found.control, Seconds(0), |state| {
            if state == State::SynSent {
                State::SynReceived
            } else {
                State::Established
            }
        });
        assert!(matches!(advanced, Advanced::Changed(state, _) if state == expected));
    }
}

#[test]
fn tidying_follows_the_later_stamp_of_the_two_halves() {
    let memory = Memory::new::<V4>();
    let table = memory.table::<V4>();
    let original = entry::<V4>(1);
    let reply = original.partner();
    place(&table, &original, State::UdpStream, Seconds(0));
    place(&table, &reply, State::UdpStream, Seconds(100));
    let stale = table.lookup(&original.key, Seconds(100)).unwrap();
    let tidy = |found: &Found<V4>, now| table.tidy(found, Seconds(now), Seconds(10));
    assert_eq!(tidy(&stale, 119), Tidied::Kept);
    assert_eq!(tidy(&stale, 120), Tidied::Restamped);
    assert_eq!(tidy(&stale, 121), Tidied::Kept, "the word has changed");
    let fresh = table.lookup(&original.key, Seconds(219)).unwrap();
    assert_eq!(fresh.control.seconds(), Seconds(100));
    let partner = table.lookup(&reply.key, Seconds(219)).unwrap();
    assert_eq!(tidy(&fresh, 229), Tidied::Kept, "within the grace");
    assert_eq!(tidy(&fresh, 230), Tidied::Removed);
    assert_eq!(tidy(&partner, 230), Tidied::Removed);
    let is_free = |found: &Found<V4>| table.slot(found.location) == Some(Slot::Free);
    assert!(is_free(&fresh) && is_free(&partner));
}

#[test]
fn a_slot_that_was_left_behind_is_shown_can_be_freed_and_is_never_read() {
    let memory = Memory::new::<V4>();
    let table = memory.table::<V4>();
    place(&table, &entry(1), State::SynSent, Seconds(0));
    let found = table.lookup(&entry::<V4>(1).key, Seconds(0)).unwrap();
    for left in [
        found.control.candidate(),
        Control::default().claimed(1, Seconds(0)),
    ] {
        let bucket = Buckets::<V4>::bucket(&table.buckets, found.location.bucket).unwrap();
        let before = bucket.control(found.location.slot);
        assert!(bucket.compare_exchange(found.location.slot, before, left.0));
        assert_eq!(table.slot(found.location), Some(Slot::Unpublished(left)));
        assert_eq!(table.lookup(&entry::<V4>(1).key, Seconds(0)), None);
        assert!(table.remove(found.location, left));
        assert_eq!(table.slot(found.location), Some(Slot::Free));
    }
}

#[test]
fn keys_that_share_a_tag_are_told_apart_by_the_whole_key() {
    let memory = Memory::new::<V4>();
    let table = memory.table::<V4>();
    place(&table, &entry(1), State::SynSent, Seconds(0));
    let found = table.lookup(&entry::<V4>(1).key, Seconds(0)).unwrap();
    let forged = Control(
        u64::from(table.probe(&entry::<V4>(2).key).tag) << 32 | found.control.0 & 0xffff_ffff,
    );
    assert!(table.exchange(found.location, found.control, forged));
    assert_eq!(table.lookup(&entry::<V4>(2).key, Seconds(0)), None);
    place(&table, &entry(2), State::SynSent, Seconds(0));
    assert_eq!(
        table.lookup(&entry::<V4>(2).key, Seconds(0)).unwrap().entry,
        entry(2)
    );
}

#[test]
fn the_two_buckets_of_a_key_differ_and_spread() {
    let words: Vec<_> = (0..64 * bucket_words::<V4>())
        .map(|_| AtomicU64::new(0))
        .collect();
    let buckets = AtomicBuckets::new::<V4>(&words, 64).unwrap();
    let table = FlowTable::<V4, _, _>::new(buckets, 1, State::default_timeout);
    let mut flows = [0_u32; 64];
    for number in 0..6400 {
        let probe = table.probe(&entry::<V4>(number).key);
        assert_ne!(probe.first, probe.second);
        for index in [probe.first, probe.second] {
            flows[usize::try_from(index).unwrap()] += 1;
        }
    }
    // 200 expected in each; six standard deviations either way.
    assert!(
        flows.iter().all(|count| (115..=285).contains(count)),
        "{flows:?}"
    );
}

#[test]
fn a_table_takes_most_of_its_slots_before_it_refuses() {
    let words: Vec<_> = (0..256 * bucket_words::<V4>())
        .map(|_| AtomicU64::new(0))
        .collect();
    let buckets = AtomicBuckets::new::<V4>(&words, 256).unwrap();
    let table = FlowTable::<V4, _, _>::new(buckets, 1, State::default_timeout);
    let taken = (0..u16::MAX)
        .take_while(|number| {
            let outcome = table.insert(&entry(*number), State::Established, Seconds(0));
            matches!(outcome, Insertion::Inserted(_))
        })
        .count();
    std::println!("first refusal after {taken} of {} slots", 256 * SLOTS);
    assert!(taken > 256 * SLOTS * 80 / 100, "{taken}");
}

#[test]
fn memory_that_is_too_short_or_no_power_of_two_is_refused() {
    let memory = Memory::new::<V4>();
    for (count, is_accepted) in [(0, false), (1, true), (2, true), (3, false), (4, false)] {
        let buckets = AtomicBuckets::new::<V4>(&memory.0, count);
        assert_eq!(buckets.is_some(), is_accepted, "{count} buckets");
    }
    assert!(AtomicBuckets::new::<V6>(&memory.0, 2).is_none());
}

#[test]
fn a_flow_costs_two_slots_of_the_documented_size() {
    let bytes = |entry: usize| 2 * 8 * (entry + 1);
    std::println!(
        "bytes per flow: IPv4 {}, IPv6 {}",
        bytes(entry_words::<V4>()),
        bytes(entry_words::<V6>())
    );
    assert_eq!(bytes(entry_words::<V4>()), 144);
    assert_eq!(bytes(entry_words::<V6>()), 208);
    assert_eq!(8 * bucket_words::<V4>(), 576);
    assert_eq!(8 * bucket_words::<V6>(), 832);
}
