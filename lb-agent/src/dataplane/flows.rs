//! The flow tables in the agent's memory: walking them, and the ids they name.

use std::sync::atomic::{AtomicU64, Ordering};

use lb_common::conntrack::State;
use lb_common::family::{Family, V4, V6};
use lb_common::flows::memory::AtomicBuckets;
use lb_common::flows::{FlowTable, Found, Location, SLOTS, Slot};
use lb_common::id::Seconds;
use lb_common::table::config;

use super::InUse;
use super::bpffs::PinPaths;
use super::layout::Table;
use super::tables::{OpenError, WordTable};

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
            }
        });
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
