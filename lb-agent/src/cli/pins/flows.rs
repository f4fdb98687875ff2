//! The flow tables: listed, counted, flushed.

use std::net::SocketAddr;
use std::time::Duration;

use lb_common::conntrack::State;
use lb_common::family::{Family, V4, V6};
use lb_common::flow::{Direction, FlowEntry, FlowKey, Hook, Path};
use lb_common::flows::memory::AtomicBuckets;
use lb_common::flows::{Buckets, FlowTable, Found, Location, SLOTS, Slot, Timeouts};
use lb_common::id::Seconds;
use lb_common::table::config::{SEED, TIMEOUTS};

use super::overlay::{Changes, OverlayBuckets};
use crate::cli::error::CliError;
use crate::cli::inputs::{FlowInput, address_of};
use crate::clock;
use crate::dataplane::bpffs::PinPaths;
use crate::dataplane::layout::Table;
use crate::dataplane::tables::{WordReader, WordTable};

/// Every published entry of both tables.
pub(super) fn read(paths: &PinPaths) -> Result<Vec<FlowInput>, CliError> {
    let mut inputs = Vec::new();
    read_family::<V4>(paths, Table::FlowsV4, &mut inputs)?;
    read_family::<V6>(paths, Table::FlowsV6, &mut inputs)?;
    Ok(inputs)
}

fn read_family<F: Family>(
    paths: &PinPaths,
    table: Table,
    inputs: &mut Vec<FlowInput>,
) -> Result<(), CliError> {
    let config = WordReader::open(paths, Table::Config)?;
    let timeouts = |state: State| timeout(&config, state);
    let buckets = OverlayBuckets::<F>::new(WordReader::open(paths, table)?, Changes::default());
    let flows = FlowTable::<F, _, _>::new(&buckets, seed(&config), &timeouts);
    let now = clock::flow_seconds();
    for_each(&flows, Buckets::<F>::count(&&buckets), |found| {
        inputs.push(input(&found, &timeouts, now));
    });
    Ok(())
}

/// Slots that are not free.
pub(super) fn used_slots(paths: &PinPaths, table: Table) -> Result<u64, CliError> {
    let words = WordReader::open(paths, table)?;
    let used = (0..words.entries())
        .flat_map(|bucket| (0..SLOTS).map(move |slot| (bucket, slot)))
        .filter_map(|(bucket, slot)| words.element(bucket, slot))
        .filter(|&control| !lb_common::flows::Control(control).is_free())
        .count();
    Ok(u64::try_from(used).unwrap_or(u64::MAX))
}

/// Frees the entries of every chosen flow; returns how many flows that were.
pub(super) fn flush(
    paths: &PinPaths,
    choose: &dyn Fn(&FlowInput) -> bool,
) -> Result<u64, CliError> {
    let v4 = flush_family::<V4>(paths, Table::FlowsV4, choose)?;
    let v6 = flush_family::<V6>(paths, Table::FlowsV6, choose)?;
    Ok(v4 + v6)
}

fn flush_family<F: Family>(
    paths: &PinPaths,
    table: Table,
    choose: &dyn Fn(&FlowInput) -> bool,
) -> Result<u64, CliError> {
    let config = WordReader::open(paths, Table::Config)?;
    let timeouts = |state: State| timeout(&config, state);
    let words = WordTable::open(paths, table)?;
    let buckets = AtomicBuckets::new::<F>(words.words(), words.entries()).ok_or(
        CliError::Inconsistent(format!("table {table} has {} buckets", words.entries())),
    )?;
    let flows = FlowTable::<F, _, _>::new(buckets, seed(&config), &timeouts);
    Ok(flush_table(&flows, words.entries(), &timeouts, choose))
}

/// Frees the chosen flows of one table with `buckets` buckets.
fn flush_table<F: Family, B: Buckets<F>, T: Timeouts>(
    flows: &FlowTable<F, B, T>,
    buckets: u32,
    timeouts: &impl Fn(State) -> Seconds,
    choose: &dyn Fn(&FlowInput) -> bool,
) -> u64 {
    let now = clock::flow_seconds();
    let mut chosen = Vec::new();
    for_each(flows, buckets, |found| {
        let input = input(&found, timeouts, now);
        if !input.expires_in.is_zero() && choose(&input) {
            chosen.push(found);
        }
    });
    let mut deleted = 0;
    for found in chosen {
        let partner = found.entry.partner();
        if flows.remove(found.location, found.control) {
            deleted += 1;
        }
        for key in [Some(partner.key), second_leg(&found.entry)]
            .into_iter()
            .flatten()
        {
            let Some(other) = flows.lookup(&key, now) else {
                continue;
            };
            flows.remove(other.location, other.control);
            if key != partner.key
                && let Some(last) = flows.lookup(&other.entry.partner().key, now)
            {
                flows.remove(last.location, last.control);
            }
        }
    }
    deleted
}

/// Where the second pair of a flow is found that may have one. Packets of a pod to itself come back to
/// it as they left, and get their source changed there; those from outside get it where they leave.
fn second_leg<F: Family>(entry: &FlowEntry<F>) -> Option<FlowKey<F>> {
    let is_to_itself = entry.translated.source == entry.translated.destination;
    (is_to_itself || entry.is_from_outside).then_some(FlowKey {
        tuple: entry.translated,
        hook: Hook::Egress,
    })
}

fn for_each<F: Family, B: Buckets<F>, T: Timeouts>(
    flows: &FlowTable<F, B, T>,
    buckets: u32,
    mut visit: impl FnMut(Found<F>),
) {
    for bucket in 0..buckets {
        for slot in 0..SLOTS {
            if let Some(Slot::Published(found)) = flows.slot(Location { bucket, slot }) {
                visit(found);
            }
        }
    }
}

/// An entry as commands see it.
pub(crate) fn input<F: Family>(
    found: &Found<F>,
    timeouts: &impl Fn(State) -> Seconds,
    now: Seconds,
) -> FlowInput {
    let socket =
        |address: F::Address, port: u16| SocketAddr::new(address_of(F::mapped(address)), port);
    let entry = &found.entry;
    let (key, translated) = (&entry.key.tuple, &entry.translated);
    let age = found.control.age(now);
    FlowInput {
        protocol: key.protocol,
        is_original: entry.direction == Direction::Original,
        is_ingress: entry.key.hook == Hook::Ingress,
        is_from_outside: entry.is_from_outside,
        is_of_host: entry.path == Path::OfHost,
        source: socket(key.source, key.source_port),
        destination: socket(key.destination, key.destination_port),
        translated_source: socket(translated.source, translated.source_port),
        translated_destination: socket(translated.destination, translated.destination_port),
        state: found.state.name(),
        is_confirmed: found.state.is_confirmed(),
        idle: Duration::from_secs(age.0.into()),
        expires_in: Duration::from_secs(timeouts(found.state).0.saturating_sub(age.0).into()),
        service: entry.service,
        backend: entry.backend,
    }
}

fn seed(config: &WordReader) -> u64 {
    config.load(SEED).unwrap_or(0)
}

/// The timeout of `state` as the kernel programs read it.
fn timeout(config: &WordReader, state: State) -> Seconds {
    Seconds(lb_common::hash::lower(
        config.load(TIMEOUTS + state.number()).unwrap_or(0),
    ))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::atomic::AtomicU64;

    use super::*;
    use lb_common::flow::{FlowTuple, Protocol};
    use lb_common::flows::Insertion;
    use lb_common::flows::layout::bucket_words;
    use lb_common::id::{BackendId, ServiceId};

    const BUCKETS: u32 = 64;

    fn entry(client: u8, port: u16, backend: u8) -> FlowEntry<V4> {
        let tuple = FlowTuple {
            source: [10, 0, 0, client],
            destination: [10, 96, 0, 1],
            source_port: port,
            destination_port: 80,
            protocol: Protocol::Tcp,
        };
        FlowEntry {
            key: FlowKey {
                tuple,
                hook: Hook::Ingress,
            },
            translated: FlowTuple {
                destination: [10, 0, 0, backend],
                destination_port: 8080,
                ..tuple
            },
            direction: Direction::Original,
            path: Path::Routed,
            is_from_outside: false,
            service: ServiceId::new(1, 0),
            backend: BackendId::new(backend.into(), 0),
        }
    }

    /// The words of a table without a flow.
    fn empty_words() -> Vec<AtomicU64> {
        let words = 0..bucket_words::<V4>() * 64;
        words.map(|_| AtomicU64::new(0)).collect()
    }

    /// A client from outside, whose packets leave with an address of this node.
    #[test]
    fn flushing_frees_both_pairs_of_a_flow_that_leaves_again() {
        let words = empty_words();
        let buckets = AtomicBuckets::new::<V4>(&words, BUCKETS).unwrap();
        let timeouts = |_: State| Seconds(1000);
        let flows = FlowTable::<V4, _, _>::new(buckets, 7, timeouts);
        let came = FlowEntry {
            is_from_outside: true,
            ..entry(1, 40_000, 2)
        };
        let left = FlowEntry {
            key: FlowKey {
                tuple: came.translated,
                hook: Hook::Egress,
            },
            translated: FlowTuple {
                source: [192, 0, 2, 1],
                source_port: 1234,
                ..came.translated
            },
            ..came
        };
        let now = clock::flow_seconds();
        for half in [came.partner(), came, left.partner(), left] {
            let inserted = flows.insert(&half, State::Established, now);
            assert!(matches!(inserted, Insertion::Inserted(_)));
        }
        let is_flow = |input: &FlowInput| input.is_original && input.is_ingress;
        assert_eq!(flush_table(&flows, BUCKETS, &timeouts, &is_flow), 1);
        for_each(&flows, BUCKETS, |found| panic!("{found:?} is left"));
    }

    #[test]
    fn flushing_frees_all_entries_of_the_chosen_flows_and_no_other() {
        let words = empty_words();
        let buckets = AtomicBuckets::new::<V4>(&words, BUCKETS).unwrap();
        let timeouts = |_: State| Seconds(1000);
        let flows = FlowTable::<V4, _, _>::new(buckets, 7, timeouts);
        let now = clock::flow_seconds();
        let insert = |entry: &FlowEntry<V4>| {
            for half in [&entry.partner(), entry] {
                let inserted = flows.insert(half, State::Established, now);
                assert!(matches!(inserted, Insertion::Inserted(_)));
            }
        };
        insert(&entry(1, 40_000, 2));
        insert(&entry(3, 40_000, 2));
        // A pod that dials itself: 10.0.0.4:40000 → V:80 ⇒ → 10.0.0.4:8080, and its second leg.
        let hairpin = entry(4, 40_000, 4);
        insert(&hairpin);
        let leg = FlowEntry {
            key: FlowKey {
                tuple: FlowTuple {
                    source: [10, 0, 0, 4],
                    destination: [10, 96, 0, 1],
                    source_port: 8080,
                    destination_port: 40_000,
                    protocol: Protocol::Tcp,
                },
                hook: Hook::Ingress,
            },
            translated: hairpin.translated.reverse(),
            direction: Direction::Reply,
            ..hairpin
        };
        insert(&leg);
        let count = || {
            let mut count = 0;
            for_each(&flows, BUCKETS, |_| count += 1);
            count
        };
        assert_eq!(count(), 8);
        let client = |last: u8| {
            move |input: &FlowInput| {
                input.is_original
                    && input.is_ingress
                    && input.source.ip() == IpAddr::from([10, 0, 0, last])
            }
        };
        assert_eq!(flush_table(&flows, BUCKETS, &timeouts, &client(9)), 0);
        assert_eq!(count(), 8);
        assert_eq!(flush_table(&flows, BUCKETS, &timeouts, &client(4)), 1);
        assert_eq!(count(), 4);
        assert_eq!(flush_table(&flows, BUCKETS, &timeouts, &client(1)), 1);
        assert_eq!(count(), 2);
        assert!(flows.lookup(&entry(3, 40_000, 2).key, now).is_some());
    }
}
