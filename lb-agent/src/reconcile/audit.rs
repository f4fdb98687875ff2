//! The continuous audit: the plan compared with the tables a few milliseconds at a time, and what
//! differs written again.

use std::collections::BTreeMap;

use super::Reconciler;
use crate::dataplane::inspect::Inspect;
use crate::dataplane::layout::Table;
use crate::dataplane::{Dataplane, DataplaneError};
use crate::plan::audit::Place;
use crate::plan::audit::ranges::RangeScan;

#[cfg(test)]
mod tests;

/// Places that one step compares. The slowest of them, a frontend's look-up, takes a microsecond;
/// of regions, whose words are read, it is as many words that count.
pub const STEP: u32 = 512;
/// How many texts of a pass are kept.
const EXAMPLES: usize = 10;
/// How often the keys of `FRONTENDS` are looked through in one pass, where changes make the kernel
/// begin anew.
const MOST_ROUNDS: u32 = 4;

/// A pass over all tables.
#[derive(Clone, Debug)]
pub struct Audit {
    at: Place,
    repairs: bool,
    keys_left: u32,
    ranges: RangeScan,
    found: Found,
}

/// What a pass has found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Found {
    /// Entries that were not as planned, by table.
    pub entries: BTreeMap<Table, u64>,
    /// How many of them were written again.
    pub repaired: u64,
    /// The first few, in words.
    pub examples: Vec<String>,
}

impl Found {
    /// Counts an entry that is not as planned, in words.
    pub(crate) fn add(&mut self, table: Table, text: String) {
        *self.entries.entry(table).or_default() += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(text);
        }
    }

    /// How many entries were not as planned.
    pub fn total(&self) -> u64 {
        self.entries.values().sum()
    }
}

/// What became of a step.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AuditStep {
    /// Writes are under way: the tables cannot be what is planned. Nothing was compared.
    Waits,
    /// There is more to compare.
    More,
    /// All has been compared.
    Done(Found),
}

impl Audit {
    /// A pass that begins; `repairs` says whether what differs is written again.
    pub fn new(repairs: bool) -> Self {
        Self {
            at: Place::FIRST,
            repairs,
            keys_left: 0,
            ranges: RangeScan::default(),
            found: Found::default(),
        }
    }
}

impl<D: Dataplane + Inspect> Reconciler<D> {
    /// Compares the next few places, and writes what differs if the pass repairs. On an error call
    /// it again: what was found is counted, and what could not be written is written with the rest.
    pub fn audit(&mut self, audit: &mut Audit) -> Result<AuditStep, DataplaneError> {
        if !self.is_synced() {
            return Ok(AuditStep::Waits);
        }
        let capacity = self.planner.capacity().frontends;
        if audit.at == Place::FIRST {
            audit.keys_left = capacity.saturating_mul(MOST_ROUNDS).saturating_add(STEP);
        }
        let parked = &self.parked;
        let mut step = if audit.at == Place::SourceRanges {
            let ranges = &mut audit.ranges;
            self.planner.audit_ranges(ranges, &self.dataplane, STEP)?
        } else {
            self.planner.audit(
                audit.at.clone(),
                &self.dataplane,
                |key| parked.contains_key(key),
                !audit.repairs,
                STEP,
            )?
        };
        if let Some(Place::Strangers(_)) = step.next {
            audit.keys_left = audit.keys_left.saturating_sub(STEP);
            if audit.keys_left == 0 {
                step.next = None;
            }
        }
        for drift in &step.drifts {
            audit.found.add(drift.table, drift.text.clone());
            if audit.repairs {
                let writes = self.planner.repair(drift);
                audit.found.repaired += u64::from(!writes.is_empty());
                self.queue.extend(writes);
            }
        }
        match step.next {
            Some(next) => audit.at = next,
            None => audit.at = Place::FIRST,
        }
        let is_over = audit.at == Place::FIRST;
        self.flush()?;
        if is_over {
            return Ok(AuditStep::Done(std::mem::take(&mut audit.found)));
        }
        Ok(AuditStep::More)
    }
}
