//! The flow tables in the agent's memory: walking them, the ids they name, and taking out the flows
//! of a pair.

use std::sync::atomic::{AtomicU64, Ordering};

use lb_common::conntrack::State;
use lb_common::family::{Family, V4, V6};
use lb_common::flow::Protocol;
use lb_common::flows::memory::AtomicBuckets;
use lb_common::flows::{FlowTable, Found, Location, SLOTS, Slot};
use lb_common::id::Seconds;
use lb_common::table::config;

use super::bpffs::PinPaths;
use super::layout::Table;
use super::tables::{OpenError, WordTable};
use super::{CutStep, FlowCursor, InUse, UdpPair};

/// Buckets that a step of [`FlowTables::cut`] looks at: full ones take two or three milliseconds.
const CUT_STEP: u32 = 4096;

/// Both flow tables, and the settings that they are read by.
#[derive(Clone, Debug)]
pub struct FlowTables {
    v4: WordTable,
    v6: WordTable,
    config: WordTable,
}

/// A flow table of one family over mapped words.
pub type MappedFlows<'a, F, T> = FlowTable<F, AtomicBuckets<'a>, T>;

impl FlowTables {
    /// Opens the pinned tables.
    pub fn open(paths: &PinPaths) -> Result<Self, OpenError> {
        Ok(Self {
            v4: WordTable::open(paths, Table::FlowsV4)?,
            v6: WordTable::open(paths, Table::FlowsV6)?,
            config: WordTable::open(paths, Table::Config)?,
        })
    }

    /// Number of buckets of a family.
    pub const fn buckets<F: Family>(&self) -> u32 {
        self.words::<F>().entries()
    }

    const fn words<F: Family>(&self) -> &WordTable {
        if F::IS_V6 { &self.v6 } else { &self.v4 }
    }

    /// The table of a family; `None` if its size is no power of two, so that no program finds
    /// anything in it either.
    pub fn table<F: Family>(
        &self,
    ) -> Option<MappedFlows<'_, F, impl Fn(State) -> Seconds + use<'_, F>>> {
        let words = self.words::<F>();
        let buckets = AtomicBuckets::new::<F>(words.words(), words.entries())?;
        let timeouts = |state: State| timeout(self.config.words(), state);
        Some(FlowTable::new(
            buckets,
            self.config.load(config::SEED),
            timeouts,
        ))
    }

    /// Ids that published entries name, live or not: an entry past its timeout may yet be revived
    /// by its partner.
    pub fn ids_in_use(&self) -> InUse {
        let mut in_use = InUse::default();
        self.collect::<V4>(&mut in_use);
        self.collect::<V6>(&mut in_use);
        in_use
    }

    fn collect<F: Family>(&self, in_use: &mut InUse) {
        let Some(table) = self.table::<F>() else {
            return;
        };
        for_each_slot(&table, 0..self.buckets::<F>(), |_, slot| {
            if let Slot::Published(found) = slot {
                in_use.services.insert(found.entry.service);
                in_use.backends.insert(found.entry.backend);
                in_use.udp_pairs.extend(udp_pair(&found));
            }
        });
    }

    /// One step of [`super::Dataplane::cut_flows`].
    pub fn cut(
        &self,
        from: FlowCursor,
        now: Seconds,
        is_stale: &dyn Fn(&UdpPair) -> bool,
    ) -> CutStep {
        if from.is_v6 {
            self.cut_family::<V6>(from.bucket, now, is_stale)
        } else {
            self.cut_family::<V4>(from.bucket, now, is_stale)
        }
    }

    fn cut_family<F: Family>(
        &self,
        first: u32,
        now: Seconds,
        is_stale: &dyn Fn(&UdpPair) -> bool,
    ) -> CutStep {
        let count = self.buckets::<F>();
        let end = first.saturating_add(CUT_STEP).min(count);
        let table = self.table::<F>();
        let met = table.map_or(0, |table| cut_buckets(&table, first..end, now, is_stale));
        let rest = FlowCursor {
            is_v6: F::IS_V6,
            bucket: end,
        };
        let v6 = FlowCursor {
            is_v6: true,
            bucket: 0,
        };
        let next = if end < count {
            Some(rest)
        } else {
            (!F::IS_V6).then_some(v6)
        };
        CutStep { met, next }
    }
}

/// What a UDP flow's entry names; nothing for another protocol's.
fn udp_pair<F: Family>(found: &Found<F>) -> Option<UdpPair> {
    let entry = &found.entry;
    (entry.key.tuple.protocol == Protocol::Udp).then_some(UdpPair {
        service: entry.service,
        backend: entry.backend,
    })
}

/// Takes the UDP flows that `is_stale` says out of these buckets, each with its other half, wherever
/// that is; says how many entries that were.
fn cut_buckets<F: Family, T: Fn(State) -> Seconds>(
    table: &MappedFlows<'_, F, T>,
    buckets: std::ops::Range<u32>,
    now: Seconds,
    is_stale: &dyn Fn(&UdpPair) -> bool,
) -> u64 {
    let mut met = 0;
    for_each_slot(table, buckets, |location, slot| {
        let Slot::Published(found) = slot else {
            return;
        };
        if !udp_pair(&found).is_some_and(|pair| is_stale(&pair)) {
            return;
        }
        met += 1;
        remove_flow(table, location, &found, now);
    });
    met
}

/// Removes both halves of the flow of which one was `found` at `location`.
pub(super) fn remove_flow<F: Family, T: Fn(State) -> Seconds>(
    table: &MappedFlows<'_, F, T>,
    location: Location,
    found: &Found<F>,
    now: Seconds,
) {
    if let Some((place, control)) = table.find(&found.entry.partner(), now) {
        table.remove(place, control);
    }
    // A packet may have stamped it since it was read.
    if !table.remove(location, found.control)
        && let Some((place, control)) = table.find(&found.entry, now)
    {
        table.remove(place, control);
    }
}

/// The timeout of `state` in the words of `CONFIG`.
pub fn timeout(config: &[AtomicU64], state: State) -> Seconds {
    let word = usize::try_from(config::TIMEOUTS + state.number())
        .ok()
        .and_then(|index| config.get(index))
        .map_or(0, |word| word.load(Ordering::Relaxed));
    Seconds(u32::try_from(word).unwrap_or(u32::MAX))
}

/// Calls `visit` for every slot of `buckets` that is not free. A slot that changes while it is read
/// is passed over: what it becomes is newer than the call.
pub fn for_each_slot<F: Family, T: Fn(State) -> Seconds>(
    table: &MappedFlows<'_, F, T>,
    buckets: std::ops::Range<u32>,
    mut visit: impl FnMut(Location, Slot<F>),
) {
    for bucket in buckets {
        for slot in 0..SLOTS {
            let location = Location { bucket, slot };
            match table.slot(location) {
                None | Some(Slot::Free) => {}
                Some(occupied) => visit(location, occupied),
            }
        }
    }
}

/// All published entries of a table.
pub fn published<F: Family, T: Fn(State) -> Seconds>(
    table: &MappedFlows<'_, F, T>,
    buckets: u32,
) -> Vec<Found<F>> {
    let mut entries = Vec::new();
    for_each_slot(table, 0..buckets, |_, slot| {
        if let Slot::Published(found) = slot {
            entries.push(found);
        }
    });
    entries
}

#[cfg(test)]
mod tests {
    use lb_common::flow::{Direction, FlowEntry, FlowKey, FlowTuple, Hook, Path};
    use lb_common::flows::Insertion;
    use lb_common::flows::layout::bucket_words;
    use lb_common::id::{BackendId, ServiceId};

    use super::*;

    const BUCKETS: u32 = 64;
    const NOW: Seconds = Seconds(1000);

    fn entry(protocol: Protocol, port: u16, service: u32, backend: u8) -> FlowEntry<V4> {
        let tuple = FlowTuple {
            source: [10, 0, 0, 1],
            destination: [10, 96, 0, 1],
            source_port: port,
            destination_port: 80,
            protocol,
        };
        FlowEntry {
            key: FlowKey {
                tuple,
                hook: Hook::Ingress,
            },
            translated: FlowTuple {
                destination: [10, 0, 0, backend],
                ..tuple
            },
            direction: Direction::Original,
            path: Path::Routed,
            is_from_outside: false,
            service: ServiceId::new(service, 0),
            backend: BackendId::new(backend.into(), 0),
        }
    }

    /// The default table, three fifths full, of which one flow in a hundred has lost its backend. Table
    /// 11.12 has a million flows, of which that table has no room for all.
    #[test]
    fn row_11_12_of_very_many_flows_only_the_stale_ones_leave_in_one_pass() {
        const BUCKETS: u32 = 65_536;
        const FLOWS: u32 = 160_000;
        let words: Vec<AtomicU64> = (0..bucket_words::<V4>() * 65_536)
            .map(|_| AtomicU64::new(0))
            .collect();
        let buckets = AtomicBuckets::new::<V4>(&words, BUCKETS).unwrap();
        let table = FlowTable::<V4, _, _>::new(buckets, 7, |_: State| Seconds(100));
        for number in 0..FLOWS {
            let is_stale = number % 100 == 0;
            let mut flow = entry(Protocol::Udp, 1, if is_stale { 1 } else { 2 }, 2);
            flow.key.tuple.source = (0x0b00_0000 + number).to_be_bytes();
            flow.translated.source = flow.key.tuple.source;
            for half in [flow.partner(), flow] {
                let inserted = table.insert(&half, State::UdpStream, NOW);
                assert!(matches!(inserted, Insertion::Inserted(_)), "flow {number}");
            }
        }
        let is_stale = |pair: &UdpPair| pair.service == ServiceId::new(1, 0);
        let mut first = 0;
        let mut met = 0;
        let mut steps = 0;
        while first < BUCKETS {
            let end = (first + CUT_STEP).min(BUCKETS);
            met += cut_buckets(&table, first..end, NOW, &is_stale);
            (first, steps) = (end, steps + 1);
        }
        assert_eq!((met, steps), (u64::from(FLOWS / 100), 16));
        let mut left = 0;
        for_each_slot(&table, 0..BUCKETS, |_, slot| {
            if let Slot::Published(found) = slot {
                left += 1;
                assert_eq!(found.entry.service, ServiceId::new(2, 0));
            }
        });
        assert_eq!(left, (FLOWS - FLOWS / 100) * 2);
    }

    #[test]
    fn a_cut_takes_both_halves_of_the_udp_flows_of_a_pair_and_nothing_else() {
        let words: Vec<AtomicU64> = (0..bucket_words::<V4>() * 64)
            .map(|_| AtomicU64::new(0))
            .collect();
        let buckets = AtomicBuckets::new::<V4>(&words, BUCKETS).unwrap();
        let table = FlowTable::<V4, _, _>::new(buckets, 7, |_: State| Seconds(100));
        let gone = entry(Protocol::Udp, 1, 1, 2);
        let kept = [
            entry(Protocol::Tcp, 2, 1, 2),
            entry(Protocol::Udp, 3, 1, 3),
            entry(Protocol::Udp, 4, 2, 2),
        ];
        for entry in kept.iter().chain([&gone]) {
            for half in [entry.partner(), *entry] {
                let inserted = table.insert(&half, State::UdpNew, NOW);
                assert!(matches!(inserted, Insertion::Inserted(_)));
            }
        }
        let stale = UdpPair {
            service: gone.service,
            backend: gone.backend,
        };
        let cut = || cut_buckets(&table, 0..BUCKETS, NOW, &|pair| *pair == stale);
        // The half that is met first takes the other along.
        assert_eq!((cut(), cut()), (1, 0));
        let mut left: Vec<_> = published(&table, BUCKETS)
            .iter()
            .map(|found| found.entry.key)
            .collect();
        for entry in kept.iter().flat_map(|entry| [*entry, entry.partner()]) {
            let position = left.iter().position(|key| *key == entry.key);
            left.remove(position.expect("the entry was kept"));
        }
        assert_eq!(left, []);
    }
}
