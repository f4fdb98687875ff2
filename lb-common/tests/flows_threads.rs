//! A million random operations on a small flow table from eight threads, against a model.
//!
//! Every entry is made from its key and a number that nobody uses twice, so an entry that was not
//! written as a whole by somebody shows. Confirmed flows have a model: one word for each key with
//! the number of its published entry. It is set after an insertion and cleared before the removal,
//! so while it holds a number the entry must be found, and no second insertion may succeed.

#![cfg(not(loom))]
#![expect(
    clippy::tests_outside_test_module,
    reason = "the whole file is the test module"
)]

use std::collections::HashSet;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::thread;

use lb_common::conntrack::State;
use lb_common::family::{Family, V4, V6};
use lb_common::flow::{Direction, FlowEntry, FlowKey, FlowTuple, Hook, Path, Protocol};
use lb_common::flows::layout::bucket_words;
use lb_common::flows::memory::AtomicBuckets;
use lb_common::flows::{Advanced, FlowTable, Insertion, Location, SLOTS, Slot};
use lb_common::hash::{lower, mix, upper};
use lb_common::id::{BackendId, Seconds, ServiceId};

const THREADS: u64 = 8;
const ROUNDS: u64 = 50;
const OPERATIONS: u64 = 1_000_000 / THREADS / ROUNDS;
const BUCKETS: u32 = 8;
/// Flows that are confirmed when they are inserted: fewer than slots, so that churn has room, but
/// enough to fill some bucket pairs.
const CONFIRMED: u64 = 40;
/// Flows that never are.
const UNCONFIRMED: u64 = 200;

fn address<F: Family>(number: u64) -> F::Address {
    F::from_halves([number & 0xffff_ffff, mix(number, 3)])
}

fn key<F: Family>(number: u64) -> FlowKey<F> {
    FlowKey {
        tuple: FlowTuple {
            source: address::<F>(number),
            destination: address::<F>(mix(0, number)),
            source_port: u16::try_from(number).unwrap(),
            destination_port: 80,
            protocol: Protocol::Tcp,
        },
        hook: Hook::Egress,
    }
}

fn entry<F: Family>(number: u64, nonce: u64) -> FlowEntry<F> {
    let mixed = mix(number, nonce);
    FlowEntry {
        key: key(number),
        translated: FlowTuple {
            source: address::<F>(mixed),
            destination: address::<F>(mix(mixed, 1)),
            source_port: u16::try_from(mixed & 0xffff).unwrap(),
            destination_port: u16::try_from(mixed >> 16 & 0xffff).unwrap(),
            protocol: Protocol::Tcp,
        },
        direction: Direction::Reply,
        is_from_outside: true,
        path: if mixed & 1 == 0 {
            Path::Routed
        } else {
            Path::Bridged
        },
        service: ServiceId::from_raw(upper(nonce)),
        backend: BackendId::from_raw(lower(nonce)),
    }
}

/// The number an entry was made with; fails where it was not made as a whole for this key.
#[track_caller]
fn nonce<F: Family>(number: u64, found: &FlowEntry<F>) -> u64 {
    let nonce = u64::from(found.service.raw()) << 32 | u64::from(found.backend.raw());
    assert_eq!(*found, entry(number, nonce), "an entry that nobody wrote");
    nonce
}

const fn timeout(state: State) -> Seconds {
    match state {
        State::Established => Seconds(86_400),
        _ => Seconds(5),
    }
}

struct World {
    words: Vec<AtomicU64>,
    model: Vec<AtomicU64>,
    clock: AtomicU32,
    rounds: Barrier,
    inserted: AtomicU64,
    existed: AtomicU64,
    refused: AtomicU64,
    contended: AtomicU64,
}

impl World {
    fn new<F: Family>() -> Self {
        let words = usize::try_from(BUCKETS).unwrap() * bucket_words::<F>();
        Self {
            words: (0..words).map(|_| AtomicU64::new(0)).collect(),
            model: (0..CONFIRMED).map(|_| AtomicU64::new(0)).collect(),
            // The 20 bits of a stamp wrap on the way.
            clock: AtomicU32::new((1 << 20) - 30),
            rounds: Barrier::new(usize::try_from(THREADS).unwrap()),
            inserted: AtomicU64::new(0),
            existed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            contended: AtomicU64::new(0),
        }
    }

    fn table<F: Family>(&self) -> FlowTable<F, AtomicBuckets<'_>, fn(State) -> Seconds> {
        let buckets = AtomicBuckets::new::<F>(&self.words, BUCKETS).unwrap();
        FlowTable::new(buckets, 99, timeout)
    }

    fn model(&self, number: u64) -> &AtomicU64 {
        &self.model[usize::try_from(number).unwrap()]
    }

    fn insert<F: Family>(&self, number: u64, fresh: u64, now: Seconds) {
        let is_confirmed = number < CONFIRMED;
        let state = if is_confirmed {
            State::Established
        } else {
            State::SynSent
        };
        match self.table().insert(&entry::<F>(number, fresh), state, now) {
            Insertion::Inserted(_) => {
                self.inserted.fetch_add(1, SeqCst);
                if is_confirmed {
                    let before = self.model(number).swap(fresh, SeqCst);
                    assert_eq!(before, 0, "flow {number} was published twice");
                }
            }
            Insertion::Exists(found) => {
                self.existed.fetch_add(1, SeqCst);
                assert_ne!(nonce(number, &found.entry), fresh);
            }
            Insertion::Full => {
                self.refused.fetch_add(1, SeqCst);
            }
            Insertion::Contended => {
                self.contended.fetch_add(1, SeqCst);
            }
        }
    }

    fn look<F: Family>(&self, number: u64, now: Seconds) {
        let before = self
            .model
            .get(usize::try_from(number).unwrap())
            .map(|m| m.load(SeqCst));
        let found = self.table::<F>().lookup(&key(number), now);
        let read = found.map(|found| nonce(number, &found.entry));
        let after = self
            .model
            .get(usize::try_from(number).unwrap())
            .map(|m| m.load(SeqCst));
        if let (Some(before), Some(after)) = (before, after)
            && before == after
            && before != 0
        {
            assert_eq!(read, Some(before), "flow {number} was lost or replaced");
        }
        if let Some(found) = found {
            let advanced = self
                .table::<F>()
                .advance(found.location, found.control, now, |s| s);
            if let Advanced::Unchanged(state) | Advanced::Changed(state, _) = advanced {
                assert_eq!(state == State::Established, number < CONFIRMED);
            }
        }
    }

    fn remove<F: Family>(&self, number: u64, now: Seconds) {
        if number >= CONFIRMED {
            if let Some(found) = self.table::<F>().lookup(&key(number), now) {
                self.table::<F>().remove(found.location, found.control);
            }
            return;
        }
        let held = self.model(number).load(SeqCst);
        if held == 0
            || self
                .model(number)
                .compare_exchange(held, 0, SeqCst, SeqCst)
                .is_err()
        {
            return;
        }
        // The flow is this thread's now; others may only refresh it.
        loop {
            let found = self.table::<F>().lookup(&key(number), now);
            let found = found.expect("a confirmed live flow that nobody else removes");
            assert_eq!(nonce(number, &found.entry), held);
            if self.table::<F>().remove(found.location, found.control) {
                return;
            }
        }
    }

    /// With all other threads at rest.
    fn inspect<F: Family>(&self) {
        let now = Seconds(self.clock.load(SeqCst));
        let mut seen = HashSet::new();
        for bucket in 0..BUCKETS {
            for slot in 0..SLOTS {
                match self.table::<F>().slot(Location { bucket, slot }).unwrap() {
                    Slot::Free => {}
                    Slot::Unpublished(control) => panic!("left behind: {control:?}"),
                    Slot::Published(found) => {
                        let number = u64::from(found.entry.key.tuple.source_port);
                        nonce(number, &found.entry);
                        assert!(seen.insert(number), "flow {number} is there twice");
                    }
                }
            }
        }
        for number in 0..CONFIRMED {
            let found = self.table::<F>().lookup(&key(number), now);
            let held = found.map_or(0, |found| nonce(number, &found.entry));
            assert_eq!(held, self.model(number).load(SeqCst), "flow {number}");
        }
    }

    fn work<F: Family>(&self, thread: u64) {
        let mut random = mix(0x5eed, thread);
        for round in 0..ROUNDS {
            for operation in 0..OPERATIONS {
                random = mix(random, operation);
                let now = Seconds(self.clock.load(SeqCst));
                // Few keys at a time, so that threads meet.
                let number = if random & 1 == 0 {
                    (random >> 8) % CONFIRMED
                } else {
                    CONFIRMED + (random >> 8) % UNCONFIRMED
                };
                let fresh = 1 + thread + THREADS * (operation + OPERATIONS * round);
                match random >> 40 & 7 {
                    0..=2 => self.insert::<F>(number, fresh, now),
                    3 => self.remove::<F>(number, now),
                    _ => self.look::<F>(number, now),
                }
            }
            if self.rounds.wait().is_leader() {
                self.inspect::<F>();
                self.clock.fetch_add(1, SeqCst);
            }
            self.rounds.wait();
        }
    }
}

fn run<F: Family>() {
    let world = World::new::<F>();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let world = &world;
            scope.spawn(move || world.work::<F>(thread));
        }
    });
    let count = |counter: &AtomicU64| counter.load(SeqCst);
    assert!(count(&world.inserted) > 10_000, "the table was in use");
    assert!(count(&world.existed) > 10_000, "threads met at keys");
    eprintln!(
        "{family:?}: inserted {}, existed {}, full {}, contended {}",
        count(&world.inserted),
        count(&world.existed),
        count(&world.refused),
        count(&world.contended),
        family = F::default(),
    );
}

#[test]
fn a_million_ipv4_operations_from_eight_threads_agree_with_the_model() {
    run::<V4>();
}

#[test]
fn a_million_ipv6_operations_from_eight_threads_agree_with_the_model() {
    run::<V6>();
}
