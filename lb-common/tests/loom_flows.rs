//! The flow table under a model checker: every interleaving of a few threads, and every value that
//! the memory model lets a read return, up to the preemption bound.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p lb-common --test loom_flows --release`

#![cfg(loom)]
#![expect(
    clippy::tests_outside_test_module,
    reason = "the whole file is the test module"
)]

use lb_common::conntrack::State;
use lb_common::family::V4;
use lb_common::flow::{Direction, FlowEntry, FlowKey, FlowTuple, Hook, Path, Protocol};
use lb_common::flows::layout::bucket_words;
use lb_common::flows::memory::AtomicBuckets;
use lb_common::flows::{Advanced, FlowTable, Insertion, Location, SLOTS, Slot};
use lb_common::id::{BackendId, Seconds, ServiceId};
use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::thread;

const NOW: Seconds = Seconds(1000);

#[derive(Clone)]
struct Memory {
    words: Arc<Vec<AtomicU64>>,
    buckets: u32,
}

impl Memory {
    fn new(buckets: u32) -> Self {
        let words = usize::try_from(buckets).unwrap() * bucket_words::<V4>();
        Self {
            words: Arc::new((0..words).map(|_| AtomicU64::new(0)).collect()),
            buckets,
        }
    }

    fn table(&self) -> FlowTable<V4, AtomicBuckets<'_>, fn(State) -> Seconds> {
        let buckets = AtomicBuckets::new::<V4>(&self.words, self.buckets).unwrap();
        FlowTable::new(buckets, 7, State::default_timeout)
    }

    fn insert(&self, entry: &FlowEntry<V4>) -> Insertion<V4> {
        self.table().insert(entry, State::UdpNew, NOW)
    }

    /// Puts an entry into a table that nobody else uses yet.
    fn place(&self, entry: &FlowEntry<V4>) -> lb_common::flows::Placed {
        match self.insert(entry) {
            Insertion::Inserted(placed) => placed,
            other => panic!("there is room: {other:?}"),
        }
    }

    /// Entries with the key of `entry`, once all threads have ended.
    fn published(&self, entry: &FlowEntry<V4>) -> usize {
        let table = self.table();
        (0..self.buckets)
            .flat_map(|bucket| (0..SLOTS).map(move |slot| Location { bucket, slot }))
            .filter(|location| match table.slot(*location).unwrap() {
                Slot::Free => false,
                Slot::Unpublished(control) => panic!("left behind: {control:?}"),
                Slot::Published(found) => found.entry.key == entry.key,
            })
            .count()
    }
}

fn entry(client: u8, backend: u8) -> FlowEntry<V4> {
    let tuple = |destination, port| FlowTuple {
        source: [10, 0, 0, client],
        destination: [10, 0, 1, destination],
        source_port: 40000,
        destination_port: port,
        protocol: Protocol::Udp,
    };
    FlowEntry {
        key: FlowKey {
            tuple: tuple(0, 53),
            hook: Hook::Ingress,
        },
        translated: tuple(backend, 5300 + u16::from(backend)),
        direction: Direction::Original,
        path: Path::Routed,
        is_from_outside: false,
        service: ServiceId::new(1, 0),
        backend: BackendId::new(backend.into(), 0),
    }
}

fn check(preemptions: usize, test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    builder.max_branches = 10_000;
    builder.check(test);
}

/// Inserts one key from several threads, each with its own backend: one of them succeeds, who finds
/// an entry finds that one, and whoever comes later, alone, finds it too.
fn insert_from_all(memory: &Memory, inserters: u8) {
    let threads: Vec<_> = (1..inserters)
        .map(|backend| {
            let memory = memory.clone();
            thread::spawn(move || memory.insert(&entry(1, backend)))
        })
        .collect();
    let mut outcomes = vec![memory.insert(&entry(1, inserters))];
    outcomes.extend(threads.into_iter().map(|thread| thread.join().unwrap()));

    let found = memory.table().lookup(&entry(1, 0).key, NOW);
    let mut winners = 0;
    for outcome in outcomes {
        match outcome {
            Insertion::Inserted(placed) => {
                winners += 1;
                assert_eq!(Some(placed.location), found.map(|found| found.location));
            }
            Insertion::Exists(existing) => {
                assert_eq!(Some(existing.entry), found.map(|found| found.entry));
            }
            // No slot was left, or the winner is slow.
            Insertion::Contended | Insertion::Full => {}
        }
    }
    assert_eq!(winners, 1);
    assert_eq!(memory.published(&entry(1, 0)), 1);
    match memory.insert(&entry(1, 0)) {
        Insertion::Exists(existing) => {
            assert_eq!(Some(existing.entry), found.map(|found| found.entry))
        }
        other => panic!("nothing was left to settle: {other:?}"),
    }
}

#[test]
fn of_two_inserters_of_a_key_one_wins() {
    check(3, || insert_from_all(&Memory::new(1), 2));
}

#[test]
fn of_two_inserters_of_a_key_one_wins_across_buckets() {
    check(2, || insert_from_all(&Memory::new(2), 2));
}

#[test]
fn of_three_inserters_of_a_key_one_wins() {
    check(2, || insert_from_all(&Memory::new(1), 3));
}

#[test]
fn a_reader_beside_an_inserter_sees_a_whole_entry_or_none() {
    check(2, || {
        let memory = Memory::new(1);
        // Both slots are in use: a torn read would mix old and new.
        for client in [8, 9] {
            memory.place(&entry(client, 9));
        }
        let writer = {
            let memory = memory.clone();
            thread::spawn(move || {
                memory.place(&entry(1, 1));
            })
        };
        for client in [1, 8, 9] {
            let expected = entry(client, if client == 1 { 1 } else { 9 });
            if let Some(found) = memory.table().lookup(&expected.key, NOW) {
                assert_eq!(found.entry, expected);
            }
        }
        writer.join().unwrap();
        assert_eq!(memory.published(&entry(1, 0)), 1);
    });
}

#[test]
fn an_entry_that_was_just_confirmed_is_never_taken() {
    check(2, || {
        let memory = Memory::new(1);
        for client in [8, 9] {
            memory.place(&entry(client, 9));
        }
        let newcomer = {
            let memory = memory.clone();
            thread::spawn(move || memory.insert(&entry(1, 1)))
        };
        let mut confirmed = Vec::new();
        for client in [8, 9] {
            let key = entry(client, 9).key;
            if let Some(found) = memory.table().lookup(&key, NOW) {
                let advanced = memory
                    .table()
                    .advance(found.location, found.control, NOW, |_| State::UdpStream);
                if matches!(advanced, Advanced::Changed(State::UdpStream, _)) {
                    confirmed.push(key);
                }
            }
        }
        let outcome = newcomer.join().unwrap();
        for key in &confirmed {
            assert!(memory.table().lookup(key, NOW).is_some());
        }
        match outcome {
            Insertion::Inserted(placed) => {
                assert!(placed.replaced_unconfirmed);
                assert_eq!(confirmed.len(), 1);
            }
            Insertion::Full | Insertion::Contended => assert_eq!(confirmed.len(), 2),
            Insertion::Exists(_) => panic!("nobody else has this key"),
        }
    });
}

#[test]
fn an_entry_is_either_refreshed_or_expired() {
    const LATER: Seconds = Seconds(1100);
    check(3, || {
        let memory = Memory::new(1);
        let placed = memory.place(&entry(8, 9));
        // By its owner, who has not noticed how late it is, and by one who inserts the same key.
        let refresher = {
            let memory = memory.clone();
            thread::spawn(move || {
                memory
                    .table()
                    .advance(placed.location, placed.control, LATER, |state| state)
            })
        };
        let outcome = memory.table().insert(&entry(8, 1), State::UdpNew, LATER);
        let refreshed = refresher.join().unwrap();
        let found = memory
            .table()
            .lookup(&entry(8, 0).key, LATER)
            .expect("one of the two");
        assert_eq!(memory.published(&entry(8, 0)), 1);
        match (refreshed, outcome) {
            (Advanced::Changed(..), Insertion::Exists(_)) => assert_eq!(found.entry, entry(8, 9)),
            (Advanced::Lost, Insertion::Inserted(_)) => assert_eq!(found.entry, entry(8, 1)),
            other => panic!("both or none: {other:?}"),
        }
    });
}

#[test]
fn a_key_that_is_removed_and_inserted_at_once_is_there_once_or_not_at_all() {
    check(3, || {
        let memory = Memory::new(1);
        let placed = memory.place(&entry(1, 9));
        let remover = {
            let memory = memory.clone();
            thread::spawn(move || memory.table().remove(placed.location, placed.control))
        };
        let outcome = memory.insert(&entry(1, 1));
        assert!(remover.join().unwrap(), "nobody else changed the word");
        match outcome {
            Insertion::Inserted(_) => assert_eq!(memory.published(&entry(1, 0)), 1),
            Insertion::Exists(found) => {
                assert_eq!(found.entry, entry(1, 9));
                assert_eq!(memory.published(&entry(1, 0)), 0);
            }
            Insertion::Contended => assert_eq!(memory.published(&entry(1, 0)), 0),
            Insertion::Full => panic!("the other slot is free"),
        }
    });
}
